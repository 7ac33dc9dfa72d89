package conformance

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// CONNACK: section 3.2, and what CONNECT and CONNACK agree upon.

// connackComesFirst: also to a client that does not wait for it, and before what its session holds.
func connackComesFirst(e *env) {
	c := e.connect("c", testmqtt.Durable())
	c.Subscribe(1, e.topic("t"))
	e.leave(c)
	e.publish(e.connect("pub"), e.topic("t"), "waiting", 1)
	again := e.dial()
	pk := again.ConnectPacket(e.id("c"), testmqtt.Durable())
	again.Send(pk)
	again.SendRaw(join(raw(0xC0), e.rawPublish(0x30, e.topic("t"), nil, e.props(), "own"))...)
	require.Zero(e, again.Expect(packets.Connack).ReasonCode)
}

func oneConnack(e *env) {
	c := e.connect("c")
	c.Send(c.ConnectPacket(e.id("c")))
	for {
		pk, err := c.Read(testmqtt.Patience)
		if err != nil {
			return
		}
		require.NotEqual(e, byte(packets.Connack), pk.FixedHeader.Type)
	}
}

func connackFlags(e *env) {
	for _, present := range []byte{0, 1} {
		c := e.dial()
		c.ID = e.id("c")
		c.Send(c.ConnectPacket(c.ID, testmqtt.Durable()))
		_, body := e.next(c)
		require.Equal(e, present, body[0])
		e.leave(c)
	}
	c := e.dial()
	c.Send(c.ConnectPacket(e.id("r"), testmqtt.User("refused", "")))
	_, body := e.next(c)
	require.Zero(e, body[0])
}

func cleanSessionIsNotPresent(e *env) {
	e.leave(e.connect("c", testmqtt.Durable()))
	_, ack := e.reconnect("c", testmqtt.Clean(true))
	require.False(e, ack.SessionPresent)
}

func keptSessionIsPresent(e *env) {
	c, ack := e.reconnect("c", testmqtt.Durable())
	require.False(e, ack.SessionPresent, "there was none")
	e.leave(c)
	c, ack = e.reconnect("c", testmqtt.Durable())
	require.True(e, ack.SessionPresent)
	e.drop(c)
	_, ack = e.reconnect("c", testmqtt.Durable())
	require.True(e, ack.SessionPresent, "after a lost connection")
}

func newSessionIsNotPresent(e *env) {
	_, ack := e.reconnect("new", testmqtt.Durable())
	require.False(e, ack.SessionPresent)
	e.leave(e.connect("clean", testmqtt.Clean(true)))
	_, ack = e.reconnect("clean", testmqtt.Durable())
	require.False(e, ack.SessionPresent, "a clean session leaves nothing behind")
}

// refusalSaysNoSession: although there is one.
func refusalSaysNoSession(e *env) {
	e.leave(e.connect("c", testmqtt.Durable()))
	c := e.dial()
	ack := c.Connect(e.id("c"), testmqtt.Durable(), testmqtt.User("refused", ""))
	require.NotZero(e, ack.ReasonCode)
	require.False(e, ack.SessionPresent)
}

func refusalCloses(e *env) {
	for _, refused := range []testmqtt.Option{
		testmqtt.User("refused", ""),
		testmqtt.Will("$SYS/x", "gone", 0, false),
		testmqtt.Will("will/forbidden", "gone", 0, false),
	} {
		c := e.dial()
		ack := c.Connect(e.id("c"), refused)
		require.NotZero(e, ack.ReasonCode)
		require.Contains(e, connectCodes(e), ack.ReasonCode)
		require.Zero(e, c.ExpectClosed().FixedHeader.Type)
	}
}

// connectCodes are the codes that a CONNACK may carry.
func connectCodes(e *env) []byte {
	if !e.v5() {
		return []byte{0, 1, 2, 3, 4, 5}
	}
	return []byte{0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
		0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
}

// qosIsNotLimited: CONNACK names no Maximum QoS, and all three work.
func qosIsNotLimited(e *env) {
	c, ack := e.reconnect("c")
	require.False(e, ack.Properties.MaximumQosFlag)
	for qos := range byte(3) {
		require.Equal(e, []byte{qos}, c.Subscribe(qos, e.topic("t")))
		e.publish(c, e.topic("other"), "x", qos)
	}
}

func willQoSIsNotLimited(e *env) {
	for qos := range byte(3) {
		e.connect("c", testmqtt.Will(e.topic("will"), "gone", qos, false))
	}
}

func willRetainIsNotRefused(e *env) {
	_, ack := e.reconnect("c", testmqtt.Will(e.topic("will"), "gone", 0, true))
	require.False(e, ack.Properties.RetainAvailableFlag && ack.Properties.RetainAvailable == 0)
}

func retainIsAvailable(e *env) {
	c, ack := e.reconnect("c")
	require.False(e, ack.Properties.RetainAvailableFlag && ack.Properties.RetainAvailable == 0)
	e.retain(c, e.topic("t"), "kept", 1)
	e.subscriber("sub", 0, e.topic("t")).ExpectPublish(e.topic("t"), "kept")
}

func largePackets(e *env) {
	own := e.alone(broker.Options{Limits: broker.Limits{PacketSize: 1000}})
	c, ack := own.reconnect("c")
	require.EqualValues(e, 1000, ack.Properties.MaximumPacketSize)
	fixed := len(own.rawPublish(0x30, "t", nil, e.props(), "")) + 1 // its length has two bytes
	fits := make([]byte, 1000-fixed)
	data := own.rawPublish(0x30, "t", nil, e.props(), string(fits))
	require.Len(e, data, 1000)
	c.SendRaw(data...)
	c.Nothing()
	own.breaksOn(c, "one byte too long", own.rawPublish(0x30, "t", nil, e.props(), string(fits)+"x"), 0x95)
}

// refusalFits: the reason of a refused CONNECT is left out where it would make CONNACK too large for the client.
func refusalFits(e *env) {
	c := e.dial()
	c.Send(c.ConnectPacket(e.id("c"), testmqtt.User("refused", ""), maximumPacketSize(20)))
	first, body := e.next(c)
	require.Equal(e, byte(0x20), first)
	require.LessOrEqual(e, 2+len(body), 20)
	require.Equal(e, byte(0x86), body[1])
}

func maximumPacketSize(n uint32) testmqtt.Option {
	return func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = n }
}

