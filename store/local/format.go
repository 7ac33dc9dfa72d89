package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// formatVersion is the version of what is stored. A change that an older program cannot read raises it, and comes with
// a migration in checkFormat.
const formatVersion = 1

// formatKey holds the version. It sorts before all else.
var formatKey = []byte("\x00format")

// lockFolder makes the folder and takes its lock, which the operating system takes back when the process ends.
func lockFolder(fs vfs.FS, dir string) (io.Closer, error) {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store's folder %q: %w", dir, err)
	}
	if err := checkFolder(fs, dir); err != nil {
		return nil, err
	}
	lock, err := fs.Lock(fs.PathJoin(dir, "LOCK"))
	switch {
	case err == nil:
		return lock, nil
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES) && canWrite(fs, dir):
		return nil, fmt.Errorf("store in %q is in use by another process", dir)
	case strings.Contains(err.Error(), "held by current process"): // Pebble has no sentinel for it
		return nil, fmt.Errorf("store in %q is already open in this process", dir)
	}
	return nil, fmt.Errorf("store's folder %q cannot be written: %w", dir, err)
}

// canWrite tells a lock that is taken from a folder that is forbidden; fcntl may say EACCES for both.
func canWrite(fs vfs.FS, dir string) bool {
	name := fs.PathJoin(dir, "writable")
	file, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false
	}
	_ = file.Close()
	return fs.Remove(name) == nil
}

// checkFolder refuses a folder with files that are not Pebble's, so that a wrong path does no harm.
func checkFolder(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("read store's folder %q: %w", dir, err)
	}
	var foreign string
	for _, name := range names {
		if strings.HasPrefix(name, "marker.manifest.") {
			return nil
		}
		if !isPebbles(name) {
			foreign = name
		}
	}
	if foreign != "" {
		return fmt.Errorf("%q is not a store: it holds %q", dir, foreign)
	}
	return nil
}

func isPebbles(name string) bool {
	for _, prefix := range []string{"LOCK", "MANIFEST-", "OPTIONS-", "marker.", "temporary.", "writable"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".dbtmp")
}

// checkFormat writes the version into a new store, and refuses what is no store of ours or a later one.
func checkFormat(e *engine) error {
	value, closer, err := e.Get(formatKey)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return markFormat(e)
	case err != nil:
		return fmt.Errorf("read format version: %w", err)
	}
	version, n := binary.Uvarint(value)
	_ = closer.Close()
	if n <= 0 || version == 0 {
		return errors.New("format version is corrupt")
	}
	if version > formatVersion {
		return fmt.Errorf("it has format version %d, which is later than this program's %d: use a newer program",
			version, formatVersion)
	}
	return nil
}

func markFormat(e *engine) error {
	it, err := e.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read new store: %w", err)
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return fmt.Errorf("read new store: %w", err)
	}
	if used {
		return errors.New("it is a database of another program")
	}
	batch := e.current.NewBatch()
	if err := batch.Set(formatKey, binary.AppendUvarint(nil, formatVersion), nil); err != nil {
		return fmt.Errorf("write format version: %w", err)
	}
	if err := e.commit(batch, true); err != nil {
		return fmt.Errorf("write format version: %w", err)
	}
	return batch.Close()
}
