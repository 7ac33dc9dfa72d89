package bench

import (
	"errors"
	"fmt"
)

// errEnded is why a connection is gone that nobody here closed.
var errEnded = errors.New("closed by the broker")

const (
	// maxPending is how much a publisher may have waiting for its socket before it stops making messages.
	maxPending = 64 << 10
	// maxAckPending is how many bytes of acknowledgements may wait before a connection is not read any more.
	maxAckPending = 256 << 10
)

type connState uint8

const (
	stateNew connState = iota
	stateDialing
	stateConnecting  // CONNECT is on its way
	stateSubscribing // SUBSCRIBE is on its way
	stateUp
	stateClosed
)

// conn is one MQTT connection. An idle one holds no buffer.
type conn struct {
	index   int
	state   connState
	blocked bool // the socket takes no more until it is writable
	queued  bool // in engine.dirty
	paused  bool // not read, because its acknowledgements do not get out
	ended   bool // the peer closed; read on to the end
	sock    socket
	began   int64 // when the attempt to connect was due
	id      string
	filter  string
	pub     *publisher
	sub     *subscriber
	partial []byte // the beginning of a packet that is not complete
	out     []byte // not yet written, from sent on
	sent    int
}

// greet sends CONNECT once the TCP connection stands.
func (c *conn) greet(e *engine) {
	if err := c.sock.established(); err != nil {
		e.drop(c, fmt.Errorf("dial: %w", err))
		return
	}
	c.state = stateConnecting
	c.out = appendConnect(c.out, &e.cfg, c.id)
	e.touch(c)
}

// read takes what has arrived, one buffer full. It asks to be called again where there may be more.
func (c *conn) read(e *engine) {
	if c.blocked && len(c.out)-c.sent > maxAckPending {
		c.paused = true
		return
	}
	kept := copy(e.buffer, c.partial)
	n, err := c.sock.read(e.buffer[kept:])
	if errors.Is(err, errWouldBlock) {
		return
	}
	if err == nil && n == 0 {
		err = errEnded
	}
	if err != nil {
		e.drop(c, err)
		return
	}
	e.tick()
	more := c.ended || kept+n == len(e.buffer)
	rest, err := c.consume(e, e.buffer[:kept+n])
	if err != nil {
		e.drop(c, err)
		return
	}
	c.keep(rest)
	if more {
		e.unread = append(e.unread, c)
	}
}

// keep holds on to the beginning of a packet. Only a subscriber keeps the room for the next one.
func (c *conn) keep(rest []byte) {
	if len(rest) == 0 && c.sub == nil {
		c.partial = nil
		return
	}
	c.partial = append(c.partial[:0], rest...)
}

// consume handles the complete packets of b and returns what is left of it.
func (c *conn) consume(e *engine, b []byte) ([]byte, error) {
	for {
		first, body, size, err := split(b, e.limit)
		if err != nil {
			return nil, err
		}
		if size == 0 {
			return b, nil
		}
		if err := c.packet(e, first, body); err != nil {
			return nil, err
		}
		b = b[size:]
	}
}

func (c *conn) packet(e *engine, first byte, body []byte) error {
	kind := first & 0xF0
	if c.state < stateSubscribing && kind != typeConnack {
		return fmt.Errorf("packet 0x%02x before CONNACK", first)
	}
	switch kind {
	case typePublish:
		return c.publish(e, first, body)
	case typePuback, typePubrec, typePubcomp:
		return c.acknowledged(e, kind, body)
	case typePubrel:
		id, _, err := parseAck(body, e.cfg.Version)
		if err != nil {
			return err
		}
		c.out = appendAck(c.out, typePubcomp, id)
		e.touch(c)
		return nil
	case typeConnack:
		return c.accepted(e, body)
	case typeSuback:
		return c.subscribed(e, body)
	case typePingresp:
		return nil
	case typeDisconnect:
		return disconnected(body)
	}
	return fmt.Errorf("unexpected packet 0x%02x", first)
}

func disconnected(body []byte) error {
	reason := byte(0)
	if len(body) > 0 {
		reason = body[0]
	}
	return fmt.Errorf("disconnected by the broker with reason 0x%02x", reason)
}

func (c *conn) accepted(e *engine, body []byte) error {
	ack, err := parseConnack(body, e.cfg.Version)
	switch {
	case err != nil:
		return err
	case c.state != stateConnecting:
		return errMalformed
	case ack.reason != 0:
		e.refused++
		return fmt.Errorf("refused with code 0x%02x", ack.reason)
	case ack.maximumQoS < e.cfg.QoS:
		return fmt.Errorf("broker allows QoS %d at most", ack.maximumQoS)
	}
	e.accepted++
	e.connects.record(e.now - c.began)
	e.heed(ack.keepAlive)
	if c.pub != nil {
		c.pub.open(min(e.cfg.Inflight, ack.receiveMaximum), e.cfg.QoS)
	}
	if c.filter == "" {
		e.up(c)
		return nil
	}
	c.state = stateSubscribing
	c.out = appendSubscribe(c.out, e.cfg.Version, c.filter, e.cfg.QoS)
	e.touch(c)
	return nil
}

func (c *conn) subscribed(e *engine, body []byte) error {
	reason, err := parseSuback(body, e.cfg.Version)
	switch {
	case err != nil:
		return err
	case c.state != stateSubscribing:
		return errMalformed
	case reason != byte(e.cfg.QoS):
		return fmt.Errorf("subscription answered with 0x%02x, not QoS %d", reason, e.cfg.QoS)
	}
	e.up(c)
	return nil
}

// publish takes a delivery and answers it.
func (c *conn) publish(e *engine, first byte, body []byte) error {
	id, payload, err := parsePublish(first, body, e.cfg.Version)
	if err != nil {
		return err
	}
	switch first & 0x06 {
	case 0x02:
		c.out = appendAck(c.out, typePuback, id)
		e.touch(c)
	case 0x04:
		c.out = appendAck(c.out, typePubrec, id)
		e.touch(c)
	}
	e.deliver(c.sub, payload)
	return nil
}

func (c *conn) acknowledged(e *engine, kind byte, body []byte) error {
	id, reason, err := parseAck(body, e.cfg.Version)
	if err != nil {
		return err
	}
	if c.pub == nil {
		e.stray++
		return nil
	}
	c.pub.acknowledged(e, kind, id, reason)
	return nil
}

// flush writes what it can.
func (c *conn) flush(e *engine) {
	c.queued = false
	if c.blocked || c.state == stateClosed {
		return
	}
	n, err := c.sock.write(c.out[c.sent:])
	c.sent += n
	switch {
	case errors.Is(err, errWouldBlock):
		c.blocked = true
		return
	case err != nil:
		e.drop(c, err)
		return
	}
	c.sent = 0
	if c.out = c.out[:0]; c.pub == nil && c.sub == nil {
		c.out = nil
	}
	if c.pub != nil && c.pub.held {
		c.pub.held = false
		e.enqueue(c.pub)
	}
}

// unblock goes on where a full socket stopped it.
func (c *conn) unblock(e *engine) {
	c.blocked = false
	e.touch(c)
	if c.paused {
		c.paused = false
		e.unread = append(e.unread, c)
	}
}
