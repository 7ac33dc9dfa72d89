package local

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

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

func TestAFolderThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		testenv.Missing(t, "the right to mount a file system")
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	_, err := Open(dir, Options{})
	require.ErrorContains(t, err, "cannot be written")
	_, err = Open(filepath.Join(dir, "store"), Options{})
	require.ErrorContains(t, err, "make store's folder")
}
