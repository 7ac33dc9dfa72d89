package conformance

import (
	"strconv"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK: sections 3.8 to 3.11.

func subscribeFlags(e *env) {
	for _, first := range []byte{0x80, 0x81, 0x83, 0x86, 0x8A, 0x8F} {
		e.breaks("SUBSCRIBE", raw(first, u16(7), e.props(), str(e.topic("t")), []byte{0}), 0x81)
	}
}

func unsubscribeFlags(e *env) {
	for _, first := range []byte{0xA0, 0xA1, 0xA3, 0xA6, 0xAA, 0xAF} {
		e.breaks("UNSUBSCRIBE", raw(first, u16(7), e.props(), str(e.topic("t"))), 0x81)
	}
}

func pubrelFlags(e *env) {
	for _, first := range []byte{0x60, 0x61, 0x63, 0x64, 0x6A, 0x6F} {
		e.breaks("PUBREL", raw(first, u16(7)), 0x81)
	}
}

func disconnectFlags(e *env) {
	for _, first := range []byte{0xE1, 0xE2, 0xE4, 0xE8} {
		e.breaks("DISCONNECT", raw(first), 0x81)
	}
}

func illFormedFilter(e *env) {
	e.breaks("ill-formed", e.rawSubscribe("a\xC3\x28", 0), 0x81)
	e.breaks("ill-formed, second", raw(0x82, u16(7), e.props(), str("a"), []byte{0}, str("\xFF"), []byte{0}), 0x81)
	e.breaks("longer than the packet", raw(0x82, u16(7), e.props(), []byte{0, 9}, []byte("short")), 0x81)
}

func illFormedUnsubscribe(e *env) {
	e.breaks("ill-formed", e.rawUnsubscribe("a\xC3\x28"), 0x81)
	e.breaks("longer than the packet", raw(0xA2, u16(7), e.props(), []byte{0, 9}, []byte("short")), 0x81)
}

func subscribeWithoutFilter(e *env) {
	e.breaks("no filter", raw(0x82, u16(7), e.props()), 0x82)
	e.breaks("no options", raw(0x82, u16(7), e.props(), str(e.topic("t"))), 0x81)
}

func unsubscribeWithoutFilter(e *env) { e.breaks("no filter", raw(0xA2, u16(7), e.props()), 0x82) }

// reservedOptions: in 3.1.1 all but the QoS, in MQTT 5 the highest two bits; and a QoS of 3.
func reservedOptions(e *env) {
	bad := map[byte]byte{0x40: 0x81, 0x80: 0x81, 0xC1: 0x81}
	if !e.v5() {
		bad = map[byte]byte{0x03: 0, 0x04: 0, 0x08: 0, 0x10: 0, 0x40: 0, 0x81: 0}
	}
	for options, code := range bad {
		e.breaks("options "+strconv.Itoa(int(options)), e.rawSubscribe(e.topic("t"), options), code)
	}
}

func subscribeQoS3(e *env) { e.breaks("QoS 3", e.rawSubscribe(e.topic("t"), 3), 0x81, 0x82) }

func noLocal(e *env) {
	c, other := e.connect("c", testmqtt.Durable()), e.connect("other")
	c.SubscribeWith(packets.Subscription{Filter: e.topic("t"), Qos: 1, NoLocal: true})
	e.publish(c, e.topic("t"), "own", 1)
	c.Nothing()
	e.publish(other, e.topic("t"), "another's", 1)
	e.take(c, e.topic("t"), "another's", 1)
	noLocalOverlapping(e, c)
	c.Unsubscribe(e.topic("#"))
	e.leave(c)
	c, _ = e.reconnect("c", testmqtt.Durable())
	e.publish(c, e.topic("t"), "own", 1)
	c.Nothing()
}

// noLocalOverlapping: an overlapping subscription without it still gets the message, with its own QoS, and one with it
// does not.
func noLocalOverlapping(e *env, c *testmqtt.Client) {
	c.SubscribeWith(packets.Subscription{Filter: e.topic("+"), Qos: 1, NoLocal: true})
	e.publish(c, e.topic("t"), "own", 1)
	c.Nothing()
	c.Subscribe(0, e.topic("#"))
	c.Publish(e.topic("t"), "own", 1, 9)
	for range 2 { // PUBACK and PUBLISH, in any order
		pk, err := c.Read(testmqtt.Patience)
		require.NoError(e, err)
		if pk.FixedHeader.Type == packets.Publish {
			require.Zero(e, pk.FixedHeader.Qos)
		} else {
			require.Equal(e, byte(packets.Puback), pk.FixedHeader.Type)
		}
	}
	c.Nothing()
	c.Unsubscribe(e.topic("+"))
}

func noLocalOnShared(e *env) {
	e.breaks("no local", e.rawSubscribe("$share/g/"+e.topic("t"), 0x04), 0x82)
}

func subscribeIsAnswered(e *env) {
	c := e.connect("c")
	for qos := range byte(3) {
		require.Equal(e, []byte{qos}, c.Subscribe(qos, e.topic("t")))
	}
	require.Len(e, c.Subscribe(0, e.topic("forbidden")), 1)
}

func subscriptionIsReplaced(e *env) {
	c, pub := e.connect("c"), e.connect("pub")
	for _, qos := range []byte{2, 0, 1} {
		require.Equal(e, []byte{qos}, c.Subscribe(qos, e.topic("t")))
		e.publish(pub, e.topic("t"), "x", 2)
		e.take(c, e.topic("t"), "x", qos)
		c.Nothing()
	}
	c.Unsubscribe(e.topic("t"))
	e.publish(pub, e.topic("t"), "x", 2)
	c.Nothing()
}

func subscriptionIsReplaced311(e *env) {
	subscriptionIsReplaced(e)
	replacingSendsRetainedAgain(e)
	nothingIsLostByReplacing(e)
}

func replacingAndRetained(e *env) {
	replacingSendsRetainedAgain(e)
	nothingIsLostByReplacing(e)
}

// nothingIsLostByReplacing: messages that are published while a client subscribes again and again to the same filter.
func nothingIsLostByReplacing(e *env) {
	c, pub := e.subscriber("again", 1, e.topic("u")), e.connect("pub")
	const messages = 90
	done := make(chan error, 1)
	go func() {
		for id := uint16(1); id <= messages; id++ {
			pk := testmqtt.PublishPacket(e.topic("u"), []byte(strconv.Itoa(int(id))), 1, id)
			if err := pub.TrySend(pk); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for got := 0; got < messages; {
		c.SendRaw(e.rawSubscribe(e.topic("u"), 1)...)
		for {
			pk, err := c.Read(testmqtt.Patience)
			require.NoError(e, err)
			if pk.FixedHeader.Type == packets.Suback {
				break
			}
			got++
			require.Equal(e, strconv.Itoa(got), string(pk.Payload))
			c.Ack(packets.Puback, pk.PacketID)
		}
	}
	require.NoError(e, <-done)
}

// manyFilters: one SUBSCRIBE with several filters is as good as several SUBSCRIBEs, also when one of them fails.
func manyFilters(e *env) {
	c, pub := e.connect("c"), e.connect("pub")
	codes := c.SubscribeWith(
		packets.Subscription{Filter: e.topic("a"), Qos: 2}, packets.Subscription{Filter: e.topic("forbidden"), Qos: 1},
		packets.Subscription{Filter: e.topic("b"), Qos: 0}, packets.Subscription{Filter: e.topic("a"), Qos: 1},
	)
	require.Equal(e, []byte{2, map[bool]byte{true: 0x87, false: 0x80}[e.v5()], 0, 1}, codes)
	e.publish(pub, e.topic("a"), "x", 2)
	e.take(c, e.topic("a"), "x", 1)
	e.publish(pub, e.topic("b"), "y", 2)
	e.take(c, e.topic("b"), "y", 0)
	c.Nothing()
}

func aCodeForEachFilter(e *env) {
	c := e.connect("c")
	for _, n := range []int{1, 2, 300} {
		filters := make([]string, n)
		for i := range filters {
			filters[i] = e.topic(strconv.Itoa(i))
		}
		require.Len(e, c.Subscribe(1, filters...), n)
	}
}

func grantedOrFailed(e *env) {
	c := e.connect("c")
	for qos := range byte(3) {
		granted := c.Subscribe(qos, e.topic("t"))[0]
		require.LessOrEqual(e, granted, qos)
	}
	require.GreaterOrEqual(e, c.Subscribe(0, e.topic("forbidden"))[0], byte(0x80))
	e.publish(e.connect("pub"), e.topic("t"), "x", 2)
	e.take(c, e.topic("t"), "x", 2)
}

func codesAndGrants(e *env) {
	aCodeForEachFilter(e)
	grantedOrFailed(e)
}

func lowerQoSCounts(e *env) {
	pub := e.connect("pub")
	for granted := range byte(3) {
		sub := e.subscriber("sub", granted, e.topic("t"))
		for published := range byte(3) {
			e.publish(pub, e.topic("t"), "x", published)
			e.take(sub, e.topic("t"), "x", min(granted, published))
		}
		e.leave(sub)
	}
}

// bareSuback: no reason and no user properties, whatever the client's packet size.
func bareSuback(e *env) {
	c := e.connect("c", maximumPacketSize(20))
	for _, filter := range []string{e.topic("t"), e.topic("forbidden")} {
		c.SendRaw(e.rawSubscribe(filter, 0)...)
		first, body := e.next(c)
		require.Equal(e, byte(0x90), first)
		require.LessOrEqual(e, 2+len(body), 20)
	}
}

func bareUnsuback(e *env) {
	c := e.connect("c", maximumPacketSize(20))
	c.SendRaw(e.rawUnsubscribe(e.topic("none"))...)
	first, body := e.next(c)
	require.Equal(e, byte(0xB0), first)
	require.LessOrEqual(e, 2+len(body), 20)
}

func subackOrder(e *env) {
	failed := map[bool]byte{true: 0x87, false: 0x80}[e.v5()]
	c := e.connect("c")
	require.Equal(e, []byte{1, failed, 0, 2}, c.SubscribeWith(
		packets.Subscription{Filter: e.topic("z"), Qos: 1}, packets.Subscription{Filter: e.topic("forbidden"), Qos: 1},
		packets.Subscription{Filter: e.topic("m"), Qos: 0}, packets.Subscription{Filter: e.topic("a"), Qos: 2}))
}

func subackCodes(e *env) {
	allowed := []byte{0, 1, 2, 0x80}
	if e.v5() {
		allowed = append(allowed, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)
	}
	c := e.connect("c")
	for _, filter := range []string{e.topic("t"), e.topic("forbidden"), e.topic("a+"), e.topic("a/#/b")} {
		for _, code := range c.Subscribe(2, filter) {
			require.Contains(e, allowed, code, filter)
		}
	}
}

// exactUnsubscribe: filters are compared character by character.
func exactUnsubscribe(e *env) {
	c, pub := e.subscriber("c", 0, e.topic("a/+")), e.connect("pub")
	for _, other := range []string{"a/#", "a/b", "A/+", "a/+/", "a//+", "/a/+"} {
		c.Unsubscribe(e.topic(other))
		e.publish(pub, e.topic("a/b"), other, 0)
		c.ExpectPublish(e.topic("a/b"), other)
	}
	c.Unsubscribe(e.topic("a/+"))
	e.publish(pub, e.topic("a/b"), "x", 0)
	c.Nothing()
}

func unsubscribeStops(e *env) {
	c, pub := e.subscriber("c", 2, e.topic("t"), e.topic("#")), e.connect("pub")
	c.Unsubscribe(e.topic("t"))
	e.publish(pub, e.topic("t"), "by the other", 1)
	e.take(c, e.topic("t"), "by the other", 1)
	c.Unsubscribe(e.topic("#"))
	for qos := range byte(3) {
		e.publish(pub, e.topic("t"), "x", qos)
	}
	c.Nothing()
}

// startedIsCompleted: what was sent before UNSUBSCRIBE is finished after it, also on another connection.
func startedIsCompleted(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(2, e.topic("t"))
	pub := e.connect("pub")
	e.publish(pub, e.topic("t"), "one", 1)
	e.publish(pub, e.topic("t"), "two", 2)
	one, two := c.ExpectPublish(e.topic("t"), "one").PacketID, c.ExpectPublish(e.topic("t"), "two").PacketID
	c.Unsubscribe(e.topic("t"))
	c.Ack(packets.Pubrec, two)
	require.Zero(e, c.Expect(packets.Pubrel).ReasonCode)
	e.drop(c)
	c, _ = e.reconnect("c", testmqtt.Durable())
	require.Equal(e, one, c.ExpectPublish(e.topic("t"), "one").PacketID)
	require.Equal(e, two, c.Expect(packets.Pubrel).PacketID)
	c.Ack(packets.Puback, one)
	c.Ack(packets.Pubcomp, two)
	c.Nothing()
}

func unsubscribeIsAnswered(e *env) {
	c := e.subscriber("c", 0, e.topic("t"))
	c.Unsubscribe(e.topic("t"))
	c.Unsubscribe(e.topic("t"))
	subackPacketIdentifiers(e)
}

// unsubscribeFromNothing: it is answered all the same.
func unsubscribeFromNothing(e *env) {
	c := e.connect("c")
	codes := c.Unsubscribe(e.topic("none"), e.topic("nor/this"))
	if e.v5() {
		require.Equal(e, []byte{0x11, 0x11}, codes)
	}
	subackPacketIdentifiers(e)
}

func unsubscribeMany(e *env) {
	c, pub := e.subscriber("c", 0, e.topic("a"), e.topic("b"), e.topic("d")), e.connect("pub")
	codes := c.Unsubscribe(e.topic("a"), e.topic("none"), e.topic("b"), e.topic("a"))
	if e.v5() {
		require.Equal(e, []byte{0, 0x11, 0, 0x11}, codes)
	}
	for _, name := range []string{"a", "b", "d"} {
		e.publish(pub, e.topic(name), name, 0)
	}
	c.ExpectPublish(e.topic("d"), "d")
	c.Nothing()
}
