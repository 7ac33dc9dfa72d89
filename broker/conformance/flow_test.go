package conformance

import (
	"strconv"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Flow control: section 4.9.

// clientExceedsReceiveMaximum: one unfinished publish too many ends the connection.
func clientExceedsReceiveMaximum(e *env) {
	own := e.alone(broker.Options{Limits: broker.Limits{ReceiveMaximum: 3}})
	c, ack := own.reconnect("c")
	require.EqualValues(e, 3, ack.Properties.ReceiveMaximum)
	for id := uint16(1); id <= 3; id++ {
		c.Publish(e.topic("forbidden"), "x", 2, id) // refused, which finishes it
		require.Equal(e, byte(0x87), c.Expect(packets.Pubrec).ReasonCode)
		c.Publish(e.topic("t"), "x", 2, id)
		c.Expect(packets.Pubrec)
	}
	c.Publish(e.topic("t"), "x", 2, 2) // again, which is not another one
	c.Expect(packets.Pubrec)
	c.Publish(e.topic("t"), "x", 0, 0) // does not count
	c.Ack(packets.Pubrel, 1)
	c.Expect(packets.Pubcomp)
	c.Publish(e.topic("t"), "x", 2, 4)
	c.Expect(packets.Pubrec)
	c.Publish(e.topic("t"), "x", 1, 5)
	c.ExpectDisconnect(0x93)
}

// window subscribes a client with a small Receive Maximum and publishes more than that, of both QoS in turn.
func (e *env) window(most uint16, messages int) (sub, pub *testmqtt.Client) {
	sub, pub = e.connect("sub", receiveMaximum(most)), e.connect("pub")
	sub.Subscribe(2, e.topic("t"))
	for i := range messages {
		e.publish(pub, e.topic("t"), strconv.Itoa(i), byte(1+i%2))
	}
	return sub, pub
}

// clientsReceiveMaximum: of QoS 1 and 2 together no more is under way than the client allowed; a QoS 2 message counts
// until PUBCOMP, or a PUBREC that refuses it.
func clientsReceiveMaximum(e *env) {
	sub, pub := e.window(2, 6)
	zero, one := sub.ExpectPublish(e.topic("t"), "0"), sub.ExpectPublish(e.topic("t"), "1")
	sub.Nothing()
	e.publish(pub, e.topic("t"), "unlimited", 0)
	sub.ExpectPublish(e.topic("t"), "unlimited")
	sub.Ack(packets.Pubrec, one.PacketID)
	sub.Expect(packets.Pubrel)
	sub.Nothing()
	sub.Ack(packets.Pubcomp, one.PacketID)
	two := sub.ExpectPublish(e.topic("t"), "2")
	sub.Nothing()
	sub.Ack(packets.Puback, zero.PacketID)
	three := sub.ExpectPublish(e.topic("t"), "3")
	sub.Nothing()
	sub.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: three.PacketID, ReasonCode: 0x97,
	})
	e.take(sub, e.topic("t"), "4", 1)
	e.take(sub, e.topic("t"), "5", 2)
	sub.Ack(packets.Puback, two.PacketID)
	sub.Nothing()
}

// othersAreNotDelayed: while the window is full everything but QoS 1 and 2 goes on.
func othersAreNotDelayed(e *env) {
	sub, pub := e.window(1, 3)
	sub.ExpectPublish(e.topic("t"), "0")
	sub.Nothing()
	require.Equal(e, []byte{1}, sub.Subscribe(1, e.topic("u")))
	sub.Unsubscribe(e.topic("u"))
	e.publish(sub, e.topic("own"), "x", 1)
	e.publish(sub, e.topic("own"), "x", 2)
	e.publish(pub, e.topic("t"), "QoS 0", 0)
	sub.ExpectPublish(e.topic("t"), "QoS 0")
	sub.Nothing()
}

// windowOnReconnect: it begins anew with what the new CONNECT says, and what is sent again counts.
func windowOnReconnect(e *env) {
	c := e.connect("c", testmqtt.Durable(), receiveMaximum(3))
	c.Subscribe(1, e.topic("t"))
	pub := e.connect("pub")
	for i := range 4 {
		e.publish(pub, e.topic("t"), strconv.Itoa(i), 1)
	}
	e.drop(c)
	c, _ = e.reconnect("c", testmqtt.Durable(), receiveMaximum(2))
	first := c.ExpectPublish(e.topic("t"), "0")
	c.ExpectPublish(e.topic("t"), "1")
	c.Nothing()
	c.Ack(packets.Puback, first.PacketID)
	c.ExpectPublish(e.topic("t"), "2")
	c.Nothing()
}

func initialQuota(e *env) {
	for _, most := range []uint16{1, 5} {
		sub, _ := e.window(most, 7)
		for i := range int(most) {
			sub.ExpectPublish(e.topic("t"), strconv.Itoa(i))
		}
		sub.Nothing()
		e.leave(sub)
	}
}
