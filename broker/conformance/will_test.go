package conformance

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Wills: sections 3.1.2.5 to 3.1.2.7, 3.1.3.2 to 3.1.3.4 and 3.14.

// will sets a will on this case's topic, and will properties.
func (e *env) will(properties ...func(*packets.Properties)) testmqtt.Option {
	return func(pk *packets.Packet) {
		testmqtt.Will(e.topic("will"), "gone", 1, false)(pk)
		pk.Mods.AllowResponseInfo = true
		for _, set := range properties {
			set(&pk.Connect.WillProperties)
		}
	}
}

func delay(seconds uint32) func(*packets.Properties) {
	return func(p *packets.Properties) { p.WillDelayInterval = seconds }
}

func (e *env) willWitness() *testmqtt.Client { return e.subscriber("witness", 2, e.topic("will")) }

// willIsPublished: whatever ends the connection without a goodbye.
func willIsPublished(e *env) {
	witness := e.willWitness()
	if e.v5() {
		onlyNormalGoodbyes(e.anew())
	}
	ends := map[string]func(c *testmqtt.Client){
		"lost":           func(c *testmqtt.Client) { c.Drop() },
		"protocol error": func(c *testmqtt.Client) { c.SendRaw(raw(0xF0, []byte{1})...) },
		"malformed":      func(c *testmqtt.Client) { c.SendRaw(raw(0x36, str("t"))...) },
		"silent":         func(*testmqtt.Client) {},
		"taken over":     func(*testmqtt.Client) { e.connect("taken over") },
	}
	for name, end := range ends {
		c := e.connect(name, e.will(), testmqtt.KeepAlive(1))
		end(c)
		e.take(witness, e.topic("will"), "gone", 1)
	}
}

func willOfADurableSession(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", testmqtt.Durable(), e.will()))
	e.take(witness, e.topic("will"), "gone", 1)
	witness.Nothing()
}

func goodbyeRemovesTheWill(e *env) {
	witness := e.willWitness()
	e.leave(e.connect("clean", e.will()))
	e.leave(e.connect("durable", e.will(), testmqtt.Durable()))
	e.drop(e.connect("clean"))
	e.drop(e.connect("durable", testmqtt.Durable()))
	witness.Nothing()
}

func willIsForgotten5(e *env) {
	willIsPublishedOnce(e)
	onlyNormalGoodbyes(e.anew())
}

func willIsPublishedOnce(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", testmqtt.Durable(), e.will()))
	e.take(witness, e.topic("will"), "gone", 1)
	e.drop(e.connect("c", testmqtt.Durable()))
	e.drop(e.connect("c", testmqtt.Clean(true)))
	witness.Nothing()
}

func goodbyeWithWill(e *env) {
	witness := e.willWitness()
	c := e.connect("c", e.will())
	c.SendRaw(raw(0xE0, []byte{0x04})...)
	e.take(witness, e.topic("will"), "gone", 1)
}

// onlyNormalGoodbyes remove the will: any other reason code leaves it to be published.
func onlyNormalGoodbyes(e *env) {
	witness := e.willWitness()
	for _, code := range []byte{0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
		c := e.connect("c", e.will())
		c.SendRaw(raw(0xE0, []byte{code})...)
		e.take(witness, e.topic("will"), "gone", 1)
	}
	c := e.connect("normal", e.will())
	c.SendRaw(raw(0xE0, []byte{0x00})...)
	e.gone(c.ID, 1)
	witness.Nothing()
}

func willFieldsMissing(e *env) {
	id := str(e.id("c"))
	e.refuses("no will topic", e.rawConnect(cleanFlag|willFlag, id), 0x81)
	e.refuses("no will payload", e.rawConnect(cleanFlag|willFlag, id, e.props(), str(e.topic("will"))), 0x81)
	if e.v5() {
		e.refuses("no will properties", e.rawConnect(cleanFlag|willFlag, id, str("w"), str("")), 0x81, 0x82)
	}
	witness := e.willWitness()
	c := e.dial()
	c.SendRaw(e.rawConnect(cleanFlag|willFlag|willQoS1|willRetain, id, e.props(), str(e.topic("will")), str("gone"))...)
	c.Expect(packets.Connack)
	c.Drop()
	e.take(witness, e.topic("will"), "gone", 1)
	require.True(e, e.subscriber("late", 0, e.topic("will")).ExpectPublish(e.topic("will"), "gone").FixedHeader.Retain)
}

// noWillFlagNoWillFields: what stands in their place is the user name, and without its flag one thing too many.
func noWillFlagNoWillFields(e *env) {
	id := str(e.id("c"))
	e.refuses("will fields", e.rawConnect(cleanFlag, id, e.props(), str(e.topic("will")), str("gone")), 0x81)
	e.refuses("will QoS", e.rawConnect(cleanFlag|willQoS1, id), 0x81)
	e.refuses("will retain", e.rawConnect(cleanFlag|willRetain, id), 0x81)
}

func noWillFlagNoWill(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", e.will()))
	e.take(witness, e.topic("will"), "gone", 1)
	e.drop(e.connect("c"))
	witness.Nothing()
}

func willQoSWithoutFlag(e *env) {
	for _, qos := range []byte{0x08, 0x10, 0x18} {
		e.refuses("will QoS", e.rawConnect(cleanFlag|qos, str(e.id("c"))), 0x81)
	}
}

func willQoS(e *env) {
	witness := e.willWitness()
	for qos := range byte(3) {
		e.drop(e.connect("c", testmqtt.Will(e.topic("will"), "gone", qos, false)))
		e.take(witness, e.topic("will"), "gone", qos)
	}
	e.refuses("will QoS 3", e.rawConnect(cleanFlag|willFlag|willQoS3, str(e.id("c")), e.props(), str("w"), str("")), 0x81)
}

