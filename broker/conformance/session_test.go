package conformance

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Sessions: sections 3.1.2.4 and 4.1.

// sessionExpiry asks MQTT 5 for a session of so many seconds, and 3.1.1 for a durable one.
func sessionExpiry(seconds uint32) testmqtt.Option {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = seconds, true
	}
}

// sleeper leaves behind a durable session that is subscribed to the topic t.
func (e *env) sleeper(qos byte) {
	e.Helper()
	c := e.connect("sleeper", testmqtt.Durable())
	c.Subscribe(qos, e.topic("t"))
	e.leave(c)
}

func cleanStartDiscards(e *env) {
	e.sleeper(1)
	pub := e.connect("pub")
	e.publish(pub, e.topic("t"), "waiting", 1)
	c, ack := e.reconnect("sleeper", testmqtt.Clean(true))
	require.False(e, ack.SessionPresent)
	c.Nothing()
	e.publish(pub, e.topic("t"), "new", 1)
	c.Nothing()
	e.leave(c)
	_, ack = e.reconnect("sleeper", testmqtt.Durable())
	require.False(e, ack.SessionPresent, "nor does it come back later")
}

// sessionIsResumed: subscriptions, what waits, what was not acknowledged, and the QoS 2 identifiers received.
func sessionIsResumed(e *env) {
	pub := e.connect("pub")
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	e.publish(pub, e.topic("t"), "not acknowledged", 1)
	c.ExpectPublish(e.topic("t"), "not acknowledged")
	c.Publish(e.topic("own"), "half done", 2, 5)
	c.Expect(packets.Pubrec)
	e.drop(c)
	e.publish(pub, e.topic("t"), "waiting", 2)
	witness := e.subscriber("witness", 0, e.topic("own"))
	c, ack := e.reconnect("c", testmqtt.Durable())
	require.True(e, ack.SessionPresent)
	e.take(c, e.topic("t"), "not acknowledged", 1)
	e.take(c, e.topic("t"), "waiting", 2)
	again := testmqtt.PublishPacket(e.topic("own"), []byte("half done"), 2, 5)
	again.FixedHeader.Dup = true
	c.Send(again)
	require.Zero(e, c.Expect(packets.Pubrec).ReasonCode)
	c.Ack(packets.Pubrel, 5)
	require.Zero(e, c.Expect(packets.Pubcomp).ReasonCode)
	witness.Nothing()
	e.publish(pub, e.topic("t"), "new", 1)
	e.take(c, e.topic("t"), "new", 1)
}

func sessionIsCreated(e *env) {
	c, ack := e.reconnect("c", testmqtt.Durable())
	require.False(e, ack.SessionPresent)
	c.Subscribe(1, e.topic("t"))
	e.publish(e.connect("pub"), e.topic("t"), "x", 1)
	e.take(c, e.topic("t"), "x", 1)
}

// messagesWaitForTheSession: QoS 1 and 2, in order; QoS 0 need not.
func messagesWaitForTheSession(e *env) {
	e.sleeper(2)
	pub := e.connect("pub")
	e.publish(pub, e.topic("t"), "first", 1)
	e.publish(pub, e.topic("t"), "second", 2)
	e.publish(pub, e.topic("t"), "third", 1)
	c, _ := e.reconnect("sleeper", testmqtt.Durable())
	for i, payload := range []string{"first", "second", "third"} {
		require.Equal(e, byte(1+i%2), c.ExpectPublish(e.topic("t"), payload).FixedHeader.Qos)
	}
	c.Nothing()
}

// cleanSessionLeavesNothing: neither to a clean session after it nor to a durable one.
func cleanSessionLeavesNothing(e *env) {
	for _, next := range []testmqtt.Option{testmqtt.Clean(true), testmqtt.Clean(false)} {
		c := e.connect("c", testmqtt.Clean(true))
		c.Subscribe(1, e.topic("t"))
		e.drop(c)
		e.publish(e.connect("pub"), e.topic("t"), "x", 1)
		c, ack := e.reconnect("c", next)
		require.False(e, ack.SessionPresent)
		c.Nothing()
		e.publish(e.connect("pub"), e.topic("t"), "x", 1)
		c.Nothing()
		e.leave(c)
	}
}

func retainedOutlivesTheSession(e *env) {
	c := e.connect("c", testmqtt.Clean(true))
	e.retain(c, e.topic("t"), "kept", 1)
	e.leave(c)
	e.connect("c", testmqtt.Clean(true))
	e.subscriber("sub", 0, e.topic("t")).ExpectPublish(e.topic("t"), "kept")
}

