package local

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

func seedMessage() *broker.Message {
	return &broker.Message{Topic: "devices/1/up", Payload: []byte("payload"), QoS: 1, Origin: "1", Username: "alice",
		Received: 1_700_000_000_000, Expires: 1_700_000_060_000, Properties: &broker.Properties{ContentType: "text/plain",
			CorrelationData: []byte{1}, User: []packets.UserProperty{{Key: "k", Val: "v"}}}}
}

func seedEntry() *broker.QueueEntry {
	return &broker.QueueEntry{
		Message: seedMessage(), QoS: 2, Retain: true, Share: "$share/g/#", Identifiers: []uint32{1, 300},
	}
}

func addValues(f *testing.F, values ...[]byte) {
	f.Add([]byte(nil))
	f.Add([]byte{valueVersion})
	f.Add([]byte{valueVersion + 1, 0, 0})
	f.Add([]byte{valueVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	for _, v := range values {
		f.Add(v)
		f.Add(v[:len(v)/2])
	}
}

// What a decoder accepts, the encoder must turn into bytes that decode to the same.

func FuzzDecodeMessage(f *testing.F) {
	addValues(f, appendMessageValue(nil, seedMessage()), appendMessageValue(nil, &broker.Message{}))
	f.Fuzz(func(t *testing.T, value []byte) {
		m, err := decodeMessage(value)
		if err != nil {
			return
		}
		again, err := decodeMessage(appendMessageValue(nil, m))
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

func FuzzDecodeEntry(f *testing.F) {
	addValues(f, appendEntry(nil, seedEntry(), 0), appendEntry(nil, seedEntry(), 77),
		appendEntry(nil, &broker.QueueEntry{Released: true, QoS: 2}, 0))
	f.Fuzz(func(t *testing.T, value []byte) {
		e, head, err := decodeEntry(value)
		if err != nil {
			return
		}
		_, err = decodeEntryHead(value)
		require.NoError(t, err)
		if !e.Released && head.body != 0 {
			e.Message = &broker.Message{}
		}
		again, headAgain, err := decodeEntry(appendEntry(nil, &e, head.body))
		require.NoError(t, err)
		require.Equal(t, head.body, headAgain.body)
		if head.body != 0 {
			e.Message = nil
		}
		if len(e.Identifiers) == 0 {
			e.Identifiers = nil
		}
		require.Equal(t, e, again)
	})
}

func FuzzDecodeSessionRecord(f *testing.F) {
	plain := &broker.SessionRecord{Identity: "token:1", Username: "alice", Admin: true, ProtocolVersion: 5,
		ExpiryInterval: 3600, SentTo: 5, NextSeq: 6}
	dying := *plain
	dying.Will = &broker.Will{Message: *seedMessage(), Delay: 5, DueAt: 7, Expiry: 9}
	addValues(f, appendSessionRecord(nil, plain), appendSessionRecord(nil, &dying))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeSessionRecord(value)
		if err != nil {
			return
		}
		again, err := decodeSessionRecord(appendSessionRecord(nil, &r))
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func FuzzDecodeSubscription(f *testing.F) {
	addValues(f, appendSubscription(nil, &broker.Subscription{QoS: 1, NoLocal: true, RetainHandling: 2, Identifier: 300}))
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := decodeSubscription(value)
		if err != nil {
			return
		}
		again, err := decodeSubscription(appendSubscription(nil, &s))
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

func FuzzSplitSessionKey(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{prefixSession, 0xff})
	f.Add(appendEntryKey(nil, "session", 9))
	f.Add(appendInboundKey(nil, "", 1))
	f.Fuzz(func(t *testing.T, key []byte) {
		session, rest, part, ok := splitSessionKey(key)
		if ok && part == partQueue && len(rest) == 8 {
			require.Equal(t, string(session), string(key[len(key)-9-len(session):len(key)-9]))
		}
	})
}

// TestCorruptValuesArePassedOver puts garbage beside good values and reads all of it.
func TestCorruptValuesArePassedOver(t *testing.T) {
	db := open(t, "", Options{})
	store := db.BrokerStore()
	record := string(appendSessionRecord(nil, &broker.SessionRecord{}))
	for key, value := range map[string]string{
		string(append(appendSession(nil, "good"), partRecord)):       record,
		string(append(appendSession(nil, "good"), partSubscription)): "garbage",
		string(append(appendSession(nil, "good"), 99)):               "",
		string(append(appendSession(nil, "good"), partQueue, 1)):     "a short key",
		string(appendEntryKey(nil, "good", 1)):                       "garbage",
		string(appendEntryKey(nil, "good", 2)):                       string(appendEntry(nil, seedEntry(), 0)),
		string(appendEntryKey(nil, "good", 3)):                       string(appendEntry(nil, seedEntry(), 12345)),
		string(append(appendSession(nil, "bad"), partRecord)):        "garbage",
		string([]byte{prefixSession, 200}):                           "",
		string([]byte{prefixRetained, 'a'}):                          "garbage",
		string([]byte{prefixRetained, 'b'}):                          string(appendMessageValue(nil, seedMessage())),
		string([]byte{prefixBody, 1}):                                "a short key",
	} {
		require.NoError(t, db.update(put(key, value)))
	}
	var sessions []broker.StoredSession
	require.NoError(t, store.Sessions(func(s broker.StoredSession) error {
		sessions = append(sessions, s)
		return nil
	}))
	require.Len(t, sessions, 1)
	require.Equal(t, "good", sessions[0].Record.ClientID)
	require.Equal(t, 2, sessions[0].QueueLen)
	var retained []*broker.Message
	require.NoError(t, store.Retained(func(m *broker.Message) error {
		retained = append(retained, m)
		return nil
	}))
	require.Len(t, retained, 1)
	entries, err := store.Queue("good", 0, 100, 1<<20)
	require.NoError(t, err)
	require.Len(t, entries, 1, "the message of the third is nowhere")
	require.EqualValues(t, 2, entries[0].Seq)

	done := make(chan error, 1)
	store.Apply(&broker.Tx{Ops: []broker.Op{
		{Kind: broker.OpRelease, Session: "good", Entry: broker.QueueEntry{Seq: 1}},
		{Kind: broker.OpRemove, Session: "good", Entry: broker.QueueEntry{Seq: 1}},
		{Kind: broker.OpDeleteSession, Session: "good"}, {Kind: broker.OpDeleteSession, Session: "bad"},
	}}, func(err error) { done <- err })
	require.NoError(t, <-done)
}
