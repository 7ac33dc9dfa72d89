package conformance

import (
	"os"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// The properties of PUBLISH: section 3.3.2.3.

// forwarded publishes a message with properties to a connected subscriber, to a session that comes back, and as a
// retained message, and returns the properties that each of them got.
func (e *env) forwarded(set func(*packets.Properties)) (got []packets.Properties) {
	e.Helper()
	now, pub := e.subscriber("now", 1, e.topic("t")), e.connect("pub")
	e.sleeper(1)
	pk := testmqtt.PublishPacket(e.topic("t"), []byte("x"), 1, 0)
	pk.FixedHeader.Retain = true
	set(&pk.Properties)
	e.publishPacket(pub, pk)
	got = append(got, e.take(now, e.topic("t"), "x", 1).Properties)
	back, _ := e.reconnect("sleeper", testmqtt.Durable())
	got = append(got, e.take(back, e.topic("t"), "x", 1).Properties)
	late := e.subscriber("late", 1, e.topic("t"))
	return append(got, e.take(late, e.topic("t"), "x", 1).Properties)
}

func payloadFormat(e *env) {
	for format := range byte(2) {
		set := func(p *packets.Properties) { p.PayloadFormatFlag, p.PayloadFormat = true, format }
		for _, p := range e.anew().forwarded(set) {
			require.True(e, p.PayloadFormatFlag)
			require.Equal(e, format, p.PayloadFormat)
		}
	}
	for _, p := range e.anew().forwarded(func(*packets.Properties) {}) {
		require.False(e, p.PayloadFormatFlag)
	}
}

func responseTopic(e *env) {
	for _, p := range e.forwarded(func(p *packets.Properties) { p.ResponseTopic = "answers/é//$x" }) {
		require.Equal(e, "answers/é//$x", p.ResponseTopic)
	}
}

func correlationData(e *env) {
	data := []byte("\x00\xFF\xED\xA0\x80 any bytes")
	for _, p := range e.forwarded(func(p *packets.Properties) { p.CorrelationData = data }) {
		require.Equal(e, data, p.CorrelationData)
	}
}

func userProperties(e *env) {
	user := pairs("name", "value", "", "", "Naïve", strings.Repeat("x", 1000))
	for _, p := range e.forwarded(func(p *packets.Properties) { p.User = user }) {
		require.ElementsMatch(e, user, p.User)
	}
}

func userPropertiesInOrder(e *env) {
	user := pairs("z", "1", "a", "2", "z", "1", "m", "3", "a", "1")
	for _, p := range e.forwarded(func(p *packets.Properties) { p.User = user }) {
		require.Equal(e, user, p.User)
	}
}

func contentType(e *env) {
	for _, p := range e.forwarded(func(p *packets.Properties) { p.ContentType = "application/x-é; a=b" }) {
		require.Equal(e, "application/x-é; a=b", p.ContentType)
	}
}

// publishWith makes a QoS 0 PUBLISH with one property.
func (e *env) publishWith(id byte, value []byte) []byte {
	return e.rawPublish(0x30, e.topic("t"), nil, e.props(prop(id, value)), "x")
}

func illFormedContentType(e *env) {
	for _, bad := range []string{"a\xC3\x28", "a\x00"} {
		e.breaks("content type", e.publishWith(packets.PropContentType, str(bad)), 0x81)
	}
}

func illFormedResponseTopic(e *env) {
	for _, bad := range []string{"a\xC3\x28", "a\x00"} {
		e.breaks("response topic", e.publishWith(packets.PropResponseTopic, str(bad)), 0x81)
	}
}

func wildcardInResponseTopic(e *env) {
	witness := e.subscriber("witness", 0, e.topic("t"))
	for _, bad := range []string{"a/#", "+/b", "#"} {
		e.breaks(bad, e.publishWith(packets.PropResponseTopic, str(bad)), 0x81, 0x82, 0x90)
	}
	witness.Nothing()
}

// expiring makes a PUBLISH that expires after so many seconds.
func (e *env) expiring(payload string, qos byte, seconds uint32) packets.Packet {
	pk := testmqtt.PublishPacket(e.topic("t"), []byte(payload), qos, 0)
	pk.Properties.MessageExpiryInterval = seconds
	return pk
}

func expiredInTheQueue(e *env) {
	e.sleeper(2)
	pub := e.connect("pub")
	e.publishPacket(pub, e.expiring("short", 1, 1))
	e.publishPacket(pub, e.expiring("short", 2, 1))
	e.publishPacket(pub, e.expiring("long", 1, 1000))
	e.publish(pub, e.topic("t"), "forever", 1)
	e.pass(1100 * time.Millisecond)
	c, _ := e.reconnect("sleeper", testmqtt.Durable())
	e.take(c, e.topic("t"), "long", 1)
	e.take(c, e.topic("t"), "forever", 1)
	c.Nothing()
}

func expiredRetained(e *env) {
	pk := e.expiring("kept", 1, 1)
	pk.FixedHeader.Retain = true
	e.publishPacket(e.connect("pub"), pk)
	e.pass(1100 * time.Millisecond)
	require.Empty(e, e.lateSubscriber("late", e.topic("t")))
}

func expiresAtOnce(e *env) {
	e.sleeper(1)
	pub := e.connect("pub")
	zero := e.props(prop(packets.PropMessageExpiryInterval, u32(0)))
	pub.SendRaw(e.rawPublish(0x32, e.topic("t"), u16(1), zero, "x")...)
	pub.Expect(packets.Puback)
	c, _ := e.reconnect("sleeper", testmqtt.Durable())
	c.Nothing()
}

// expiryIsCountedDown: in the queue of a session and as a retained message; a message that did not wait keeps it.
func expiryIsCountedDown(e *env) {
	e.sleeper(1)
	now, pub := e.subscriber("now", 1, e.topic("t")), e.connect("pub")
	pk := e.expiring("x", 1, 1000)
	pk.FixedHeader.Retain = true
	e.publishPacket(pub, pk)
	require.LessOrEqual(e, e.take(now, e.topic("t"), "x", 1).Properties.MessageExpiryInterval, uint32(1000))
	e.pass(2100 * time.Millisecond)
	back, _ := e.reconnect("sleeper", testmqtt.Durable())
	late := e.subscriber("late", 1, e.topic("t"))
	for _, c := range []*testmqtt.Client{back, late} {
		left := e.take(c, e.topic("t"), "x", 1).Properties.MessageExpiryInterval
		require.LessOrEqual(e, left, uint32(998))
		require.Greater(e, left, uint32(900))
	}
}

func topicAliasMaximum(n uint16) testmqtt.Option {
	return func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = n }
}

