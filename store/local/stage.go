package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/broker"
)

// stage gathers the broker's operations of one batch. They go into the batch only when it is about to be committed,
// because an entry that is appended and removed in the same batch, as it is when a connected device answers fast, then
// need not be written at all. It is used by the committer alone.
type stage struct {
	ops     []stagedOp
	entries map[entryID]int  // the last operation in ops on an entry
	of      map[string][]int // the operations of each session; nil until a session is deleted
	deleted map[string]bool  // sessions of which nothing that is on disk counts any more
	release map[uint64]int   // references to stored bodies that the batch drops
	unshare map[string]int   // the same, by session
	bytes   int              // about what the batch will take
}

type entryID struct {
	session string
	seq     uint64
}

type stagedOp struct {
	*broker.Op
	body *stagedBody // of an OpAppend whose message other entries share
	void bool        // undone within the batch
	keys [][]byte    // of an OpDeleteSession: what to delete; nil: all of the range
}

// stagedBody is a message that several entries of one Tx share.
type stagedBody struct {
	message *broker.Message
	refs    int    // entries of the batch that still want it
	id      uint64 // 0 until it is written
}

func newStage() *stage {
	return &stage{
		entries: make(map[entryID]int), deleted: make(map[string]bool),
		release: make(map[uint64]int), unshare: make(map[string]int),
	}
}

func (st *stage) reset() {
	clear(st.ops)
	st.ops, st.of, st.bytes = st.ops[:0], nil, 0
	clear(st.entries)
	clear(st.deleted)
	clear(st.release)
	clear(st.unshare)
}

// check refuses a transaction that cannot be applied whole.
func check(tx *broker.Tx) error {
	for i := range tx.Ops {
		op := &tx.Ops[i]
		missing := ""
		switch op.Kind {
		case broker.OpPutSession:
			if op.Record == nil {
				missing = "record"
			}
		case broker.OpAppend:
			if op.Entry.Message == nil && !op.Entry.Released || op.Entry.Seq == 0 {
				missing = "message or sequence number"
			}
		case broker.OpPutRetained:
			if op.Message == nil {
				missing = "message"
			}
		case broker.OpDeleteSession, broker.OpPutSubscription, broker.OpDeleteSubscription, broker.OpRemove,
			broker.OpRelease, broker.OpAddInbound, broker.OpRemoveInbound, broker.OpDeleteRetained:
		default:
			return fmt.Errorf("operation %d of the transaction is of unknown kind %d", i, op.Kind)
		}
		if missing != "" {
			return fmt.Errorf("operation %d of the transaction has no %s", i, missing)
		}
	}
	return nil
}

// frees reports whether a transaction makes the store smaller in the end.
func frees(tx *broker.Tx) bool {
	for i := range tx.Ops {
		switch tx.Ops[i].Kind {
		case broker.OpPutSession, broker.OpPutSubscription, broker.OpAppend, broker.OpAddInbound, broker.OpPutRetained:
			return false
		}
	}
	return true
}

// sharedBodies finds the messages that more than one OpAppend of a transaction refers to.
func sharedBodies(tx *broker.Tx) map[*broker.Message]*stagedBody {
	var first *broker.Message
	var shared map[*broker.Message]*stagedBody
	var seen map[*broker.Message]bool // made when there is a second message
	for i := range tx.Ops {
		m := tx.Ops[i].Entry.Message
		switch {
		case tx.Ops[i].Kind != broker.OpAppend || m == nil:
		case first == nil:
			first = m
		case m == first || seen[m]:
			if shared == nil {
				shared = make(map[*broker.Message]*stagedBody)
			}
			if shared[m] == nil {
				shared[m] = &stagedBody{message: m}
			}
		default:
			if seen == nil {
				seen = make(map[*broker.Message]bool)
			}
			seen[m] = true
		}
	}
	return shared
}

