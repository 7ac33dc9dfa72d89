package conformance

import (
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// The codes of acknowledgements (sections 3.4 to 3.7), PINGREQ, DISCONNECT and AUTH (3.12 to 3.15, 4.12), and WebSocket
// (6).

// pubackCodes and those below: the codes are among those that the packet may carry.
func pubackCodes(e *env) {
	allowed := []byte{0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
	c := e.connect("c")
	for _, name := range []string{e.topic("t"), e.topic("forbidden"), "$SYS/x"} {
		for qos, answer := range map[byte]byte{1: packets.Puback, 2: packets.Pubrec} {
			c.Publish(name, "x", qos, 1)
			require.Contains(e, allowed, c.Expect(answer).ReasonCode, name)
			c.Ack(packets.Pubrel, 1)
			c.Expect(packets.Pubcomp)
		}
	}
}

func pubrelCodes(e *env) {
	c := e.connect("c")
	c.Ack(packets.Pubrec, 99)
	pk := c.Expect(packets.Pubrel)
	require.EqualValues(e, 99, pk.PacketID)
	require.Equal(e, byte(0x92), pk.ReasonCode, "packet identifier not found")
	pubrelFollowsPubrec(e)
}

func pubcompCodes(e *env) {
	c := e.connect("c")
	c.Ack(packets.Pubrel, 99)
	pk := c.Expect(packets.Pubcomp)
	require.EqualValues(e, 99, pk.PacketID)
	require.Equal(e, byte(0x92), pk.ReasonCode, "packet identifier not found")
	pubcompFollowsPubrel(e)
}

// acksFit: what they could say beyond their code is left out where the client takes only small packets.
func (e *env) acksFit(packetType byte, provoke func(c *testmqtt.Client)) {
	e.Helper()
	for _, most := range []uint32{16, 20} {
		c := e.connect("c", maximumPacketSize(most))
		provoke(c)
		first, body := e.next(c)
		require.Equal(e, packetType, first>>4)
		require.LessOrEqual(e, 2+len(body), int(most))
	}
}

func pubackFits(e *env) {
	e.acksFit(packets.Puback, func(c *testmqtt.Client) { c.Publish(e.topic("forbidden"), "x", 1, 1) })
}

func pubrecFits(e *env) {
	e.acksFit(packets.Pubrec, func(c *testmqtt.Client) { c.Publish(e.topic("forbidden"), "x", 2, 1) })
}

func pubrelFits(e *env) {
	e.acksFit(packets.Pubrel, func(c *testmqtt.Client) { c.Ack(packets.Pubrec, 99) })
}

func pubcompFits(e *env) {
	e.acksFit(packets.Pubcomp, func(c *testmqtt.Client) { c.Ack(packets.Pubrel, 99) })
}

func disconnectFits(e *env) {
	e.acksFit(packets.Disconnect, func(c *testmqtt.Client) { c.SendRaw(raw(0xF1)...) })
	e.acksFit(packets.Disconnect, func(*testmqtt.Client) { e.connect("c") })
}

func pingIsAnswered(e *env) {
	c := e.connect("c")
	for range 3 {
		c.SendRaw(raw(0xC0)...)
		first, body := e.next(c)
		require.Equal(e, byte(0xD0), first)
		require.Empty(e, body)
	}
}

func noDisconnectBeforeConnack(e *env) {
	connectComesFirst(e)
	for _, data := range [][]byte{
		e.rawConnect(cleanFlag|1, str(e.id("c"))),
		e.rawConnect(cleanFlag|userFlag, str(e.id("c")), str("refused")),
	} {
		c := e.dial()
		c.SendRaw(data...)
		require.Equal(e, byte(packets.Connack), c.Expect(packets.Connack).FixedHeader.Type)
		require.Zero(e, c.ExpectClosed().FixedHeader.Type)
	}
}

// provoked returns the DISCONNECTs that clients can bring about, as they came, after checking that nothing follows.
func (e *env) provoked() (all []packets.Packet) {
	e.Helper()
	for _, data := range [][]byte{
		raw(0xF1), raw(0x36, str("t")), e.rawSubscribe("", 0), e.rawSubscribe("$share/g/t", 0x04),
		e.rawPublish(0x30, "t", nil, e.props(prop(packets.PropTopicAlias, u16(0))), ""),
		{0x30, 0xFF, 0xFF, 0xFF, 0x7F},
	} {
		c := e.connect("c")
		c.SendRaw(data...)
		all = append(all, c.Expect(packets.Disconnect))
		require.Zero(e, c.ExpectClosed().FixedHeader.Type, "nothing comes after DISCONNECT")
	}
	first := e.connect("c")
	e.connect("c")
	return append(all, first.Expect(packets.Disconnect))
}

func disconnectCodes(e *env) {
	allowed := []byte{0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
		0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2}
	for _, pk := range e.provoked() {
		require.Contains(e, allowed, pk.ReasonCode)
	}
}

func noExpiryInDisconnect(e *env) {
	for _, pk := range e.provoked() {
		require.False(e, pk.Properties.SessionExpiryIntervalFlag)
	}
}

func noUserPropertiesInDisconnect(e *env) {
	for _, pk := range e.provoked() {
		require.Empty(e, pk.Properties.User)
	}
}

func nothingAfterDisconnect(e *env) { e.provoked() }

// goodbyeCloses: the server closes the connection of a client that said goodbye, and sends nothing more.
func goodbyeCloses(e *env) {
	c := e.subscriber("c", 0, e.topic("t"))
	c.SendRaw(join(raw(0xE0), e.rawPublish(0x32, e.topic("t"), u16(1), e.props(), "too late"))...)
	require.Zero(e, c.ExpectClosed().FixedHeader.Type)
}

func shutdownSaysWhy(e *env) {
	own := e.alone(broker.Options{})
	c := own.connect("c")
	go own.stop(e)
	c.ExpectDisconnect(0x8B)
}

func badDisconnects(e *env) {
	expiry := prop(packets.PropSessionExpiryInterval, u32(1))
	e.breaks("a code that is not for clients", raw(0xE0, []byte{0x8E}), 0x81, 0x82)
	e.breaks("two expiry intervals", raw(0xE0, []byte{0}, e.props(expiry, expiry)), 0x82)
	e.breaks("a server reference", raw(0xE0, []byte{0}, e.props(prop(packets.PropServerReference, str("a")))), 0x81, 0x82)
	e.breaks("something at the end", raw(0xE0, []byte{0}, e.props(), []byte{1}), 0x81)
}

func authMethodIsRefused(e *env) {
	for _, method := range []string{"SCRAM-SHA-256", "x"} {
		c := e.dial()
		c.SendRaw(e.rawConnect5(prop(packets.PropAuthenticationMethod, str(method)))...)
		require.Contains(e, []byte{0x8C, 0x87}, c.Expect(packets.Connack).ReasonCode)
		require.Zero(e, c.ExpectClosed().FixedHeader.Type)
	}
}

func authDataNeedsMethod(e *env) {
	e.refuses("authentication data alone", e.rawConnect5(prop(packets.PropAuthenticationData, str("x"))), 0x82)
}

func authWithoutMethod(e *env) {
	_, ack := e.reconnect("c")
	require.Empty(e, ack.Properties.AuthenticationMethod)
	method := prop(packets.PropAuthenticationMethod, str("x"))
	for _, code := range []byte{0x18, 0x19} {
		e.breaks("AUTH", raw(0xF0, []byte{code}, e.props(method)), 0x82)
	}
	e.breaks("AUTH without anything", raw(0xF0), 0x81, 0x82)
}

func authCodes(e *env) {
	method := prop(packets.PropAuthenticationMethod, str("x"))
	for _, code := range []byte{0x00, 0x01, 0x80, 0xFF} {
		e.breaks("AUTH", raw(0xF0, []byte{code}, e.props(method)), 0x81, 0x82)
	}
}

func authFlags(e *env) {
	method := prop(packets.PropAuthenticationMethod, str("x"))
	for _, first := range []byte{0xF1, 0xF2, 0xF4, 0xF8} {
		e.breaks("AUTH", raw(first, []byte{0x19}, e.props(method)), 0x81)
	}
}

func (e *env) dialWebSocket(subprotocols ...string) (*websocket.Conn, string) {
	e.Helper()
	dialer := websocket.Dialer{Subprotocols: subprotocols, HandshakeTimeout: testmqtt.Patience}
	ws, response, err := dialer.Dial("ws://"+e.wsAddr+"/mqtt", nil)
	require.NoError(e, err)
	e.Cleanup(func() { _ = ws.Close() })
	require.NoError(e, ws.SetReadDeadline(time.Now().Add(testmqtt.Patience)))
	return ws, response.Header.Get("Sec-WebSocket-Protocol")
}

// answer reads the payload of the next frame, which must be binary.
func (e *env) answer(ws *websocket.Conn) []byte {
	e.Helper()
	kind, data, err := ws.ReadMessage()
	require.NoError(e, err)
	require.Equal(e, websocket.BinaryMessage, kind)
	return data
}

func webSocketFramesAreBinary(e *env) {
	ws, _ := e.dialWebSocket("mqtt")
	require.NoError(e, ws.WriteMessage(websocket.BinaryMessage, e.rawConnect(cleanFlag, str(e.id("c")))))
	require.Equal(e, byte(0x20), e.answer(ws)[0])
	require.NoError(e, ws.WriteMessage(websocket.TextMessage, raw(0xC0)))
	_, _, err := ws.ReadMessage()
	require.Error(e, err)
	require.True(e, websocket.IsCloseError(err, websocket.CloseUnsupportedData), "%v", err)
}

// webSocketFramesAreAStream: packets may be cut into frames anywhere, and frames may hold several.
func webSocketFramesAreAStream(e *env) {
	ws, _ := e.dialWebSocket("mqtt")
	data := join(e.rawConnect(cleanFlag, str(e.id("c"))), raw(0xC0))
	for _, b := range data {
		require.NoError(e, ws.WriteMessage(websocket.BinaryMessage, []byte{b}))
	}
	var got []byte
	for len(got) == 0 || len(got) < 2+int(got[1])+2 {
		got = append(got, e.answer(ws)...)
	}
	require.Equal(e, []byte{0x20}, got[:1])
	require.Equal(e, []byte{0xD0, 0}, got[len(got)-2:])
	many := join(e.rawSubscribe(e.topic("t"), 0), e.rawPublish(0x30, e.topic("t"), nil, e.props(), "x"), raw(0xC0))
	require.NoError(e, ws.WriteMessage(websocket.BinaryMessage, many))
	want := join(raw(0x90, u16(7), e.props(), []byte{0}),
		e.rawPublish(0x30, e.topic("t"), nil, e.props(), "x"), raw(0xD0))
	for got = nil; len(got) < len(want); {
		got = append(got, e.answer(ws)...)
	}
	require.Equal(e, want, got)
}

func webSocketNeedsTheSubprotocol(e *env) {
	for _, offered := range [][]string{nil, {"chat"}} {
		dialer := websocket.Dialer{Subprotocols: offered, HandshakeTimeout: testmqtt.Patience}
		_, response, err := dialer.Dial("ws://"+e.wsAddr+"/mqtt", nil)
		require.ErrorIs(e, err, websocket.ErrBadHandshake)
		require.Equal(e, 400, response.StatusCode)
	}
}

func webSocketSubprotocol(e *env) {
	for _, offered := range [][]string{{"mqtt"}, {"chat", "mqtt"}, {"mqtt", "chat"}} {
		_, selected := e.dialWebSocket(offered...)
		require.Equal(e, "mqtt", selected)
	}
}

// overTCP: the stream may be cut anywhere.
func overTCP(e *env) {
	c := e.dial()
	for _, b := range join(e.rawConnect(cleanFlag, str(e.id("c"))), e.rawSubscribe(e.topic("t"), 0)) {
		c.SendRaw(b)
	}
	require.Zero(e, c.Expect(packets.Connack).ReasonCode)
	c.Expect(packets.Suback)
}
