package systest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// TestBadInputHarmsOnlyItsSender attacks a node in every way at hand while a healthy client goes on. After each attack,
// and at the end, the node is as it was before.
func TestBadInputHarmsOnlyItsSender(t *testing.T) {
	n := startNode(t, sections{"limits": "{connect_timeout: 2s, out_buffer: 64KiB}"})
	for name, attack := range map[string]func(*testing.T, *node){
		"garbage":                attackWithGarbage,
		"garbage after CONNECT":  attackAfterConnect,
		"slow CONNECTs":          attackSlowly,
		"stalled subscribers":    attackByNotReading,
		"huge announced packets": attackWithHugePackets,
		"packets of any size":    attackWithSizes,
		"endless topics":         attackWithTopics,
		"connection churn":       attackWithChurn,
	} {
		t.Run(name, func(t *testing.T) {
			h := startHealthy(t, n)
			var before vital
			testenv.Eventually(t, patience, "the client of the attack before is gone", func() bool {
				before = vitals(n)
				return before.connections == 1
			})
			attack(t, n)
			select {
			case <-n.Exited():
				t.Fatal("the node ended")
			default:
			}
			awaitVitals(t, n, before)
			h.check()
			require.NotContains(t, n.Log(), "panic")
		})
	}
	t.Logf("resident at the end: %.0f MB", n.metric("process_resident_memory_bytes")/1e6)
}

// vital are the figures that come back when an attack is over.
type vital struct{ connections, sessions, subscriptions, goroutines, files float64 }

func vitals(n *node) vital {
	return vital{
		n.metric("penstock_connections"), n.metric("penstock_sessions"), n.metric("penstock_subscriptions"),
		n.metric("go_goroutines"), n.metric("process_open_fds"),
	}
}

func awaitVitals(t *testing.T, n *node, before vital) {
	t.Helper()
	const slack = 8 // HTTP connections of this test, files of the store
	var now vital
	deadline := time.Now().Add(patience)
	for {
		now = vitals(n)
		if now.connections == before.connections && now.sessions == before.sessions &&
			now.subscriptions == before.subscriptions && now.goroutines <= before.goroutines+slack &&
			now.files <= before.files+slack {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node did not come back to what it was: %+v, before %+v", now, before)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// many does something on many connections at once, and closes them.
func many(t *testing.T, n *node, connections int, do func(i int, nc net.Conn)) {
	t.Helper()
	var all sync.WaitGroup
	for i := range connections {
		all.Go(func() {
			nc, err := net.DialTimeout("tcp", n.MQTT, patience)
			if err != nil {
				t.Errorf("connect: %v", err)
				return
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(patience))
			do(i, nc)
		})
	}
	all.Wait()
}

func garbage(i int, size int) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 7))
	b := make([]byte, size)
	for k := range b {
		b[k] = byte(r.Uint32())
	}
	return b
}

