package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/broker"
)

// keepBuffer is up to which size the buffer for values is kept for the next batch.
const keepBuffer = 256 << 10

// brokerStore implements broker.Store on a DB.
//
// A value that cannot be decoded is passed over, logged with its key, and counted: one bad session must not keep a node
// from starting, nor one bad entry block the queue behind it.
type brokerStore struct {
	db *DB

	mu     sync.Mutex // between Sessions and the committer
	loaded bool       // the references are counted
	references

	// Of the committer alone.
	stage      *stage
	key, value []byte
}

// BrokerStore returns what the broker keeps its sessions in.
func (db *DB) BrokerStore() broker.Store { return db.broker }

func newBrokerStore(db *DB) *brokerStore {
	return &brokerStore{db: db, stage: newStage(), references: newReferences()}
}

// Apply implements broker.Store.
func (s *brokerStore) Apply(tx *broker.Tx, done func(error)) {
	s.db.enqueue(write{sync: !tx.Lazy, frees: frees(tx), done: done, apply: func(*pebble.Batch) error {
		if err := check(tx); err != nil {
			return err
		}
		if err := s.load(); err != nil {
			return err
		}
		s.add(tx)
		return nil
	}})
}

// load counts the references, unless Sessions did. It is what the first Apply after a failed disk waits for.
func (s *brokerStore) load() error {
	if s.isLoaded() {
		return nil
	}
	return s.Sessions(func(broker.StoredSession) error { return nil })
}

func (s *brokerStore) isLoaded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded
}

// forget makes the next Apply count the references again: a failed disk made it uncertain what was written.
func (s *brokerStore) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = false
}

// staged is about how many bytes flush will add to the batch.
func (s *brokerStore) staged() int { return s.stage.bytes }

// Sessions implements broker.Store.
func (s *brokerStore) Sessions(yield func(broker.StoredSession) error) error {
	refs := newReferences()
	it, err := s.db.pebble.NewIter(within([]byte{prefixSession}))
	if err != nil {
		return fmt.Errorf("read sessions: %w", err)
	}
	scan := sessionScan{store: s, refs: &refs, yield: yield}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		err = scan.next(it.Key(), it.Value())
	}
	if err == nil && it.Error() == nil {
		err = scan.finish()
	}
	if e := errors.Join(it.Error(), it.Close()); e != nil && err == nil {
		err = fmt.Errorf("read sessions: %w", e)
	}
	if err == nil {
		err = s.findOrphans(&refs)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		s.references, s.loaded = refs, true
	}
	return nil
}

// sessionScan puts sessions together from their keys, which come in order.
type sessionScan struct {
	store   *brokerStore
	refs    *references
	yield   func(broker.StoredSession) error
	session broker.StoredSession
	begun   bool // session is one
	valid   bool // and has a record
}

func (c *sessionScan) next(key, value []byte) error {
	name, rest, part, ok := splitSessionKey(key)
	if !ok {
		c.store.passOver("read sessions", key, errCorrupt)
		return nil
	}
	if !c.begun || string(name) != c.session.Record.ClientID {
		if err := c.finish(); err != nil {
			return err
		}
		c.session, c.begun, c.valid = broker.StoredSession{}, true, false
		c.session.Record.ClientID = string(name)
	}
	if err := c.part(part, rest, value); err != nil {
		c.store.passOver("read sessions", key, err)
	}
	return nil
}

func (c *sessionScan) finish() error {
	if !c.begun || !c.valid {
		return nil
	}
	return c.yield(c.session)
}

func (c *sessionScan) part(part byte, rest, value []byte) error {
	session := &c.session
	switch {
	case part == partRecord && len(rest) == 0:
		record, err := decodeSessionRecord(value)
		if err != nil {
			return err
		}
		record.ClientID = session.Record.ClientID
		session.Record, c.valid = record, true
	case part == partSubscription:
		subscription, err := decodeSubscription(value)
		if err != nil {
			return err
		}
		subscription.Filter = string(rest)
		session.Subscriptions = append(session.Subscriptions, subscription)
	case part == partInbound && len(rest) == 2:
		session.Inbound = append(session.Inbound, binary.BigEndian.Uint16(rest))
	case part == partQueue && len(rest) == 8:
		return c.entry(binary.BigEndian.Uint64(rest), value)
	default:
		return errCorrupt
	}
	return nil
}

func (c *sessionScan) entry(seq uint64, value []byte) error {
	head, err := decodeEntryHead(value)
	if err != nil {
		return err
	}
	session := &c.session
	if session.QueueLen == 0 {
		session.QueueFirst = seq
	}
	session.QueueLast = seq
	session.QueueLen++
	if !head.released() {
		session.QueueBytes += int64(head.size)
	}
	if head.body != 0 {
		c.refs.count(session.Record.ClientID, head.body)
	}
	return nil
}

// Retained implements broker.Store.
func (s *brokerStore) Retained(yield func(*broker.Message) error) error {
	it, err := s.db.pebble.NewIter(within([]byte{prefixRetained}))
	if err != nil {
		return fmt.Errorf("read retained messages: %w", err)
	}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		message, corrupt := decodeMessage(it.Value())
		if corrupt != nil {
			s.passOver("read retained messages", it.Key(), corrupt)
			continue
		}
		err = yield(message)
	}
	if e := errors.Join(it.Error(), it.Close()); e != nil && err == nil {
		err = fmt.Errorf("read retained messages: %w", e)
	}
	return err
}