func sessionIsStored(e *env) {
	for _, seconds := range []uint32{1000, 0xFFFFFFFF} {
		for _, end := range []func(*testmqtt.Client){e.leave, e.drop} {
			c := e.connect("c", sessionExpiry(seconds))
			c.Subscribe(1, e.topic("t"))
			end(c)
			e.publish(e.connect("pub"), e.topic("t"), "x", 1)
			c, ack := e.reconnect("c", sessionExpiry(seconds))
			require.True(e, ack.SessionPresent)
			e.take(c, e.topic("t"), "x", 1)
			e.leave(c)
			e.leave(e.connect("c", testmqtt.Clean(true)))
		}
	}
}

// sessionLastsWhileConnected: even one that ends with its connection, and whatever is unfinished.
func sessionLastsWhileConnected(e *env) {
	pub := e.connect("pub")
	c := e.connect("c", testmqtt.Clean(true))
	c.Subscribe(2, e.topic("t"))
	e.publish(pub, e.topic("t"), "one", 1)
	e.publish(pub, e.topic("t"), "two", 2)
	one, two := c.ExpectPublish(e.topic("t"), "one"), c.ExpectPublish(e.topic("t"), "two")
	c.Publish(e.topic("own"), "x", 2, 9)
	c.Expect(packets.Pubrec)
	e.pass(1200 * time.Millisecond)
	c.Nothing()
	c.Ack(packets.Pubrec, two.PacketID)
	require.Zero(e, c.Expect(packets.Pubrel).ReasonCode)
	c.Ack(packets.Puback, one.PacketID)
	c.Ack(packets.Pubcomp, two.PacketID)
	c.Ack(packets.Pubrel, 9)
	require.Zero(e, c.Expect(packets.Pubcomp).ReasonCode)
	e.publish(pub, e.topic("t"), "three", 1)
	e.take(c, e.topic("t"), "three", 1)
}

func sessionExpires(e *env) {
	c := e.connect("c", sessionExpiry(1))
	c.Subscribe(1, e.topic("t"))
	before := time.Now()
	e.leave(c)
	e.ended("c")
	require.GreaterOrEqual(e, time.Since(before), 900*time.Millisecond)
	c, ack := e.reconnect("c", testmqtt.Durable())
	require.False(e, ack.SessionPresent)
	e.publish(e.connect("pub"), e.topic("t"), "x", 1)
	c.Nothing()
}

// ended waits until the broker has no session of this name.
func (e *env) ended(name string) {
	e.Helper()
	testenv.Eventually(e, testmqtt.Patience, "the session has ended", func() bool {
		_, ok := e.Client(e.id(name))
		return !ok
	})
}

// sessionEndsWithTheConnection: without a session expiry interval, or with 0, also when Clean Start is 0.
func sessionEndsWithTheConnection(e *env) {
	for _, ask := range []testmqtt.Option{testmqtt.Clean(false), sessionExpiry(0)} {
		e.drop(e.connect("c", ask))
		e.ended("c")
		c, ack := e.reconnect("c", testmqtt.Durable())
		require.False(e, ack.SessionPresent)
		e.leave(c)
		e.leave(e.connect("c", testmqtt.Clean(true)))
		e.ended("c")
	}
}

func shorterSessionIsTold(e *env) {
	own := e.alone(broker.Options{Limits: broker.Limits{SessionExpiry: 10 * time.Second}})
	_, ack := own.reconnect("c", sessionExpiry(3600))
	require.True(e, ack.Properties.SessionExpiryIntervalFlag)
	require.EqualValues(e, 10, ack.Properties.SessionExpiryInterval)
	_, ack = own.reconnect("d", sessionExpiry(9))
	require.False(e, ack.Properties.SessionExpiryIntervalFlag)
}

// goodbye makes a DISCONNECT with a session expiry interval.
func goodbye(seconds uint32) packets.Packet {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}}
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = seconds, true
	return pk
}

func goodbyeChangesTheExpiry(e *env) {
	shortened := e.connect("shortened", testmqtt.Durable())
	shortened.Send(goodbye(0))
	e.gone(shortened.ID, 1)
	e.ended("shortened")
	extended := e.connect("extended", sessionExpiry(1))
	extended.Send(goodbye(1000))
	e.gone(extended.ID, 1)
	e.pass(1500 * time.Millisecond)
	_, ack := e.reconnect("extended", testmqtt.Durable())
	require.True(e, ack.SessionPresent)
}

func goodbyeMakesNoSessionDurable(e *env) {
	c := e.connect("c", sessionExpiry(0))
	c.Send(goodbye(1000))
	c.ExpectDisconnect(0x82)
	e.ended("c")
}
