package broker_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/store/local"
)

// restartable is a broker whose store outlives it.
type restartable struct {
	*node
	t    *testing.T
	dir  string
	o    broker.Options
	stop func()
}

func startRestartable(t *testing.T, o broker.Options) *restartable {
	r := &restartable{t: t, dir: t.TempDir(), o: o}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *restartable) start() {
	r.t.Helper()
	db, err := local.Open(r.dir, local.Options{})
	require.NoError(r.t, err)
	r.o.Store = db.BrokerStore()
	n, stop := launch(r.t, r.o)
	r.node = n
	r.stop = func() {
		stop()
		require.NoError(r.t, db.Close())
	}
}

func (r *restartable) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

func TestRestartKeepsWhatIsDurable(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		r := startRestartable(t, broker.Options{})
		c, pub := r.dial(v), r.dial(v)
		c.MustConnect("dev", testmqtt.Durable())
		c.Subscribe(2, "t", "u/+")
		pub.MustConnect("pub")
		pub.PublishRetained("kept", "r", 1, 1)
		pub.Expect(packets.Puback)
		c.Drop()
		r.eventuallyOffline("dev")
		for i := range 300 { // more than one page
			pub.Publish("t", strconv.Itoa(i), 1, uint16(i+1))
			pub.Expect(packets.Puback)
		}
		r.restart()
		require.EqualValues(t, 300, r.Stats().QueuedMessages)
		require.EqualValues(t, 2, r.Stats().Subscriptions)

		c = r.dial(v)
		require.True(t, c.MustConnect("dev", testmqtt.Durable()).SessionPresent)
		for i := range 300 {
			pk := c.ExpectPublish("t", strconv.Itoa(i))
			require.False(t, pk.FixedHeader.Dup, "it was never sent before")
			c.Ack(packets.Puback, pk.PacketID)
		}
		c.Subscribe(0, "kept")
		c.ExpectPublish("kept", "r")
		require.Zero(t, r.Stats().QueuedMessages)
	})
}

func TestRestartKeepsPacketIdentifiersOfBothDirections(t *testing.T) {
	r := startRestartable(t, broker.Options{})
	c, pub := r.dial(5), r.dial(5)
	c.MustConnect("dev", testmqtt.Durable())
	c.Subscribe(2, "t")
	pub.MustConnect("pub", testmqtt.Durable())
	for i := range 3 {
		pub.Publish("t", strconv.Itoa(i), 2, uint16(i+1))
		pub.Expect(packets.Pubrec)
	}
	sent := make([]packets.Packet, 3)
	for i := range sent {
		sent[i] = c.ExpectPublish("t", strconv.Itoa(i))
	}
	c.Ack(packets.Pubrec, sent[0].PacketID)
	c.Expect(packets.Pubrel) // the first is released, the others are not

	r.restart()
	pub = r.dial(5)
	require.True(t, pub.MustConnect("pub", testmqtt.Durable()).SessionPresent)
	again := testmqtt.PublishPacket("t", []byte("0"), 2, 1)
	again.FixedHeader.Dup = true
	pub.Send(again)
	require.Zero(t, pub.Expect(packets.Pubrec).ReasonCode)
	pub.Ack(packets.Pubrel, 1)
	require.Zero(t, pub.Expect(packets.Pubcomp).ReasonCode)
	pub.Ack(packets.Pubrel, 1)
	require.EqualValues(t, 0x92, pub.Expect(packets.Pubcomp).ReasonCode)

	c = r.dial(5)
	require.True(t, c.MustConnect("dev", testmqtt.Durable()).SessionPresent)
	require.Equal(t, sent[0].PacketID, c.Expect(packets.Pubrel).PacketID)
	for i := 1; i < 3; i++ {
		pk := c.ExpectPublish("t", strconv.Itoa(i))
		require.True(t, pk.FixedHeader.Dup)
		require.Equal(t, sent[i].PacketID, pk.PacketID)
	}
	c.Nothing() // the first publish was not delivered twice
}

func TestWillOfAClientThatDoesNotComeBackAfterARestart(t *testing.T) {
	r := startRestartable(t, broker.Options{Limits: broker.Limits{WillGrace: 500 * time.Millisecond}})
	for _, id := range []string{"back", "gone"} {
		r.dial(5).MustConnect(id, testmqtt.Will("will/"+id, id, 1, true))
	}
	durable := r.dial(5)
	durable.MustConnect("watcher", testmqtt.Durable())
	durable.Subscribe(1, "will/#")
	r.restart()
	r.dial(5).MustConnect("back", testmqtt.Will("will/back", "back", 1, true))
	watcher := r.dial(5)
	watcher.MustConnect("watcher", testmqtt.Durable())
	watcher.Ack(packets.Puback, watcher.ExpectPublish("will/gone", "gone").PacketID)
	watcher.Nothing()
}

