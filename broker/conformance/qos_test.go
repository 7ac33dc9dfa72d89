package conformance

import (
	"strconv"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// The delivery protocols and the order of messages: sections 4.3 to 4.6.

func qos0Delivery(e *env) {
	sub, pub := e.subscriber("sub", 2, e.topic("t")), e.connect("pub")
	e.publish(pub, e.topic("t"), "x", 0)
	first, _ := e.next(sub)
	require.Equal(e, byte(0x30), first)
	sub.Nothing()
}

// firstSendings: a new identifier, the right QoS and no DUP, for message after message.
func (e *env) firstSendings(qos byte) {
	sub, pub := e.subscriber("sub", qos, e.topic("t")), e.connect("pub")
	seen := map[uint16]bool{0: true}
	for i := range 20 {
		payload := strconv.Itoa(i)
		e.publish(pub, e.topic("t"), payload, qos)
		pk := sub.ExpectPublish(e.topic("t"), payload)
		require.Equal(e, qos, pk.FixedHeader.Qos)
		require.False(e, pk.FixedHeader.Dup)
		require.False(e, seen[pk.PacketID])
		seen[pk.PacketID] = true
	}
}

func qos1Sending(e *env) { e.firstSendings(1) }

func qos2Sending(e *env) { e.firstSendings(2) }

// unacknowledgedComesAgain is for QoS 1 and 2 until PUBACK or PUBREC; then not any more.
func (e *env) unacknowledgedComesAgain(qos byte) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(qos, e.topic("t"))
	e.publish(e.connect("pub"), e.topic("t"), "x", qos)
	id := c.ExpectPublish(e.topic("t"), "x").PacketID
	for range 2 {
		e.drop(c)
		c, _ = e.reconnect("c", testmqtt.Durable())
		pk := c.ExpectPublish(e.topic("t"), "x")
		require.Equal(e, id, pk.PacketID)
		require.True(e, pk.FixedHeader.Dup)
	}
	if qos == 1 {
		c.Ack(packets.Puback, id)
	} else {
		c.Ack(packets.Pubrec, id)
		require.Equal(e, id, c.Expect(packets.Pubrel).PacketID)
		c.Ack(packets.Pubcomp, id)
	}
	c.Nothing()
	e.drop(c)
	c, _ = e.reconnect("c", testmqtt.Durable())
	c.Nothing()
}

func qos1Unacknowledged(e *env) { e.unacknowledgedComesAgain(1) }

func qos2Unacknowledged(e *env) { e.unacknowledgedComesAgain(2) }

func qos1Sender(e *env) {
	qos1Sending(e)
	qos1Unacknowledged(e)
}

func qos1Receiver(e *env) {
	qos1Receiving(e)
	qos1SameIdentifier(e)
}

func qos1Receiving(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	pub.Publish(e.topic("t"), "x", 1, 4711)
	require.EqualValues(e, 4711, pub.Expect(packets.Puback).PacketID)
	sub.ExpectPublish(e.topic("t"), "x")
}

// qos1SameIdentifier: after PUBACK it is a new message, DUP or not.
func qos1SameIdentifier(e *env) {
	sub, pub := e.subscriber("sub2", 0, e.topic("u")), e.connect("pub")
	for _, dup := range []bool{false, true, false} {
		pk := testmqtt.PublishPacket(e.topic("u"), []byte("x"), 1, 4711)
		pk.FixedHeader.Dup = dup
		pub.Send(pk)
		pub.Expect(packets.Puback)
		sub.ExpectPublish(e.topic("u"), "x")
	}
}

func pubrelFollowsPubrec(e *env) {
	sub := e.subscriber("sub", 2, e.topic("t"))
	e.publish(e.connect("pub"), e.topic("t"), "x", 2)
	id := sub.ExpectPublish(e.topic("t"), "x").PacketID
	for range 2 { // a PUBREC that comes twice is answered twice
		sub.Ack(packets.Pubrec, id)
		pk := sub.Expect(packets.Pubrel)
		require.Equal(e, id, pk.PacketID)
		require.Zero(e, pk.ReasonCode)
	}
}

