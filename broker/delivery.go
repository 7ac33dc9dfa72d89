package broker

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/wire"
)

const (
	// gateFor is how long a subscriber over its bound may hold up the acknowledgements of its publishers. One that has
	// not caught up by then is stalled: what it has no room for is dropped until half of its queue is free.
	gateFor = time.Second
	// pageLen and pageBytes bound what is read from the store at once for one session.
	pageLen   = 256
	pageBytes = 1 << 20
)

// outbound is a session's queue of QoS 1 and 2 deliveries, in ascending order of seq:
//
//	inflight (sent) < ready (in memory) < backlog (only in the store) < tail (newer than the backlog, in memory)
//
// While there is no backlog, new deliveries go to ready; otherwise to tail, where one stays until the store has it.
// All of it is guarded by the session's mu.
type outbound struct {
	nextSeq  uint64 // the next sequence number to give out; starts at 1
	sentTo   uint64 // highest one that may have been sent
	window   int    // how many the client accepts unacknowledged
	inflight deque
	ready    deque
	tail     deque

	backlogFrom uint64 // first sequence number that may be in the store only
	backlog     int    // entries in the store only
	loading     bool   // a page is being read

	count   int   // entries in all of the above
	bytes   int64 // their Message.Size
	acked   int   // entries of inflight that were acknowledged out of turn
	stalled bool

	uncommitted int           // entries given to the store, or about to be, that it has not answered for
	settled     chan struct{} // closed when there are none; nil while nobody waits
	untold      atomic.Int32  // those of them that the store may not have been given yet
	gone        []uint64      // entries that are done with and may still be found in the store, behind ones that are not
	early       []uint64      // entries to be removed that it may not have been given yet

	gates     []*inbound // publishes whose acknowledgement waits for this queue
	gatedTill int64      // wheel time when they are let go at the latest
}

// errOffline is no refusal of the publish: a session that ends gets nothing, and its client cannot expect it.
var errOffline = Refuse(packets.CodeNoMatchingSubscribers, "the session has ended")

// enqueue gives the session a QoS 1 or 2 delivery. It returns the store operation for a durable session (with
// hold set: the publish must wait for it), and refuses when the bound demands that.
func (s *Session) enqueue(bt *batch, d delivery, pub *inbound) (op Op, hold bool, refused *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead || !s.online() && (!s.durable || d.handler != nil) {
		return op, false, errOffline
	}
	if !s.admit(&d, pub) {
		if s.b.limits.RefuseWhenFull && pub != nil {
			return op, false, Refuse(packets.ErrQuotaExceeded, "the queue of a subscriber is full")
		}
		s.b.counters.dropped.add(DropQueueFull, 1)
		return op, false, nil
	}
	d.seq = s.nextSeq
	s.nextSeq++
	s.account(1, d.size())
	if s.durable && s.b.store != nil && d.handler == nil {
		d.stored = true
		s.uncommitted++
		s.untold.Add(1)
		op = Op{Kind: OpAppend, Session: s.id, Entry: QueueEntry{
			Seq: d.seq, Message: d.msg, QoS: d.qos, Retain: d.retain, Share: d.share, Identifiers: d.ids,
		}}
	}
	if s.backlog > 0 || s.tail.n > 0 || !s.online() {
		s.tail.push(d)
	} else {
		s.ready.push(d)
		s.pump(bt)
	}
	return op, d.stored, nil
}

// admit applies the bounds of the queue. A client that is keeping up holds up its publishers while it is over its
// bound; one that is stalled or offline loses the message.
func (s *Session) admit(d *delivery, pub *inbound) bool {
	l := &s.b.limits
	if s.stalled && s.count < l.Queue/2 {
		s.stalled = false
	}
	if s.count < l.Queue && s.bytes < l.QueueBytes/2 || d.replay && s.bytes+d.size() <= l.QueueBytes {
		return true
	}
	if !s.online() || s.stalled || s.bytes+d.size() > l.QueueBytes {
		return d.handler != nil // a command has its own bounds
	}
	if pub != nil && pub.c != nil && pub.session != s && pub.qos > 0 {
		s.gate(pub)
	}
	return true
}

