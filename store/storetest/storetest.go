// Package storetest is what every implementation of broker.Store must pass.
package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// patience is how long the suite waits for a store before it calls it stuck.
const patience = 30 * time.Second

// Opener gives a test an empty store, and a function that closes the store and opens it again with what it holds.
// reopen is nil for a store that keeps nothing. The opener closes the store when the test ends.
type Opener func(t *testing.T) (store broker.Store, reopen func() broker.Store)

// Run runs the suite, with a new store for each test.
func Run(t *testing.T, open Opener) {
	for _, tc := range []struct {
		name string
		run  func(*fixture)
	}{
		{"an empty store yields nothing", emptyStore},
		{"sessions round-trip", sessionsRoundTrip},
		{"a session's record is overwritten", recordOverwritten},
		{"names with odd bytes stay apart", oddNames},
		{"subscriptions round-trip", subscriptionsRoundTrip},
		{"inbound packet identifiers", inboundIdentifiers},
		{"messages round-trip", messagesRoundTrip},
		{"entries round-trip", entriesRoundTrip},
		{"queue pages", queuePages},
		{"queue summary", queueSummary},
		{"removal", removal},
		{"append and remove at once", appendAndRemove},
		{"release", release},
		{"shared messages", sharedMessages},
		{"shared messages removed in every way", sharedMessagesGo},
		{"deleting a session leaves nothing", deletedSession},
		{"a big session is deleted", bigSession},
		{"a session deleted and made in one transaction", deletedAndMade},
		{"retained messages", retainedMessages},
		{"a bad transaction does nothing", atomicity},
		{"yield's error ends the reading", yieldError},
		{"done is called in order", doneInOrder},
		{"lazy transactions", lazyTransactions},
		{"many goroutines", manyGoroutines},
		{"against a model", againstModel},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, reopen := open(t)
			tc.run(&fixture{T: t, store: store, reopen: reopen})
		})
	}
}

// fixture is one test with its store.
type fixture struct {
	*testing.T
	store  broker.Store
	reopen func() broker.Store
}

// again closes the store and opens it, if it keeps anything.
func (f *fixture) again() {
	if f.reopen != nil {
		f.store = f.reopen()
	}
}

// stored checks what needs Sessions or Retained. Those are only defined for a store to which nothing was applied since
// it was opened, so it is opened again first, and a store that keeps nothing is not checked.
func (f *fixture) stored(check func()) {
	if f.reopen == nil {
		return
	}
	f.again()
	check()
}

// apply applies operations as one transaction and waits until they are done.
func (f *fixture) apply(ops ...broker.Op) {
	f.Helper()
	require.NoError(f, f.try(&broker.Tx{Ops: ops}))
}

func (f *fixture) try(tx *broker.Tx) error {
	f.Helper()
	done := make(chan error, 1)
	f.store.Apply(tx, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		f.Fatal("done was not called")
		return nil
	}
}

func (f *fixture) sessions() map[string]broker.StoredSession {
	f.Helper()
	all := make(map[string]broker.StoredSession)
	require.NoError(f, f.store.Sessions(func(s broker.StoredSession) error {
		require.NotContains(f, all, s.Record.ClientID, "yielded once")
		slices.SortFunc(s.Subscriptions, func(a, b broker.Subscription) int { return strings.Compare(a.Filter, b.Filter) })
		slices.Sort(s.Inbound)
		all[s.Record.ClientID] = s
		return nil
	}))
	return all
}

func (f *fixture) retained() map[string]*broker.Message {
	f.Helper()
	all := make(map[string]*broker.Message)
	require.NoError(f, f.store.Retained(func(m *broker.Message) error {
		require.NotContains(f, all, m.Topic, "yielded once")
		all[m.Topic] = m
		return nil
	}))
	return all
}

// queue reads all of a session's queue.
func (f *fixture) queue(session string) []broker.QueueEntry {
	f.Helper()
	entries, err := f.store.Queue(session, 0, 1<<20, 1<<30)
	require.NoError(f, err)
	return entries
}

func (f *fixture) seqs(session string) []uint64 {
	f.Helper()
	return seqsOf(f.queue(session))
}

func seqsOf(entries []broker.QueueEntry) []uint64 {
	seqs := make([]uint64, len(entries))
	for i := range entries {
		seqs[i] = entries[i].Seq
	}
	return seqs
}

// equalMessage compares two messages in all that a receiver can tell: nil and empty payloads are the same.
func (f *fixture) equalMessage(want, got *broker.Message) {
	f.Helper()
	if want == nil {
		require.Nil(f, got)
		return
	}
	require.NotNil(f, got)
	require.Equal(f, string(want.Payload), string(got.Payload))
	w, g := *want, *got
	w.Payload, g.Payload = nil, nil
	require.Equal(f, w, g)
}

func (f *fixture) equalEntries(want, got []broker.QueueEntry) {
	f.Helper()
	require.Equal(f, seqsOf(want), seqsOf(got))
	for i := range want {
		f.equalMessage(want[i].Message, got[i].Message)
		w, g := want[i], got[i]
		w.Message, g.Message = nil, nil
		require.Equal(f, w, g)
	}
}

func message(topic, payload string) *broker.Message {
	return &broker.Message{
		Topic: topic, Payload: []byte(payload), QoS: 1, Origin: "publisher", Received: 1_700_000_000_000,
	}
}

func record(id string) *broker.SessionRecord {
	return &broker.SessionRecord{ClientID: id, Identity: "owner of " + id, ProtocolVersion: 5, ExpiryInterval: 3600,
		Created: 1_700_000_000_000, NextSeq: 1}
}

func putSession(id string) broker.Op {
	return broker.Op{Kind: broker.OpPutSession, Session: id, Record: record(id)}
}

func appendOp(session string, seq uint64, m *broker.Message) broker.Op {
	return broker.Op{Kind: broker.OpAppend, Session: session, Entry: broker.QueueEntry{Seq: seq, Message: m, QoS: 1}}
}

func seqOp(kind broker.OpKind, session string, seq uint64) broker.Op {
	return broker.Op{Kind: kind, Session: session, Entry: broker.QueueEntry{Seq: seq}}
}

func subscribe(session string, s broker.Subscription) broker.Op {
	return broker.Op{Kind: broker.OpPutSubscription, Session: session, Subscription: s}
}

func inbound(kind broker.OpKind, session string, id uint16) broker.Op {
	return broker.Op{Kind: kind, Session: session, PacketID: id}
}

func numbered(prefix string, n int) string { return fmt.Sprintf("%s%05d", prefix, n) }
