package bench

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The bytes are written out by hand from the specifications.
func TestEncode(t *testing.T) {
	head := func(version byte, qos int) []byte {
		b, _ := publishHead(version, "a/b", qos, 2)
		return b
	}
	config := func(version byte, change func(*Config)) *Config {
		cfg := NewConfig(ModeIdle, "")
		cfg.Version = version
		change(&cfg)
		return &cfg
	}
	plain := func(*Config) {}
	cases := []struct {
		name string
		got  []byte
		want string
	}{
		{"CONNECT of MQTT 3.1.1", appendConnect(nil, config(4, plain), "c1"),
			"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02c1"},
		{"CONNECT of MQTT 5", appendConnect(nil, config(5, plain), "c1"),
			"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02c1"},
		{"CONNECT with a durable session of MQTT 5",
			appendConnect(nil, config(5, func(c *Config) { c.Clean = false }), "c1"),
			"\x10\x14\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0e\x10\x00\x02c1"},
		{"CONNECT with user, password and keep-alive",
			appendConnect(nil, config(4, func(c *Config) {
				c.Username, c.Password, c.KeepAlive = "u", "p", 90*time.Second
			}), "c1"),
			"\x10\x14\x00\x04MQTT\x04\xc2\x00\x5a\x00\x02c1\x00\x01u\x00\x01p"},
		{"CONNECT with a password only",
			appendConnect(nil, config(4, func(c *Config) { c.Password = "p" }), "c1"),
			"\x10\x15\x00\x04MQTT\x04\xc2\x00\x00\x00\x02c1\x00\x02c1\x00\x01p"},
		{"SUBSCRIBE of MQTT 3.1.1", appendSubscribe(nil, 4, "a/#", 1), "\x82\x08\x00\x01\x00\x03a/#\x01"},
		{"SUBSCRIBE of MQTT 5", appendSubscribe(nil, 5, "a/#", 2), "\x82\x09\x00\x01\x00\x00\x03a/#\x02"},
		{"PUBLISH at QoS 0", head(4, 0), "\x30\x07\x00\x03a/b"},
		{"PUBLISH at QoS 1", head(4, 1), "\x32\x09\x00\x03a/b\x00\x00"},
		{"PUBLISH of MQTT 5 at QoS 2", head(5, 2), "\x34\x0a\x00\x03a/b\x00\x00\x00"},
		{"PUBREL", appendAck(nil, firstPubrel, 0x1234), "\x62\x02\x12\x34"},
		{"length of two bytes", appendVarint(nil, 321), "\xc1\x02"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, string(c.got)) })
	}
}

func TestConnackProperties(t *testing.T) {
	// Every property that CONNACK may carry, with values the bench uses among them.
	properties := "\x11\x00\x00\x00\x01" + "\x21\x00\x0a" + "\x24\x01" + "\x25\x01" + "\x27\x00\x00\x10\x00" +
		"\x12\x00\x02id" + "\x22\x00\x05" + "\x1f\x00\x01r" + "\x26\x00\x01k\x00\x02vv" + "\x28\x01" + "\x29\x01" +
		"\x2a\x01" + "\x13\x00\x1e" + "\x1a\x00\x00" + "\x1c\x00\x01s" + "\x15\x00\x01m" + "\x16\x00\x01d"
	body := append([]byte{0, 0, byte(len(properties))}, properties...)
	ack, err := parseConnack(body, 5)
	require.NoError(t, err)
	assert.Equal(t, connack{receiveMaximum: 10, maximumQoS: 1, keepAlive: 30}, ack)
	for cut := 3; cut < len(body); cut++ {
		_, err := parseConnack(body[:cut], 5)
		assert.Error(t, err, "cut at %d", cut)
	}
}

func TestSplitTakesPacketsOfAnyFragmentation(t *testing.T) {
	stream := appendAck(nil, typePuback, 7)
	stream = append(stream, typePublish, 0x80, 0x01)
	stream = append(stream, make([]byte, 128)...)
	stream = append(stream, typePingresp, 0)
	for at := range stream {
		var kinds []byte
		rest := []byte{}
		for _, part := range [][]byte{stream[:at], stream[at:]} {
			rest = append(rest, part...)
			for {
				first, _, size, err := split(rest, 1000)
				require.NoError(t, err)
				if size == 0 {
					break
				}
				kinds = append(kinds, first)
				rest = rest[size:]
			}
		}
		require.Equal(t, []byte{typePuback, typePublish, typePingresp}, kinds)
		require.Empty(t, rest)
	}
}

