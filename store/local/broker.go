package local

import "github.com/cockroachdb/pebble/v2"

// BrokerStore implements broker.Store.
type BrokerStore struct{ db *DB }

func newBrokerStore(db *DB) *BrokerStore { return &BrokerStore{db: db} }

func (s *BrokerStore) staged() int                     { return 0 }
func (s *BrokerStore) flush(batch *pebble.Batch) error { return nil }
func (s *BrokerStore) settle(err error)                {}
func (s *BrokerStore) forget()                         {}
