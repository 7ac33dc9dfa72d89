package command

import (
	"errors"
	"time"
)

// writeRetry is the pause after the store could not write.
const writeRetry = time.Second

// errStopped is what those hear who come while the service stops.
var errStopped = errors.New("command service is stopping")

// flush gives everything that has changed to the store as one transaction, unless one is on its way: what changes
// meanwhile gathers for the next, so an execution that runs through several states is written once.
func (sh *shard) flush() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.writing || len(sh.dirty) == 0 && len(sh.waiters) == 0 || time.Now().Before(sh.retryAt) {
		return
	}
	// Only Queued and Sent may be lost: an execution that starts again from there goes no further back than the
	// states allow.
	tx := &Tx{Lazy: !sh.urgent && len(sh.waiters) == 0, Executions: make([]Update, 0, len(sh.dirty))}
	for _, e := range sh.dirty {
		e.dirty = false
		if e.cmd.removed.Load() {
			continue
		}
		e.writing = true
		if r := e.cmd.reopen(); r != nil {
			tx.Commands = append(tx.Commands, r)
		}
		tx.Executions = append(tx.Executions, Update{e.cmd.id, e.Execution})
	}
	sh.inFlight = write{sh.dirty, sh.moves, sh.waiters}
	sh.dirty, sh.moves, sh.waiters, sh.urgent, sh.writing = nil, nil, nil, false, true
	sh.s.store.Apply(tx, func(err error) { sh.done <- err })
}

// reopen returns the record to write before an execution of a command that the store holds for finished: after a crash
// its executions are then counted anew. It returns nil when the store knows.
func (c *command) reopen() *Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		return nil
	}
	c.closed = false
	r := c.record
	r.Finished = 0
	return &r
}

// written takes the outcome of the write: only now do the transitions count, and only now do devices hear that their
// results are safe.
func (sh *shard) written(err error) {
	sh.mu.Lock()
	w := sh.inFlight
	sh.inFlight, sh.writing = write{}, false
	if err != nil {
		sh.retryAt = time.Now().Add(writeRetry)
		sh.moves = append(w.moves, sh.moves...)
		sh.urgent = true
	}
	for _, e := range w.executions {
		e.writing = false
		if err != nil {
			sh.touch(e, true)
		} else {
			sh.forget(e)
		}
	}
	sh.mu.Unlock()
	if err != nil {
		sh.s.log.Error("executions not stored, will try again", "error", err, "executions", len(w.executions))
	} else {
		sh.s.count(w.moves)
	}
	for _, done := range w.waiters {
		done(err)
	}
}

// drain writes what is left when the service stops, and waits for it.
func (sh *shard) drain() {
	sh.mu.Lock()
	writing := sh.writing
	sh.mu.Unlock()
	if writing {
		sh.written(<-sh.done)
	}
	sh.mu.Lock()
	sh.retryAt = time.Time{}
	sh.mu.Unlock()
	sh.flush()
	sh.mu.Lock()
	writing = sh.writing
	sh.mu.Unlock()
	if writing {
		sh.written(<-sh.done)
	}
	sh.mu.Lock()
	waiters := sh.waiters
	sh.waiters, sh.stopped = nil, true
	sh.mu.Unlock()
	for _, done := range waiters {
		done(errStopped)
	}
}

// await has done called when everything that was changed so far is on disk and was counted. It returns false, and done
// is not called, when the shard has stopped. mu is held.
func (sh *shard) await(done func(error)) bool {
	if sh.stopped {
		return false
	}
	sh.waiters = append(sh.waiters, done)
	sh.nudge()
	return true
}
