package conformance

import (
	"io"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Data representation, fixed header and packet identifiers: chapters 1 and 2.

// stringPlaces makes a packet for every place where a client may put a string.
func (e *env) stringPlaces(s string) (connects, others map[string][]byte) {
	connects = map[string][]byte{
		"client identifier": e.rawConnect(cleanFlag, str(s)),
		"user name":         e.rawConnect(cleanFlag|userFlag, str(e.id("u")), str(s)),
		"will topic":        e.rawConnect(cleanFlag|willFlag, str(e.id("w")), e.props(), str(s), str("gone")),
	}
	others = map[string][]byte{
		"topic name":           e.rawPublish(0x30, s, nil, e.props(), "x"),
		"filter":               e.rawSubscribe(s, 0),
		"filter to be removed": e.rawUnsubscribe(s),
	}
	if e.v5() {
		for name, property := range map[string][]byte{
			"content type":   prop(packets.PropContentType, str(s)),
			"response topic": prop(packets.PropResponseTopic, str(s)),
		} {
			others[name] = e.rawPublish(0x30, e.topic("t"), nil, e.props(property), "x")
		}
	}
	return connects, others
}

func (e *env) refusesStrings(bad map[string]string) {
	for what, s := range bad {
		connects, others := e.stringPlaces(s)
		for place, data := range connects {
			e.refuses(what+" in the "+place, data, 0x81)
		}
		for place, data := range others {
			e.breaks(what+" in the "+place, data, 0x81)
		}
	}
}

func illFormedStrings(e *env) {
	e.refusesStrings(map[string]string{
		"a surrogate":                 "a\xED\xA0\x80b",
		"the highest surrogate":       "a\xED\xBF\xBFb",
		"a surrogate pair":            "a\xED\xA0\xBD\xED\xB8\x80b",
		"an overlong slash":           "a\xC0\xAFb",
		"an overlong NUL":             "a\xC0\x80b",
		"a character that ends early": "a\xE2\x82",
		"a lone continuation":         "a\x80b",
		"a code point above U+10FFFF": "a\xF4\x90\x80\x80b",
		"a byte that never occurs":    "a\xFFb",
	})
	for _, fine := range []string{"\u00e9", "\u20ac", "\U0001F600", "\uE000", "\U0010FFFF"} {
		sub := e.subscriber("sub", 0, e.topic(fine))
		e.publish(e.connect("pub"), e.topic(fine), "x", 0)
		sub.ExpectPublish(e.topic(fine), "x")
	}
}

func nulInStrings(e *env) {
	e.refusesStrings(map[string]string{"U+0000": "a\x00b", "U+0000 alone": "\x00"})
}

func byteOrderMarkIsKept(e *env) {
	marked := e.topic("\uFEFFt")
	with, without, pub := e.subscriber("with", 0, marked), e.subscriber("without", 0, e.topic("t")), e.connect("pub")
	e.publish(pub, marked, "\uFEFFpayload", 0)
	with.ExpectPublish(marked, "\uFEFFpayload")
	without.Nothing()
}

func shortestIntegers(e *env) {
	e.breaks("a long form of the property length", raw(0x30, str(e.topic("t")), []byte{0x80, 0x00}), 0x81)
	e.breaks("a long form of the remaining length", []byte{0xC0, 0x80, 0x00}, 0x81)
	e.breaks("a remaining length of five bytes", []byte{0xC0, 0x80, 0x80, 0x80, 0x80, 0x01}, 0x81)
	e.breaks("a property length of five bytes", raw(0x30, str(e.topic("t")), []byte{0x80, 0x80, 0x80, 0x80, 0x01}), 0x81)
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	rest := len(str(e.topic("t"))) + len(e.props())
	for _, remaining := range []int{127, 128, 16_383, 16_384} {
		payload := strings.Repeat("x", remaining-rest)
		e.publish(pub, e.topic("t"), payload, 0)
		want := e.rawPublish(0x30, e.topic("t"), nil, e.props(), payload)
		got := make([]byte, len(want))
		require.NoError(e, sub.Conn.SetReadDeadline(time.Now().Add(testmqtt.Patience)))
		_, err := io.ReadFull(sub.Conn, got)
		require.NoError(e, err)
		require.Equal(e, want[:8], got[:8])
	}
}

func pairsOfStrings(e *env) {
	for what, bad := range map[string][]byte{
		"ill-formed name":  join(str("a\xED\xA0\x80"), str("v")),
		"ill-formed value": join(str("k"), str("\xFF")),
		"NUL in the name":  join(str("a\x00"), str("v")),
		"NUL in the value": join(str("k"), str("\x00")),
	} {
		user := prop(packets.PropUser, bad)
		e.breaks(what+" in PUBLISH", e.rawPublish(0x30, e.topic("t"), nil, e.props(user), "x"), 0x81)
		e.breaks(what+" in SUBSCRIBE", raw(0x82, u16(7), e.props(user), str(e.topic("t")), []byte{0}), 0x81)
		e.breaks(what+" in DISCONNECT", raw(0xE0, []byte{0}, e.props(user)), 0x81)
		e.refuses(what+" in CONNECT", e.rawConnect5(user), 0x81)
	}
}

// wrongFlags are packets that would be fine but for the lower bits of their first byte.
func (e *env) wrongFlags() map[string][]byte {
	return map[string][]byte{
		"PUBACK":      raw(0x41, u16(7)),
		"PUBREC":      raw(0x52, u16(7)),
		"PUBREL 0":    raw(0x60, u16(7)),
		"PUBREL 3":    raw(0x63, u16(7)),
		"PUBCOMP":     raw(0x74, u16(7)),
		"SUBSCRIBE 0": raw(0x80, u16(7), e.props(), str(e.topic("t")), []byte{0}),
		"SUBSCRIBE 3": raw(0x83, u16(7), e.props(), str(e.topic("t")), []byte{0}),
		"UNSUBSCRIBE": raw(0xA0, u16(7), e.props(), str(e.topic("t"))),
		"PINGREQ":     raw(0xC1),
		"DISCONNECT":  raw(0xE8),
	}
}

func invalidFlags(e *env) {
	for name, data := range e.wrongFlags() {
		e.breaks(name, data, 0x81)
	}
	connect := e.rawConnect(cleanFlag, str(e.id("c")))
	connect[0] = 0x11
	c := e.dial()
	c.SendRaw(connect...)
	if last := c.ExpectClosed(); last.FixedHeader.Type != 0 { // whether it is a CONNECT at all is open to doubt
		require.Equal(e, byte(0x81), last.ReasonCode)
	}
	serverFlags(e)
}

// serverFlags looks at the first byte of everything that a server sends.
func serverFlags(e *env) {
	c := e.dial()
	c.Send(c.ConnectPacket(e.id("c")))
	expect := func(want byte) {
		first, _ := e.next(c)
		require.Equalf(e, want, first, "first byte: %02X", first)
	}
	expect(0x20)
	c.SendRaw(e.rawSubscribe(e.topic("t"), 2)...)
	expect(0x90)
	c.SendRaw(e.rawPublish(0x32, e.topic("other"), u16(1), e.props(), "x")...)
	expect(0x40)
	c.SendRaw(e.rawPublish(0x34, e.topic("t"), u16(2), e.props(), "x")...)
	seen := map[byte]bool{}
	for range 2 {
		first, body := e.next(c)
		seen[first] = true
		if first == 0x34 {
			topicLen := len(str(e.topic("t")))
			c.SendRaw(raw(0x50, body[topicLen:topicLen+2])...)
		}
	}
	require.Equal(e, map[byte]bool{0x50: true, 0x34: true}, seen)
	expect(0x62)
	c.SendRaw(raw(0x62, u16(2))...)
	expect(0x70)
	c.SendRaw(raw(0xC0)...)
	expect(0xD0)
	c.SendRaw(e.rawUnsubscribe(e.topic("t"))...)
	expect(0xB0)
}

func qos0HasNoPacketIdentifier(e *env) {
	sub, pub := e.subscriber("sub", 2, e.topic("t")), e.connect("pub")
	pub.SendRaw(e.rawPublish(0x30, e.topic("t"), nil, e.props(), "\x00\x07x")...)
	first, body := e.next(sub)
	require.Equal(e, byte(0x30), first)
	require.Equal(e, join(str(e.topic("t")), e.props(), []byte("\x00\x07x")), body)
}

func zeroPacketIdentifier(e *env) {
	e.breaks("SUBSCRIBE", raw(0x82, u16(0), e.props(), str(e.topic("t")), []byte{0}), 0x81, 0x82)
	e.breaks("UNSUBSCRIBE", raw(0xA2, u16(0), e.props(), str(e.topic("t"))), 0x81, 0x82)
	e.breaks("PUBLISH QoS 1", e.rawPublish(0x32, e.topic("t"), u16(0), e.props(), "x"), 0x81, 0x82)
	e.breaks("PUBLISH QoS 2", e.rawPublish(0x34, e.topic("t"), u16(0), e.props(), "x"), 0x81, 0x82)
}

// serverPacketIdentifiers: those of unacknowledged messages are not 0 and differ, and one that was acknowledged out of
// turn does not disturb the others.
func serverPacketIdentifiers(e *env) {
	sub, pub := e.subscriber("sub", 2, e.topic("t")), e.connect("pub")
	seen := map[uint16]bool{0: true}
	for i := range 40 {
		e.publish(pub, e.topic("t"), "x", byte(1+i%2))
		pk := sub.Expect(packets.Publish)
		require.False(e, seen[pk.PacketID], "packet identifier %d is 0 or in use", pk.PacketID)
		if i%4 == 2 {
			sub.Ack(packets.Puback, pk.PacketID)
			continue
		}
		seen[pk.PacketID] = true
	}
}

func ackPacketIdentifiers(e *env) {
	sub, pub := e.subscriber("sub", 2, e.topic("t")), e.connect("pub")
	for _, id := range []uint16{1, 77, 65_535} {
		pub.Publish(e.topic("t"), "one", 1, id)
		require.Equal(e, id, pub.Expect(packets.Puback).PacketID)
		pub.Publish(e.topic("t"), "two", 2, id)
		require.Equal(e, id, pub.Expect(packets.Pubrec).PacketID)
		pub.Ack(packets.Pubrel, id)
		require.Equal(e, id, pub.Expect(packets.Pubcomp).PacketID)
		e.take(sub, e.topic("t"), "one", 1)
		e.take(sub, e.topic("t"), "two", 2)
	}
}

func subackPacketIdentifiers(e *env) {
	c := e.connect("c")
	for _, id := range []uint16{1, 513, 65_535} {
		c.SendRaw(raw(0x82, u16(id), e.props(), str(e.topic("t")), []byte{0})...)
		require.Equal(e, id, c.Expect(packets.Suback).PacketID)
		c.SendRaw(raw(0xA2, u16(id), e.props(), str(e.topic("t")))...)
		require.Equal(e, id, c.Expect(packets.Unsuback).PacketID)
	}
}

// identifiersAreFreeAgain: after its acknowledgement a client may use a packet identifier for something else.
func identifiersAreFreeAgain(e *env) {
	sub, pub := e.subscriber("sub", 0, e.topic("t")), e.connect("pub")
	for _, qos := range []byte{1, 2, 2, 1} {
		e.publish(pub, e.topic("t"), "x", qos)
		sub.ExpectPublish(e.topic("t"), "x")
	}
	pub.SendRaw(raw(0x82, u16(60_000), e.props(), str(e.topic("own")), []byte{0})...)
	pub.Expect(packets.Suback)
	pub.SendRaw(raw(0xA2, u16(60_000), e.props(), str(e.topic("own")))...)
	pub.Expect(packets.Unsuback)
}

// identifiersOfBothDirections: a client and the server number their packets independently of each other.
func identifiersOfBothDirections(e *env) {
	c, pub := e.subscriber("c", 2, e.topic("down")), e.connect("pub")
	for _, qos := range []byte{1, 2} {
		e.publish(pub, e.topic("down"), "order", qos)
		down := c.ExpectPublish(e.topic("down"), "order")
		c.Publish(e.topic("up"), "report", qos, down.PacketID)
		c.Expect(map[byte]byte{1: packets.Puback, 2: packets.Pubrec}[qos])
		if qos == 2 {
			c.Ack(packets.Pubrec, down.PacketID)
			c.Expect(packets.Pubrel)
			c.Ack(packets.Pubrel, down.PacketID)
			require.Zero(e, c.Expect(packets.Pubcomp).ReasonCode)
			c.Ack(packets.Pubcomp, down.PacketID)
		} else {
			c.Ack(packets.Puback, down.PacketID)
		}
	}
	c.Nothing()
}

func emptyPropertiesHaveALength(e *env) {
	sub, pub := e.dial(), e.connect("pub")
	sub.MustConnect(e.id("sub"))
	sub.SendRaw(e.rawSubscribe(e.topic("t"), 0)...)
	_, body := e.next(sub)
	require.Equal(e, join(u16(7), []byte{0}, []byte{0}), body, "SUBACK")
	e.publish(pub, e.topic("t"), "x", 0)
	_, body = e.next(sub)
	require.Equal(e, join(str(e.topic("t")), []byte{0}, []byte("x")), body, "PUBLISH")
	sub.SendRaw(e.rawUnsubscribe(e.topic("t"))...)
	_, body = e.next(sub)
	require.Equal(e, join(u16(7), []byte{0}, []byte{0}), body, "UNSUBACK")
	e.breaks("PUBLISH without a property length", raw(0x30, str(e.topic("t"))), 0x81)
	e.breaks("SUBSCRIBE without a property length", raw(0x82, u16(7)), 0x81, 0x82)
}
