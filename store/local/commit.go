package local

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// keepWrites is up to which capacity the list of a burst of writes is kept for the next ones.
const keepWrites = 1 << 14

// commitLoop gathers what was submitted while the last batch was being written, and writes it as one: group commit.
func (db *DB) commitLoop() {
	defer close(db.stopped)
	var writes, spare []write
	for {
		var retry <-chan time.Time // a store whose disk failed is opened again though nobody writes: it has readers
		if db.pebble.failed() != nil {
			retry = time.After(reopenEvery)
		}
		select {
		case <-db.wake:
		case <-retry:
			_ = db.prepare()
			continue
		}
		db.mu.Lock()
		writes, db.pending = db.pending, spare[:0]
		db.inflight, db.beganWith = len(writes), db.since
		closed := db.closed
		db.mu.Unlock()
		for rest := writes; len(rest) > 0; {
			rest = rest[db.commit(rest):]
		}
		clear(writes)
		if spare = writes; cap(spare) > keepWrites {
			spare = nil
		}
		db.mu.Lock()
		db.inflight = 0
		db.mu.Unlock()
		if closed {
			return
		}
	}
}

// prepare makes the store ready for a batch, or says why it is not.
func (db *DB) prepare() error {
	reopened, err := db.pebble.ready()
	if reopened {
		db.metrics.reopened.Inc()
		db.broker.forget()
	}
	return err
}

// commit writes as many of the writes as make a batch and returns how many.
func (db *DB) commit(writes []write) int {
	began := time.Now()
	errs, err := make([]error, 0, len(writes)), db.prepare()
	if err == nil {
		errs, err = db.commitBatch(writes)
		db.metrics.latency.Observe(time.Since(began).Seconds())
	} else {
		errs = errs[:len(writes)]
	}
	db.metrics.batch.Observe(float64(len(errs)))
	for i := range errs {
		if errs[i] == nil && err != nil {
			errs[i] = fmt.Errorf("write to store: %w", err)
		}
		if errs[i] != nil {
			db.metrics.errors.Inc()
		}
		if done := writes[i].done; done != nil {
			done(errs[i])
		}
	}
	return len(errs)
}

// commitBatch applies writes until the batch is full, and commits it. errs are those of the single writes, err is that
// of all.
func (db *DB) commitBatch(writes []write) (errs []error, err error) {
	add, remove := db.pebble.room(1), db.pebble.room(4)
	batch, sync := db.pebble.current.NewBatch(), false
	errs = make([]error, 0, len(writes))
	for _, w := range writes {
		if batch.Len()+db.broker.staged() > groupBytes {
			break
		}
		err := add
		if w.frees {
			err = remove
		}
		if err != nil {
			err = fmt.Errorf("write to store: %w", err)
		} else {
			err = applyTo(batch, w)
		}
		sync = sync || w.sync && err == nil
		errs = append(errs, err)
	}
	if err := db.broker.flush(batch); err != nil {
		db.broker.settle(err)
		return errs, err
	}
	err = db.pebble.commit(batch, sync)
	db.broker.settle(err)
	if err == nil {
		_ = batch.Close()
	}
	return errs, err
}

// applyTo runs a write's apply; what it panics with is an error of that write.
func applyTo(batch *pebble.Batch, w write) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("apply write: %v", r)
		}
	}()
	return w.apply(batch)
}
