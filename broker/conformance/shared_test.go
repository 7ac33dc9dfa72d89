package conformance

import (
	"strconv"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Shared subscriptions: section 4.8.2.

func (e *env) shared(group, name string) string { return "$share/" + group + "/" + e.topic(name) }

// refusesFilter: a filter that is not valid is refused, in SUBACK or by closing the connection.
func (e *env) refusesFilter(filter string) {
	e.Helper()
	c := e.connect("bad")
	c.SendRaw(e.rawSubscribe(filter, 0)...)
	for {
		pk, err := c.Read(testmqtt.Patience)
		switch {
		case err != nil:
			return
		case pk.FixedHeader.Type == packets.Suback:
			require.GreaterOrEqual(e, pk.ReasonCodes[0], byte(0x80), filter)
			e.leave(c)
			return
		case pk.FixedHeader.Type == packets.Disconnect:
			require.GreaterOrEqual(e, pk.ReasonCode, byte(0x80), filter)
		}
	}
}

// shareNames: a subscription is shared when its filter begins with $share/ and a name; the members of each group get
// each message once, and other subscribers all of them.
func shareNames(e *env) {
	for _, bad := range []string{"$share//" + e.topic("t"), "$share", "$share/"} {
		e.refusesFilter(bad)
	}
	a, b := e.subscriber("a", 1, e.shared("g", "t")), e.subscriber("b", 1, e.shared("g", "t"))
	other, plain := e.subscriber("other", 1, e.shared("h", "t")), e.subscriber("plain", 1, e.topic("t"))
	pub := e.connect("pub")
	const messages = 20
	for i := range messages {
		e.publish(pub, e.topic("t"), strconv.Itoa(i), 1)
		e.take(other, e.topic("t"), strconv.Itoa(i), 1)
		e.take(plain, e.topic("t"), strconv.Itoa(i), 1)
	}
	got := map[string]int{}
	for _, c := range []*testmqtt.Client{a, b} {
		for _, payload := range e.drain(c) {
			got[payload]++
		}
	}
	require.Len(e, got, messages)
	for payload, n := range got {
		require.Equal(e, 1, n, payload)
	}
}

// drain acknowledges what has been sent to a client and returns the payloads.
func (e *env) drain(c *testmqtt.Client) (payloads []string) {
	e.Helper()
	c.SendRaw(raw(0xC0)...)
	for {
		pk, err := c.Read(testmqtt.Patience)
		require.NoError(e, err)
		if pk.FixedHeader.Type == packets.Pingresp {
			return payloads
		}
		payloads = append(payloads, string(pk.Payload))
		if pk.FixedHeader.Qos == 1 {
			c.Ack(packets.Puback, pk.PacketID)
		}
	}
}

func shareNameCharacters(e *env) {
	for _, bad := range []string{"g+", "g#", "+", "#"} {
		e.refusesFilter(e.shared(bad, "t"))
	}
	for _, bad := range []string{"$share/g", "$share/g/"} {
		e.refusesFilter(bad)
	}
	sub, pub := e.subscriber("sub", 0, "$share/g é$/"+e.topic("a/#")), e.connect("pub")
	e.publish(pub, e.topic("a/b"), "x", 0)
	sub.ExpectPublish(e.topic("a/b"), "x")
	require.Len(e, sub.Unsubscribe("$share/g é$/"+e.topic("a/#")), 1)
	e.publish(pub, e.topic("a/b"), "x", 0)
	sub.Nothing()
}

func sharedQoS(e *env) {
	pub := e.connect("pub")
	for granted := range byte(3) {
		sub := e.subscriber("sub", granted, e.shared("g", "t"))
		for published := range byte(3) {
			e.publish(pub, e.topic("t"), "x", published)
			e.take(sub, e.topic("t"), "x", min(granted, published))
		}
		e.leave(sub)
	}
}

// startedShared begins a QoS 2 delivery to the only member that is there, loses it, and brings another.
func (e *env) startedShared(session testmqtt.Option) (lost, other *testmqtt.Client) {
	lost = e.connect("lost", session)
	lost.Subscribe(2, e.shared("g", "t"))
	e.publish(e.connect("pub"), e.topic("t"), "x", 2)
	lost.ExpectPublish(e.topic("t"), "x")
	other = e.subscriber("other", 2, e.shared("g", "t"))
	e.drop(lost)
	other.Nothing()
	return lost, other
}

func sharedIsCompleted(e *env) {
	_, other := e.startedShared(testmqtt.Durable())
	back, _ := e.reconnect("lost", testmqtt.Durable())
	e.take(back, e.topic("t"), "x", 2)
	other.Nothing()
}

func sharedIsNotMoved(e *env) {
	_, other := e.startedShared(testmqtt.Clean(true))
	e.ended("lost")
	other.Nothing()
}

func sharedRefusal(e *env) {
	a, pub := e.subscriber("a", 2, e.shared("g", "t")), e.connect("pub")
	for qos, answer := range map[byte]byte{1: packets.Puback, 2: packets.Pubrec} {
		e.publish(pub, e.topic("t"), "x", qos)
		id := a.ExpectPublish(e.topic("t"), "x").PacketID
		b := e.subscriber("b", 2, e.shared("g", "t"))
		a.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: answer}, PacketID: id, ReasonCode: 0x83})
		a.Nothing()
		b.Nothing()
		e.leave(b)
	}
}

// sharedAndRetained: a shared subscription gets no retained messages when it is made.
func sharedAndRetained(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "kept", 1)
	require.Empty(e, e.lateSubscriber("sub", e.shared("g", "t")))
}

// sharedAndOwn: a client with a shared and an ordinary subscription gets a copy for each.
func sharedAndOwn(e *env) {
	sub := e.subscriber("sub", 1, e.shared("g", "t"), e.topic("t"))
	e.publish(e.connect("pub"), e.topic("t"), "x", 1)
	require.Equal(e, []string{"x", "x"}, e.drain(sub))
}
