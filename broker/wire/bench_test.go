package wire

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

var benchPayload = make([]byte, 256)

func benchPublish(qos byte) *PublishOut {
	return &PublishOut{Topic: "devices/pump-4711/up/temperature", Payload: benchPayload, QoS: qos, PacketID: 7}
}

func BenchmarkDecodePublish(b *testing.B) {
	alias := benchPublish(1)
	alias.Alias, alias.OmitTopic = 7, true
	properties := benchPublish(1)
	properties.Properties = fullPublish().Properties
	cases := []struct {
		name    string
		version byte
		p       *PublishOut
	}{
		{"v4 QoS 0", 4, benchPublish(0)},
		{"v4 QoS 1", 4, benchPublish(1)},
		{"v5 QoS 0", 5, benchPublish(0)},
		{"v5 QoS 1", 5, benchPublish(1)},
		{"v5 alias", 5, alias},
		{"v5 properties", 5, properties},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			packet := AppendPublish(nil, c.version, c.p)
			var pk packets.Packet
			b.ReportAllocs()
			for b.Loop() {
				first, _, n, _ := Header(packet)
				if err := Decode(first, packet[n:], c.version, &pk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeAck(b *testing.B) {
	var pk packets.Packet
	body := []byte{0, 7}
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(packets.Puback<<4, body, 5, &pk); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	cases := []struct {
		name    string
		version byte
		p       *PublishOut
	}{
		{"v4 QoS 0", 4, benchPublish(0)},
		{"v4 QoS 1", 4, benchPublish(1)},
		{"v5 QoS 0", 5, benchPublish(0)},
		{"v5 full", 5, fullPublish()},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			buf := make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendPublish(buf[:0], c.version, c.p)
			}
		})
	}
}

func BenchmarkAppendAck(b *testing.B) {
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendAck(buf[:0], packets.Puback, 5, 7, 0, "")
	}
}

func BenchmarkFromPacket(b *testing.B) {
	packet := AppendPublish(nil, 5, fullPublish())
	first, _, n, _ := Header(packet)
	var pk packets.Packet
	if err := decodeServer(first, packet[n:], 5, &pk); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		FromPacket(&pk)
	}
}

// TestHotPathDoesNotAllocate guards what the benchmarks measure.
func TestHotPathDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1024)
	var pk packets.Packet
	for _, version := range []byte{3, 4, 5} {
		for qos := range byte(3) {
			out := benchPublish(qos)
			packet := AppendPublish(nil, version, out)
			allocs := testing.AllocsPerRun(100, func() {
				first, _, n, _ := Header(packet)
				if Decode(first, packet[n:], version, &pk) != nil {
					t.Fail()
				}
				buf = AppendPublish(buf[:0], version, out)
				buf = AppendAck(buf[:0], packets.Puback, version, 7, 0, "")
				if Decode(buf[0], buf[2:], version, &pk) != nil {
					t.Fail()
				}
			})
			if allocs != 0 {
				t.Errorf("version %d QoS %d: %v allocations", version, qos, allocs)
			}
		}
	}
}
