package local

import (
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

func create(t *testing.T, fs vfs.FS, name string) vfs.File {
	t.Helper()
	file, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	return file
}

func TestGuard(t *testing.T) {
	faults := &faults{kind: errorfs.OpIsWrite, parts: []string{""}}
	disk := vfs.NewMem()
	setUp := func() *guardFS {
		faults.on.Store(false)
		return newGuard(errorfs.Wrap(disk, faults))
	}
	t.Run("returns errors until it is armed", func(t *testing.T) {
		g := setUp()
		file := create(t, g, "1.log")
		faults.on.Store(true)
		_, err := file.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EIO)
		require.NoError(t, g.err())
	})
	t.Run("nothing passes the fence", func(t *testing.T) {
		g := setUp()
		g.arm()
		file := create(t, g, "2.log")
		_, err := file.Write([]byte("before"))
		require.NoError(t, err)
		faults.on.Store(true)
		_, err = file.Write([]byte("the one that fails"))
		require.NoError(t, err)
		require.ErrorIs(t, g.err(), syscall.EIO)

		faults.on.Store(false)
		n, err := file.Write([]byte("after"))
		require.NoError(t, err)
		require.Equal(t, 5, n)
		require.NoError(t, file.Sync())
		require.NoError(t, file.SyncData())
		_, err = file.SyncTo(1)
		require.NoError(t, err)
		require.NoError(t, g.Remove("2.log"))
		require.NoError(t, g.RemoveAll("2.log"))
		require.NoError(t, g.Rename("2.log", "3.log"))
		require.NoError(t, g.Link("2.log", "3.log"))
		other, err := g.ReuseForWrite("2.log", "3.log", vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		_, err = other.Write([]byte("nowhere"))
		require.NoError(t, err)
		require.NoError(t, file.Close())

		info, err := disk.Stat("2.log")
		require.NoError(t, err)
		require.EqualValues(t, len("before"), info.Size())
		_, err = disk.Stat("3.log")
		require.Error(t, err)
	})
	t.Run("a failed table is passed on", func(t *testing.T) {
		g := setUp()
		g.arm()
		g.release() // no pauses
		file := create(t, g, "4.sst")
		faults.on.Store(true)
		_, err := file.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorIs(t, g.tableErr(), syscall.EIO)
		require.NoError(t, g.err())
		faults.on.Store(false)
		require.NoError(t, file.Sync())
		require.NoError(t, g.tableErr(), "the next one that succeeds clears it")
	})
	t.Run("a failed table that a commit has long waited for fences", func(t *testing.T) {
		g := setUp()
		g.arm()
		g.release()
		file := create(t, g, "5.sst")
		faults.on.Store(true)
		g.stall(true)
		_, err := file.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EIO)
		long := time.Now().Add(-2 * stallLimit)
		g.stalled.Store(&long)
		_, err = file.Write([]byte("x"))
		require.NoError(t, err)
		require.ErrorIs(t, g.err(), syscall.EIO)
	})
}
