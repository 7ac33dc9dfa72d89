package bench

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeBroker is a small broker that does wrong what a test tells it to. It knows the bench's own topics only.
type fakeBroker struct {
	t        *testing.T
	listener net.Listener
	version  byte
	// delivery may change what one delivery puts on the wire: each element of the answer is a copy of the message,
	// which is n-th of its subscriber.
	delivery func(n int, packet []byte) [][]byte
	// ack says whether the n-th publish of a connection is acknowledged, and with which reason.
	ack     func(n int) (answer bool, reason byte)
	connack []byte // replaces CONNACK
	// publish sees each publish before it is routed.
	publish func()

	wg   sync.WaitGroup
	mu   sync.Mutex
	subs []*fakeConn
	open map[net.Conn]bool
}

type fakeConn struct {
	mu     sync.Mutex
	conn   net.Conn
	filter string
	qos    byte
	nextID uint16
	sent   int
	got    int
}

func (b *fakeBroker) start(t *testing.T) *fakeBroker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.t, b.listener, b.open = t, listener, map[net.Conn]bool{}
	if b.version == 0 {
		b.version = 4
	}
	b.wg.Add(1)
	go b.accept()
	t.Cleanup(b.stop)
	return b
}

func (b *fakeBroker) address() string { return b.listener.Addr().String() }

func (b *fakeBroker) stop() {
	b.listener.Close()
	b.mu.Lock()
	for conn := range b.open {
		conn.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

func (b *fakeBroker) accept() {
	defer b.wg.Done()
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.open[conn] = true
		b.mu.Unlock()
		b.wg.Add(1)
		go func() {
			defer b.wg.Done()
			b.serve(&fakeConn{conn: conn})
		}()
	}
}

func (b *fakeBroker) serve(c *fakeConn) {
	defer c.conn.Close()
	var pending []byte
	buffer := make([]byte, 64<<10)
	for {
		n, err := c.conn.Read(buffer)
		if err != nil {
			return
		}
		pending = append(pending, buffer[:n]...)
		for {
			first, body, size, err := split(pending, 1<<20)
			if err != nil || size == 0 {
				break
			}
			if !b.handle(c, first, body) {
				return
			}
			pending = pending[size:]
		}
	}
}

func (b *fakeBroker) handle(c *fakeConn, first byte, body []byte) bool {
	switch first & 0xF0 {
	case firstConnect:
		switch {
		case b.connack != nil:
			c.write(b.connack)
		case b.version == 5:
			c.write([]byte{typeConnack, 3, 0, 0, 0})
		default:
			c.write([]byte{typeConnack, 2, 0, 0})
		}
	case firstSubscribe & 0xF0:
		b.subscribe(c, body)
	case typePublish:
		b.route(c, first, body)
	case typePubrel:
		c.write(appendAck(nil, typePubcomp, uint16(body[0])<<8|uint16(body[1])))
	case typePubrec:
		c.write(appendAck(nil, firstPubrel, uint16(body[0])<<8|uint16(body[1])))
	case firstPingreq:
		c.write([]byte{typePingresp, 0})
	case typeDisconnect:
		return false
	}
	return true
}

func (b *fakeBroker) subscribe(c *fakeConn, body []byte) {
	at := 2
	if b.version == 5 {
		at++
	}
	c.filter, c.qos = string(body[at+2:len(body)-1]), body[len(body)-1]
	b.mu.Lock()
	b.subs = append(b.subs, c)
	b.mu.Unlock()
	if b.version == 5 {
		c.write([]byte{typeSuback, 4, body[0], body[1], 0, c.qos})
		return
	}
	c.write([]byte{typeSuback, 3, body[0], body[1], c.qos})
}

func (b *fakeBroker) route(c *fakeConn, first byte, body []byte) {
	if b.publish != nil {
		b.publish()
	}
	id, payload, err := parsePublish(first, body, b.version)
	if err != nil {
		return
	}
	topic := string(body[2 : 2+int(body[1])])
	b.mu.Lock()
	subs := b.subs
	b.mu.Unlock()
	for _, sub := range subs {
		if head, wild := strings.CutSuffix(sub.filter, "#"); topic == sub.filter || wild && strings.HasPrefix(topic, head) {
			b.deliver(sub, topic, payload)
		}
	}
	answer, reason := true, byte(0)
	if b.ack != nil {
		answer, reason = b.ack(c.got)
	}
	c.got++
	kind := byte(typePuback)
	if first&0x04 != 0 {
		kind = typePubrec
	}
	switch {
	case id == 0 || !answer:
	case reason != 0:
		c.write([]byte{kind, 3, byte(id >> 8), byte(id), reason})
	default:
		c.write(appendAck(nil, kind, id))
	}
}

func (b *fakeBroker) deliver(c *fakeConn, topic string, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	packet, idAt := publishHead(b.version, topic, int(c.qos), len(payload))
	if c.qos > 0 {
		c.nextID++
		packet[idAt], packet[idAt+1] = byte(c.nextID>>8), byte(c.nextID)
	}
	packet = append(packet, payload...)
	packets := [][]byte{packet}
	if b.delivery != nil {
		packets = b.delivery(c.sent, packet)
	}
	c.sent++
	for _, p := range packets {
		// A client that went away is no concern of the fake.
		_, _ = c.conn.Write(p)
	}
}

func (c *fakeConn) write(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.conn.Write(p)
}
