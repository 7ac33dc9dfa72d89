package local

import (
	"fmt"
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