// FuzzDecode gives arbitrary bytes to all decoders, whole and in two parts.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x20\x02\x00\x00"), byte(4), 1)
	f.Add([]byte("\x20\x06\x00\x00\x03\x21\x00\x0a"), byte(5), 3)
	f.Add([]byte("\x32\x09\x00\x03a/b\x00\x01xy"), byte(4), 5)
	f.Add([]byte("\x34\x0a\x00\x03a/b\x00\x01\x00xy\x62\x02\x00\x01"), byte(5), 7)
	f.Add([]byte("\x40\x04\x00\x01\x10\x00\x90\x04\x00\x01\x00\x01"), byte(5), 2)
	f.Add([]byte("\x90\x03\x00\x01\x80\xe0\x01\x8e"), byte(4), 2)
	f.Add([]byte("\x30\xff\xff\xff\x7f"), byte(4), 2)
	f.Fuzz(func(t *testing.T, stream []byte, version byte, cut int) {
		for rest := stream; ; {
			first, body, size, err := split(rest, 1<<16)
			if err != nil || size == 0 {
				return
			}
			require.LessOrEqual(t, size, len(rest))
			require.LessOrEqual(t, len(body)+2, size)
			if cut > 0 && cut < size {
				_, _, partial, err := split(rest[:cut], 1<<16)
				require.True(t, partial == 0 && err == nil, "a part of a packet is no packet and no fault")
			}
			if _, payload, err := parsePublish(first, body, version); err == nil {
				require.True(t, bytes.HasSuffix(body, payload))
				readStamp(payload)
			}
			_, _, _ = parseAck(body, version)
			_, _ = parseSuback(body, version)
			if ack, err := parseConnack(body, version); err == nil {
				require.Positive(t, ack.receiveMaximum)
			}
			_ = disconnected(body)
			rest = rest[size:]
		}
	})
}

// idleSocket takes everything and has nothing to say.
type idleSocket struct{ taken int }

func (s *idleSocket) established() error          { return nil }
func (s *idleSocket) read([]byte) (int, error)    { return 0, errWouldBlock }
func (s *idleSocket) write(p []byte) (int, error) { s.taken += len(p); return len(p), nil }
func (s *idleSocket) close()                      {}

// loaded is an engine in the middle of its load, with one publisher and one subscriber and no network.
func loaded(qos int) (e *engine, publisher, subscriber *conn) {
	cfg := NewConfig(ModeDeviceToDevice, "")
	cfg.Publishers, cfg.QoS = 1, qos
	cfg.complete()
	e = assemble(context.Background(), cfg, nil)
	for _, c := range e.conns {
		c.state, c.sock = stateUp, &idleSocket{}
	}
	publisher, subscriber = e.publishers[0].conn, e.conns[0]
	publisher.pub.open(cfg.Inflight, qos)
	e.from = 0
	e.beginLoad()
	return e, publisher, subscriber
}

// exchange has a full window made, delivered and acknowledged, and returns the number of messages.
func exchange(tb testing.TB, e *engine, publisher, subscriber *conn) int {
	e.pump()
	made := publisher.out[publisher.sent:]
	if _, err := subscriber.consume(e, made); err != nil {
		tb.Fatal(err)
	}
	n := int(publisher.pub.seq - publisher.pub.acked)
	e.flush()
	if _, err := publisher.consume(e, windowAcks); err != nil {
		tb.Fatal(err)
	}
	return n
}

// windowAcks acknowledges the packet identifiers of a whole window.
var windowAcks = func() (acks []byte) {
	for id := range uint16(100) {
		acks = appendAck(acks, typePuback, id+1)
	}
	return acks
}()

func TestAMessageAllocatesNothing(t *testing.T) {
	e, publisher, subscriber := loaded(1)
	total := 0
	allocations := testing.AllocsPerRun(100, func() { total += exchange(t, e, publisher, subscriber) })
	assert.Equal(t, 101*100, total)
	assert.Zero(t, e.stray+e.foreign)
	assert.Zero(t, allocations)
}

// BenchmarkMessage is what the bench itself spends on one QoS 1 message from a device to another, without the network.
func BenchmarkMessage(b *testing.B) {
	e, publisher, subscriber := loaded(1)
	b.ReportAllocs()
	for n := 0; n < b.N; {
		n += exchange(b, e, publisher, subscriber)
	}
}
