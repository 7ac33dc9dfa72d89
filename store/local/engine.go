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

// reopenEvery is the least time between two tries to open a store whose disk failed.
const reopenEvery = time.Second

// ErrNoSpace is what a write is refused with while the disk is as good as full. It passes by itself when there is
// space again.
var ErrNoSpace = errors.New("no space left on the store's disk")

// engine is the Pebble instance in use. When the disk fails it, the engine opens the next one in its place. Until that
// succeeds, the old one is still read from.
type engine struct {
	dir     string
	base    vfs.FS
	log     *slog.Logger
	cache   *pebble.Cache
	reserve uint64

	mu       sync.RWMutex // held for writing while the instance is exchanged
	current  *pebble.DB   // nil after close
	guard    *guardFS     // of current
	retired  *pebble.DB   // the one before, whose iterators may still be open
	lastOpen time.Time
}

func newEngine(dir string, base vfs.FS, log *slog.Logger, reserve uint64) (*engine, error) {
	e := &engine{dir: dir, base: base, log: log, reserve: reserve, cache: pebble.NewCache(cacheSize)}
	if err := e.open(); err != nil {
		e.cache.Unref()
		return nil, err
	}
	return e, nil
}

// open opens an instance with a guard of its own and puts it in the place of the one in use. That may still have
// iterators, so it is closed only with the next exchange.
func (e *engine) open() error {
	guard := newGuard(e.base)
	opts := pebbleOptions(lockedFS{guard}, e.cache, pebbleLogger{e.log, guard})
	e.lastOpen = time.Now()
	p, err := pebble.Open(e.dir, opts)
	if err != nil {
		guard.release()
		return err
	}
	guard.arm()
	e.mu.Lock()
	if e.guard != nil {
		e.guard.release()
	}
	before := e.retired
	e.retired, e.current, e.guard = e.current, p, guard
	e.mu.Unlock()
	e.closeQuietly(before)
	return nil
}

// lockedFS keeps Pebble from locking the folder: the DB holds that lock, across the instances.
type lockedFS struct{ *guardFS }

func (lockedFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Get is pebble.Reader.Get on the instance in use.
func (e *engine) Get(key []byte) ([]byte, io.Closer, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.current == nil {
		return nil, nil, ErrClosed
	}
	return e.current.Get(key)
}

// NewIter is pebble.Reader.NewIter on the instance in use. The iterator should be closed within a second or so.
func (e *engine) NewIter(o *pebble.IterOptions) (*pebble.Iterator, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.current == nil {
		return nil, ErrClosed
	}
	return e.current.NewIter(o)
}

// Metrics returns Pebble's own figures, or nil after close.
func (e *engine) Metrics() *pebble.Metrics {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.current == nil {
		return nil
	}
	return e.current.Metrics()
}

// failed is why the instance in use can take no more writes, or nil.
func (e *engine) failed() error { return e.guard.err() }

// ready opens the store again if its disk had failed, but not more often than every reopenEvery. It is called, like
// room and commit, by the committer alone.
func (e *engine) ready() (reopened bool, err error) {
	cause := e.failed()
	if cause == nil {
		return false, e.guard.tableErr()
	}
	if time.Since(e.lastOpen) < reopenEvery {
		return false, cause
	}
	if err := e.room(1); err != nil {
		return false, err
	}
	if err := e.open(); err != nil {
		return false, fmt.Errorf("open store again after %w: %w", cause, err)
	}
	e.log.Info("store works again", "error", cause)
	return true, nil
}

// closeQuietly closes an instance that nothing can be lost with any more.
func (e *engine) closeQuietly(p *pebble.DB) {
	if p == nil {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			e.log.Warn("store engine did not close", "error", r)
		}
	}()
	if err := p.Close(); err != nil {
		e.log.Debug("store engine did not close cleanly", "error", err)
	}
}

// room reports ErrNoSpace when less than the reserve, divided by fraction, is free.
func (e *engine) room(fraction uint64) error {
	usage, err := e.base.GetDiskUsage(e.dir)
	if err != nil {
		return nil // unknown, as in memory: the write itself will tell
	}
	reserve := e.reserve
	if reserve == 0 {
		reserve = min(defaultReserve, usage.TotalBytes/16)
	}
	if usage.AvailBytes < reserve/fraction {
		return fmt.Errorf("%w: %d bytes are free, %d are kept", ErrNoSpace, usage.AvailBytes, reserve/fraction)
	}
	return nil
}

// commit writes a batch. It waits for the disk if sync is set, and for Pebble's flushes if those are behind.
func (e *engine) commit(batch *pebble.Batch, sync bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e.guard.fence(fmt.Errorf("store engine: %v", r))
		}
		if failed := e.failed(); failed != nil {
			err = failed
		}
	}()
	return batch.Commit(&pebble.WriteOptions{Sync: sync})
}

func (e *engine) close() error {
	defer e.cache.Unref()
	e.closeQuietly(e.retired)
	e.mu.Lock()
	p := e.current
	e.retired, e.current = nil, nil
	e.mu.Unlock()
	if p == nil {
		return nil
	}
	if e.failed() != nil {
		e.guard.release()
		e.closeQuietly(p)
		return nil
	}
	e.guard.release()
	return p.Close()
}
