package local

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/bridge"
)

// Key prefixes of the spools.
const (
	prefixSpool     = 'p' // uplink records that wait for Kafka
	prefixUplinkLog = 'u' // uplink records that are kept instead of Kafka
)

// Kinds of keys under a spool's prefix; the sequence number follows, big-endian.
const (
	spoolEntry    = 0
	spoolSetAside = 1 // the value has the reason behind the record
)

const (
	spoolKeySize = 10
	// spoolOverhead is what an entry counts for beside its key and value.
	spoolOverhead = 32
)

// Spool keeps uplink records in order; it is a bridge.Spool on one key prefix of a DB.
type Spool struct {
	db       *DB
	prefix   byte
	maxBytes int64

	mu    sync.Mutex
	stats bridge.SpoolStats
}

var _ bridge.Spool = (*Spool)(nil)

// OpenSpool opens the records that wait for Kafka. There is room for maxBytes. It blocks while it counts what is there.
func (db *DB) OpenSpool(maxBytes int64) (*Spool, error) {
	return openSpool(db, prefixSpool, maxBytes)
}

// OpenUplinkLog opens the records that are kept instead of Kafka. There is room for maxBytes. It blocks while it counts
// what is there.
func (db *DB) OpenUplinkLog(maxBytes int64) (*Spool, error) {
	return openSpool(db, prefixUplinkLog, maxBytes)
}

func openSpool(db *DB, prefix byte, maxBytes int64) (*Spool, error) {
	s := &Spool{db: db, prefix: prefix, maxBytes: maxBytes, stats: bridge.SpoolStats{First: 1}}
	err := s.scan(spoolEntry, 0, func(seq uint64, value []byte) (bool, error) {
		if s.stats.Messages == 0 {
			s.stats.First = seq
		}
		s.stats.Messages++
		s.stats.Bytes += spoolSize(value)
		s.stats.Last = seq
		return true, nil
	})
	if err == nil {
		err = s.scan(spoolSetAside, 0, func(seq uint64, value []byte) (bool, error) {
			s.stats.SetAside++
			s.stats.Bytes += spoolSize(value)
			s.stats.Last = max(s.stats.Last, seq)
			return true, nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return s, nil
}

func spoolSize(value []byte) int64 { return int64(spoolKeySize + len(value) + spoolOverhead) }

func (s *Spool) key(kind byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{s.prefix, kind}, seq)
}

// scan yields stored values from a sequence number on until each returns false. The value is valid during the call.
func (s *Spool) scan(kind byte, from uint64, each func(seq uint64, value []byte) (bool, error)) (err error) {
	it, err := s.db.pebble.NewIter(&pebble.IterOptions{
		LowerBound: s.key(kind, from),
		UpperBound: []byte{s.prefix, kind + 1},
	})
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	defer func() {
		if closeErr := it.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("read spool: %w", closeErr)
		}
	}()
	for valid := it.First(); valid; valid = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		if len(it.Key()) != spoolKeySize {
			return fmt.Errorf("read spool: key of %d bytes", len(it.Key()))
		}
		more, err := each(binary.BigEndian.Uint64(it.Key()[2:]), value)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// Append stores entries as far as there is room; see bridge.Spool.
func (s *Spool) Append(entries []bridge.Entry, done func(taken int, err error)) {
	values, bytes := s.reserve(entries)
	if len(values) == 0 {
		done(0, nil)
		return
	}
	seqs := make([]uint64, len(values))
	for i := range seqs {
		seqs[i] = entries[i].Seq
	}
	s.db.submit(true, func(b *pebble.Batch) error {
		for i, value := range values {
			if err := b.Set(s.key(spoolEntry, seqs[i]), value, nil); err != nil {
				return fmt.Errorf("append to spool: %w", err)
			}
		}
		return nil
	}, func(err error) {
		if err != nil {
			s.add(-len(values), -bytes)
		}
		done(len(values), err)
	})
}

// reserve encodes the longest head of entries for which there is room, and takes that room.
func (s *Spool) reserve(entries []bridge.Entry) (values [][]byte, bytes int64) {
	values = make([][]byte, 0, len(entries))
	room := s.maxBytes - s.Stats().Bytes
	for i := range entries {
		value := appendRecord(make([]byte, 0, entries[i].Record.Size()+recordOverhead), entries[i].Record)
		if bytes+spoolSize(value) > room {
			break
		}
		values = append(values, value)
		bytes += spoolSize(value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Another Append may have taken room since; then the tail does not fit any more.
	for len(values) > 0 && s.stats.Bytes+bytes > s.maxBytes {
		bytes -= spoolSize(values[len(values)-1])
		values = values[:len(values)-1]
	}
	for i := range values {
		if s.stats.Messages == 0 || entries[i].Seq < s.stats.First {
			s.stats.First = entries[i].Seq
		}
		s.stats.Messages++
		s.stats.Last = max(s.stats.Last, entries[i].Seq)
	}
	s.stats.Bytes += bytes
	return values, bytes
}

func (s *Spool) add(messages int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A write that failed may be on disk all the same, and is then removed though it is not counted: hence the floor.
	s.stats.Messages = max(0, s.stats.Messages+int64(messages))
	s.stats.Bytes = max(0, s.stats.Bytes+bytes)
}

// Read returns stored entries in order; see bridge.Spool.
func (s *Spool) Read(from uint64, limit, maxBytes int) ([]bridge.Entry, error) {
	var entries []bridge.Entry
	bytes := int64(0)
	err := s.scan(spoolEntry, from, func(seq uint64, value []byte) (bool, error) {
		size := spoolSize(value)
		if len(entries) == limit || len(entries) > 0 && bytes+size > int64(maxBytes) {
			return false, nil
		}
		record, err := parseRecord(append([]byte(nil), value...))
		if err != nil {
			return false, fmt.Errorf("read spool entry %d: %w", seq, err)
		}
		entries = append(entries, bridge.Entry{Seq: seq, Record: record, Size: size})
		bytes += size
		return true, nil
	})
	return entries, err
}

// Remove deletes entries from the front; see bridge.Spool.
func (s *Spool) Remove(upTo uint64, messages int, bytes int64) {
	s.add(-messages, -bytes)
	s.mu.Lock()
	s.stats.First = max(s.stats.First, upTo+1)
	s.mu.Unlock()
	s.db.enqueue(write{frees: true, apply: func(b *pebble.Batch) error {
		return b.DeleteRange(s.key(spoolEntry, 0), s.key(spoolEntry, upTo+1), nil)
	}})
}

// SetAside keeps one entry outside of the order; see bridge.Spool.
func (s *Spool) SetAside(e bridge.Entry, reason string) error {
	value := appendRecord(nil, e.Record)
	value = append(value, reason...)
	err := s.db.update(func(b *pebble.Batch) error {
		if err := b.Delete(s.key(spoolEntry, e.Seq), nil); err != nil {
			return err
		}
		return b.Set(s.key(spoolSetAside, e.Seq), value, nil)
	})
	if err != nil {
		return fmt.Errorf("set spool entry %d aside: %w", e.Seq, err)
	}
	s.add(-1, spoolSize(value)-e.Size)
	s.mu.Lock()
	s.stats.SetAside++
	s.mu.Unlock()
	return nil
}

// Stats returns how much is stored now.
func (s *Spool) Stats() bridge.SpoolStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}