// alias publishes with a topic alias; the topic may be empty.
func (e *env) alias(c *testmqtt.Client, topic, payload string, alias uint16) {
	pk := testmqtt.PublishPacket(topic, []byte(payload), 0, 0)
	pk.Properties.TopicAliasFlag, pk.Properties.TopicAlias = true, alias
	c.Send(pk)
}

func aliasesEndWithTheConnection(e *env) {
	c := e.connect("c", testmqtt.Durable(), topicAliasMaximum(5))
	c.Subscribe(0, e.topic("t"))
	e.alias(c, e.topic("t"), "x", 1)
	require.Equal(e, e.topic("t"), c.Expect(packets.Publish).TopicName)
	e.leave(c)
	c, ack := e.reconnect("c", testmqtt.Durable(), topicAliasMaximum(5))
	require.True(e, ack.SessionPresent)
	e.publish(e.connect("pub"), e.topic("t"), "y", 0)
	require.Equal(e, e.topic("t"), c.Expect(packets.Publish).TopicName, "the server begins anew")
	e.alias(c, "", "x", 1)
	require.Contains(e, []byte{0x82, 0x94}, c.ExpectClosed().ReasonCode)
}

func aliasZero(e *env) {
	e.breaks("alias 0", e.publishWith(packets.PropTopicAlias, u16(0)), 0x94)
}

func aliasTooLarge(e *env) {
	c, ack := e.reconnect("c")
	most := ack.Properties.TopicAliasMaximum
	require.NotZero(e, most)
	witness := e.subscriber("witness", 0, e.topic("t"))
	e.alias(c, e.topic("t"), "x", most+1)
	c.ExpectDisconnect(0x94)
	witness.Nothing()
}

// allAliases: every one up to the maximum can be set, used, and set again.
func allAliases(e *env) {
	c, ack := e.reconnect("c")
	sub := e.subscriber("sub", 0, e.topic("+"))
	most := ack.Properties.TopicAliasMaximum
	for alias := uint16(1); alias <= most; alias++ {
		e.alias(c, e.topic(string(rune('A'+alias))), "set", alias)
		sub.ExpectPublish(e.topic(string(rune('A'+alias))), "set")
	}
	for alias := most; alias > 0; alias-- {
		e.alias(c, "", "used", alias)
		sub.ExpectPublish(e.topic(string(rune('A'+alias))), "used")
	}
	e.alias(c, e.topic("other"), "changed", 1)
	sub.ExpectPublish(e.topic("other"), "changed")
	e.alias(c, "", "used", 1)
	sub.ExpectPublish(e.topic("other"), "used")
}

func unknownAlias(e *env) {
	c := e.connect("c")
	e.alias(c, "", "x", 3)
	c.ExpectDisconnect(0x82)
}

// aliasesOfTheServer: never above the client's maximum nor 0, and each stands for the topic that it came with.
func aliasesOfTheServer(e *env) {
	sub, pub := e.connect("sub", topicAliasMaximum(2)), e.connect("pub")
	sub.Subscribe(1, e.topic("+"))
	known := map[uint16]string{}
	for range 3 {
		for _, name := range []string{"a", "b", "c", "d"} {
			e.publish(pub, e.topic(name), name, 1)
			pk := sub.Expect(packets.Publish)
			sub.Ack(packets.Puback, pk.PacketID)
			topic, p := pk.TopicName, pk.Properties
			if p.TopicAliasFlag {
				require.NotZero(e, p.TopicAlias)
				require.LessOrEqual(e, p.TopicAlias, uint16(2))
				if topic == "" {
					topic = known[p.TopicAlias]
				}
				known[p.TopicAlias] = topic
			}
			require.Equal(e, e.topic(name), topic)
			require.Equal(e, name, string(pk.Payload))
		}
	}
}

