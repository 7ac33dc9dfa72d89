package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what a store may be given; the zero value will do.
type Options struct {
	Logger  *slog.Logger          // nil: nothing is logged
	Metrics prometheus.Registerer // nil: no metrics

	// Reserve is the free space, in bytes, that the store leaves on its disk: below it, writes that add are refused,
	// and below a quarter of it, those that only remove as well. Flushes and compactions need it to go on.
	// 0: 64 MiB, or a sixteenth of the disk if that is less.
	Reserve uint64

	fs vfs.FS // set by tests; nil: the operating system's, or memory when the store has no folder
}

var discard = slog.New(slog.DiscardHandler)

const defaultReserve = 64 << 20

const (
	memtableSize = 16 << 20
	cacheSize    = 16 << 20
	maxOpenFiles = 500
)

// pebbleOptions are tuned for many small synchronous writes that are mostly deleted again soon, and for a small
// footprint while nothing happens: the memtable grows from 256 KiB as it is used, and the cache fills on reading.
func pebbleOptions(fs vfs.FS, cache *pebble.Cache, log pebbleLogger) *pebble.Options {
	opts := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		MaxOpenFiles:                maxOpenFiles,
		MemTableSize:                memtableSize,
		MemTableStopWritesThreshold: 4,
		// A queue's entries mostly die in the first levels: compact early, so that reads skip few tombstones, and stop
		// writers late, because a stopped writer here is a publisher that waits.
		L0CompactionThreshold: 2,
		L0StopWritesThreshold: 24,
		LBaseMaxBytes:         64 << 20,
		Logger:                log,
		EventListener:         log.events(),
	}
	// Two cores may be all there is: one compaction at a time, a second one only to catch up.
	opts.CompactionConcurrencyRange = func() (int, int) { return 1, 2 }
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].BlockSize = 16 << 10
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
	}
	return opts
}

// pebbleLogger sends what Pebble says to slog. Fatalf cannot end the process: it fences the instance, and Pebble goes
// on with an instance whose every further change is thrown away.
type pebbleLogger struct {
	log   *slog.Logger
	guard *guardFS
}

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("store engine", "detail", fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Warn("store engine", "error", fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			err = cause // its text says enough, and it can be told what it is
		}
	}
	l.log.Error("store engine failed", "error", err)
	l.guard.fence(err)
}

func (l pebbleLogger) events() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if !errors.Is(err, pebble.ErrCancelledCompaction) {
				l.log.Warn("store cannot tidy up in the background", "error", err)
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			l.log.Error("store file is corrupt", "file", info.Path, "error", info.Details)
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			l.log.Warn("disk is slow", "file", info.Path, "operation", info.OpType.String(), "took", info.Duration)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			l.guard.stall(true)
			l.log.Warn("store stalls writes until its disk has caught up", "reason", info.Reason)
		},
		WriteStallEnd: func() { l.guard.stall(false) },
	}
}