// add stages a transaction that check has passed.
func (s *brokerStore) add(tx *broker.Tx) {
	shared := sharedBodies(tx)
	for i := range tx.Ops {
		op := &tx.Ops[i]
		id := entryID{op.Session, op.Entry.Seq}
		switch op.Kind {
		case broker.OpAppend:
			s.stageAppend(id, op, shared[op.Entry.Message])
		case broker.OpRemove:
			s.stageRemove(id, op)
		case broker.OpRelease:
			s.stageRelease(id, op)
		case broker.OpDeleteSession:
			s.stageDeleteSession(op)
		default:
			s.push(op, nil)
		}
	}
}

// push adds an operation and returns its place.
func (s *brokerStore) push(op *broker.Op, body *stagedBody) int {
	st, at := s.stage, len(s.stage.ops)
	st.ops = append(st.ops, stagedOp{Op: op, body: body})
	st.bytes += 64 + len(op.Session) + len(op.Subscription.Filter) + len(op.Topic)
	if op.Message != nil {
		st.bytes += op.Message.Size()
	}
	if st.of != nil {
		session := sessionOf(op)
		st.of[session] = append(st.of[session], at)
	}
	return at
}

func sessionOf(op *broker.Op) string {
	if op.Kind == broker.OpPutSession {
		return op.Record.ClientID
	}
	return op.Session
}

func (s *brokerStore) stageAppend(id entryID, op *broker.Op, body *stagedBody) {
	if at, found := s.stage.entries[id]; found {
		s.stage.undo(at)
	}
	s.stage.entries[id] = s.push(op, body)
	switch {
	case body != nil:
		if body.refs++; body.refs == 1 {
			s.stage.bytes += body.message.Size()
		}
	case op.Entry.Message != nil:
		s.stage.bytes += op.Entry.Message.Size()
	}
}

// undo takes back an operation on an entry, and the reference to a body that it held.
func (st *stage) undo(at int) {
	op := &st.ops[at]
	op.void = true
	if op.body != nil {
		op.body.refs--
		op.body = nil
	}
}

func (s *brokerStore) stageRemove(id entryID, op *broker.Op) {
	at, found := s.stage.entries[id]
	if found && s.stage.ops[at].Kind == broker.OpRemove {
		return
	}
	if found {
		s.stage.undo(at)
		if s.stage.ops[at].Kind == broker.OpAppend && !s.overwrites(at) {
			delete(s.stage.entries, id) // it never was on disk
			return
		}
	} else {
		s.dropStored(id)
	}
	s.stage.entries[id] = s.push(op, nil)
}

// overwrites reports whether an append is the release of a stored entry: see stageRelease.
func (s *brokerStore) overwrites(at int) bool {
	op := &s.stage.ops[at]
	return op.Entry.Released && op.Entry.Message == nil
}

// stageRelease turns the entry into one without a message. For a stored entry that is an append that overwrites it.
func (s *brokerStore) stageRelease(id entryID, op *broker.Op) {
	at, found := s.stage.entries[id]
	if found && s.stage.ops[at].Kind == broker.OpRemove {
		return
	}
	if found {
		staged := &s.stage.ops[at]
		staged.Entry.Message, staged.Entry.Released = nil, true
		if staged.body != nil {
			staged.body.refs--
			staged.body = nil
		}
		return
	}
	entry, head, err := s.stored(id)
	if err != nil {
		s.passOver("release queue entry", appendEntryKey(nil, id.session, id.seq), err)
		return
	}
	s.unref(id.session, head.body)
	entry.Seq, entry.Message, entry.Released = id.seq, nil, true
	s.stage.entries[id] = s.push(&broker.Op{Kind: broker.OpAppend, Session: id.session, Entry: entry}, nil)
}

// stored reads an entry that is on disk, without a message that is a body of its own.
func (s *brokerStore) stored(id entryID) (broker.QueueEntry, entryHead, error) {
	if s.stage.deleted[id.session] {
		return broker.QueueEntry{}, entryHead{}, pebble.ErrNotFound
	}
	s.key = appendEntryKey(s.key[:0], id.session, id.seq)
	value, closer, err := s.db.pebble.Get(s.key)
	if err != nil {
		return broker.QueueEntry{}, entryHead{}, err
	}
	defer func() { _ = closer.Close() }()
	return decodeEntry(value)
}

