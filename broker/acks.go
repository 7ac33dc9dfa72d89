package broker

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/mochi-mqtt/server/v2/packets"
)

// inbound is one QoS 1 or 2 publish of a client between its arrival and its acknowledgement.
type inbound struct {
	c       *conn // nil for a publish of the broker's own
	session *Session
	msg     *Message
	id      uint16
	qos     byte
	waits   atomic.Int32            // who has still to accept it, and one for the one who is still asking them
	refusal atomic.Pointer[Refusal] // the first refusal
	done    func(error)             // the broker's own publish: who wants to know

	// Guarded by ackQueue.mu once it is queued.
	answered bool // QoS 2: the acceptors have answered
	routed   bool // it has been given to the subscribers, or will not be
	complete bool // it may be acknowledged
	next     *inbound
}

// ackQueue holds a connection's publishes in order of arrival until they are acknowledged, in that order
// [MQTT-4.6.0-2], [MQTT-4.6.0-3].
type ackQueue struct {
	mu         sync.Mutex
	head, tail *inbound
	n          int
	gated      int           // how many of them wait for a subscriber's queue
	room       chan struct{} // closed when n has fallen below the receive maximum and nothing is gated; nil: nobody waits

	held     int // QoS 2 publishes acknowledged by PUBREC and not yet released
	draining bool
}

func (q *ackQueue) push(p *inbound) {
	q.mu.Lock()
	if q.tail == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
	q.n++
	q.mu.Unlock()
}

// empty reports whether nothing waits, so that an acknowledgement may be sent at once.
func (q *ackQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head == nil
}

// open is how many QoS 1 and 2 publishes of the client have not been finished (MQTT 5, 4.9).
func (q *ackQueue) open() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n + q.held
}

// full reports whether awaitRoom would wait.
func (q *ackQueue) full(limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n >= limit || q.gated > 0
}

// awaitRoom blocks the reading goroutine while the client has as many publishes waiting as it may, or while one of
// them is gated by a full subscriber.
func (q *ackQueue) awaitRoom(c *conn) error {
	for {
		q.mu.Lock()
		if q.n < c.b.limits.ReceiveMaximum && q.gated == 0 {
			q.mu.Unlock()
			return nil
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		if !c.wait(room, 0) {
			return errStopped
		}
	}
}

func (q *ackQueue) signal(limit int) {
	if q.room != nil && q.n < limit && q.gated == 0 {
		close(q.room)
		q.room = nil
	}
}

func (q *ackQueue) gate(by int, limit int) {
	q.mu.Lock()
	q.gated += by
	q.signal(limit)
	q.mu.Unlock()
}

// refuse notes the first refusal; the publish is then refused once everybody has answered.
func (p *inbound) refuse(err error) {
	var r *Refusal
	if !errors.As(err, &r) {
		r = &Refusal{Code: packets.ErrImplementationSpecificError, Detail: err.Error()}
	}
	p.refusal.CompareAndSwap(nil, r)
}

// settle is called by each of those that had to accept the publish. The last one acknowledges it.
func (b *Broker) settle(p *inbound, err error) {
	if err != nil {
		p.refuse(err)
	}
	if p.waits.Add(-1) == 0 {
		b.accepted(p)
	}
}

// accepted: everyone that must has answered for the publish.
func (b *Broker) accepted(p *inbound) {
	if !p.routed {
		b.routeInOrder(p)
		return
	}
	if p.c == nil {
		if p.done != nil {
			if r := p.refusal.Load(); r != nil {
				p.done(r)
			} else {
				p.done(nil)
			}
		}
		return
	}
	q := &p.c.acks
	q.mu.Lock()
	p.complete = true
	for q.head != nil && q.head.complete {
		first := q.head
		if q.head = first.next; q.head == nil {
			q.tail = nil
		}
		q.n--
		b.acknowledge(first)
	}
	q.signal(b.limits.ReceiveMaximum)
	q.mu.Unlock()
	b.flushLater(p.c)
}

// acknowledge sends PUBACK or PUBREC, or tells the client that its publish was refused. The caller holds the queue's
// lock, or knows that nothing else waits.
func (b *Broker) acknowledge(p *inbound) {
	r := p.refusal.Load()
	if p.session != nil && p.qos == 2 {
		p.session.inboundSettled(p.id, r)
	}
	packetType := packets.Puback
	if p.qos == 2 {
		packetType = packets.Pubrec
	}
	if r == nil {
		b.counters.publishAcked.Add(1)
		if p.qos == 2 {
			p.c.acks.held++
		}
		p.c.ack(packetType, p.id, 0, "")
		return
	}
	b.counters.publishRefused.add(r.Code.Reason, 1)
	b.refused(p.c, packetType, p.id, r)
}

// publishCode is the refusal's own code, if a PUBACK or PUBREC may carry it (MQTT 5, 3.4.2.1).
func publishCode(code packets.Code) packets.Code {
	switch code.Code {
	case 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99:
		return code
	}
	return packets.Code{Code: packets.ErrImplementationSpecificError.Code, Reason: code.Reason}
}

// refused tells a client that its publish was not accepted: the reason code in the right packet for MQTT 5; MQTT 3 has
// none, so its connection is closed, and it will send again.
func (b *Broker) refused(c *conn, packetType byte, id uint16, r *Refusal) {
	c.debug("publish refused", "reason", r, "packet_id", id)
	if c.version >= 5 {
		code := publishCode(r.Code)
		c.ack(packetType, id, code.Code, code.Reason)
		return
	}
	go c.stop(cause{reason: "publish_refused", err: r})
}

// routeInOrder routes QoS 2 publishes whose acceptors have answered, in the order in which the client sent them: the
// packet identifier becomes durable together with the queue entries, so that neither is there without the other.
func (b *Broker) routeInOrder(p *inbound) {
	if p.c == nil {
		p.routed = true
		b.routeAccepted(p)
		return
	}
	q := &p.c.acks
	q.mu.Lock()
	p.answered = true
	if q.draining {
		q.mu.Unlock()
		return
	}
	q.draining = true
	for {
		next := q.firstUnrouted()
		if next == nil {
			break
		}
		next.routed = true
		q.mu.Unlock()
		b.routeAccepted(next)
		q.mu.Lock()
	}
	q.draining = false
	q.mu.Unlock()
}

// firstUnrouted finds the first publish whose acceptors have answered, unless an earlier one still waits for its own.
func (q *ackQueue) firstUnrouted() *inbound {
	for p := q.head; p != nil; p = p.next {
		if !p.routed {
			if p.answered {
				return p
			}
			return nil
		}
	}
	return nil
}

// routeAccepted is the second half of a QoS 2 publish that acceptors had to answer for.
func (b *Broker) routeAccepted(p *inbound) {
	p.waits.Store(1)
	bt := b.getBatch()
	if p.refusal.Load() == nil {
		b.route(bt, p.msg, p)
	}
	b.putBatch(bt)
	b.settle(p, nil)
}