func willRetainWithoutFlag(e *env) {
	e.refuses("will retain", e.rawConnect(cleanFlag|willRetain, str(e.id("c"))), 0x81)
}

func willIsNotRetained(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", e.will()))
	require.False(e, e.take(witness, e.topic("will"), "gone", 1).FixedHeader.Retain)
	require.Empty(e, e.lateSubscriber("late", e.topic("will")))
}

func willIsRetained(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", testmqtt.Will(e.topic("will"), "gone", 1, true)))
	require.False(e, e.take(witness, e.topic("will"), "gone", 1).FixedHeader.Retain)
	late := e.subscriber("late", 2, e.topic("will"))
	require.True(e, e.take(late, e.topic("will"), "gone", 1).FixedHeader.Retain)
	e.drop(e.connect("c", testmqtt.Will(e.topic("will"), "", 0, true)))
	e.take(witness, e.topic("will"), "", 0)
	require.Empty(e, e.lateSubscriber("later", e.topic("will")))
}

func emptyWillPayload(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", testmqtt.Will(e.topic("will"), "", 1, false)))
	e.take(witness, e.topic("will"), "", 1)
}

// willIsDelayed: it comes when the delay is over, and not before.
func willIsDelayed(e *env) {
	witness := e.willWitness()
	c := e.connect("c", testmqtt.Durable(), e.will(delay(1)))
	before := time.Now()
	c.Drop()
	e.take(witness, e.topic("will"), "gone", 1)
	require.GreaterOrEqual(e, time.Since(before), 900*time.Millisecond)
}

// backInTime: a client that is back before the delay is over prevents its will. That of another client, which was lost
// later, shows that the time has come.
func backInTime(e *env) {
	witness := e.willWitness()
	lost := e.connect("lost", testmqtt.Durable(), e.will(delay(2)))
	before := time.Now()
	e.drop(lost)
	back, ack := e.reconnect("lost", testmqtt.Durable())
	require.True(e, ack.SessionPresent)
	if time.Since(before) > time.Second { // it may not have been in time
		backInTime(e.anew())
		return
	}
	clock := e.connect("clock", testmqtt.Durable(), testmqtt.Will(e.topic("will"), "time is up", 1, false),
		func(pk *packets.Packet) { pk.Connect.WillProperties.WillDelayInterval = 2 })
	e.drop(clock)
	e.take(witness, e.topic("will"), "time is up", 1)
	witness.Nothing()
	back.Nothing()
}

// takenOverInTime: the same when the new connection comes while the old one is still open.
func takenOverInTime(e *env) {
	witness := e.willWitness()
	first := e.connect("c", testmqtt.Durable(), e.will(delay(1)))
	e.connect("c", testmqtt.Durable())
	first.ExpectDisconnect(0x8E)
	e.drop(e.connect("clock", testmqtt.Durable(), testmqtt.Will(e.topic("will"), "time is up", 1, false),
		func(pk *packets.Packet) { pk.Connect.WillProperties.WillDelayInterval = 1 }))
	e.take(witness, e.topic("will"), "time is up", 1)
	witness.Nothing()
}

// sessionEndBeforeTheDelay: the will is published when the session ends, at the latest.
func sessionEndBeforeTheDelay(e *env) {
	witness := e.willWitness()
	e.connect("short", sessionExpiry(1), e.will(delay(3600))).Drop()
	e.take(witness, e.topic("will"), "gone", 1)
	e.connect("none", e.will(delay(3600))).Drop()
	e.take(witness, e.topic("will"), "gone", 1)
	e.drop(e.connect("clean", testmqtt.Durable(), e.will(delay(3600))))
	e.connect("clean", testmqtt.Clean(true))
	e.take(witness, e.topic("will"), "gone", 1)
	e.connect("taken over", testmqtt.Durable(), e.will(delay(3600)))
	e.connect("taken over", testmqtt.Clean(true))
	e.take(witness, e.topic("will"), "gone", 1)
}

func willProperties(e *env) {
	witness := e.willWitness()
	e.drop(e.connect("c", e.will(func(p *packets.Properties) {
		p.PayloadFormatFlag, p.PayloadFormat = true, 1
		p.ContentType, p.ResponseTopic, p.CorrelationData = "text/plain", "answers", []byte{0, 1}
		p.MessageExpiryInterval = 3600
		p.User = pairs("b", "1", "a", "2", "b", "3")
	})))
	p := e.take(witness, e.topic("will"), "gone", 1).Properties
	require.True(e, p.PayloadFormatFlag)
	require.Equal(e, []any{byte(1), "text/plain", "answers", []byte{0, 1}},
		[]any{p.PayloadFormat, p.ContentType, p.ResponseTopic, p.CorrelationData})
	require.Equal(e, pairs("b", "1", "a", "2", "b", "3"), p.User)
	require.InDelta(e, 3600, p.MessageExpiryInterval, 60)
	require.Zero(e, p.WillDelayInterval)
}

func pairs(s ...string) (list []packets.UserProperty) {
	for i := 0; i < len(s); i += 2 {
		list = append(list, packets.UserProperty{Key: s[i], Val: s[i+1]})
	}
	return list
}

func willUserPropertiesInOrder(e *env) {
	witness := e.willWitness()
	order := pairs("z", "1", "a", "2", "z", "1", "m", "", "", "x")
	e.drop(e.connect("c", e.will(func(p *packets.Properties) { p.User = order })))
	require.Equal(e, order, e.take(witness, e.topic("will"), "gone", 1).Properties.User)
}
