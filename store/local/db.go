// Package local keeps a node's durable state on its own disk, in Pebble, with group commit.
package local

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrClosed is what is given to a write that comes after Close.
var ErrClosed = errors.New("store is closed")

// groupBytes is the size at which a batch is committed though more writes wait for it.
const groupBytes = 4 << 20

// DB is one Pebble database, shared by every kind of thing the node stores. Key prefixes keep them apart.
//
// A write that failed because the disk is full or broken is not tried again; later writes are. If the failure came in
// the middle of a write, Pebble is opened anew underneath, as after a crash: what was reported as done (and was not
// lazy) is there, what was reported as failed may be there or not.
type DB struct {
	pebble  *engine // for reading: Get and NewIter
	lock    io.Closer
	log     *slog.Logger
	metrics *metrics

	mu        sync.Mutex
	pending   []write
	since     time.Time // when the first of pending was submitted
	inflight  int       // writes that the committer has in hand
	beganWith time.Time // since, of those
	late      []write   // came after Close
	closed    bool
	wake      chan struct{} // holds one token; the committer sleeps on it
	stopped   chan struct{}

	broker *brokerStore // gathers over a whole batch
}

type write struct {
	sync  bool
	frees bool // it only removes, and so is let through when space is short
	apply func(*pebble.Batch) error
	done  func(error)
}

// Open opens or makes the database in dir. An empty dir keeps everything in memory, and nothing after Close.
//
// It fails when dir cannot be written, is in use by another process, holds something else than a store, or holds a
// store of a later version.
func Open(dir string, opts Options) (*DB, error) {
	if opts.Logger == nil {
		opts.Logger = discard
	}
	fs := opts.fs
	switch {
	case fs != nil:
	case dir == "":
		fs, dir = vfs.NewMem(), "memory"
	default:
		fs = vfs.Default
	}
	lock, err := lockFolder(fs, dir)
	if err != nil {
		return nil, err
	}
	db, err := openLocked(fs, dir, opts)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	db.lock = lock
	go db.commitLoop()
	return db, nil
}

func openLocked(fs vfs.FS, dir string, opts Options) (*DB, error) {
	e, err := newEngine(dir, fs, opts.Logger, opts.Reserve)
	if err != nil {
		return nil, fmt.Errorf("open store in %q: %w", dir, err)
	}
	db := &DB{pebble: e, log: opts.Logger, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	if err := checkFormat(e); err != nil {
		_ = e.close()
		return nil, fmt.Errorf("open store in %q: %w", dir, err)
	}
	if db.metrics, err = newMetrics(opts.Metrics, db); err != nil {
		_ = e.close()
		return nil, fmt.Errorf("register metrics of store: %w", err)
	}
	db.broker = newBrokerStore(db)
	return db, nil
}

// submit queues a write and never blocks. apply runs on the committer's goroutine, in the order of submission, and adds
// to the batch that is being built; an error of apply fails this write alone (apply must then have added nothing). done
// runs on the same goroutine after the batch is on disk (sync) or visible to readers (otherwise), in the order of
// submission.
func (db *DB) submit(sync bool, apply func(*pebble.Batch) error, done func(error)) {
	db.enqueue(write{sync: sync, apply: apply, done: done})
}

func (db *DB) enqueue(w write) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		if db.late = append(db.late, w); len(db.late) == 1 {
			go db.refuseLate()
		}
		return
	}
	if len(db.pending) == 0 {
		db.since = time.Now()
	}
	db.pending = append(db.pending, w)
	db.wakeUp()
}

// refuseLate gives ErrClosed to writes that came after Close: in order, after all that came before, and not on the
// goroutine that submits, which may hold a lock that done wants.
func (db *DB) refuseLate() {
	<-db.stopped
	for i := 0; ; i++ {
		db.mu.Lock()
		if i == len(db.late) {
			db.late = nil
			db.mu.Unlock()
			return
		}
		w := db.late[i]
		db.mu.Unlock()
		if w.done != nil {
			w.done(ErrClosed)
		}
	}
}

func (db *DB) wakeUp() {
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

// Pending returns how many writes wait for the disk, and for how long the oldest of them has.
func (db *DB) Pending() (writes int, oldest time.Duration) {
	db.mu.Lock()
	defer db.mu.Unlock()
	writes = db.inflight + len(db.pending)
	switch {
	case db.inflight > 0:
		oldest = time.Since(db.beganWith)
	case writes > 0:
		oldest = time.Since(db.since)
	}
	return writes, oldest
}

// Close writes what was submitted and closes the database. Later writes get ErrClosed.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		<-db.stopped
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	db.wakeUp()
	<-db.stopped
	db.metrics.unregister()
	err := db.pebble.close()
	if unlock := db.lock.Close(); err == nil {
		err = unlock
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
