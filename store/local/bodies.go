package local

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/broker"
)

// references counts which queue entries refer to which shared bodies. It is kept in memory only, and counted anew at
// start, and after a failed disk made it uncertain what was written.
type references struct {
	refs     map[uint64]int // entries that refer to a body
	shares   map[string]int // such entries of each session
	nextBody uint64
	orphans  []uint64 // bodies that nobody refers to: a crash can leave them
}

func newReferences() references {
	return references{refs: make(map[uint64]int), shares: make(map[string]int), nextBody: 1}
}

func (r *references) count(session string, body uint64) {
	r.refs[body]++
	r.shares[session]++
	r.nextBody = max(r.nextBody, body+1)
}

// findOrphans compares the bodies that are stored with those that are referred to.
func (s *brokerStore) findOrphans(r *references) error {
	it, err := s.db.pebble.NewIter(within([]byte{prefixBody}))
	if err != nil {
		return fmt.Errorf("read message bodies: %w", err)
	}
	for valid := it.First(); valid; valid = it.Next() {
		key := it.Key()
		if len(key) != 9 {
			s.passOver("read message bodies", key, errCorrupt)
			continue
		}
		id := binary.BigEndian.Uint64(key[1:])
		r.nextBody = max(r.nextBody, id+1)
		if r.refs[id] == 0 {
			r.orphans = append(r.orphans, id)
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return fmt.Errorf("read message bodies: %w", err)
	}
	return nil
}

// flush writes what was staged into the batch.
func (s *brokerStore) flush(batch *pebble.Batch) error {
	if !s.isLoaded() {
		return nil // then nothing is staged either
	}
	for i := range s.stage.ops {
		if op := &s.stage.ops[i]; !op.void {
			if err := s.emit(batch, op); err != nil {
				return fmt.Errorf("build batch: %w", err)
			}
		}
	}
	for id, released := range s.stage.release {
		if s.refs[id] <= released {
			s.key = appendBodyKey(s.key[:0], id)
			if err := batch.Delete(s.key, nil); err != nil {
				return fmt.Errorf("build batch: %w", err)
			}
		}
	}
	for _, id := range s.orphans {
		s.key = appendBodyKey(s.key[:0], id)
		if err := batch.Delete(s.key, nil); err != nil {
			return fmt.Errorf("build batch: %w", err)
		}
	}
	return nil
}

// emit writes one operation.
func (s *brokerStore) emit(batch *pebble.Batch, op *stagedOp) error {
	key, value := s.key[:0], s.value[:0]
	switch op.Kind {
	case broker.OpAppend:
		return s.emitEntry(batch, op)
	case broker.OpRemove:
		s.key = appendEntryKey(key, op.Session, op.Entry.Seq)
		return batch.Delete(s.key, nil)
	case broker.OpPutSession:
		s.key = append(appendSession(key, op.Record.ClientID), partRecord)
		s.value = appendSessionRecord(value, op.Record)
		return batch.Set(s.key, s.value, nil)
	case broker.OpDeleteSession:
		return s.emitDeleteSession(batch, op)
	case broker.OpPutSubscription:
		s.key = append(append(appendSession(key, op.Session), partSubscription), op.Subscription.Filter...)
		s.value = appendSubscription(value, &op.Subscription)
		return batch.Set(s.key, s.value, nil)
	case broker.OpDeleteSubscription:
		s.key = append(append(appendSession(key, op.Session), partSubscription), op.Subscription.Filter...)
		return batch.Delete(s.key, nil)
	case broker.OpAddInbound:
		s.key = appendInboundKey(key, op.Session, op.PacketID)
		return batch.Set(s.key, appendHead(value, nil), nil)
	case broker.OpRemoveInbound:
		s.key = appendInboundKey(key, op.Session, op.PacketID)
		return batch.Delete(s.key, nil)
	case broker.OpPutRetained:
		s.key = append(append(key, prefixRetained), op.Message.Topic...)
		s.value = appendMessageValue(value, op.Message)
		return batch.Set(s.key, s.value, nil)
	case broker.OpDeleteRetained:
		s.key = append(append(key, prefixRetained), op.Topic...)
		return batch.Delete(s.key, nil)
	}
	return nil
}

// emitEntry writes an entry, and before it the body it shares if it is the first to want it. A body that only one entry
// still wants goes into that entry.
func (s *brokerStore) emitEntry(batch *pebble.Batch, op *stagedOp) error {
	id := uint64(0)
	if op.body != nil && op.body.refs > 1 {
		if op.body.id == 0 {
			op.body.id = s.nextBody
			s.nextBody++
			s.key = appendBodyKey(s.key[:0], op.body.id)
			s.value = appendMessageValue(s.value[:0], op.body.message)
			if err := batch.Set(s.key, s.value, nil); err != nil {
				return err
			}
		}
		id = op.body.id
	}
	s.key = appendEntryKey(s.key[:0], op.Session, op.Entry.Seq)
	s.value = appendEntry(s.value[:0], &op.Entry, id)
	return batch.Set(s.key, s.value, nil)
}

func (s *brokerStore) emitDeleteSession(batch *pebble.Batch, op *stagedOp) error {
	if op.keys == nil {
		s.key = appendSession(s.key[:0], op.Session)
		return batch.DeleteRange(s.key, after(s.key), nil)
	}
	for _, key := range op.keys {
		if err := batch.Delete(key, nil); err != nil {
			return err
		}
	}
	return nil
}

// settle brings the references up to date after the batch was committed, and empties the stage.
func (s *brokerStore) settle(err error) {
	defer s.stage.reset()
	if cap(s.value) > keepBuffer {
		s.value = nil
	}
	if err != nil || !s.isLoaded() {
		return
	}
	s.orphans = nil
	for id, released := range s.stage.release {
		if s.refs[id] -= released; s.refs[id] <= 0 {
			delete(s.refs, id)
		}
	}
	for session, released := range s.stage.unshare {
		if s.shares[session] -= released; s.shares[session] <= 0 {
			delete(s.shares, session)
		}
	}
	for i := range s.stage.ops {
		if op := &s.stage.ops[i]; !op.void && op.body != nil && op.body.id != 0 {
			s.refs[op.body.id]++
			s.shares[op.Session]++
		}
	}
}
