package storetest

import (
	"errors"
	"math"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

func emptyStore(f *fixture) {
	require.Empty(f, f.sessions())
	require.Empty(f, f.retained())
	require.Empty(f, f.queue("nobody"))
	f.again()
	require.Empty(f, f.sessions())
}

func sessionsRoundTrip(f *fixture) {
	records := map[string]*broker.SessionRecord{
		"plain":  record("plain"),
		"zeroes": {ClientID: "zeroes"},
		"full": {
			ClientID: "full", Identity: "token:full", Username: "alice", Admin: true, ProtocolVersion: 4,
			Created: 1, ExpiryInterval: math.MaxUint32, DisconnectedAt: math.MaxInt64, SentTo: math.MaxUint64 - 1,
			NextSeq: math.MaxUint64,
			Will:    &broker.Will{Message: *everyField(), Delay: math.MaxUint32, DueAt: 1_800_000_000_000, Expiry: 60},
		},
		"bare will": {ClientID: "bare will", Will: &broker.Will{Message: broker.Message{Topic: "gone"}}},
	}
	want := make(map[string]broker.SessionRecord)
	for id, r := range records {
		want[id] = *r
		f.apply(broker.Op{Kind: broker.OpPutSession, Session: id, Record: r})
	}
	f.stored(func() {
		got := f.sessions()
		require.Len(f, got, len(want))
		for id, w := range want {
			g := got[id].Record
			if w.Will != nil {
				require.NotNil(f, g.Will, id)
				f.equalMessage(&w.Will.Message, &g.Will.Message)
				ww, gw := *w.Will, *g.Will
				ww.Message, gw.Message = broker.Message{}, broker.Message{}
				require.Equal(f, ww, gw)
				w.Will, g.Will = nil, nil
			}
			require.Equal(f, w, g)
		}
	})
}

func recordOverwritten(f *fixture) {
	f.apply(putSession("a"), subscribe("a", broker.Subscription{Filter: "t"}), appendOp("a", 1, message("t", "m")),
		inbound(broker.OpAddInbound, "a", 9))
	changed := record("a")
	changed.NextSeq, changed.DisconnectedAt = 77, 5
	f.apply(broker.Op{Kind: broker.OpPutSession, Session: "a", Record: changed})
	require.Equal(f, []uint64{1}, f.seqs("a"))
	f.stored(func() {
		got := f.sessions()["a"]
		require.EqualValues(f, 77, got.Record.NextSeq)
		require.Len(f, got.Subscriptions, 1, "a record does not touch the subscriptions")
		require.Equal(f, []uint16{9}, got.Inbound)
		require.Equal(f, 1, got.QueueLen)
	})
}

// oddNames has identifiers of which some begin, or are written like, others.
func oddNames(f *fixture) {
	names := []string{"", "a", "aa", "a\x00", "\x00", "\xff", "\xff\xff", "a\xff", "ä", "{a}", "a:b", "a/b", "a*", "日本",
		strings.Repeat("n", 127), strings.Repeat("n", 128), strings.Repeat("n", 65535)}
	for i, name := range names {
		f.apply(putSession(name), appendOp(name, uint64(i+1), message("t", name)),
			subscribe(name, broker.Subscription{Filter: "f/" + name}))
	}
	for i, name := range names {
		require.Equal(f, []uint64{uint64(i + 1)}, f.seqs(name))
	}
	f.apply(broker.Op{Kind: broker.OpDeleteSession, Session: "a"},
		broker.Op{Kind: broker.OpDeleteSession, Session: "\xff"})
	f.stored(func() {
		got := f.sessions()
		require.Len(f, got, len(names)-2)
		for i, name := range names {
			if name == "a" || name == "\xff" {
				require.Empty(f, f.queue(name))
				continue
			}
			require.Equal(f, []broker.Subscription{{Filter: "f/" + name}}, got[name].Subscriptions)
			require.EqualValues(f, i+1, got[name].QueueFirst)
		}
	})
}

func subscriptionsRoundTrip(f *fixture) {
	full := broker.Subscription{Filter: "$share/g/a/+/#", QoS: 2, NoLocal: true, RetainAsPublished: true,
		RetainHandling: 2, Identifier: 268_435_455}
	f.apply(putSession("a"), subscribe("a", full), subscribe("a", broker.Subscription{Filter: "b", QoS: 1}),
		subscribe("a", broker.Subscription{Filter: "gone"}), subscribe("a", broker.Subscription{Filter: "twice", QoS: 2}))
	f.apply(subscribe("a", broker.Subscription{Filter: "twice", QoS: 1, NoLocal: true}),
		broker.Op{Kind: broker.OpDeleteSubscription, Session: "a", Subscription: broker.Subscription{Filter: "gone"}},
		broker.Op{Kind: broker.OpDeleteSubscription, Session: "a", Subscription: broker.Subscription{Filter: "never"}})
	f.stored(func() {
		require.Equal(f, []broker.Subscription{full, {Filter: "b", QoS: 1}, {Filter: "twice", QoS: 1, NoLocal: true}},
			f.sessions()["a"].Subscriptions)
	})
}

func inboundIdentifiers(f *fixture) {
	f.apply(putSession("a"), inbound(broker.OpAddInbound, "a", 1), inbound(broker.OpAddInbound, "a", 256),
		inbound(broker.OpAddInbound, "a", 65535), inbound(broker.OpAddInbound, "a", 7))
	f.apply(inbound(broker.OpRemoveInbound, "a", 7), inbound(broker.OpRemoveInbound, "a", 8),
		inbound(broker.OpAddInbound, "a", 1))
	f.stored(func() { require.Equal(f, []uint16{1, 256, 65535}, f.sessions()["a"].Inbound) })
}

func deletedSession(f *fixture) {
	shared := message("t", "shared")
	for _, id := range []string{"a", "b"} {
		f.apply(putSession(id), subscribe(id, broker.Subscription{Filter: "x"}), inbound(broker.OpAddInbound, id, 3))
	}
	f.apply(appendOp("a", 1, shared), appendOp("b", 1, shared))
	f.apply(appendOp("a", 2, message("t", "own")))
	f.apply(broker.Op{Kind: broker.OpDeleteSession, Session: "a"})
	require.Empty(f, f.queue("a"))
	require.Len(f, f.queue("b"), 1)
	f.apply(broker.Op{Kind: broker.OpDeleteSession, Session: "never"})
	f.stored(func() {
		require.NotContains(f, f.sessions(), "a")
		f.apply(putSession("a"))
	})
	f.stored(func() {
		got := f.sessions()["a"]
		require.Empty(f, got.Subscriptions, "the new session inherits nothing")
		require.Empty(f, got.Inbound)
		require.Zero(f, got.QueueLen)
		require.Zero(f, got.QueueFirst)
	})
}

func bigSession(f *fixture) {
	const n = 3000
	ops := []broker.Op{putSession("big"), putSession("bih")}
	for i := range n {
		ops = append(ops, appendOp("big", uint64(i+1), message("t", "m")))
	}
	f.apply(ops...)
	f.apply(appendOp("bih", 1, message("t", "m")))
	require.Len(f, f.queue("big"), n)
	f.apply(broker.Op{Kind: broker.OpDeleteSession, Session: "big"})
	require.Empty(f, f.queue("big"))
	require.Len(f, f.queue("bih"), 1)
	f.stored(func() { require.NotContains(f, f.sessions(), "big") })
}

func deletedAndMade(f *fixture) {
	f.apply(putSession("a"), subscribe("a", broker.Subscription{Filter: "old"}), appendOp("a", 1, message("t", "old")))
	f.apply(appendOp("a", 2, message("t", "old too")),
		broker.Op{Kind: broker.OpDeleteSession, Session: "a"},
		putSession("a"), subscribe("a", broker.Subscription{Filter: "new"}), appendOp("a", 1, message("t", "new")))
	entries := f.queue("a")
	require.Len(f, entries, 1)
	require.Equal(f, "new", string(entries[0].Message.Payload))
	f.stored(func() {
		require.Equal(f, []broker.Subscription{{Filter: "new"}}, f.sessions()["a"].Subscriptions)
	})
}

func atomicity(f *fixture) {
	f.apply(putSession("a"))
	for name, bad := range map[string]broker.Op{
		"unknown kind":       {Kind: 200, Session: "a"},
		"no kind":            {Session: "a"},
		"no record":          {Kind: broker.OpPutSession, Session: "a"},
		"no message":         {Kind: broker.OpAppend, Session: "a", Entry: broker.QueueEntry{Seq: 9}},
		"no retained":        {Kind: broker.OpPutRetained},
		"no sequence number": appendOp("a", 0, message("t", "m")),
	} {
		require.Error(f, f.try(&broker.Tx{Ops: []broker.Op{appendOp("a", 1, message("t", "m")), bad}}), name)
		require.Empty(f, f.queue("a"), name)
	}
	f.apply()
	f.stored(func() { require.Zero(f, f.sessions()["a"].QueueLen) })
}

func yieldError(f *fixture) {
	f.apply(putSession("a"), putSession("b"),
		broker.Op{Kind: broker.OpPutRetained, Message: message("r/1", "x")},
		broker.Op{Kind: broker.OpPutRetained, Message: message("r/2", "x")})
	f.stored(func() {
		enough, calls := errors.New("enough"), 0
		require.ErrorIs(f, f.store.Sessions(func(broker.StoredSession) error { calls++; return enough }), enough)
		require.ErrorIs(f, f.store.Retained(func(*broker.Message) error { calls++; return enough }), enough)
		require.Equal(f, 2, calls)
	})
}

func retainedMessages(f *fixture) {
	put := func(m *broker.Message) broker.Op { return broker.Op{Kind: broker.OpPutRetained, Message: m} }
	full := everyField()
	full.Topic = "full"
	long := message(strings.Repeat("l", 65535), "long")
	f.apply(put(message("a", "1")), put(message("b", "1")), put(full), put(long), put(message("a/b", "1")))
	f.apply(put(message("a", "2")), broker.Op{Kind: broker.OpDeleteRetained, Topic: "b"},
		broker.Op{Kind: broker.OpDeleteRetained, Topic: "never"})
	f.stored(func() {
		got := f.retained()
		require.Len(f, got, 4)
		require.Equal(f, "2", string(got["a"].Payload))
		require.Equal(f, "1", string(got["a/b"].Payload))
		f.equalMessage(full, got["full"])
		f.equalMessage(long, got[long.Topic])
	})
}