// pubrelComesAgain until PUBCOMP, and the PUBLISH does not.
func pubrelComesAgain(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	e.publish(e.connect("pub"), e.topic("t"), "x", 2)
	id := c.ExpectPublish(e.topic("t"), "x").PacketID
	c.Ack(packets.Pubrec, id)
	c.Expect(packets.Pubrel)
	for range 2 {
		e.drop(c)
		c, _ = e.reconnect("c", testmqtt.Durable())
		require.Equal(e, id, c.Expect(packets.Pubrel).PacketID)
		c.Nothing()
	}
	c.Ack(packets.Pubcomp, id)
	c.Nothing()
	e.drop(c)
	c, _ = e.reconnect("c", testmqtt.Durable())
	c.Nothing()
}

func qos2Sender(e *env) {
	qos2Sending(e)
	qos2Unacknowledged(e)
}

func startedIsNotExpired(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	e.publishPacket(e.connect("pub"), e.expiring("x", 2, 3)) // long enough that it is sent
	id := c.ExpectPublish(e.topic("t"), "x").PacketID
	e.drop(c)
	e.pass(3100 * time.Millisecond)
	c, _ = e.reconnect("c", testmqtt.Durable())
	pk := e.take(c, e.topic("t"), "x", 2)
	require.Equal(e, id, pk.PacketID)
	require.True(e, pk.FixedHeader.Dup)
}

func qos2Receiving(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	pub.Publish(e.topic("t"), "x", 2, 4711)
	require.EqualValues(e, 4711, pub.Expect(packets.Pubrec).PacketID)
	sub.ExpectPublish(e.topic("t"), "x")
}

// refusedIdentifierIsFree: after a PUBREC that refuses, the identifier belongs to a new message.
func refusedIdentifierIsFree(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	pub.Publish(e.topic("forbidden"), "x", 2, 5)
	require.Equal(e, byte(0x87), pub.Expect(packets.Pubrec).ReasonCode)
	pub.Publish(e.topic("t"), "y", 2, 5)
	require.Zero(e, pub.Expect(packets.Pubrec).ReasonCode)
	sub.ExpectPublish(e.topic("t"), "y")
}

// exactlyOnce: however often it is sent before PUBREL, also on another connection.
func exactlyOnce(e *env) {
	sub := e.subscriber("sub", 0, e.topic("t"))
	pub := e.connect("pub", testmqtt.Durable())
	pk := testmqtt.PublishPacket(e.topic("t"), []byte("x"), 2, 5)
	for i := range 6 {
		if i == 3 {
			e.drop(pub)
			pub, _ = e.reconnect("pub", testmqtt.Durable())
		}
		pk.FixedHeader.Dup = i > 0
		pub.Send(pk)
		ack := pub.Expect(packets.Pubrec)
		require.EqualValues(e, 5, ack.PacketID)
		require.Zero(e, ack.ReasonCode)
	}
	sub.ExpectPublish(e.topic("t"), "x")
	sub.Nothing()
}

func pubcompFollowsPubrel(e *env) {
	pub := e.connect("pub")
	pub.Publish(e.topic("t"), "x", 2, 6)
	pub.Expect(packets.Pubrec)
	pub.Ack(packets.Pubrel, 6)
	pk := pub.Expect(packets.Pubcomp)
	require.EqualValues(e, 6, pk.PacketID)
	require.Zero(e, pk.ReasonCode)
	pub.Ack(packets.Pubrel, 6) // sent again, because PUBCOMP was lost
	require.EqualValues(e, 6, pub.Expect(packets.Pubcomp).PacketID)
}

func releasedIdentifierIsFree(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	for range 3 {
		e.publish(pub, e.topic("t"), "x", 2)
		sub.ExpectPublish(e.topic("t"), "x")
	}
	sub.Nothing()
}

func qos2Receiver(e *env) {
	exactlyOnce(e)
	pubcompFollowsPubrel(e)
}

func expiryDoesNotStopTheHandshake(e *env) {
	pub := e.connect("pub")
	pk := e.expiring("x", 2, 1)
	pk.PacketID = 8
	pub.Send(pk)
	pub.Expect(packets.Pubrec)
	e.pass(1100 * time.Millisecond)
	pub.Ack(packets.Pubrel, 8)
	require.Zero(e, pub.Expect(packets.Pubcomp).ReasonCode)
}