func noUserPropertiesInConnack(e *env) {
	for _, user := range []string{"anyone", "refused"} {
		ack := e.dial().Connect(e.id(user), testmqtt.User(user, ""), maximumPacketSize(100))
		require.Empty(e, ack.Properties.User)
	}
}

// ownKeepAliveCounts: without a Server Keep Alive the client's own is the one that is used.
func ownKeepAliveCounts(e *env) {
	c, ack := e.reconnect("c", testmqtt.KeepAlive(1))
	require.False(e, ack.Properties.ServerKeepAliveFlag)
	c.ExpectDisconnect(0x8D)
}

// serverKeepAlive: one that the server names is the one that it goes by.
func serverKeepAlive(e *env) {
	own := e.alone(broker.Options{Limits: broker.Limits{KeepAlive: time.Second}})
	for _, asked := range []uint16{0, 600} {
		c, ack := own.reconnect("c", testmqtt.KeepAlive(asked))
		require.True(e, ack.Properties.ServerKeepAliveFlag)
		require.EqualValues(e, 1, ack.Properties.ServerKeepAlive)
		if asked == 0 {
			c.ExpectDisconnect(0x8D)
		}
	}
}

func keepAlive(e *env) {
	witness := e.subscriber("witness", 0, e.topic("will"))
	before := time.Now()
	c := e.connect("c", testmqtt.KeepAlive(1), testmqtt.Will(e.topic("will"), "gone", 0, false))
	c.ExpectDisconnect(0x8D)
	require.GreaterOrEqual(e, time.Since(before), 1400*time.Millisecond)
	witness.ExpectPublish(e.topic("will"), "gone")
}

// noKeepAlive: a client with keep alive 0 outlives one that has fallen silent for too long.
func noKeepAlive(e *env) {
	silent, free := e.connect("silent", testmqtt.KeepAlive(1)), e.connect("free", testmqtt.KeepAlive(0))
	silent.ExpectDisconnect(0x8D)
	free.Nothing()
}

func noResponseInformation(e *env) {
	_, ack := e.reconnect("absent")
	require.Empty(e, ack.Properties.ResponseInfo)
	c := e.dial()
	c.SendRaw(e.rawConnect5([]byte{packets.PropRequestResponseInfo, 0})...)
	require.Empty(e, c.Expect(packets.Connack).Properties.ResponseInfo)
}

func responseInformation(e *env) {
	_, ack := e.reconnect("c", func(pk *packets.Packet) { pk.Properties.RequestResponseInfo = 1 })
	require.Equal(e, "answers/"+e.id("c"), ack.Properties.ResponseInfo)
}

// noProblemInformation: with Request Problem Information 0 only CONNACK, PUBLISH and DISCONNECT may give reasons.
func noProblemInformation(e *env) {
	c := e.connect("c", func(pk *packets.Packet) { pk.Properties.RequestProblemInfoFlag = true })
	silent := func(pk packets.Packet) {
		require.Empty(e, pk.Properties.ReasonString)
		require.Empty(e, pk.Properties.User)
	}
	c.Publish(e.topic("forbidden"), "x", 1, 1)
	silent(c.Expect(packets.Puback))
	c.Publish(e.topic("forbidden"), "x", 2, 2)
	silent(c.Expect(packets.Pubrec))
	c.Ack(packets.Pubrel, 9)
	silent(c.Expect(packets.Pubcomp))
	c.Ack(packets.Pubrec, 9)
	silent(c.Expect(packets.Pubrel))
	c.SendRaw(e.rawSubscribe(e.topic("forbidden"), 0)...)
	silent(c.Expect(packets.Suback))
	c.SendRaw(e.rawUnsubscribe(e.topic("none"))...)
	silent(c.Expect(packets.Unsuback))
}
