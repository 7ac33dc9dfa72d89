package conformance

import (
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// PUBLISH: section 3.3, but for its properties and retained messages.

// redeliveryIsMarked: DUP on what is sent again, and only on that.
func redeliveryIsMarked(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	pub := e.connect("pub")
	e.publish(pub, e.topic("t"), "one", 1)
	e.publish(pub, e.topic("t"), "two", 2)
	var ids []uint16
	for _, payload := range []string{"one", "two"} {
		pk := c.ExpectPublish(e.topic("t"), payload)
		require.False(e, pk.FixedHeader.Dup)
		ids = append(ids, pk.PacketID)
	}
	e.drop(c)
	e.publish(pub, e.topic("t"), "three", 1)
	c, _ = e.reconnect("c", testmqtt.Durable())
	for i, payload := range []string{"one", "two", "three"} {
		pk := c.ExpectPublish(e.topic("t"), payload)
		require.Equal(e, i < 2, pk.FixedHeader.Dup, payload)
		if i < 2 {
			require.Equal(e, ids[i], pk.PacketID)
		}
	}
}

func qos0HasNoDup(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	e.publish(pub, e.topic("t"), "x", 1)
	require.False(e, sub.ExpectPublish(e.topic("t"), "x").FixedHeader.Dup)
	e.breaks("QoS 0 with DUP", e.rawPublish(0x38, e.topic("t"), nil, e.props(), "x"), 0x81, 0x82)
}

func dupIsNotPassedOn(e *env) {
	sub, pub := e.subscriber("sub", 2, e.topic("t")), e.connect("pub")
	for _, qos := range []byte{1, 2} {
		pk := testmqtt.PublishPacket(e.topic("t"), []byte("x"), qos, 0)
		pk.FixedHeader.Dup = true
		e.publishPacket(pub, pk)
		require.False(e, e.take(sub, e.topic("t"), "x", qos).FixedHeader.Dup)
	}
}

func qos3(e *env) {
	e.breaks("QoS 3", e.rawPublish(0x36, e.topic("t"), u16(1), e.props(), "x"), 0x81)
	e.breaks("QoS 3 with DUP", e.rawPublish(0x3E, e.topic("t"), u16(1), e.props(), "x"), 0x81)
}

func topicNameComesFirst(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t/é")), e.connect("pub")
	e.publish(pub, e.topic("t/é"), "x", 0)
	_, body := e.next(sub)
	require.Equal(e, join(str(e.topic("t/é")), e.props(), []byte("x")), body)
	e.breaks("no topic name", raw(0x30), 0x81, 0x82)
	e.breaks("half a length", raw(0x30, []byte{0}), 0x81, 0x82)
	e.breaks("longer than the packet", raw(0x30, []byte{0, 9}, []byte("short")), 0x81, 0x82)
	e.breaks("ill-formed", e.rawPublish(0x30, "a\xC3\x28", nil, e.props(), "x"), 0x81)
}

func wildcardInTopicName(e *env) {
	for _, name := range []string{"#", "+", "a/#", "a/+/b", "a+", "a#b"} {
		e.breaks(name, e.rawPublish(0x30, name, nil, e.props(), "x"), 0x81, 0x82, 0x90)
	}
}

// topicMatchesTheFilter: what arrives belongs to a subscription, under the name it was published with.
func topicMatchesTheFilter(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("a/+"), e.topic("b/#")), e.connect("pub")
	for _, name := range []string{"a", "a/1", "a/1/2", "b", "b/1/2", "c"} {
		e.publish(pub, e.topic(name), name, 1)
	}
	for _, name := range []string{"a/1", "b", "b/1/2"} {
		sub.ExpectPublish(e.topic(name), name)
	}
	sub.Nothing()
}

func answersByQoS(e *env) {
	c := e.connect("c")
	c.Publish(e.topic("t"), "x", 0, 0)
	c.Nothing()
	c.Publish(e.topic("t"), "x", 1, 1)
	require.Less(e, c.Expect(packets.Puback).ReasonCode, byte(0x80))
	c.Publish(e.topic("t"), "x", 2, 2)
	require.Less(e, c.Expect(packets.Pubrec).ReasonCode, byte(0x80))
	c.Nothing()
}

// acrossVersions: clients of MQTT 3.1.1 and 5 exchange messages, and take over each other's sessions.
func acrossVersions(e *env) {
	old := e.anew()
	old.version = 4
	olds, news := old.subscriber("sub", 2, e.topic("t")), e.subscriber("sub", 2, e.topic("t"))
	for _, from := range []*env{e, old} {
		pub := from.connect("pub")
		for qos := range byte(3) {
			pk := testmqtt.PublishPacket(e.topic("t"), []byte("x"), qos, 0)
			pk.Properties.ContentType, pk.Properties.User = "text/plain", pairs("a", "b")
			from.publishPacket(pub, pk)
			old.take(olds, e.topic("t"), "x", qos)
			got := e.take(news, e.topic("t"), "x", qos).Properties
			require.Equal(e, from.v5(), got.ContentType == "text/plain" && len(got.User) == 1)
		}
	}
	old.prefix = e.prefix
	e.sleeper(1)
	c, ack := old.reconnect("sleeper", testmqtt.Clean(false))
	require.True(e, ack.SessionPresent)
	e.leave(c)
	e.publish(e.connect("pub"), e.topic("t"), "waiting", 1)
	c, ack = e.reconnect("sleeper", testmqtt.Durable())
	require.True(e, ack.SessionPresent)
	e.take(c, e.topic("t"), "waiting", 1)
}

