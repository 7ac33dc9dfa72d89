package conformance

import (
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// CONNECT, but for wills and sessions: section 3.1.

func connectComesFirst(e *env) {
	for what, data := range map[string][]byte{
		"PUBLISH":    e.rawPublish(0x30, e.topic("t"), nil, e.props(), "x"),
		"SUBSCRIBE":  e.rawSubscribe(e.topic("t"), 0),
		"PINGREQ":    raw(0xC0),
		"DISCONNECT": raw(0xE0),
		"AUTH":       raw(0xF0),
		"CONNACK":    raw(0x20, []byte{0, 0}),
	} {
		c := e.dial()
		c.ID = what
		c.SendRaw(data...)
		require.Zero(e, c.ExpectClosed().FixedHeader.Type, "%s: a packet came before the end", what)
	}
}

func secondConnect(e *env) {
	c := e.connect("c")
	pk := c.ConnectPacket(e.id("c"))
	c.Send(pk)
	c.ExpectDisconnect(0x82)
}

// protocolName: MQTT 5 may be told 0x84, and 3.1.1 leaves it open how another protocol is answered; what counts is that
// nobody is connected.
func protocolName(e *env) {
	for _, name := range []string{"", "mqtt", "MQTT ", "MQT", "HTTP", "MQTT\x00"} {
		c := e.dial()
		c.ID = name
		c.SendRaw(raw(0x10, str(name), []byte{e.version, cleanFlag}, u16(60), e.props(), str(e.id("c")))...)
		last := c.ExpectClosed()
		if last.FixedHeader.Type != 0 {
			require.Equal(e, byte(packets.Connack), last.FixedHeader.Type)
			require.NotZero(e, last.ReasonCode)
		}
	}
}

func protocolLevel311(e *env) {
	for _, level := range []byte{0, 1, 2, 3} {
		c := e.dial()
		c.SendRaw(raw(0x10, str("MQTT"), []byte{level, cleanFlag}, u16(60), str(e.id("c")))...)
		first, body := e.next(c)
		require.Equal(e, []byte{0x20, 0, 1}, join([]byte{first}, body), "CONNACK to level %d", level)
		c.ExpectClosed()
	}
}

func protocolLevel5(e *env) {
	for _, level := range []byte{6, 7, 100} {
		c := e.dial()
		c.SendRaw(raw(0x10, str("MQTT"), []byte{level, cleanFlag}, u16(60), e.props(), str(e.id("c")))...)
		require.Equal(e, byte(0x84), c.ExpectClosed().ReasonCode, "CONNACK to level %d", level)
	}
}

func reservedConnectFlag(e *env) {
	e.refuses("reserved flag", e.rawConnect(cleanFlag|1, str(e.id("c"))), 0x81)
}

func userNameWithoutFlag(e *env) {
	e.refuses("user name", e.rawConnect(cleanFlag, str(e.id("c")), str("user")), 0x81)
}

func userNameMissing(e *env) {
	e.refuses("no user name", e.rawConnect(cleanFlag|userFlag, str(e.id("c"))), 0x81)
	c := e.dial()
	c.SendRaw(e.rawConnect(cleanFlag|userFlag, str(e.id("c")), str("user"))...)
	require.Zero(e, c.Expect(packets.Connack).ReasonCode)
}

func passwordWithoutFlag(e *env) {
	e.refuses("password", e.rawConnect(cleanFlag|userFlag, str(e.id("c")), str("user"), str("secret")), 0x81)
}

func passwordMissing(e *env) {
	e.refuses("no password", e.rawConnect(cleanFlag|userFlag|passwordFlag, str(e.id("c")), str("user")), 0x81)
	c := e.dial()
	c.SendRaw(e.rawConnect(cleanFlag|userFlag|passwordFlag, str(e.id("c")), str("user"), str("\xFF\x00"))...)
	require.Zero(e, c.Expect(packets.Connack).ReasonCode, "a password is binary data")
}

func passwordNeedsUserName(e *env) {
	e.refuses("password alone", e.rawConnect(cleanFlag|passwordFlag, str(e.id("c")), str("secret")), 0x81)
}

func passwordAlone(e *env) {
	c := e.dial()
	c.SendRaw(e.rawConnect(cleanFlag|passwordFlag, str(e.id("c")), str("secret"))...)
	require.Zero(e, c.Expect(packets.Connack).ReasonCode)
}

// connectFields: all fields of a full CONNECT are understood where the specification puts them.
func connectFields(e *env) {
	witness := e.subscriber("witness", 1, e.topic("will"))
	c := e.dial()
	c.ID = e.id("full")
	c.SendRaw(e.rawConnect(cleanFlag|willFlag|willQoS1|userFlag|passwordFlag, str(c.ID), e.props(),
		str(e.topic("will")), str("gone"), str("user"), str("secret"))...)
	require.Zero(e, c.Expect(packets.Connack).ReasonCode)
	info, ok := e.Client(c.ID)
	require.True(e, ok)
	require.Equal(e, "user", info.Username)
	c.Drop()
	e.take(witness, e.topic("will"), "gone", 1)
}

func clientIdentifierNamesTheState(e *env) {
	for _, name := range []string{"one", "two"} {
		c := e.connect(name, testmqtt.Durable())
		c.Subscribe(1, e.topic(name))
		e.leave(c)
	}
	pub := e.connect("pub")
	e.publish(pub, e.topic("one"), "for one", 1)
	e.publish(pub, e.topic("two"), "for two", 1)
	for _, name := range []string{"two", "one"} {
		c, ack := e.reconnect(name, testmqtt.Durable())
		require.True(e, ack.SessionPresent)
		e.take(c, e.topic(name), "for "+name, 1)
		c.Nothing()
	}
}

func clientIdentifierMissing(e *env) {
	e.refuses("no payload", e.rawConnect(cleanFlag), 0x81)
	e.refuses("half a length", e.rawConnect(cleanFlag, []byte{0}), 0x81)
	e.refuses("longer than the packet", e.rawConnect(cleanFlag, []byte{0, 9}, []byte("short")), 0x81)
}

func illFormedClientIdentifier(e *env) {
	e.refuses("ill-formed", e.rawConnect(cleanFlag, str("a\xC3\x28")), 0x81)
}

func illFormedWillTopic(e *env) {
	e.refuses("ill-formed", e.rawConnect(cleanFlag|willFlag, str(e.id("c")), e.props(), str("a\xC3\x28"), str("x")), 0x81)
}

func illFormedUserName(e *env) {
	e.refuses("ill-formed", e.rawConnect(cleanFlag|userFlag, str(e.id("c")), str("a\xC3\x28")), 0x81)
}

func simpleClientIdentifiers(e *env) {
	own := e.alone(broker.Options{})
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for n := 1; n <= 23; n++ {
		at := (n * 7) % (len(letters) - 23)
		own.dial().MustConnect(letters[at : at+n])
	}
	for _, letter := range letters {
		own.dial().MustConnect(string(letter))
	}
}

// assignedClientIdentifier: without an identifier every client gets one of its own.
func assignedClientIdentifier(e *env) {
	first, second := e.dial(), e.dial()
	a, b := first.MustConnect(""), second.MustConnect("")
	if e.v5() {
		require.NotEmpty(e, a.Properties.AssignedClientID)
		require.NotEmpty(e, b.Properties.AssignedClientID)
		require.NotEqual(e, a.Properties.AssignedClientID, b.Properties.AssignedClientID)
	}
	first.Nothing() // the second has not taken the first one's place
	first.Subscribe(0, e.topic("t"))
	e.publish(second, e.topic("t"), "x", 0)
	first.ExpectPublish(e.topic("t"), "x")
}

func assignedClientIdentifierIsReal(e *env) {
	c := e.dial()
	id := c.MustConnect("", testmqtt.Durable()).Properties.AssignedClientID
	require.NotEmpty(e, id)
	c.ID = id
	c.Subscribe(1, e.topic("t"))
	e.leave(c)
	e.publish(e.connect("pub"), e.topic("t"), "x", 1)
	again := e.dial()
	ack := again.MustConnect(id, testmqtt.Durable())
	require.True(e, ack.SessionPresent)
	require.Empty(e, ack.Properties.AssignedClientID)
	e.take(again, e.topic("t"), "x", 1)
}

func emptyIdentifierNeedsCleanSession(e *env) {
	c := e.dial()
	c.SendRaw(e.rawConnect(0, str(""))...)
	first, body := e.next(c)
	require.Equal(e, []byte{0x20, 0, 2}, join([]byte{first}, body))
	require.Zero(e, c.ExpectClosed().FixedHeader.Type)
}

// rejectedClientIdentifier: one that belongs to somebody else is the only kind that this broker rejects.
func rejectedClientIdentifier(e *env) {
	owner := e.connect("c", testmqtt.User("owner", ""))
	thief := e.dial()
	ack := thief.Connect(e.id("c"), testmqtt.User("thief", ""))
	require.Equal(e, map[bool]byte{true: 0x85, false: 2}[e.v5()], ack.ReasonCode)
	require.Zero(e, thief.ExpectClosed().FixedHeader.Type)
	owner.Nothing()
}

func malformedConnect(e *env) {
	id := str(e.id("c"))
	for what, data := range map[string][]byte{
		"empty":                raw(0x10),
		"name only":            raw(0x10, str("MQTT")),
		"no flags":             raw(0x10, str("MQTT"), []byte{e.version}),
		"no keep alive":        raw(0x10, str("MQTT"), []byte{e.version, cleanFlag}),
		"half a keep alive":    raw(0x10, str("MQTT"), []byte{e.version, cleanFlag, 0}),
		"something at the end": e.rawConnect(cleanFlag, id, []byte("more")),
		"no will payload":      e.rawConnect(cleanFlag|willFlag, id, e.props(), str(e.topic("w"))),
	} {
		c := e.dial()
		c.ID = what
		c.SendRaw(data...)
		last := c.ExpectClosed()
		if e.v5() && last.FixedHeader.Type != 0 {
			require.Equal(e, byte(packets.Connack), last.FixedHeader.Type, what)
			require.Contains(e, []byte{0x81, 0x82}, last.ReasonCode, what)
		} else {
			require.Zero(e, last.FixedHeader.Type, "%s: a packet came before the end", what)
		}
	}
}

func failedAuthentication(e *env) {
	c := e.dial()
	ack := c.Connect(e.id("c"), testmqtt.User("refused", "secret"))
	require.Equal(e, map[bool]byte{true: 0x86, false: 4}[e.v5()], ack.ReasonCode)
	require.Zero(e, c.ExpectClosed().FixedHeader.Type)
}

func takeover(e *env) {
	first := e.connect("c")
	second := e.connect("c")
	first.ExpectDisconnect(0x8E)
	second.Nothing()
}

func cleanStartAtTakeover(e *env) {
	first := e.connect("c", testmqtt.Durable())
	first.Subscribe(1, e.topic("t"))
	second, ack := e.reconnect("c", testmqtt.Durable())
	require.True(e, ack.SessionPresent)
	first.ExpectDisconnect(0x8E)
	e.publish(e.connect("pub"), e.topic("t"), "x", 1)
	e.take(second, e.topic("t"), "x", 1)
	third, ack := e.reconnect("c", testmqtt.Clean(true))
	require.False(e, ack.SessionPresent)
	second.ExpectDisconnect(0x8E)
	e.publish(e.connect("pub"), e.topic("t"), "x", 1)
	third.Nothing()
}

func acceptedConnect(e *env) {
	for name, clean := range map[string]bool{"clean": true, "durable": false} {
		require.Zero(e, e.dial().Connect(e.id(name), testmqtt.Clean(clean)).ReasonCode)
	}
}

// nothingAfterARefusal: what follows a refused CONNECT in the same segment is ignored.
func nothingAfterARefusal(e *env) {
	witness, c := e.subscriber("witness", 1, e.topic("t")), e.dial()
	c.ID = e.id("c")
	c.SendRaw(join(e.rawConnect(cleanFlag|userFlag, str(c.ID), str("refused")),
		e.rawPublish(0x32, e.topic("t"), u16(1), e.props(), "x"))...)
	require.NotZero(e, c.Expect(packets.Connack).ReasonCode)
	require.Zero(e, c.ExpectClosed().FixedHeader.Type)
	witness.Nothing()
	e.refuses("malformed, then PUBLISH", join(e.rawConnect(cleanFlag|1, str(c.ID)),
		e.rawPublish(0x32, e.topic("t"), u16(1), e.props(), "x")), 0x81)
	witness.Nothing()
}

func longClientIdentifier(e *env) {
	e.dial().MustConnect(e.id(strings.Repeat("é-/+#$ ", 100)))
}
