package local

import (
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/store/storetest"
)

func TestOnDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (broker.Store, func() broker.Store) {
		dir := t.TempDir()
		db := open(t, dir, Options{})
		t.Cleanup(func() {
			require.NoError(t, db.Close())
			noBodyIsLeft(t, open(t, dir, Options{}))
		})
		return db.BrokerStore(), func() broker.Store {
			require.NoError(t, db.Close())
			db = open(t, dir, Options{})
			return db.BrokerStore()
		}
	})
}

func TestInMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (broker.Store, func() broker.Store) {
		return open(t, "", Options{}).BrokerStore(), nil
	})
}

// noBodyIsLeft deletes every session, and expects that no shared message outlives the last entry that wanted it.
func noBodyIsLeft(t *testing.T, db *DB) {
	store := db.BrokerStore()
	var ops []broker.Op
	it, err := db.pebble.NewIter(within([]byte{prefixSession}))
	require.NoError(t, err)
	for valid := it.First(); valid; valid = it.Next() {
		session, _, _, ok := splitSessionKey(it.Key())
		require.True(t, ok)
		ops = append(ops, broker.Op{Kind: broker.OpDeleteSession, Session: string(session)})
	}
	require.NoError(t, it.Close())
	done := make(chan error, 1)
	store.Apply(&broker.Tx{Ops: ops}, func(err error) { done <- err })
	require.NoError(t, <-done)
	for _, prefix := range []byte{prefixSession, prefixBody} {
		it, err := db.pebble.NewIter(within([]byte{prefix}))
		require.NoError(t, err)
		require.False(t, it.First(), "%q is left", it.Key())
		require.NoError(t, it.Close())
	}
}

// TestSharedMessagesOverAFailedDisk has a disk fail between the entries of shared messages: whatever of the failed
// transactions came to be written, none of the messages may be lost or left over.
func TestSharedMessagesOverAFailedDisk(t *testing.T) {
	faults := &faults{kind: errorfs.OpIsWrite, parts: []string{".log"}}
	dir := t.TempDir()
	db := open(t, dir, Options{fs: errorfs.Wrap(vfs.Default, faults)})
	store, seq := db.BrokerStore(), uint64(0)
	apply := func(ops ...broker.Op) error {
		done := make(chan error, 1)
		store.Apply(&broker.Tx{Ops: ops}, func(err error) { done <- err })
		return <-done
	}
	fanOut := func() error {
		seq++
		var ops []broker.Op
		m := &broker.Message{Topic: "t", Payload: []byte("shared")}
		for _, session := range []string{"a", "b", "c"} {
			ops = append(ops, broker.Op{Kind: broker.OpAppend, Session: session,
				Entry: broker.QueueEntry{Seq: seq, Message: m, QoS: 1}})
		}
		return apply(ops...)
	}
	require.NoError(t, fanOut())
	faults.on.Store(true)
	require.ErrorIs(t, fanOut(), syscall.EIO)
	faults.on.Store(false)
	testenv.Eventually(t, 20*time.Second, "writes succeed again", func() bool { return fanOut() == nil })

	for _, session := range []string{"a", "b"} {
		entries, err := store.Queue(session, 0, 100, 1<<20)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(entries), 2)
		for _, e := range entries {
			require.Equal(t, "shared", string(e.Message.Payload))
			require.NoError(t, apply(broker.Op{Kind: broker.OpRemove, Session: session,
				Entry: broker.QueueEntry{Seq: e.Seq}}))
		}
	}
	require.NoError(t, apply(broker.Op{Kind: broker.OpDeleteSession, Session: "c"}))
	noBodyIsLeft(t, db)
}