func TestDelayedWillWaitsAndIsCanceledByReconnecting(t *testing.T) {
	r := startRestartable(t, broker.Options{})
	delayed := func(pk *packets.Packet) { pk.Connect.WillProperties.WillDelayInterval = 1 }
	watcher := r.dial(5)
	watcher.MustConnect("watcher")
	watcher.Subscribe(1, "will/#")
	for _, id := range []string{"back", "gone"} {
		c := r.dial(5)
		c.MustConnect(id, testmqtt.Durable(), testmqtt.Will("will/"+id, id, 1, false), delayed)
		c.Drop()
		r.eventuallyOffline(id)
	}
	watcher.Nothing()
	back := r.dial(5)
	require.True(t, back.MustConnect("back", testmqtt.Durable()).SessionPresent)
	watcher.ExpectPublish("will/gone", "gone")
	watcher.Nothing()
}

func TestCleanStartForgetsForGood(t *testing.T) {
	r := startRestartable(t, broker.Options{})
	c := r.dial(5)
	c.MustConnect("dev", testmqtt.Durable())
	c.Subscribe(1, "t")
	c.Drop()
	r.eventuallyOffline("dev")
	require.NoError(t, publishAndWait(r.node, &broker.Message{Topic: "t", Payload: []byte("old"), QoS: 1}))
	c = r.dial(5)
	require.False(t, c.MustConnect("dev", testmqtt.Durable(), testmqtt.Clean(true)).SessionPresent)
	c.Subscribe(1, "other")
	r.restart()
	require.NoError(t, publishAndWait(r.node, &broker.Message{Topic: "t", Payload: []byte("new"), QoS: 1}))
	c = r.dial(5)
	require.True(t, c.MustConnect("dev", testmqtt.Durable()).SessionPresent)
	c.Nothing()
}

func TestQueueBoundOfAnOfflineSession(t *testing.T) {
	publish := func(n *node) (refused int) {
		for range 10 {
			if publishAndWait(n, &broker.Message{Topic: "t", Payload: []byte("x"), QoS: 1}) != nil {
				refused++
			}
		}
		return refused
	}
	offline := func(n *node) {
		c := n.dial(5)
		c.MustConnect("dev", testmqtt.Durable())
		c.Subscribe(1, "t")
		c.Drop()
		n.eventuallyOffline("dev")
	}
	t.Run("drop and count", func(t *testing.T) {
		n := startDurable(t, broker.Options{Limits: broker.Limits{Queue: 4}})
		offline(n)
		require.Zero(t, publish(n))
		require.EqualValues(t, 6, n.Stats().Dropped[broker.DropQueueFull])
		require.EqualValues(t, 4, n.Stats().QueuedMessages)
	})
	t.Run("refuse the publisher", func(t *testing.T) {
		n := startDurable(t, broker.Options{Limits: broker.Limits{Queue: 4, RefuseWhenFull: true}})
		offline(n)
		require.Equal(t, 6, publish(n))
		require.Zero(t, n.Stats().Dropped[broker.DropQueueFull])
	})
}

func TestExpiredMessagesAreNotDelivered(t *testing.T) {
	r := startRestartable(t, broker.Options{})
	c := r.dial(5)
	c.MustConnect("dev", testmqtt.Durable())
	c.Subscribe(1, "t")
	c.Drop()
	r.eventuallyOffline("dev")
	pub := r.dial(5)
	pub.MustConnect("pub")
	for i, expiry := range []uint32{1, 600} {
		pk := testmqtt.PublishPacket("t", []byte(strconv.Itoa(i)), 1, uint16(i+1))
		pk.Properties.MessageExpiryInterval = expiry
		pub.Send(pk)
		pub.Expect(packets.Puback)
	}
	<-time.After(1200 * time.Millisecond) // the first expires
	c = r.dial(5)
	c.MustConnect("dev", testmqtt.Durable())
	pk := c.ExpectPublish("t", "1")
	require.Less(t, pk.Properties.MessageExpiryInterval, uint32(600), "counted down")
	require.NotZero(t, pk.Properties.MessageExpiryInterval)
	testenv.Eventually(t, 5*time.Second, "the drop is counted", func() bool {
		return r.Stats().Dropped[broker.DropExpired] == 1
	})
}
