package broker

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/wire"
)

// outbox is what waits to be written to one socket. Packets are appended to buf and written together: many packets, one
// system call. At most one goroutine writes at a time; a socket that would block gets a goroutine of its own until it
// has caught up, so that a client which stops reading holds up nobody.
type outbox struct {
	mu      sync.Mutex
	buf     []byte
	writing bool          // a goroutine owns the socket's write side
	closed  bool          // the connection has ended
	room    chan struct{} // closed when buf went out, or the connection ended; nil while nobody waits
	hungry  bool          // the session has messages that did not fit: pump it when there is room
	slow    bool          // a publisher waited in vain for this client: QoS 0 is dropped at once until it has caught up
	slowTo  int64

	aliases  map[string]uint16 // topic aliases given to this client (MQTT 5, 3.3.2.3.4)
	aliasMax uint16
}

const smallBuffer = 2 << 10

var outPool = sync.Pool{New: func() any { b := make([]byte, 0, smallBuffer); return &b }}

func getOut() []byte { return (*outPool.Get().(*[]byte))[:0] }

// putOut takes a buffer back unless it has grown so large that keeping it would pin memory.
func putOut(b []byte) {
	if cap(b) <= 64<<10 {
		outPool.Put(&b)
	}
}

// append adds a packet made by f to what waits. It reports false when the connection has ended. A packet that is larger
// than the client accepts, and has to be sent all the same, ends it [MQTT-3.1.2-24].
func (c *conn) append(f func(dst []byte) []byte) bool {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.start()
	before := len(o.buf)
	o.buf = f(o.buf)
	if c.maxPacket > 0 && len(o.buf)-before > int(c.maxPacket) {
		o.buf = o.buf[:before]
		go c.stop(cause{reason: "maximum_packet_size", code: packets.ErrPacketTooLarge, tell: true})
		return false
	}
	c.b.counters.packetsOut.Add(1)
	return true
}

func (o *outbox) start() {
	if o.buf == nil {
		o.buf = getOut()
	}
}

// explain returns the reason string if the client wants one and its Maximum Packet Size leaves room for it
// [MQTT-3.1.2-29], [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.14.2-3].
func (c *conn) explain(reason string) string {
	const besides = 16 // at most, in the packets that carry a reason string
	if !c.problemInfo || c.maxPacket > 0 && len(reason)+besides > int(c.maxPacket) {
		return ""
	}
	return reason
}

// ack appends a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *conn) ack(packetType byte, id uint16, code byte, reason string) {
	reason = c.explain(reason)
	o := &c.out
	o.mu.Lock()
	if !o.closed {
		o.start()
		o.buf = wire.AppendAck(o.buf, packetType, c.version, id, code, reason)
	}
	o.mu.Unlock()
	c.b.counters.packetsOut.Add(1)
}

type sendResult byte

const (
	sendOK       sendResult = iota
	sendFull                // over the bound: QoS 1 and 2 stay queued; QoS 0 was appended, its publisher should wait
	sendDropped             // QoS 0 to a client that is too slow
	sendTooLarge            // larger than the client accepts
	sendClosed
)

// publish appends a PUBLISH. QoS 1 and 2 are refused (sendFull) at the bound. QoS 0 is still taken up to four times the
// bound, so that a publisher which is told sendFull can finish its read batch before it waits; beyond that, and for a
// client that was too slow before, it is dropped.
func (c *conn) publish(p *wire.PublishOut) sendResult {
	bound := c.b.limits.OutBuffer
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return sendClosed
	}
	result := sendOK
	if len(o.buf) >= bound {
		switch {
		case p.QoS > 0:
			o.hungry = true
			return sendFull
		case o.slow || len(o.buf) >= 4*bound:
			return sendDropped
		}
		result = sendFull
	}
	o.alias(p)
	if !c.accepts(p) && p.Alias != 0 {
		p.Alias, p.OmitTopic = 0, false // it may be that the alias makes it too large
	}
	if !c.accepts(p) {
		return sendTooLarge
	}
	if p.Alias != 0 && !p.OmitTopic {
		o.remember(p)
	}
	o.start()
	o.buf = wire.AppendPublish(o.buf, c.version, p)
	return result
}

// accepts reports whether a PUBLISH is within the client's Maximum Packet Size [MQTT-3.1.2-24].
func (c *conn) accepts(p *wire.PublishOut) bool {
	return c.maxPacket == 0 || wire.PublishSize(c.version, p) <= int(c.maxPacket)
}