func attackWithGarbage(t *testing.T, n *node) {
	many(t, n, 300, func(i int, nc net.Conn) {
		b := garbage(i, 1+i*37%5000)
		switch i % 5 {
		case 0:
			copy(b, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		case 1:
			copy(b, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
		case 2:
			copy(b, "\x10\x7f\x00\x04MQTT\x05\xff\xff\xff")
		case 3:
			copy(b, "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n")
		}
		_, _ = nc.Write(b) // it may be closed at any moment
	})
}

// attackAfterConnect connects as it should be, and then sends garbage, or well-formed packets that nobody may send.
func attackAfterConnect(t *testing.T, n *node) {
	bad := []string{"\x00\x00", "\xf1\x00", "\x20\x02\x00\x00", "\x36\x05\x00\x01a\x00\x01", "\x30\x02\x00\x00",
		"\x82\x00", "\x80\x05\x00\x01\x00\x01a", "\x82\x02\x00\x00", "\xa2\x02\x00\x01", "\x40\x00", "\xd0\x00",
		"\xe0\x05abcde", "\x30\x05\x00\x03a/+", "\x32\x05\x00\x01a\x00\x00", "\x82\x08\x00\x01\x00\x00\x02##\x00",
		"\xff\xff\xff\xff\xff"}
	many(t, n, 200, func(i int, nc net.Conn) {
		c := testmqtt.New(t, nc, byte(3+i%3))
		if c.TrySend(c.ConnectPacket(fmt.Sprintf("bad-%d", i))) != nil {
			return
		}
		if _, err := c.Read(patience); err != nil {
			t.Errorf("CONNACK: %v", err)
			return
		}
		if i < len(bad)*3 {
			_, _ = nc.Write([]byte(bad[i%len(bad)]))
		} else {
			_, _ = nc.Write(garbage(i, 2000))
		}
		for {
			if _, _, err := c.ReadRaw(time.Second); err != nil { // some garbage is a packet that waits for its end
				return
			}
		}
	})
}

// attackSlowly opens hundreds of connections that say nothing, or one byte after another. All of them must be closed
// by the node.
func attackSlowly(t *testing.T, n *node) {
	var closed atomic.Int64
	const connections = 400
	many(t, n, connections, func(i int, nc net.Conn) {
		connect := "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
		go func() {
			for k := range connect[:len(connect)-1] {
				if i%2 == 0 {
					return
				}
				if _, err := nc.Write([]byte{connect[k]}); err != nil {
					return
				}
				time.Sleep(300 * time.Millisecond) // drips more slowly than is allowed
			}
		}()
		if _, err := nc.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
			closed.Add(1)
		}
	})
	require.EqualValues(t, connections, closed.Load(), "connections that the node closed")
}

// attackByNotReading subscribes with clients that then read nothing while much is sent to them.
func attackByNotReading(t *testing.T, n *node) {
	var stalled []*testmqtt.Client
	for i := range 10 {
		c := testmqtt.Dial(t, n.MQTT, 5)
		c.MustConnect(fmt.Sprintf("stalled-%d", i))
		c.Subscribe(byte(i%3), "flood/#")
		stalled = append(stalled, c)
	}
	pub := testmqtt.Dial(t, n.MQTT, 5)
	pub.MustConnect("flooder")
	reader := testmqtt.Dial(t, n.MQTT, 5)
	reader.MustConnect("reader")
	reader.Subscribe(1, "flood/last")
	payload := strings.Repeat("x", 20_000)
	for i := range 1500 {
		pub.Publish("flood/x", payload, byte(i%2), uint16(i+1))
		if i%2 == 1 {
			pub.Expect(packets.Puback)
		}
	}
	pub.Publish("flood/last", "reached", 1, 5000)
	pub.Expect(packets.Puback)
	reader.ExpectPublish("flood/last", "reached")
	require.Positive(t, n.metric("penstock_dropped_total"))
	require.Less(t, n.metric("process_resident_memory_bytes"), 1e9)
	for _, c := range append(stalled, pub, reader) {
		c.Drop()
	}
}

// attackWithHugePackets announces 256 MB and sends little, before and after CONNECT.
func attackWithHugePackets(t *testing.T, n *node) {
	before := n.metric("process_resident_memory_bytes")
	var told atomic.Int64
	many(t, n, 200, func(i int, nc net.Conn) {
		if i%2 == 0 {
			_, _ = nc.Write([]byte("\x10\xff\xff\xff\x7f\x00\x04MQTT\x05"))
			_, _ = nc.Read(make([]byte, 100))
			return
		}
		c := testmqtt.New(t, nc, 5)
		if c.TrySend(c.ConnectPacket(fmt.Sprintf("huge-%d", i))) != nil {
			return
		}
		if _, err := c.Read(patience); err != nil {
			return
		}
		_, _ = nc.Write([]byte("\x32\xff\xff\xff\x7f\x00\x01a\x00\x01"))
		if pk, err := c.Read(patience); err == nil && pk.ReasonCode == 0x95 {
			told.Add(1)
		}
	})
	require.EqualValues(t, 100, told.Load(), "clients that were told 0x95 Packet too large")
	require.Less(t, n.metric("process_resident_memory_bytes")-before, 100e6)
}

// attackWithSizes sends packets of sizes around every bound of a buffer.
func attackWithSizes(t *testing.T, n *node) {
	sendSizes(t, func() (net.Conn, error) { return net.Dial("tcp", n.MQTT) })
}

// attackWithTopics subscribes and publishes with topics of tens of thousands of levels, and with thousands of filters.
func attackWithTopics(t *testing.T, n *node) {
	deep := strings.Repeat("a/", 30_000)
	many(t, n, 20, func(i int, nc net.Conn) {
		c := testmqtt.New(t, nc, 5)
		if c.TrySend(c.ConnectPacket(fmt.Sprintf("deep-%d", i))) != nil {
			return
		}
		_, _ = c.Read(patience)
		switch i % 3 {
		case 0:
			_ = c.TrySend(testmqtt.PublishPacket(deep, []byte("x"), 1, 1))
		case 1:
			_ = c.TrySend(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
				Filters: packets.Subscriptions{{Filter: strings.Repeat("+/", 30_000) + "#", Qos: 1}},
			})
		case 2:
			var filters packets.Subscriptions
			for k := range 3000 {
				filters = append(filters, packets.Subscription{Filter: fmt.Sprintf("deep/%d/+/%d/#", i, k)})
			}
			_ = c.TrySend(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: filters,
			})
		}
		_, _ = c.Read(patience)
	})
}

// attackWithChurn connects and takes over, again and again, with few client identifiers.
func attackWithChurn(t *testing.T, n *node) {
	many(t, n, 500, func(i int, nc net.Conn) {
		c := testmqtt.New(t, nc, byte(3+i%3))
		if c.TrySend(c.ConnectPacket(fmt.Sprintf("churn-%d", i%7))) == nil {
			_, _ = c.Read(patience)
		}
	})
	testenv.Eventually(t, patience, "all are gone", func() bool { return n.metric("penstock_connections") == 1 })
}
