package storetest

import (
	"math"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// everyField has a message with a value in each field, none of them zero.
func everyField() *broker.Message {
	return &broker.Message{
		Topic: "devices/ä/commands/1", Payload: []byte("\x00\xff binary \x80"), QoS: 2, Retain: true,
		Properties: &broker.Properties{
			PayloadFormat: 1, HasPayloadFormat: true, ContentType: "text/plain", ResponseTopic: "devices/ä/results/1",
			CorrelationData: []byte{0, 1, 255},
			User: []packets.UserProperty{
				{Key: "b", Val: "2"}, {Key: "a", Val: "1"}, {Key: "b", Val: ""}, {Key: "", Val: "x"},
			},
		},
		Origin: "origin", Username: "alice", Received: 1_700_000_000_123, Expires: math.MaxInt64,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}

func messagesRoundTrip(f *fixture) {
	long := strings.Repeat("t", 65535)
	messages := []*broker.Message{
		everyField(),
		{},
		{Topic: "empty payload", Payload: []byte{}},
		{Topic: "no properties but some", Properties: &broker.Properties{}},
		{Topic: "empty correlation", Properties: &broker.Properties{CorrelationData: []byte{}}},
		{Topic: "format zero", Properties: &broker.Properties{HasPayloadFormat: true}},
		{Topic: "before the epoch", Received: math.MinInt64, Expires: -1},
		{Topic: long, Payload: []byte(long), Origin: long, Username: long,
			Properties: &broker.Properties{ContentType: long, ResponseTopic: long, CorrelationData: []byte(long),
				User: []packets.UserProperty{{Key: long, Val: long}}}},
		{Topic: "big", Payload: make([]byte, 2<<20)},
	}
	var want []broker.QueueEntry
	for i, m := range messages {
		seq := uint64(i + 1)
		want = append(want, broker.QueueEntry{Seq: seq, Message: m, QoS: 1})
		f.apply(appendOp("a", seq, m))
	}
	f.equalEntries(want, f.queue("a"))
	f.again()
	f.equalEntries(want, f.queue("a"))
}

func entriesRoundTrip(f *fixture) {
	m := message("t", "m")
	want := []broker.QueueEntry{
		{Seq: 1, Message: m, QoS: 1},
		{Seq: 2, Message: m, QoS: 2, Retain: true},
		{Seq: 255, Message: m, QoS: 1, Share: "$share/group/devices/+/up"},
		{Seq: 256, Message: m, QoS: 1, Identifiers: []uint32{268_435_455, 1, 1}},
		{Seq: 1 << 40, Message: m, QoS: 2, Retain: true, Share: "$share/g/#", Identifiers: []uint32{7}},
		{Seq: math.MaxUint64, QoS: 2, Released: true},
	}
	ops := []broker.Op{putSession("a")}
	for _, e := range want {
		ops = append(ops, broker.Op{Kind: broker.OpAppend, Session: "a", Entry: e})
	}
	f.apply(ops...)
	f.equalEntries(want, f.queue("a"))
	f.again()
	f.equalEntries(want, f.queue("a"))
}

func queuePages(f *fixture) {
	m := message("t", strings.Repeat("x", 900))
	size := m.Size()
	ops := []broker.Op{putSession("a"), putSession("b")}
	for seq := uint64(10); seq < 20; seq++ {
		ops = append(ops, appendOp("a", seq, message("t", string(m.Payload))))
	}
	f.apply(append(ops, appendOp("b", 1, m))...)
	for name, tc := range map[string]struct {
		from            uint64
		limit, maxBytes int
		first           uint64
		n               int
	}{
		"all":                             {0, 100, 1 << 20, 10, 10},
		"from the first":                  {10, 100, 1 << 20, 10, 10},
		"from the middle":                 {15, 100, 1 << 20, 15, 5},
		"from the last":                   {19, 100, 1 << 20, 19, 1},
		"from beyond":                     {20, 100, 1 << 20, 0, 0},
		"from the end of numbers":         {math.MaxUint64, 100, 1 << 20, 0, 0},
		"by limit":                        {0, 3, 1 << 20, 10, 3},
		"by limit from the middle":        {18, 1, 1 << 20, 18, 1},
		"by bytes, exactly two":           {0, 100, 2 * size, 10, 2},
		"by bytes, one short of two":      {0, 100, 2*size - 1, 10, 1},
		"by bytes, too few for one":       {12, 100, 1, 12, 1},
		"by bytes, none, yet always one":  {0, 100, 0, 10, 1},
		"a session's end is not overstep": {0, 1000, math.MaxInt, 10, 10},
	} {
		entries, err := f.store.Queue("a", tc.from, tc.limit, tc.maxBytes)
		require.NoError(f, err, name)
		require.Len(f, entries, tc.n, name)
		for i, e := range entries {
			require.Equal(f, tc.first+uint64(i), e.Seq, name)
		}
	}
}

func queueSummary(f *fixture) {
	m := message("t", "12345")
	f.apply(putSession("a"), putSession("empty"), appendOp("a", 3, m), appendOp("a", 4, m))
	f.apply(appendOp("a", 900, message("topic", strings.Repeat("y", 5000))))
	f.apply(seqOp(broker.OpRelease, "a", 4))
	f.stored(func() {
		all := f.sessions()
		a := all["a"]
		require.EqualValues(f, 3, a.QueueFirst)
		require.EqualValues(f, 900, a.QueueLast)
		require.Equal(f, 3, a.QueueLen)
		require.EqualValues(f, m.Size()+message("topic", strings.Repeat("y", 5000)).Size(), a.QueueBytes)
		require.Zero(f, all["empty"].QueueLen)
		require.Zero(f, all["empty"].QueueLast)
	})
}

func removal(f *fixture) {
	ops := []broker.Op{putSession("a")}
	for seq := uint64(1); seq <= 5; seq++ {
		ops = append(ops, appendOp("a", seq, message("t", "m")))
	}
	f.apply(ops...)
	f.apply(seqOp(broker.OpRemove, "a", 1), seqOp(broker.OpRemove, "a", 3), seqOp(broker.OpRemove, "a", 3),
		seqOp(broker.OpRemove, "a", 99), seqOp(broker.OpRemove, "nobody", 1))
	require.Equal(f, []uint64{2, 4, 5}, f.seqs("a"))
	f.again()
	f.apply(seqOp(broker.OpRemove, "a", 2), seqOp(broker.OpRemove, "a", 4), seqOp(broker.OpRemove, "a", 5))
	require.Empty(f, f.queue("a"))
}

func appendAndRemove(f *fixture) {
	shared := message("t", "shared")
	f.apply(appendOp("a", 1, message("t", "1")), seqOp(broker.OpRemove, "a", 1), appendOp("a", 2, message("t", "2")))
	f.apply(appendOp("a", 3, shared), appendOp("b", 1, shared), appendOp("c", 1, shared), seqOp(broker.OpRemove, "b", 1))
	f.apply(appendOp("a", 4, shared), appendOp("b", 2, shared), seqOp(broker.OpRemove, "b", 2))
	f.apply(appendOp("b", 3, shared), appendOp("c", 2, shared), seqOp(broker.OpRemove, "b", 3),
		seqOp(broker.OpRemove, "c", 2))
	check := func() {
		require.Equal(f, []uint64{2, 3, 4}, f.seqs("a"))
		require.Empty(f, f.queue("b"))
		require.Equal(f, []uint64{1}, f.seqs("c"))
		f.equalMessage(shared, f.queue("a")[1].Message)
		f.equalMessage(shared, f.queue("a")[2].Message)
		f.equalMessage(shared, f.queue("c")[0].Message)
	}
	check()
	f.again()
	check()
}

func release(f *fixture) {
	own, shared := everyField(), message("t", "shared")
	entry := func(seq uint64, m *broker.Message) broker.QueueEntry {
		return broker.QueueEntry{Seq: seq, Message: m, QoS: 2, Retain: true, Share: "$share/g/t", Identifiers: []uint32{5}}
	}
	put := func(session string, e broker.QueueEntry) broker.Op {
		return broker.Op{Kind: broker.OpAppend, Session: session, Entry: e}
	}
	f.apply(putSession("a"), putSession("b"), put("a", entry(1, own)), put("a", entry(2, shared)),
		put("b", entry(1, shared)), put("a", entry(3, own)), seqOp(broker.OpRelease, "a", 3))
	f.apply(seqOp(broker.OpRelease, "a", 1), seqOp(broker.OpRelease, "a", 2), seqOp(broker.OpRelease, "a", 2),
		seqOp(broker.OpRelease, "a", 99))
	released := func(seq uint64) broker.QueueEntry {
		e := entry(seq, nil)
		e.Released = true
		return e
	}
	check := func() {
		f.equalEntries([]broker.QueueEntry{released(1), released(2), released(3)}, f.queue("a"))
		f.equalEntries([]broker.QueueEntry{entry(1, shared)}, f.queue("b"))
	}
	check()
	f.again()
	check()
	f.apply(seqOp(broker.OpRelease, "b", 1), seqOp(broker.OpRemove, "b", 1), seqOp(broker.OpRemove, "a", 1))
	f.apply(seqOp(broker.OpRemove, "a", 2), seqOp(broker.OpRelease, "a", 2))
	require.Equal(f, []uint64{3}, f.seqs("a"))
	require.Empty(f, f.queue("b"))
}

func sharedMessages(f *fixture) {
	const sessions = 50
	one, two := everyField(), message("t", "two")
	var ops []broker.Op
	for i := range sessions {
		ops = append(ops, putSession(numbered("s", i)), appendOp(numbered("s", i), 1, one),
			appendOp(numbered("s", i), 2, two))
	}
	f.apply(ops...)
	f.apply(appendOp("s00000", 3, one))
	for range 2 {
		for i := range sessions {
			entries := f.queue(numbered("s", i))
			f.equalMessage(one, entries[0].Message)
			f.equalMessage(two, entries[1].Message)
		}
		f.again()
	}
	for i := range sessions - 1 {
		f.apply(seqOp(broker.OpRemove, numbered("s", i), 1))
		f.equalMessage(one, f.queue(numbered("s", sessions-1))[0].Message)
	}
	f.again()
	f.equalMessage(one, f.queue(numbered("s", sessions-1))[0].Message)
	f.equalMessage(one, f.queue("s00000")[1].Message)
}

// sharedMessagesGo lets the entries of one shared message go by removal, release, deletion of the session, and twice.
func sharedMessagesGo(f *fixture) {
	shared := message("t", "shared")
	ids := []string{"removed", "released", "deleted", "twice", "stays"}
	for round := uint64(1); round <= 3; round++ {
		var ops []broker.Op
		for _, id := range ids {
			ops = append(ops, putSession(id), appendOp(id, round, shared))
		}
		f.apply(ops...)
		if round == 2 {
			f.again()
		}
		f.apply(seqOp(broker.OpRemove, "removed", round), seqOp(broker.OpRelease, "released", round),
			seqOp(broker.OpRelease, "twice", round), seqOp(broker.OpRemove, "twice", round),
			broker.Op{Kind: broker.OpDeleteSession, Session: "deleted"},
			broker.Op{Kind: broker.OpDeleteSession, Session: "deleted"})
		f.apply(seqOp(broker.OpRemove, "removed", round), seqOp(broker.OpRemove, "released", round))
		entries := f.queue("stays")
		require.Len(f, entries, int(round))
		for _, e := range entries {
			f.equalMessage(shared, e.Message)
		}
		for _, id := range ids[:4] {
			require.Empty(f, f.queue(id), id)
		}
	}
}