// alias replaces the topic by an alias that the client knows, or proposes one while there are any left.
func (o *outbox) alias(p *wire.PublishOut) {
	if o.aliasMax == 0 {
		return
	}
	if a, ok := o.aliases[p.Topic]; ok {
		p.Alias, p.OmitTopic = a, true
	} else if len(o.aliases) < int(o.aliasMax) {
		p.Alias = uint16(len(o.aliases) + 1)
	}
}

// remember notes an alias that is being sent.
func (o *outbox) remember(p *wire.PublishOut) {
	if o.aliases == nil {
		o.aliases = make(map[string]uint16)
	}
	o.aliases[strings.Clone(p.Topic)] = p.Alias // a QoS 0 message's topic lies in its publisher's read buffer
}

// flush writes what waits, without blocking where the socket allows that; what does not go out at once is left to a
// goroutine that the broker waits for.
func (c *conn) flush() {
	o := &c.out
	o.mu.Lock()
	if o.writing || o.closed || len(o.buf) == 0 {
		o.mu.Unlock()
		return
	}
	o.writing = true
	data := o.buf
	o.buf = nil
	o.mu.Unlock()
	c.writeOut(data, 0)
}

// writeOut writes data from written on, and what has come to wait meanwhile, and gives up the write side, which the
// caller owns.
func (c *conn) writeOut(data []byte, written int) {
	for tries := 0; data != nil; tries++ {
		n, err := 0, error(nil)
		polled := c.polled.Load()
		switch {
		case polled != nil:
			n, err = polled.tryWrite(data[written:])
		case c.raw != nil && tries < 8:
			n, err = c.raw.tryWrite(data[written:])
		}
		if err != nil {
			c.writeFailed(err)
			return
		}
		if written += n; written < len(data) {
			if polled != nil {
				polled.writeLater(data, written)
			} else {
				c.spawnWriter(data, written)
			}
			return
		}
		data, written = c.wrote(data), 0
	}
}

func (c *conn) spawnWriter(data []byte, written int) {
	c.b.wg.Add(1)
	go func() {
		defer c.b.wg.Done()
		for data != nil {
			if _, err := c.nc.Write(data[written:]); err != nil {
				c.writeFailed(err)
				return
			}
			data, written = c.wrote(data), 0
		}
	}()
}

// wrote accounts for a buffer that is on its way and returns the next one, or nil after giving up the write side.
func (c *conn) wrote(data []byte) (more []byte) {
	c.b.counters.bytesOut.Add(int64(len(data)))
	o := &c.out
	o.mu.Lock()
	more, o.buf = o.buf, nil
	pump := o.hungry
	o.hungry = false
	if len(more) == 0 {
		more, o.writing = nil, false
	}
	if o.slow && more == nil && c.b.wheel.Monotonic() >= o.slowTo {
		o.slow = false
	}
	o.signal()
	o.mu.Unlock()
	putOut(data)
	if pump {
		if s := c.session.Load(); s != nil {
			s.resume(c)
		}
	}
	return more
}

func (c *conn) giveUpWriting() {
	c.out.mu.Lock()
	c.out.writing = false
	c.out.mu.Unlock()
}

func (c *conn) writeFailed(err error) {
	c.giveUpWriting()
	c.stop(cause{reason: "write_error", err: err})
}

// closeOut ends the outbox: nothing is appended any more, and whoever waits for room goes on.
func (c *conn) closeOut() {
	o := &c.out
	o.mu.Lock()
	o.closed = true
	o.buf = nil
	o.signal()
	o.mu.Unlock()
}

// signal wakes whoever waits for room. The caller holds mu.
func (o *outbox) signal() {
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// awaitRoom returns a channel that is closed once what waits now went out, or nil when less than the bound waits.
func (c *conn) awaitRoom() <-chan struct{} {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || len(o.buf) < c.b.limits.OutBuffer {
		return nil
	}
	if o.room == nil {
		o.room = make(chan struct{})
	}
	return o.room
}

// markSlow notes that a publisher waited for this client in vain: for a while, and until it has caught up, QoS 0 to it
// is dropped without waiting.
func (c *conn) markSlow() {
	c.out.mu.Lock()
	c.out.slow, c.out.slowTo = true, c.b.wheel.Monotonic()+slowFor.Milliseconds()
	c.out.mu.Unlock()
}

func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
