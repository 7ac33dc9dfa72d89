package local

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/hooks/command"
)

// Keys of commands: the prefix, a kind, and the command's id; of an execution also a zero byte, which no id has, and
// its index in big-endian order.
const (
	commandPrefix    = 'c'
	commandRecord    = 'c' // JSON of a command.Record: written rarely, and easy to extend
	commandPayload   = 'p' // as it is
	commandExecution = 'x' // see appendExecution: written often
)

// scanChunk is how many executions are read with one iterator, which must not stay open for long.
const scanChunk = 10_000

// Commands keeps commands and executions (command.Store).
type Commands struct{ db *DB }

var _ command.Store = (*Commands)(nil)

// Commands returns the part of the database that keeps commands.
func (db *DB) Commands() *Commands { return &Commands{db} }

func commandKey(kind byte, id string) []byte {
	return append([]byte{commandPrefix, kind}, id...)
}

func executionKey(id string, index uint32) []byte {
	return binary.BigEndian.AppendUint32(append(commandKey(commandExecution, id), 0), index)
}

// executionBounds holds every execution of a command from an index on.
func executionBounds(id string, from uint32) (lower, upper []byte) {
	return executionKey(id, from), append(commandKey(commandExecution, id), 1)
}

// Apply implements command.Store.
func (s *Commands) Apply(tx *command.Tx, done func(error)) {
	onlyFrees := len(tx.Commands) == 0 && len(tx.Executions) == 0 && !tx.PutPayload
	s.db.enqueue(write{
		sync:  !tx.Lazy,
		frees: onlyFrees && len(tx.Delete) > 0,
		apply: func(b *pebble.Batch) error { return applyCommands(b, tx) },
		done:  done,
	})
}

// applyCommands encodes first what can fail, so that it adds everything or nothing to the batch.
func applyCommands(b *pebble.Batch, tx *command.Tx) error {
	records := make([][]byte, len(tx.Commands))
	for i, r := range tx.Commands {
		var err error
		if records[i], err = json.Marshal(r); err != nil {
			return fmt.Errorf("encode command %q: %w", r.ID, err)
		}
	}
	var failed error
	keep := func(err error) { failed = errors.Join(failed, err) }
	for _, id := range tx.Delete {
		lower, upper := executionBounds(id, 0)
		keep(b.Delete(commandKey(commandRecord, id), nil))
		keep(b.Delete(commandKey(commandPayload, id), nil))
		keep(b.DeleteRange(lower, upper, nil))
	}
	for i, r := range tx.Commands {
		keep(b.Set(commandKey(commandRecord, r.ID), records[i], nil))
	}
	if tx.PutPayload && len(tx.Commands) > 0 {
		keep(b.Set(commandKey(commandPayload, tx.Commands[0].ID), tx.Payload, nil))
	}
	var buf []byte
	for i := range tx.Executions {
		u := &tx.Executions[i]
		buf = appendExecution(buf[:0], &u.Execution)
		keep(b.Set(executionKey(u.Command, u.Execution.Index), buf, nil))
	}
	return failed
}

// Commands implements command.Store.
func (s *Commands) Commands(yield func(*command.Record) error) (err error) {
	it, err := s.db.pebble.NewIter(&pebble.IterOptions{
		LowerBound: commandKey(commandRecord, ""), UpperBound: []byte{commandPrefix, commandRecord + 1},
	})
	if err != nil {
		return fmt.Errorf("read commands: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		r := &command.Record{}
		if err := json.Unmarshal(it.Value(), r); err != nil {
			return fmt.Errorf("read command %q: %w", it.Key()[2:], err)
		}
		if id := string(it.Key()[2:]); r.ID != id {
			return fmt.Errorf("read command %q: it says that it is %q", id, r.ID)
		}
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}

// Payload implements command.Store.
func (s *Commands) Payload(id string) ([]byte, error) {
	return s.get(commandKey(commandPayload, id))
}

// Execution implements command.Store.
func (s *Commands) Execution(id string, index uint32) (command.Execution, error) {
	value, err := s.get(executionKey(id, index))
	if err != nil {
		return command.Execution{}, err
	}
	x, err := decodeExecution(value)
	if err != nil {
		return command.Execution{}, fmt.Errorf("read execution %d of command %q: %w", index, id, err)
	}
	x.Index = index
	return x, nil
}

func (s *Commands) get(key []byte) ([]byte, error) {
	value, closer, err := s.db.pebble.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, command.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	value = bytes.Clone(value)
	return value, closer.Close()
}

// Executions implements command.Store.
func (s *Commands) Executions(id string, from uint32, yield func(*command.Execution) bool) error {
	for {
		next, more, err := s.scan(id, from, yield)
		if err != nil || !more {
			return err
		}
		from = next
	}
}

// scan yields one chunk; more says that there may be a further one, which begins at next.
func (s *Commands) scan(
	id string, from uint32, yield func(*command.Execution) bool,
) (next uint32, more bool, err error) {
	lower, upper := executionBounds(id, from)
	it, err := s.db.pebble.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return 0, false, fmt.Errorf("read executions: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()
		if len(key) != len(lower) {
			return 0, false, fmt.Errorf("read executions of command %q: a key has %d bytes", id, len(key))
		}
		index := binary.BigEndian.Uint32(key[len(key)-4:])
		x, err := decodeExecution(it.Value())
		if err != nil {
			return 0, false, fmt.Errorf("read execution %d of command %q: %w", index, id, err)
		}
		x.Index = index
		if !yield(&x) {
			return 0, false, nil
		}
		if n++; n == scanChunk {
			return index + 1, index < math.MaxUint32, nil
		}
	}
	return 0, false, nil
}
