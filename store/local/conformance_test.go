package local

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
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
