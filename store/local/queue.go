package local

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/broker"
)

// Queue implements broker.Store.
func (s *brokerStore) Queue(session string, from uint64, limit, maxBytes int) ([]broker.QueueEntry, error) {
	bounds := &pebble.IterOptions{
		LowerBound: appendEntryKey(nil, session, from),
		UpperBound: after(append(appendSession(nil, session), partQueue)),
	}
	it, err := s.db.pebble.NewIter(bounds)
	if err != nil {
		return nil, fmt.Errorf("read queue: %w", err)
	}
	read := queueRead{store: s, limit: limit, bytes: maxBytes, it: it, keySize: len(bounds.LowerBound)}
	for valid := it.First(); valid && len(read.entries) < limit; valid = it.Next() {
		var more bool
		if more, err = read.next(); err != nil || !more {
			break
		}
	}
	err = errors.Join(err, it.Error(), read.close())
	if err != nil {
		return nil, fmt.Errorf("read queue: %w", err)
	}
	return read.entries, nil
}

// queueRead is one page of a queue while it is read.
type queueRead struct {
	store   *brokerStore
	limit   int
	bytes   int // that may still be read
	keySize int
	it      *pebble.Iterator
	bodies  *pebble.Iterator // over the same state of the store as it; nil until the first shared body
	entries []broker.QueueEntry
}

// next reads the entry that the iterator is at. more is false when the page is full without it.
func (r *queueRead) next() (more bool, err error) {
	key, value := r.it.Key(), r.it.Value()
	head, err := decodeEntryHead(value)
	if len(key) != r.keySize {
		err = errCorrupt
	}
	if err == nil && len(r.entries) > 0 && head.size > r.bytes {
		return false, nil
	}
	var entry broker.QueueEntry
	if err == nil {
		entry, head, err = decodeEntry(value)
	}
	if err == nil && head.body != 0 {
		entry.Message, err = r.body(head.body)
	}
	if errors.Is(err, errCorrupt) {
		r.store.passOver("read queue", key, err)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	r.bytes -= head.size
	entry.Seq = binary.BigEndian.Uint64(key[len(key)-8:])
	if r.entries == nil {
		r.entries = make([]broker.QueueEntry, 0, min(r.limit, 64))
	}
	r.entries = append(r.entries, entry)
	return true, nil
}

func (r *queueRead) body(id uint64) (*broker.Message, error) {
	if r.bodies == nil {
		bodies, err := r.it.Clone(pebble.CloneOptions{IterOptions: within([]byte{prefixBody})})
		if err != nil {
			return nil, err
		}
		r.bodies = bodies
	}
	key := appendBodyKey(nil, id)
	if !r.bodies.SeekGE(key) || string(r.bodies.Key()) != string(key) {
		if err := r.bodies.Error(); err != nil {
			return nil, err
		}
		return nil, errCorrupt
	}
	return decodeMessage(r.bodies.Value())
}

func (r *queueRead) close() error {
	err := r.it.Close()
	if r.bodies != nil {
		err = errors.Join(err, r.bodies.Close())
	}
	return err
}
