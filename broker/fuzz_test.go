package broker_test

import (
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/broker/wire"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// FuzzConnection feeds bytes to a live connection in chunks, after a CONNECT if version is 3, 4 or 5. Whatever they
// are, another client must not notice.
func FuzzConnection(f *testing.F) {
	for _, version := range []byte{3, 4, 5} {
		for _, seed := range fuzzSeeds(f, version) {
			f.Add(version, uint16(len(seed)/2), seed)
		}
		f.Add(byte(0), uint16(3), fuzzConnect(f, version, "first"))
	}
	f.Add(byte(5), uint16(1), []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
	n := startDurable(f, broker.Options{})
	healthy := n.dial(5)
	healthy.MustConnect("healthy", testmqtt.KeepAlive(0))
	healthy.Subscribe(1, "healthy/only")
	f.Fuzz(func(t *testing.T, version byte, chunk uint16, data []byte) {
		c := testmqtt.Dial(t, n.addr, version)
		defer c.Drop()
		if version >= 3 && version <= 5 {
			c.MustConnect("fuzzed")
		}
		for size := int(chunk)%len(append(data, 0)) + 1; len(data) > 0; data = data[min(size, len(data)):] {
			if _, err := c.Conn.Write(data[:min(size, len(data))]); err != nil {
				break // the broker has had enough of it
			}
		}
		roundTrip(t, healthy)
	})
}

// roundTrip publishes to itself at QoS 1. What the fuzzed client published there, too, is acknowledged and passed over.
func roundTrip(t *testing.T, c *testmqtt.Client) {
	if err := c.TrySend(testmqtt.PublishPacket("healthy/only", []byte("round trip"), 1, 1)); err != nil {
		t.Fatal(err)
	}
	for acked, came := false, false; !acked || !came; {
		pk, err := c.Read(10 * time.Second)
		if err != nil {
			t.Fatal("the healthy client:", err)
		}
		acked = acked || pk.FixedHeader.Type == packets.Puback
		if pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 1 {
			came = came || string(pk.Payload) == "round trip"
			ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}
			if err := c.TrySend(ack); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func fuzzConnect(f *testing.F, version byte, id string) []byte {
	c := &testmqtt.Client{Version: version}
	pk := c.ConnectPacket(id, testmqtt.Will("w", "gone", 1, true))
	return fuzzEncode(f, version, pk)
}

// fuzzSeeds are packets of every type that a client sends, one after the other, and some together.
func fuzzSeeds(f *testing.F, version byte) (seeds [][]byte) {
	all := []byte{}
	filters := packets.Subscriptions{{Filter: "a/+", Qos: 2}, {Filter: "$share/g/#", Qos: 1}}
	for _, pk := range []packets.Packet{
		{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: filters},
		testmqtt.PublishPacket("a/b", []byte("x"), 0, 0), testmqtt.PublishPacket("a/b", []byte("y"), 1, 2),
		testmqtt.PublishPacket("a/b", []byte("z"), 2, 3),
		{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: 1},
		{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: 2},
		{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 3},
		{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: 2},
		{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 4, Filters: filters},
		{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}},
		{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}},
	} {
		raw := fuzzEncode(f, version, pk)
		seeds, all = append(seeds, raw), append(all, raw...)
	}
	return append(seeds, all)
}

func fuzzEncode(f *testing.F, version byte, pk packets.Packet) []byte {
	pk.ProtocolVersion = version
	raw, err := wire.AppendPacket(nil, &pk)
	if err != nil {
		f.Fatal(err)
	}
	return raw
}
