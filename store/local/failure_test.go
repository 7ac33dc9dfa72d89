package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

// faults lets operations on files whose name contains one of the parts fail while it is on.
type faults struct {
	on    atomic.Bool
	kind  errorfs.OpReadWrite
	parts []string
	hits  atomic.Int64
}

func (f *faults) String() string { return "faults" }

func (f *faults) MaybeError(op errorfs.Op) error {
	if !f.on.Load() || op.Kind.ReadOrWrite() != f.kind {
		return nil
	}
	for _, part := range f.parts {
		if strings.Contains(filepath.Base(op.Path), part) {
			f.hits.Add(1)
			return syscall.EIO
		}
	}
	return nil
}

// fill writes until the memtables must be flushed several times over, or a write fails.
func fill(db *DB, rounds int) (err error) {
	value := strings.Repeat("v", 256<<10)
	for i := range rounds {
		if e := db.update(put(fmt.Sprintf("fill%05d", i), value+fmt.Sprint(i))); e != nil {
			err = e
		}
	}
	return err
}

func TestABrokenDiskFailsWritesUntilItWorksAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		parts  []string
		rounds int // of 256 KiB
	}{
		"its log":      {[]string{".log"}, 1},
		"its manifest": {[]string{"MANIFEST"}, 200},
		"its markers":  {[]string{"marker", "MANIFEST"}, 200},
		"its tables":   {[]string{".sst"}, 400},
		"all of it":    {[]string{""}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			faults := &faults{kind: errorfs.OpIsWrite, parts: tc.parts}
			dir := t.TempDir()
			db := open(t, dir, Options{fs: errorfs.Wrap(vfs.Default, faults)})
			require.NoError(t, db.update(put("zbefore", "1")))

			faults.on.Store(true)
			require.ErrorIs(t, fill(db, tc.rounds), syscall.EIO)
			require.NotZero(t, faults.hits.Load())
			value, found := get(t, db, "zbefore")
			require.True(t, found, "reads go on")
			require.Equal(t, "1", value)

			faults.on.Store(false)
			testenv.Eventually(t, 20*time.Second, "writes succeed again", func() bool {
				return db.update(put("zafter", "2")) == nil
			})
			require.NoError(t, fill(db, 8))
			require.NoError(t, db.Close())

			db = open(t, dir, Options{})
			for key, want := range map[string]string{"zbefore": "1", "zafter": "2"} {
				value, found := get(t, db, key)
				require.True(t, found, key)
				require.Equal(t, want, value)
			}
		})
	}
}

func TestAStoreWhoseDiskIsBrokenCloses(t *testing.T) {
	faults := &faults{kind: errorfs.OpIsWrite, parts: []string{""}}
	db := open(t, t.TempDir(), Options{fs: errorfs.Wrap(vfs.Default, faults)})
	faults.on.Store(true)
	require.Error(t, db.update(put("z", "1")))
	require.NoError(t, db.Close())
}

// TestAFullDisk runs on a file system of 24 MiB: once with the reserve, which keeps Pebble from ever seeing that the
// disk is full, and once without.
func TestAFullDisk(t *testing.T) {
	for name, reserve := range map[string]uint64{"with a reserve": 0, "without a reserve": 1} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t, 24<<20)
			ballast := filepath.Join(disk, "ballast")
			require.NoError(t, os.WriteFile(ballast, make([]byte, 12<<20), 0o600))
			dir := filepath.Join(disk, "store")
			db := open(t, dir, Options{Reserve: reserve})
			require.NoError(t, db.update(put("zbefore", "1")))

			err := fill(db, 200)
			require.Error(t, err)
			t.Log(err)
			_, found := get(t, db, "zbefore")
			require.True(t, found, "reads go on")

			require.NoError(t, os.Remove(ballast))
			testenv.Eventually(t, 20*time.Second, "writes succeed again", func() bool {
				return db.update(put("zafter", "2")) == nil
			})
			require.NoError(t, db.Close())
			db = open(t, dir, Options{})
			for _, key := range []string{"zbefore", "zafter"} {
				_, found := get(t, db, key)
				require.True(t, found, key)
			}
		})
	}
}

// smallDisk mounts a file system of its own, which takes an administrator.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		testenv.Missing(t, "the right to mount a small file system")
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestWritesThatOnlyRemovePassWhenSpaceIsShort(t *testing.T) {
	disk := smallDisk(t, 32<<20)
	db := open(t, filepath.Join(disk, "store"), Options{Reserve: 8 << 20})
	require.NoError(t, os.WriteFile(filepath.Join(disk, "ballast"), make([]byte, 26<<20), 0o600))
	require.ErrorIs(t, db.update(put("za", "1")), ErrNoSpace)
	result := make(chan error, 1)
	db.enqueue(write{sync: true, frees: true, apply: put("zb", "stands for a removal"),
		done: func(err error) { result <- err }})
	require.NoError(t, <-result)
}
