package node

import (
	"context"
	"errors"
	"fmt"
)

// closers is a stack of teardowns. Each is pushed right after what it tears down was made, and they run in reverse.
type closers struct {
	stack []closer
}

type closer struct {
	act   string // what is being done, for errors: "close store"
	close func(context.Context) error
}

func (c *closers) push(act string, close func(context.Context) error) {
	c.stack = append(c.stack, closer{act, close})
}

// unwind runs all teardowns, whatever each of them says, and leaves the stack empty.
func (c *closers) unwind(ctx context.Context) error {
	var errs []error
	for i := len(c.stack) - 1; i >= 0; i-- {
		if err := c.stack[i].close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.stack[i].act, err))
		}
	}
	c.stack = nil
	return errors.Join(errs...)
}
