package local

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// errorPause is how long a failed table operation is held before Pebble hears of it. Pebble tries a failed flush or
// compaction again at once and for ever, which on a full disk would keep a core busy.
const errorPause = 250 * time.Millisecond

// tableErrorFor is how long a failed table operation counts as the present state; Pebble's next try renews it.
const tableErrorFor = 4 * errorPause

// stallLimit is how long a commit waits for flushes that fail, before the instance is given up: it would wait for ever.
const stallLimit = 10 * time.Second

// guardFS stands between Pebble and the disk, because Pebble answers a failed write of its log or manifest by ending
// the process. The first such failure fences the guard: from then on nothing that this Pebble instance does reaches
// the disk, every change is said to have succeeded, and nobody panics. The engine sees the fence after each commit,
// fails the writes, and opens a new instance with a new guard when the disk works again. The fence also makes sure
// that whatever is left running in the old instance cannot harm the files of the new one.
//
// Failed writes of tables are passed on: Pebble survives those.
type guardFS struct {
	vfs.FS // reads go straight to it
	armed  atomic.Bool
	quit   chan struct{}

	gate  sync.RWMutex // held for reading by each operation that changes the disk
	cause atomic.Pointer[error]
	grave vfs.FS // takes the files that are made behind the fence

	tables  atomic.Pointer[tableError]
	stalled atomic.Pointer[time.Time] // since when a commit has been waiting for flushes; nil: none is
}

type tableError struct {
	err error
	at  time.Time
}

func newGuard(fs vfs.FS) *guardFS {
	return &guardFS{FS: fs, quit: make(chan struct{}), grave: vfs.NewMem()}
}

// arm makes failures fence the guard. Before that they are returned, so that opening a store on a bad disk fails.
func (g *guardFS) arm() { g.armed.Store(true) }

// stall notes that a commit began to wait for flushes, or ended to.
func (g *guardFS) stall(begun bool) {
	if !begun {
		g.stalled.Store(nil)
		return
	}
	now := time.Now()
	g.stalled.CompareAndSwap(nil, &now)
}

// release ends all pauses; the instance is about to be closed.
func (g *guardFS) release() { close(g.quit) }

// fence cuts the instance off and returns when the last change that was under way has ended.
func (g *guardFS) fence(err error) {
	g.cause.CompareAndSwap(nil, &err)
	g.gate.Lock()
	//lint:ignore SA2001 taking the gate waits for the operations that went through it before
	g.gate.Unlock()
}

// err is why the guard was fenced, or nil.
func (g *guardFS) err() error {
	if cause := g.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// tableErr is the last failure to write a table, if it is recent and none was written since.
func (g *guardFS) tableErr() error {
	if t := g.tables.Load(); t != nil && time.Since(t.at) < tableErrorFor {
		return t.err
	}
	return nil
}

// change runs an operation that changes the disk. swallowed says that it did not happen, or only in part, and that
// Pebble is to be told it did.
func (g *guardFS) change(name string, op func() error) (swallowed bool, err error) {
	g.gate.RLock()
	if g.err() != nil {
		g.gate.RUnlock()
		return true, nil
	}
	err = op()
	g.gate.RUnlock()
	switch {
	case err == nil:
		return false, nil
	case isTable(name):
		g.tables.Store(&tableError{err, time.Now()})
		if since := g.stalled.Load(); since != nil && time.Since(*since) > stallLimit {
			break
		}
		g.pause()
		return false, err
	case !g.armed.Load():
		return false, err
	}
	g.fence(err)
	return true, nil
}

func (g *guardFS) pause() {
	timer := time.NewTimer(errorPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.quit:
	}
}

func isTable(name string) bool {
	return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
}

// open runs an operation that makes a file, or gives the file a grave.
func (g *guardFS) open(name string, op func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	swallowed, err := g.change(name, func() (err error) {
		file, err = op()
		return err
	})
	if err != nil {
		return nil, err
	}
	if swallowed {
		return g.grave.Create(g.PathBase(name), vfs.WriteCategoryUnspecified)
	}
	return &guardFile{File: file, guard: g, name: name}, nil
}

func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return g.open(name, func() (vfs.File, error) { return g.FS.Create(name, category) })
}

func (g *guardFS) OpenReadWrite(
	name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption,
) (vfs.File, error) {
	return g.open(name, func() (vfs.File, error) { return g.FS.OpenReadWrite(name, category, opts...) })
}

func (g *guardFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return g.open(newname, func() (vfs.File, error) { return g.FS.ReuseForWrite(oldname, newname, category) })
}

func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	return g.open(name, func() (vfs.File, error) { return g.FS.OpenDir(name) })
}

// Open pauses before it reports a file that cannot be read, for the reason given at errorPause.
func (g *guardFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := g.FS.Open(name, opts...)
	if err != nil && g.armed.Load() {
		g.pause()
	}
	return file, err
}

func (g *guardFS) Link(oldname, newname string) error {
	_, err := g.change(newname, func() error { return g.FS.Link(oldname, newname) })
	return err
}

func (g *guardFS) Rename(oldname, newname string) error {
	_, err := g.change(newname, func() error { return g.FS.Rename(oldname, newname) })
	return err
}

// Remove and RemoveAll pass every error on: a file that stays is no harm, and one that is absent is no fault.
func (g *guardFS) Remove(name string) error {
	return g.remove(func() error { return g.FS.Remove(name) })
}

func (g *guardFS) RemoveAll(name string) error {
	return g.remove(func() error { return g.FS.RemoveAll(name) })
}

func (g *guardFS) remove(op func() error) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	if g.err() != nil {
		return nil
	}
	return op()
}

func (g *guardFS) Unwrap() vfs.FS { return g.FS }

// guardFile is a file that was opened for writing through a guard.
type guardFile struct {
	vfs.File
	guard *guardFS
	name  string
}

func (f *guardFile) Write(p []byte) (int, error) {
	return f.write(len(p), func() (int, error) { return f.File.Write(p) })
}

func (f *guardFile) WriteAt(p []byte, offset int64) (int, error) {
	return f.write(len(p), func() (int, error) { return f.File.WriteAt(p, offset) })
}

func (f *guardFile) write(size int, op func() (int, error)) (n int, err error) {
	swallowed, err := f.guard.change(f.name, func() (err error) {
		n, err = op()
		return err
	})
	if swallowed {
		return size, nil
	}
	return n, err
}

// Preallocate is only a hint: a disk without room for it may still have room for what is written.
func (f *guardFile) Preallocate(offset, length int64) error {
	if f.guard.err() == nil {
		_ = f.File.Preallocate(offset, length)
	}
	return nil
}

func (f *guardFile) Sync() error {
	swallowed, err := f.guard.change(f.name, f.File.Sync)
	if err == nil && !swallowed && isTable(f.name) {
		f.guard.tables.Store(nil)
	}
	return err
}

func (f *guardFile) SyncData() error {
	_, err := f.guard.change(f.name, f.File.SyncData)
	return err
}

func (f *guardFile) SyncTo(length int64) (fullSync bool, err error) {
	swallowed, err := f.guard.change(f.name, func() (err error) {
		fullSync, err = f.File.SyncTo(length)
		return err
	})
	return fullSync || swallowed, err
}

// Close gives the descriptor back even behind the fence.
func (f *guardFile) Close() error {
	err := f.File.Close()
	if err != nil && f.guard.err() != nil {
		return nil
	}
	_, err = f.guard.change(f.name, func() error { return err })
	return err
}
