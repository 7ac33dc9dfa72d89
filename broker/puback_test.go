package broker_test

import (
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// A QoS 2 publish that is sent again on a new connection while it is still being accepted is answered there, whichever
// way that goes.
func TestPublishSentAgainOnANewConnectionIsAnsweredThere(t *testing.T) {
	again := testmqtt.PublishPacket("slow/1", []byte("a"), 2, 7)
	again.FixedHeader.Dup = true
	resend := func(t *testing.T, v byte, answer error) *testmqtt.Client {
		gate := newGate("slow/")
		n := startDurable(t, broker.Options{}, gate)
		c := n.dial(v)
		c.MustConnect("dev", testmqtt.Durable())
		c.Publish("slow/1", "a", 2, 7)
		done := <-gate.waiting
		c.Drop()
		n.eventuallyOffline("dev")
		c = n.dial(v)
		c.MustConnect("dev", testmqtt.Durable())
		c.Send(again)
		c.Nothing()
		done(answer)
		return c
	}
	refusal := broker.Refuse(packets.ErrQuotaExceeded, "full")
	eachVersion(t, func(t *testing.T, v byte) {
		c := resend(t, v, nil)
		require.Zero(t, c.Expect(packets.Pubrec).ReasonCode)
		c.Ack(packets.Pubrel, 7)
		require.Zero(t, c.Expect(packets.Pubcomp).ReasonCode)
	})
	t.Run("refused, v5", func(t *testing.T) {
		require.EqualValues(t, 0x97, resend(t, 5, refusal).Expect(packets.Pubrec).ReasonCode)
	})
	t.Run("refused, v4", func(t *testing.T) {
		require.Zero(t, resend(t, 4, refusal).ExpectClosed().FixedHeader.Type)
	})
}

// faultyStore is a real store that refuses to append while broken is set, and keeps its answers back while held is.
type faultyStore struct {
	broker.Store
	broken atomic.Bool
	held   atomic.Pointer[chan func()]
}

func (s *faultyStore) Apply(tx *broker.Tx, done func(error)) {
	appends := slices.ContainsFunc(tx.Ops, func(op broker.Op) bool { return op.Kind == broker.OpAppend })
	if appends && s.broken.Load() {
		go done(errors.New("injected"))
		return
	}
	if held := s.held.Load(); appends && held != nil {
		answer := done
		done = func(err error) { *held <- func() { answer(err) } }
	}
	s.Store.Apply(tx, done)
}

// The rows of the table "What PUBACK means".
func TestWhatPubackMeans(t *testing.T) {
	ack := map[byte]byte{1: packets.Puback, 2: packets.Pubrec}
	for _, v := range versions {
		for qos, answer := range ack {
			t.Run(packets.PacketNames[answer]+" to v"+strconv.Itoa(int(v)), func(t *testing.T) {
				pubackRows(t, v, qos, answer)
			})
		}
	}
}

func pubackRows(t *testing.T, v, qos, answer byte) {
	start := func(t *testing.T) (*node, *gateHook, *faultyStore, *testmqtt.Client) {
		gate, store := newGate("accepted/"), &faultyStore{Store: openStore(t, t.TempDir())}
		n := startNode(t, broker.Options{Store: store}, gate)
		pub := n.dial(v)
		pub.MustConnect("pub")
		return n, gate, store, pub
	}
	for _, row := range []string{"matches an uplink route", "is a command or a result"} {
		t.Run(row, func(t *testing.T) {
			_, gate, _, pub := start(t)
			pub.Publish("accepted/1", "x", qos, 1)
			done := <-gate.waiting
			pub.Nothing()
			done(nil)
			require.Zero(t, pub.Expect(answer).ReasonCode)
		})
	}
	t.Run("matches a durable session", func(t *testing.T) {
		n, _, store, pub := start(t)
		sub := n.dial(v)
		sub.MustConnect("sub", testmqtt.Durable())
		sub.Subscribe(qos, "t")
		sub.Drop()
		n.eventuallyOffline("sub")
		held := make(chan func(), 1)
		store.held.Store(&held)
		pub.Publish("t", "x", qos, 1)
		answerNow := <-held
		pub.Nothing()
		answerNow()
		require.Zero(t, pub.Expect(answer).ReasonCode)
		entries, err := store.Queue("sub", 1, 10, 1<<20)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	})
	t.Run("matches only connected, non-durable subscribers", func(t *testing.T) {
		n, _, _, pub := start(t)
		sub := n.dial(v)
		sub.MustConnect("sub")
		sub.Subscribe(qos, "t")
		pub.Publish("t", "x", qos, 1)
		require.Zero(t, pub.Expect(answer).ReasonCode)
		sub.ExpectPublish("t", "x")
	})
	t.Run("cannot be accepted: refused by who must accept it", func(t *testing.T) {
		_, gate, _, pub := start(t)
		pub.Publish("accepted/1", "x", qos, 1)
		gate.answer(broker.Refuse(packets.ErrQuotaExceeded, "full"))
		requireRefused(t, pub, answer, 0x97)
	})
	t.Run("cannot be accepted: the store fails", func(t *testing.T) {
		n, _, store, pub := start(t)
		sub := n.dial(v)
		sub.MustConnect("sub", testmqtt.Durable())
		sub.Subscribe(qos, "t")
		sub.Drop()
		n.eventuallyOffline("sub")
		store.broken.Store(true)
		pub.Publish("t", "lost", qos, 1)
		requireRefused(t, pub, answer, 0x83) // 0x88 is no reason code of PUBACK and PUBREC
		require.Zero(t, n.Stats().QueuedMessages)

		store.broken.Store(false) // and the client sends again
		pub = n.dial(v)
		pub.MustConnect("pub")
		pub.Publish("t", "kept", qos, 1)
		require.Zero(t, pub.Expect(answer).ReasonCode)
		sub = n.dial(v)
		require.NotZero(t, sub.Connect("sub", testmqtt.Durable()).SessionPresent)
		sub.ExpectPublish("t", "kept")
	})
}

// requireRefused checks that MQTT 5 gets the reason code in the right packet, and that MQTT 3 gets nothing but the end.
func requireRefused(t *testing.T, c *testmqtt.Client, answer, code byte) {
	t.Helper()
	if c.Version >= 5 {
		require.EqualValues(t, code, c.Expect(answer).ReasonCode)
		return
	}
	require.Zero(t, c.ExpectClosed().FixedHeader.Type)
}