// gate makes pub wait until this queue is within its bound again, or gateFor has passed.
func (s *Session) gate(pub *inbound) {
	if len(s.gates) == 0 {
		s.gatedTill = s.b.wheel.Monotonic() + gateFor.Milliseconds()
		s.b.wheel.ScheduleIn(&s.timer, gateFor, s)
	}
	s.gates = append(s.gates, pub)
	pub.waits.Add(1)
	pub.c.acks.gate(1, s.b.limits.ReceiveMaximum)
}

// closeGates takes the waiting publishes when their time is up, and declares the session stalled.
func (s *Session) closeGates() []*inbound {
	if len(s.gates) == 0 {
		return nil
	}
	if left := s.gatedTill - s.b.wheel.Monotonic(); left > 0 {
		s.b.wheel.ScheduleIn(&s.timer, time.Duration(left)*time.Millisecond, s)
		return nil
	}
	s.stalled = true
	return s.takeGates()
}

func (s *Session) takeGates() []*inbound {
	gates := s.gates
	s.gates = nil
	return gates
}

// openGates takes the waiting publishes when the queue is within its bound again.
func (s *Session) openGates() []*inbound {
	l := &s.b.limits
	if len(s.gates) == 0 || s.count >= l.Queue || s.bytes >= l.QueueBytes/2 {
		return nil
	}
	return s.takeGates()
}

// release lets publishes go on that waited for s. It must be called without locks.
func (b *Broker) release(s *Session, gates []*inbound) {
	for _, pub := range gates {
		pub.c.acks.gate(-1, b.limits.ReceiveMaximum)
		b.settle(pub, nil)
	}
}

func (s *Session) account(n int, bytes int64) {
	s.count += n
	s.bytes += bytes
	s.b.counters.queued.Add(int64(n))
	s.b.counters.queuedBytes.Add(bytes)
}

// pump sends what is ready as far as the client's window and the socket's bound allow. The caller holds mu.
func (s *Session) pump(bt *batch) {
	c := s.conn.Load()
	if c == nil {
		return
	}
	for s.ready.n > 0 && s.inflight.n-s.acked < s.window {
		d := s.ready.front()
		if s.inflight.n > 0 && d.seq-s.inflight.front().seq >= 65_535 {
			return // its packet identifier is still in use
		}
		if d.qos == 2 && d.stored && !d.committed {
			return // exactly once needs the store to know the packet identifier first
		}
		if d.acked { // the store refused it, and so was its publisher
			withdrawn := s.ready.pop()
			s.account(-1, -withdrawn.size())
			continue
		}
		if d.msg != nil && !d.sent && d.msg.expiredAt(s.b.wheel.Now()) {
			s.discard(bt, s.ready.pop(), DropExpired)
			continue
		}
		if w, ok := d.handler.(Withdrawer); ok && !d.sent && !w.Wanted() {
			s.discard(bt, s.ready.pop(), DropWithdrawn)
			continue
		}
		switch s.send(bt, c, d) {
		case sendOK:
			sent := s.ready.pop()
			sent.sent = true
			s.sentTo = max(s.sentTo, sent.seq)
			s.inflight.push(sent)
			if sent.handler != nil {
				sent.handler.Sent()
			}
		case sendTooLarge:
			s.discard(bt, s.ready.pop(), DropTooLarge)
		default:
			return
		}
	}
	if s.ready.n == 0 && s.backlog > 0 && !s.loading {
		s.loading = s.b.spawn(s.loadPage)
	}
}

// send writes one delivery to the connection's out-buffer.
func (s *Session) send(bt *batch, c *conn, d *delivery) sendResult {
	if d.released {
		c.ack(pubrel, d.packetID(), 0, "")
		bt.touch(c)
		return sendOK
	}
	p := wire.PublishOut{
		Topic: d.msg.Topic, Payload: d.msg.Payload, QoS: d.qos, Retain: d.retain, Dup: d.sent,
		PacketID: d.packetID(), Identifiers: d.ids, Properties: d.msg.Properties,
	}
	s.b.expiry(d.msg, &p)
	result := c.publish(&p)
	if result == sendOK {
		bt.delivered[d.qos]++
		bt.touch(c)
		s.b.hooks.published(c, d.msg, &p)
	}
	return result
}

