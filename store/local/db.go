// Package local keeps a node's durable state on its own disk, in Pebble, with group commit.
package local

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrClosed is what is given to a write that comes after Close.
var ErrClosed = errors.New("store is closed")

// DB is one Pebble database, shared by every kind of thing the node stores. Key prefixes keep them apart.
type DB struct {
	pebble *pebble.DB

	mu      sync.Mutex
	pending []write
	closed  bool
	wake    chan struct{} // holds one token; the committer sleeps on it
	stopped chan struct{}
}

type write struct {
	sync  bool
	apply func(*pebble.Batch) error
	done  func(error)
}

// Open opens or makes the database in dir. An empty dir keeps everything in memory, and nothing after Close.
func Open(dir string) (*DB, error) {
	opts := &pebble.Options{}
	if dir == "" {
		opts.FS = vfs.NewMem()
	}
	p, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open store in %q: %w", dir, err)
	}
	db := &DB{pebble: p, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	go db.commitLoop()
	return db, nil
}

// submit queues a write. apply runs on the committer's goroutine, in the order of submission, and adds to the batch
// that is being built; an error of apply fails this write alone (apply must then have added nothing). done runs on the
// same goroutine after the batch is on disk (sync) or visible to readers (otherwise), in the order of submission.
func (db *DB) submit(sync bool, apply func(*pebble.Batch) error, done func(error)) {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		if done != nil {
			done(ErrClosed)
		}
		return
	}
	db.pending = append(db.pending, write{sync, apply, done})
	db.mu.Unlock()
	select {
	case db.wake <- struct{}{}:
	default:
	}
}

// update is submit that waits until the write is on disk.
func (db *DB) update(apply func(*pebble.Batch) error) error {
	result := make(chan error, 1)
	db.submit(true, apply, func(err error) { result <- err })
	return <-result
}

// commitLoop gathers what was submitted while the last batch was being written, and writes it as one: group commit.
func (db *DB) commitLoop() {
	defer close(db.stopped)
	for range db.wake {
		db.mu.Lock()
		writes, closed := db.pending, db.closed
		db.pending = nil
		db.mu.Unlock()
		db.commit(writes)
		if closed {
			return
		}
	}
}

func (db *DB) commit(writes []write) {
	if len(writes) == 0 {
		return
	}
	batch := db.pebble.NewBatch()
	opts := pebble.NoSync
	errs := make([]error, len(writes))
	for i, w := range writes {
		if errs[i] = w.apply(batch); errs[i] == nil && w.sync {
			opts = pebble.Sync
		}
	}
	if err := batch.Commit(opts); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = fmt.Errorf("commit to store: %w", err)
			}
		}
	}
	for i, w := range writes {
		if w.done != nil {
			w.done(errs[i])
		}
	}
}

// Close writes what was submitted and closes the database. Later writes get ErrClosed.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	select {
	case db.wake <- struct{}{}:
	default:
	}
	<-db.stopped
	if err := db.pebble.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