// dropStored gives up a stored entry's reference to a body. Only a session with such entries costs a read.
func (s *brokerStore) dropStored(id entryID) {
	if s.shares[id.session]-s.stage.unshare[id.session] <= 0 {
		return
	}
	_, head, err := s.stored(id)
	if err != nil {
		s.passOver("remove queue entry", appendEntryKey(nil, id.session, id.seq), err)
		return
	}
	s.unref(id.session, head.body)
}

func (s *brokerStore) unref(session string, body uint64) {
	if body != 0 {
		s.stage.release[body]++
		s.stage.unshare[session]++
	}
}

// passOver notes a value that cannot be read where going on is safer than to fail: a body that nobody refers to any
// more is found at the next start.
func (s *brokerStore) passOver(act string, key []byte, err error) {
	if errors.Is(err, pebble.ErrNotFound) {
		return
	}
	if errors.Is(err, errCorrupt) {
		s.db.metrics.corrupt.Inc()
	}
	s.db.log.Warn("store passes over a value", "act", act, "key", fmt.Sprintf("%q", key), "error", err)
}

// fewKeys is up to how many keys a session is deleted one by one. Many range deletions at once make reads slow until
// they are compacted away.
const fewKeys = 64

func (s *brokerStore) stageDeleteSession(op *broker.Op) {
	st := s.stage
	st.index()
	var keys [][]byte
	if !st.deleted[op.Session] {
		keys = s.surveyDeletion(op.Session)
	}
	if len(st.of[op.Session]) > 0 {
		keys = nil // only a range catches what the batch has put there
	}
	for _, at := range st.of[op.Session] {
		switch st.ops[at].Kind {
		case broker.OpAppend, broker.OpRemove:
			st.undo(at)
			delete(st.entries, entryID{op.Session, st.ops[at].Entry.Seq})
		}
	}
	at := s.push(op, nil)
	st.ops[at].keys = keys
	st.of[op.Session] = append(st.of[op.Session][:0], at)
	st.deleted[op.Session] = true
}

// index finds the operations of each session.
func (st *stage) index() {
	if st.of != nil {
		return
	}
	st.of = make(map[string][]int)
	for i := range st.ops {
		session := sessionOf(st.ops[i].Op)
		st.of[session] = append(st.of[session], i)
	}
}

// surveyDeletion gives up the references of a stored session to bodies. It returns the session's keys, or nil when they
// are many or cannot be read.
func (s *brokerStore) surveyDeletion(session string) [][]byte {
	prefix := appendSession(nil, session)
	it, err := s.db.pebble.NewIter(within(prefix))
	if err != nil {
		s.passOver("delete session", prefix, err)
		return nil
	}
	keys, few, shares := make([][]byte, 0, 4), true, s.shares[session] > 0
	for valid := it.First(); valid && (shares || few); valid = it.Next() {
		if few = few && len(keys) < fewKeys; few {
			keys = append(keys, bytes.Clone(it.Key()))
		}
		if shares {
			s.unrefDeleted(session, it)
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		s.passOver("delete session", prefix, err)
		return nil
	}
	if !few {
		return nil
	}
	return keys
}

func (s *brokerStore) unrefDeleted(session string, it *pebble.Iterator) {
	_, rest, part, ok := splitSessionKey(it.Key())
	if !ok || part != partQueue || len(rest) != 8 {
		return
	}
	if _, staged := s.stage.entries[entryID{session, binary.BigEndian.Uint64(rest)}]; staged {
		return // the batch has given up its reference already
	}
	head, err := decodeEntryHead(it.Value())
	if err != nil {
		s.passOver("delete session", it.Key(), err)
		return
	}
	s.unref(session, head.body)
}