// expiry fills in what is left of the message expiry interval [MQTT-3.3.2-6].
func (b *Broker) expiry(m *Message, p *wire.PublishOut) {
	if m.Expires != 0 {
		left := m.Expires - b.wheel.Now()
		p.HasExpiry, p.Expiry = true, uint32(max(0, (left+999)/1000))
	}
}

// discard removes a delivery that will not be sent.
func (s *Session) discard(bt *batch, d delivery, reason string) {
	if s.inflight.n == 0 {
		s.gone = nil
	} else if d.stored {
		s.gone = append(s.gone, d.seq)
	}
	s.account(-1, -d.size())
	s.b.counters.dropped.add(reason, 1)
	s.forget(bt, &d)
	if d.handler != nil {
		d.handler.Lost(&DropError{Reason: reason})
	}
}

// DropError says that a message was dropped; Reason is one of the Drop constants.
type DropError struct{ Reason string }

func (e *DropError) Error() string { return "message was dropped: " + e.Reason }

// forget removes a delivery's entry from the store, lazily: one that comes back after a crash is sent again with DUP.
// A client may be faster than the publisher's way to the store; the entry then goes once the store has it.
func (s *Session) forget(bt *batch, d *delivery) {
	switch {
	case !d.stored:
	case !d.committed && s.untold.Load() > 0:
		s.early = append(s.early, d.seq)
	default:
		bt.remove(s, d.seq)
	}
}

func (bt *batch) remove(s *Session, seq uint64) {
	bt.lazy = append(bt.lazy, Op{Kind: OpRemove, Session: s.id, Entry: QueueEntry{Seq: seq}})
}

// resume goes on sending on c, which has room again.
func (s *Session) resume(c *conn) {
	bt := s.b.getBatch()
	s.mu.Lock()
	if s.conn.Load() == c {
		s.pump(bt)
	}
	s.mu.Unlock()
	bt.later(s.b) // whoever calls resume owns the write side or has just given it up
	s.b.putBatch(bt)
}

// commitDone is called when the store has an entry of the session's queue, or could not take it.
func (s *Session) commitDone(seq uint64, err error) {
	bt := s.b.getBatch()
	s.mu.Lock()
	if s.uncommitted--; s.uncommitted == 0 && s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
	if i := slices.Index(s.early, seq); i >= 0 {
		s.early = slices.Delete(s.early, i, i+1)
		bt.remove(s, seq)
	}
	if d := s.lookup(seq); d != nil {
		if err != nil {
			s.withdraw(d)
		} else {
			d.committed = true
		}
		s.evict()
		s.pump(bt)
	}
	gates := s.openGates()
	s.mu.Unlock()
	bt.later(s.b)
	s.b.putBatch(bt)
	s.b.release(s, gates)
}

func (s *Session) lookup(seq uint64) *delivery {
	if d := s.inflight.find(seq); d != nil {
		return d
	}
	if d := s.ready.find(seq); d != nil {
		return d
	}
	return s.tail.find(seq)
}

// withdraw takes back a delivery that the store refused, unless it was sent already. Its publisher has been refused.
func (s *Session) withdraw(d *delivery) {
	d.stored = false
	if d.sent {
		return
	}
	d.acked = true // pump discards it
	s.b.counters.dropped.add(DropStoreFailed, 1)
}

// evict drops from memory what the store has and nobody can be sent: the front of the tail. Only a contiguous front
// goes, so that the backlog is one range without holes. The caller holds mu.
func (s *Session) evict() {
	if s.b.store == nil {
		return
	}
	for s.tail.n > 0 && (s.backlog > 0 || !s.online()) {
		d := s.tail.front()
		if d.acked {
			gone := s.tail.pop()
			s.account(-1, -gone.size())
			continue
		}
		if !d.committed {
			return
		}
		if s.backlog == 0 {
			s.backlogFrom = d.seq
		}
		s.backlog++
		s.tail.pop()
	}
}

// promote makes the tail ready when nothing is in the store only. The caller holds mu.
func (s *Session) promote() {
	if s.backlog == 0 && s.online() {
		s.tail.drain(s.ready.push)
	}
}
