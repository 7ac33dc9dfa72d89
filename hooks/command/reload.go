package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// reload reads what is stored: every command, and the executions of those that are not finished.
func (s *Service) reload(ctx context.Context) error {
	err := s.store.Commands(func(r *Record) error {
		c := newCommand(r)
		c.told = true
		s.commands[c.id] = c
		s.order = append(s.order, c)
		if r.Key != "" {
			s.byKey[r.Key] = &issue{cmd: c, key: r.Key, hash: r.Hash, done: true}
		}
		s.lastSeq = max(s.lastSeq, r.Seq)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	slices.SortFunc(s.order, func(a, b *command) int { return cmp.Compare(a.seq, b.seq) })
	for _, c := range s.order {
		if c.closed {
			s.ended.put(c)
			continue
		}
		if err := s.reloadCommand(ctx, c); err != nil {
			return fmt.Errorf("command %s: %w", c.id, err)
		}
	}
	return nil
}

// reloadCommand counts the executions of an unfinished command, and takes up again those that are not settled.
func (s *Service) reloadCommand(ctx context.Context, c *command) error {
	payload, err := s.store.Payload(c.id)
	if err != nil {
		return fmt.Errorf("read payload: %w", err)
	}
	c.payload.Store(&payload)
	c.live = true
	s.active++
	s.bytes += int64(len(payload))
	counts := Counts{}
	var open []Execution
	err = s.store.Executions(c.id, 0, func(x *Execution) bool {
		counts.Total++
		*counts.Of(x.State)++
		s.lastSeq = max(s.lastSeq, x.Seq)
		if !c.settled(x.State) {
			open = append(open, *x)
		}
		return ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("read executions: %w", err)
	}
	c.record.Counts, c.targets = counts, int(counts.Total)
	for i := range open {
		s.takeUp(c, open[i])
	}
	s.finish(c)
	return nil
}

// takeUp continues an execution where it stood. What was sent and not acknowledged is sent again: whether the device
// has it cannot be known.
func (s *Service) takeUp(c *command, x Execution) {
	sh := s.shard(x.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.put(c, x)
	switch {
	case c.record.Canceled && e.State.onTheWay():
		sh.advance(e, Canceled, Pending, "canceled")
	case e.State == Sent:
		sh.again(e, "restart")
	case e.State == Pending:
		sh.advance(e, Queued, Pending, "")
	default:
		sh.settle(e)
	}
}