// overlappingSubscriptions: the message comes with the highest QoS that any of them was granted.
func overlappingSubscriptions(e *env) {
	sub, pub := e.connect("sub"), e.connect("pub")
	for _, granted := range [][]byte{{0, 2, 1}, {2, 1, 0}, {1, 0, 2}, {0, 1, 2}, {2, 0, 1}, {1, 2, 0}} {
		for i, filter := range []string{"a/b", "a/+", "#"} {
			sub.Subscribe(granted[i], e.topic(filter))
		}
		e.publish(pub, e.topic("a/b"), "x", 2)
		e.take(sub, e.topic("a/b"), "x", 2)
		e.publish(pub, e.topic("a/b"), "y", 1)
		e.take(sub, e.topic("a/b"), "y", 1)
		e.publish(pub, e.topic("z"), "z", 2)
		e.take(sub, e.topic("z"), "z", granted[2])
	}
	sub.Nothing()
}

// refusedPublish: a client that may not publish is told so, or cut off; nobody gets the message.
func refusedPublish(e *env) {
	witness := e.subscriber("witness", 0, e.topic("#"))
	for qos := byte(0); qos <= 2; qos++ {
		c := e.connect("c")
		c.Publish(e.topic("forbidden"), "x", qos, 1)
		switch {
		case qos == 0:
			c.Nothing()
		case e.v5():
			require.Equal(e, byte(0x87), c.Expect(map[byte]byte{1: packets.Puback, 2: packets.Pubrec}[qos]).ReasonCode)
		default:
			require.Zero(e, c.ExpectClosed().FixedHeader.Type)
		}
	}
	witness.Nothing()
}

func subscribeWithIdentifier(filter string, qos byte, identifier int) packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 500,
		Filters: packets.Subscriptions{{Filter: filter, Qos: qos}},
	}
	pk.Properties.SubscriptionIdentifier = []int{identifier}
	return pk
}

func (e *env) identified(c *testmqtt.Client, filter string, qos byte, identifier int) {
	e.Helper()
	c.Send(subscribeWithIdentifier(filter, qos, identifier))
	require.Equal(e, []byte{qos}, c.Expect(packets.Suback).ReasonCodes)
}

func subscriptionIdentifiers(e *env) {
	sub, pub := e.connect("sub"), e.connect("pub")
	e.identified(sub, e.topic("a/b"), 1, 1)
	e.identified(sub, e.topic("a/+"), 0, 268_435_455)
	sub.Subscribe(2, e.topic("a/#"))
	e.publish(pub, e.topic("a/b"), "both", 2)
	require.ElementsMatch(e, []int{1, 268_435_455},
		e.take(sub, e.topic("a/b"), "both", 2).Properties.SubscriptionIdentifier)
	e.publish(pub, e.topic("a/c"), "one", 0)
	require.Equal(e, []int{268_435_455}, sub.ExpectPublish(e.topic("a/c"), "one").Properties.SubscriptionIdentifier)
	e.publish(pub, e.topic("a"), "none", 0)
	require.Empty(e, sub.ExpectPublish(e.topic("a"), "none").Properties.SubscriptionIdentifier)
	sub.Nothing()
}

// subscriptionIdentifiersChange: with the subscription; and they go with what the session keeps.
func subscriptionIdentifiersChange(e *env) {
	sub, pub := e.connect("sub", testmqtt.Durable()), e.connect("pub")
	e.identified(sub, e.topic("t"), 1, 7)
	e.identified(sub, e.topic("t"), 1, 8)
	e.leave(sub)
	e.publish(pub, e.topic("t"), "waiting", 1)
	sub, _ = e.reconnect("sub", testmqtt.Durable())
	require.Equal(e, []int{8}, e.take(sub, e.topic("t"), "waiting", 1).Properties.SubscriptionIdentifier)
	sub.Subscribe(1, e.topic("t"))
	e.publish(pub, e.topic("t"), "bare", 1)
	require.Empty(e, e.take(sub, e.topic("t"), "bare", 1).Properties.SubscriptionIdentifier)
}

func retainedHasTheIdentifier(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "kept", 0)
	sub := e.connect("sub")
	e.identified(sub, e.topic("t"), 0, 9)
	require.Equal(e, []int{9}, sub.ExpectPublish(e.topic("t"), "kept").Properties.SubscriptionIdentifier)
}

func clientSendsIdentifier(e *env) {
	witness := e.subscriber("witness", 0, e.topic("t"))
	identifier := e.props(prop(packets.PropSubscriptionIdentifier, []byte{1}))
	e.breaks("PUBLISH with a subscription identifier", e.rawPublish(0x30, e.topic("t"), nil, identifier, "x"), 0x82)
	witness.Nothing()
}

func badSubscriptionIdentifiers(e *env) {
	subscribe := func(list ...[]byte) []byte {
		return raw(0x82, u16(7), e.props(list...), str(e.topic("t")), []byte{0})
	}
	e.breaks("0", subscribe(prop(packets.PropSubscriptionIdentifier, []byte{0})), 0x82)
	one := prop(packets.PropSubscriptionIdentifier, []byte{1})
	e.breaks("two", subscribe(one, one), 0x82)
	e.breaks("five bytes", subscribe(prop(packets.PropSubscriptionIdentifier, []byte{0x80, 0x80, 0x80, 0x80, 1})), 0x81)
}