// resentOnReconnectOnly: PUBLISH and PUBREL with their identifiers, in their order, and at no other time.
func resentOnReconnectOnly(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	pub := e.connect("pub")
	ids := map[string]uint16{}
	for i, payload := range []string{"a", "b", "c", "d"} {
		e.publish(pub, e.topic("t"), payload, byte(1+i%2))
		ids[payload] = c.ExpectPublish(e.topic("t"), payload).PacketID
	}
	c.Ack(packets.Pubrec, ids["b"])
	c.Expect(packets.Pubrel)
	e.pass(300 * time.Millisecond)
	c.Nothing()
	e.drop(c)
	c, _ = e.reconnect("c", testmqtt.Durable())
	require.Equal(e, ids["a"], c.ExpectPublish(e.topic("t"), "a").PacketID)
	require.Equal(e, ids["b"], c.Expect(packets.Pubrel).PacketID)
	require.Equal(e, ids["c"], c.ExpectPublish(e.topic("t"), "c").PacketID)
	require.Equal(e, ids["d"], c.ExpectPublish(e.topic("t"), "d").PacketID)
	c.Nothing()
}

// refusalsAcknowledge: PUBACK and PUBREC with a reason of 0x80 or more end the delivery.
func refusalsAcknowledge(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	pub := e.connect("pub")
	for qos, answer := range map[byte]byte{1: packets.Puback, 2: packets.Pubrec} {
		e.publish(pub, e.topic("t"), "x", qos)
		id := c.ExpectPublish(e.topic("t"), "x").PacketID
		c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: answer}, PacketID: id, ReasonCode: 0x83})
		c.Nothing()
	}
	e.drop(c)
	c, _ = e.reconnect("c", testmqtt.Durable())
	c.Nothing()
}

func everySessionGetsIt(e *env) {
	e.sleeper(2)
	now, pub := e.subscriber("now", 1, e.topic("t")), e.connect("pub")
	for qos := byte(1); qos <= 2; qos++ {
		e.publish(pub, e.topic("t"), "x", qos)
		e.take(now, e.topic("t"), "x", 1)
	}
	c, _ := e.reconnect("sleeper", testmqtt.Durable())
	e.take(c, e.topic("t"), "x", 1)
	e.take(c, e.topic("t"), "x", 2)
}

// ordered: what one client publishes arrives in that order, for each QoS, for topics that a filter gathers, and to a
// session that was away.
func ordered(e *env) {
	subs := []*testmqtt.Client{e.subscriber("exact", 2, e.topic("t/1")), e.subscriber("wild", 2, e.topic("t/+"))}
	e.sleeperOn(e.topic("t/1"))
	pub := e.connect("pub")
	const messages = 60
	for i := range messages {
		e.publish(pub, e.topic("t/1"), strconv.Itoa(i), byte(i%3))
	}
	for _, sub := range subs {
		for i := range messages {
			require.Equal(e, byte(i%3), sub.ExpectPublish(e.topic("t/1"), strconv.Itoa(i)).FixedHeader.Qos)
		}
	}
	back, _ := e.reconnect("sleeper", testmqtt.Durable())
	for i := range messages {
		if i%3 > 0 {
			require.Equal(e, byte(i%3), back.ExpectPublish(e.topic("t/1"), strconv.Itoa(i)).FixedHeader.Qos)
		}
	}
}

func (e *env) sleeperOn(filter string) {
	e.Helper()
	c := e.connect("sleeper", testmqtt.Durable())
	c.Subscribe(2, filter)
	e.leave(c)
}

// acksInOrder: a server, too, acknowledges in the order in which it received.
func acksInOrder(e *env) {
	e.sleeper(2)
	pub := e.connect("pub")
	var burst []byte
	for id := uint16(1); id <= 20; id++ {
		first := byte(0x32)
		if id%2 == 0 {
			first = 0x34
		}
		burst = append(burst, e.rawPublish(first, e.topic("t"), u16(id), e.props(), "x")...)
	}
	pub.SendRaw(burst...)
	for id := uint16(1); id <= 20; id++ {
		pk := pub.Expect(map[bool]byte{true: packets.Pubrec, false: packets.Puback}[id%2 == 0])
		require.Equal(e, id, pk.PacketID)
	}
}

func pubrelsInOrder(e *env) {
	sub, pub := e.subscriber("sub", 2, e.topic("t")), e.connect("pub")
	var ids []uint16
	for range 10 {
		e.publish(pub, e.topic("t"), "x", 2)
		ids = append(ids, sub.ExpectPublish(e.topic("t"), "x").PacketID)
	}
	for _, id := range ids {
		sub.Ack(packets.Pubrec, id)
	}
	for _, id := range ids {
		require.Equal(e, id, sub.Expect(packets.Pubrel).PacketID)
	}
}
