package command

import (
	"context"
	"errors"
	"net/http"
)

// Cancel withdraws a command from every device that has not acknowledged it. What a device has acknowledged cannot be
// taken back and goes on. It blocks until that is stored. Canceling a finished command changes nothing.
func (s *Service) Cancel(ctx context.Context, id string) (Status, error) {
	return s.control(ctx, id, func(r *Record) { r.Canceled = true }, func(sh *shard, e *execution) {
		sh.advance(e, Canceled, Pending, "canceled")
	})
}

// Pause keeps a command from being sent to any more devices. What was sent goes on, and so does the time until it
// expires. It blocks until that is stored.
func (s *Service) Pause(ctx context.Context, id string) (Status, error) {
	return s.control(ctx, id, func(r *Record) { r.Paused = true }, nil)
}

// Resume lets a paused command go on. It blocks until that is stored.
func (s *Service) Resume(ctx context.Context, id string) (Status, error) {
	return s.control(ctx, id, func(r *Record) { r.Paused = false }, func(sh *shard, e *execution) {
		if e.device != nil {
			sh.look(e.device)
		}
	})
}

// control changes an unfinished command: first what is stored of it, so that a crash cannot undo half of it, then each
// of its executions in memory.
func (s *Service) control(ctx context.Context, id string, change func(*Record), each func(*shard, *execution)) (Status,
	error) {
	c, err := s.lookup(id)
	if err != nil {
		return Status{}, err
	}
	c.control.Lock()
	defer c.control.Unlock()
	if st := c.status(); st.Done() {
		return st, nil
	}
	if err := s.change(ctx, c, change); err != nil {
		return Status{}, err
	}
	c.mu.Lock()
	c.paused.Store(c.record.Paused)
	c.mu.Unlock()
	if each != nil {
		err = s.everywhere(ctx, func(sh *shard) {
			for _, e := range sh.hot[c] {
				each(sh, e)
			}
		})
	}
	s.changed(c)
	return c.status(), err
}

// change stores a changed record, and then changes the one in memory. It marks the command as unfinished.
func (s *Service) change(ctx context.Context, c *command, change func(*Record)) error {
	stored := make(chan error, 1)
	c.mu.Lock()
	if c.removed.Load() {
		c.mu.Unlock()
		return problem(http.StatusNotFound, "the command was removed")
	}
	r := c.record
	r.Finished = 0
	change(&r)
	c.closed = false
	s.store.Apply(&Tx{Commands: []*Record{&r}}, func(err error) { stored <- err })
	c.mu.Unlock()
	select {
	case err := <-stored:
		if err != nil {
			return problem(http.StatusServiceUnavailable, "the change could not be stored: %v", err)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.record)
	return nil
}

// everywhere calls f with each shard's mu held, and waits until what it changed is stored and counted.
func (s *Service) everywhere(ctx context.Context, f func(*shard)) error {
	results := make(chan error, shards)
	for _, sh := range s.shards {
		sh.mu.Lock()
		if f != nil {
			f(sh)
		}
		if len(sh.dirty) == 0 && !sh.writing {
			results <- nil
		} else if !sh.await(func(err error) { results <- err }) {
			results <- errStopped
		}
		sh.mu.Unlock()
	}
	var failed error
	for range s.shards {
		select {
		case err := <-results:
			failed = errors.Join(failed, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if failed != nil {
		return problem(http.StatusServiceUnavailable, "not everything could be stored: %v", failed)
	}
	return nil
}

// Retry starts every execution again that has ended without success: it enters a new round, with a new execution id,
// all of the command's time to live, and a state that begins anew. A success that is answered to an earlier round
// still counts (late), so that a device need not do twice what it has done. It blocks until that is stored.
func (s *Service) Retry(ctx context.Context, id string) (Status, error) {
	c, err := s.lookup(id)
	if err != nil {
		return Status{}, err
	}
	c.control.Lock()
	defer c.control.Unlock()
	if err := s.everywhere(ctx, nil); err != nil { // so that the store has every state
		return Status{}, err
	}
	ended, err := s.retryable(c)
	if err != nil || len(ended) == 0 {
		return c.status(), err
	}
	if err := s.revive(c); err != nil {
		return Status{}, err
	}
	err = s.restart(ctx, c, ended)
	c.unstored.Add(-1) // see revive
	s.changed(c)
	return c.status(), err
}

// target is an execution and its device.
type target struct {
	index  uint32
	device string
}

func (s *Service) retryable(c *command) (ended []target, err error) {
	err = s.store.Executions(c.id, 0, func(x *Execution) bool {
		if x.retryable() {
			ended = append(ended, target{x.Index, x.Device})
		}
		return true
	})
	if err != nil {
		return nil, problem(http.StatusServiceUnavailable, "the executions could not be read: %v", err)
	}
	return ended, nil
}

// revive makes a command unfinished again, with its payload in memory. It leaves one in c.unstored, which keeps the
// command from finishing before its executions were started.
func (s *Service) revive(c *command) error {
	c.unstored.Add(1)
	c.mu.Lock()
	loaded := c.payload.Load() != nil
	c.mu.Unlock()
	if loaded {
		return nil
	}
	payload, err := s.store.Payload(c.id)
	if err != nil {
		c.unstored.Add(-1)
		return problem(http.StatusServiceUnavailable, "the payload could not be read: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.roomLocked(int64(len(payload))); p != nil {
		c.unstored.Add(-1)
		return p
	}
	s.bytes += int64(len(payload))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.payload.Store(&payload)
	if !c.live {
		c.live = true
		s.active++
	}
	return nil
}

func (s *Service) restart(ctx context.Context, c *command, ended []target) error {
	s.mu.Lock()
	seq := s.nextSeqLocked()
	s.mu.Unlock()
	now := nowMillis()
	var expires int64
	err := s.change(ctx, c, func(r *Record) {
		r.Expires, r.Canceled, r.Finished = now+r.TTL, false, 0
		expires = r.Expires
	})
	if err != nil {
		return err
	}
	for _, t := range ended {
		sh := s.shard(t.device)
		err := sh.with(c, t.index, t.device, func(e *execution) { sh.restart(e, seq, now, expires) })
		if err != nil {
			return problem(http.StatusServiceUnavailable, "execution %d could not be read: %v", t.index, err)
		}
	}
	return s.everywhere(ctx, nil)
}

// restart begins a new round of e, unless a late success has come. mu is held.
func (sh *shard) restart(e *execution, seq uint64, now, expires int64) {
	if !e.retryable() {
		return
	}
	p := e.Execution.restart(seq, now, expires)
	for i := 1; i < p.n; i++ {
		sh.note(e, p.states[i-1], p.states[i], now)
	}
	sh.touch(e, true)
	sh.admit(e)
}
