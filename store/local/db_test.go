package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func open(t testing.TB, dir string, opts Options) *DB {
	t.Helper()
	db, err := Open(dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func put(key, value string) func(*pebble.Batch) error {
	return func(b *pebble.Batch) error { return b.Set([]byte(key), []byte(value), nil) }
}

func get(t testing.TB, db *DB, key string) (string, bool) {
	t.Helper()
	value, closer, err := db.pebble.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return "", false
	}
	require.NoError(t, err)
	defer func() { _ = closer.Close() }()
	return string(value), true
}

func TestWritesAreDoneInOrderAndSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	db := open(t, dir, Options{})
	var order []int
	var wait sync.WaitGroup
	for i := range 500 {
		wait.Add(1)
		db.submit(i%3 != 0, put(fmt.Sprintf("z%03d", i), "v"), func(err error) {
			defer wait.Done()
			if err == nil {
				order = append(order, i) // callbacks come from one goroutine
			}
		})
	}
	wait.Wait()
	require.Len(t, order, 500)
	require.IsIncreasing(t, order)
	writes, oldest := db.Pending()
	require.Zero(t, writes)
	require.Zero(t, oldest)
	require.NoError(t, db.Close())

	db = open(t, dir, Options{})
	for i := range 500 {
		_, found := get(t, db, fmt.Sprintf("z%03d", i))
		require.True(t, found, i)
	}
}

func TestAnErrorOfApplyFailsThatWriteAlone(t *testing.T) {
	db := open(t, "", Options{})
	refused := errors.New("refused")
	results := make(chan error, 3)
	db.submit(true, put("za", "1"), func(err error) { results <- err })
	db.submit(true, func(*pebble.Batch) error { return refused }, func(err error) { results <- err })
	db.submit(true, func(*pebble.Batch) error { panic("a fault of the caller") }, func(err error) { results <- err })
	require.NoError(t, <-results)
	require.ErrorIs(t, <-results, refused)
	require.ErrorContains(t, <-results, "a fault of the caller")
	_, found := get(t, db, "za")
	require.True(t, found)
}

func TestCloseDrainsAndThenRefuses(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir, Options{})
	results := make(chan error, 100)
	for i := range 100 {
		db.submit(true, put(fmt.Sprintf("z%02d", i), "v"), func(err error) { results <- err })
	}
	require.NoError(t, db.Close())
	for range 100 {
		require.NoError(t, <-results)
	}
	var mine sync.Mutex // the submitter may hold a lock that done wants
	mine.Lock()
	late := make(chan int, 2)
	for i := range cap(late) {
		db.submit(true, put("z", "late"), func(err error) {
			mine.Lock()
			defer mine.Unlock()
			if errors.Is(err, ErrClosed) {
				late <- i
			}
		})
	}
	mine.Unlock()
	require.Equal(t, 0, <-late)
	require.Equal(t, 1, <-late)
	_, _, err := db.pebble.Get([]byte("z"))
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, db.Close(), "closing twice is no fault")
}

func TestOpenRefuses(t *testing.T) {
	held := t.TempDir()
	open(t, held, Options{})

	foreign := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "letter.txt"), nil, 0o600))

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	later := t.TempDir()
	db := open(t, later, Options{})
	require.NoError(t, db.update(put(string(formatKey), string(binary.AppendUvarint(nil, formatVersion+1)))))
	require.NoError(t, db.Close())

	others := t.TempDir()
	p, err := pebble.Open(others, &pebble.Options{Logger: pebbleLogger{log: discard, guard: newGuard(nil)}})
	require.NoError(t, err)
	require.NoError(t, p.Set([]byte("theirs"), nil, pebble.Sync))
	require.NoError(t, p.Close())

	for name, tc := range map[string]struct{ dir, says string }{
		"a store that is open":       {held, "already open"},
		"a folder of something else": {foreign, `is not a store: it holds "letter.txt"`},
		"a file":                     {file, "make store's folder"},
		"a later format":             {later, "use a newer program"},
		"another program's database": {others, "database of another program"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := Open(tc.dir, Options{})
			if err == nil {
				_ = db.Close()
			}
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestMetricsAreRegisteredUntilClose(t *testing.T) {
	registry := prometheus.NewRegistry()
	db := open(t, "", Options{Metrics: registry})
	require.NoError(t, db.update(put("za", "1")))
	families, err := registry.Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	require.Contains(t, names, "penstock_store_commit_seconds")
	require.Contains(t, names, "penstock_store_disk_bytes")
	_, err = Open("", Options{Metrics: registry})
	require.ErrorContains(t, err, "register metrics of store")
	require.NoError(t, db.Close())
	open(t, "", Options{Metrics: registry})
}
