package broker_test

import (
	"io"
	"net"
	"strconv"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/broker/wire"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// subscribed connects n clients that read what they get and throw it away.
func subscribed(b *testing.B, n *node, clients int, qos byte) {
	for i := range clients {
		c := n.dial(4)
		c.MustConnect("sub-"+strconv.Itoa(i), testmqtt.KeepAlive(0))
		c.Subscribe(qos, "t")
		go func() { _, _ = io.Copy(io.Discard, c.Conn) }()
	}
}

// BenchmarkRoute is the way of one message from Broker.Publish to the out-buffers of its subscribers: match, enqueue
// and encode. Sockets are real, and their readers run beside it.
func BenchmarkRoute(b *testing.B) {
	for _, clients := range []int{0, 1, 100} {
		b.Run(strconv.Itoa(clients)+" subscribers", func(b *testing.B) {
			n := startNode(b, broker.Options{})
			subscribed(b, n, clients, 0)
			m := &broker.Message{Topic: "t", Payload: make([]byte, 64), Received: 1}
			b.ReportAllocs()
			for b.Loop() {
				n.Publish(m, nil)
			}
		})
	}
}

// BenchmarkEnqueue is the queue of an offline durable session, with the store's group commit behind it.
func BenchmarkEnqueue(b *testing.B) {
	n := startDurable(b, broker.Options{Limits: broker.Limits{Queue: 1 << 30, QueueBytes: 1 << 40}})
	c := n.dial(5)
	c.MustConnect("dev", testmqtt.Durable())
	c.Subscribe(1, "t")
	c.Drop()
	n.eventuallyOffline("dev")
	window := make(chan struct{}, 1000)
	b.ReportAllocs()
	for b.Loop() {
		window <- struct{}{}
		n.Publish(&broker.Message{Topic: "t", Payload: make([]byte, 64), QoS: 1}, func(error) { <-window })
	}
}

// BenchmarkPublishQoS1 is a client's PUBLISH from its socket to the PUBACK on its socket, a hundred at a time.
func BenchmarkPublishQoS1(b *testing.B) {
	n := startNode(b, broker.Options{})
	c := n.dial(4)
	c.MustConnect("pub")
	const window = 100
	var out []byte
	for i := range window {
		p := wire.PublishOut{Topic: "devices/d/up/t", Payload: make([]byte, 64), QoS: 1, PacketID: uint16(i + 1)}
		out = wire.AppendPublish(out, 4, &p)
	}
	in := make([]byte, window*len(wire.AppendAck(nil, packets.Puback, 4, 1, 0, "")))
	_ = c.Conn.(*net.TCPConn).SetNoDelay(true)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%window != 0 {
			continue
		}
		if _, err := c.Conn.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c.Conn, in); err != nil {
			b.Fatal(err)
		}
	}
}