func noAliasesOfTheServer(e *env) {
	pub := e.connect("pub")
	absent := func(c *testmqtt.Client) { c.MustConnect(e.id("absent")) }
	zero := func(c *testmqtt.Client) {
		c.SendRaw(e.rawConnect5(prop(packets.PropTopicAliasMaximum, u16(0)))...)
		c.Expect(packets.Connack)
	}
	for _, connect := range []func(*testmqtt.Client){absent, zero} {
		sub := e.dial()
		connect(sub)
		sub.Subscribe(0, e.topic("t"))
		for range 3 {
			e.publish(pub, e.topic("t"), "x", 0)
			require.False(e, sub.ExpectPublish(e.topic("t"), "x").Properties.TopicAliasFlag)
		}
	}
}

func noPacketIsTooLarge(e *env) {
	packetsFitTheClient(e)
	answersFitTheClient(e)
}

// answersFitTheClient: an answer that would be too large, and from which nothing can be left out, is not sent: the
// connection ends, for want of anything better.
func answersFitTheClient(e *env) {
	c := e.dial()
	c.Send(c.ConnectPacket(e.id("tiny"), maximumPacketSize(8)))
	e.onlySmallPackets(c, 8)
	c = e.connect("small", maximumPacketSize(20))
	subscribe, unsubscribe := join(u16(7), e.props()), join(u16(8), e.props())
	for range 30 {
		subscribe = join(subscribe, str("t"), []byte{0})
		unsubscribe = join(unsubscribe, str("t"))
	}
	c.SendRaw(raw(0x82, subscribe)...)
	e.onlySmallPackets(c, 20)
	c = e.connect("small", maximumPacketSize(20))
	c.SendRaw(raw(0xA2, unsubscribe)...)
	e.onlySmallPackets(c, 20)
}

// onlySmallPackets reads until the connection is closed.
func (e *env) onlySmallPackets(c *testmqtt.Client, most int) {
	e.Helper()
	for {
		first, body, err := c.ReadRaw(testmqtt.Patience)
		if err != nil {
			require.NotErrorIs(e, err, os.ErrDeadlineExceeded)
			return
		}
		require.LessOrEqual(e, 2+len(body), most, "a packet of type %d", first>>4)
	}
}

// packetsFitTheClient: a message that would be too large for it is not sent to it, and one that just fits is; also when
// the server would use a topic alias.
func packetsFitTheClient(e *env) {
	pub := e.connect("pub")
	const most = 100
	fixed := len(e.rawPublish(0x32, e.topic("t"), u16(1), e.props(), ""))
	fits := strings.Repeat("x", most-fixed)
	for name, aliases := range map[string]uint16{"without": 0, "with": 5} {
		sub := e.connect(name, maximumPacketSize(most), topicAliasMaximum(aliases))
		sub.Subscribe(1, e.topic("t"))
		e.publish(pub, e.topic("t"), fits+"x", 1)
		e.publish(pub, e.topic("t"), fits, 1)
		e.publish(pub, e.topic("t"), fits+"xxx", 0) // which has no packet identifier
		first, body := e.next(sub)
		require.Equal(e, byte(0x32), first)
		require.LessOrEqual(e, 2+len(body), most, "%s aliases", name)
		require.Equal(e, str(e.topic("t")), body[:2+len(e.topic("t"))], "no alias was set by what was not sent")
		require.True(e, strings.HasSuffix(string(body), fits))
		sub.Nothing()
		e.leave(sub)
	}
}

// tooLargeIsDone: what is too large takes no place in the window and does not come back.
func tooLargeIsDone(e *env) {
	sub, pub := e.connect("sub", testmqtt.Durable(), maximumPacketSize(100), receiveMaximum(1)), e.connect("pub")
	sub.Subscribe(2, e.topic("t"))
	for qos := byte(1); qos <= 2; qos++ {
		e.publish(pub, e.topic("t"), strings.Repeat("x", 200), qos)
		e.publish(pub, e.topic("t"), "small", qos)
		e.take(sub, e.topic("t"), "small", qos)
	}
	e.drop(sub)
	sub, _ = e.reconnect("sub", testmqtt.Durable())
	sub.Nothing()
	e.publish(pub, e.topic("t"), strings.Repeat("x", 200), 1) // fits this connection, and not the next
	sub.Expect(packets.Publish)
	e.drop(sub)
	e.publish(pub, e.topic("t"), "small", 1)
	sub, _ = e.reconnect("sub", testmqtt.Durable(), maximumPacketSize(100), receiveMaximum(1))
	e.take(sub, e.topic("t"), "small", 1)
}

func receiveMaximum(n uint16) testmqtt.Option {
	return func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = n }
}
