package bench

import "slices"

const (
	// maxTurn is how many messages a publisher makes before the others have theirs.
	maxTurn = 4096
	// maxRejected bounds the list of refused messages of one publisher; those beyond it count as lost.
	maxRejected = 1 << 20
)

type slotState uint8

const (
	slotFree     slotState = iota
	slotSent               // waits for PUBACK or PUBREC
	slotReleased           // waits for PUBCOMP
)

// slot is a message in flight. Its packet identifier is its place in the window, plus one.
type slot struct {
	seq   uint64
	due   int64
	state slotState
}

// publisher makes messages on one connection. Every method belongs to the loop.
type publisher struct {
	index int
	conn  *conn
	head  []byte // the packet up to the payload
	idAt  int    // place of the packet identifier in head
	slots []slot
	free  []uint16 // a ring of slots, so that an identifier rests as long as it can
	first int      // of the ring
	idle  int      // free slots

	queued bool // in engine.ready
	held   bool // stopped by its full buffer; flush resumes it

	seq       uint64 // messages made
	due       uint64 // messages that should have been made by now, where there is a rate
	acked     uint64
	refused   uint64
	rejected  []uint64 // sequence numbers of the refused
	delivered uint64   // to all subscribers together
	forgiven  int64    // deliveries that nobody waits for any more
}

// open sizes the window once the broker has said how much it takes.
func (p *publisher) open(window, qos int) {
	if qos == 0 {
		return
	}
	p.slots = make([]slot, window)
	p.free = make([]uint16, window)
	for i := range p.free {
		p.free[i] = uint16(i)
	}
	p.idle = window
}

// credit is how many messages may be made now.
func (p *publisher) credit(e *engine) int {
	n := int64(maxTurn)
	if e.cfg.QoS > 0 {
		n = min(n, int64(p.idle))
	}
	if e.cfg.Rate > 0 {
		n = min(n, int64(p.due-p.seq))
	} else if e.fanOut > 0 {
		n = min(n, int64(e.cfg.Inflight)-p.undelivered(e)/e.fanOut)
	}
	if e.budget >= 0 {
		n = min(n, e.budget)
	}
	return int(max(n, 0))
}

// undelivered counts the deliveries that are still expected.
func (p *publisher) undelivered(e *engine) int64 {
	n := int64(p.seq)*e.fanOut - int64(p.delivered) - p.forgiven
	if n < 0 {
		// What was given up came after all.
		p.forgiven += n
		return 0
	}
	return n
}

// forgive stops waiting for deliveries that are overdue, so that a lost message does not end the load.
func (p *publisher) forgive(e *engine) {
	p.forgiven += p.undelivered(e)
	e.enqueue(p)
}

func (p *publisher) send(e *engine) {
	c := p.conn
	if c.state != stateUp || !e.sending {
		return
	}
	n := p.credit(e)
	for range n {
		if len(c.out)-c.sent > maxPending {
			p.held = true
			break
		}
		p.make(e)
	}
	if n == maxTurn && !p.held {
		e.enqueue(p)
	}
	if len(c.out) > c.sent {
		e.touch(c)
	}
}

// make appends one message to the buffer of the connection.
func (p *publisher) make(e *engine) {
	due := e.now
	if e.cfg.Rate > 0 {
		due = e.schedule.dueAt(p.seq*uint64(len(e.publishers)) + uint64(p.index))
		if due >= e.from {
			e.lag.record(e.now - due)
		}
	}
	c := p.conn
	at := len(c.out)
	c.out = append(c.out, p.head...)
	if e.cfg.QoS > 0 {
		id := p.take(slot{p.seq, due, slotSent})
		c.out[at+p.idAt], c.out[at+p.idAt+1] = byte(id>>8), byte(id)
	}
	at = len(c.out)
	c.out = slices.Grow(c.out, e.cfg.Size)[:at+StampSize]
	stamp{e.run, uint32(p.index), p.seq, due}.put(c.out[at:])
	c.out = append(c.out, e.filler...)
	p.seq++
	e.sent++
	if e.budget > 0 {
		e.budget--
	}
}

// take puts a message into the window and returns its packet identifier.
func (p *publisher) take(s slot) uint16 {
	i := p.free[p.first]
	if p.first++; p.first == len(p.free) {
		p.first = 0
	}
	p.idle--
	p.slots[i] = s
	return i + 1
}

func (p *publisher) release(i uint16) {
	p.slots[i].state = slotFree
	p.free[(p.first+p.idle)%len(p.free)] = i
	p.idle++
}

// acknowledged takes PUBACK, PUBREC and PUBCOMP. One that answers nothing is counted as stray.
func (p *publisher) acknowledged(e *engine, kind byte, id uint16, reason byte) {
	if id == 0 || int(id) > len(p.slots) {
		e.stray++
		return
	}
	s := &p.slots[id-1]
	wanted, last := slotSent, byte(typePuback)
	if e.cfg.QoS == 2 {
		last = typePubcomp
		if kind == typePubcomp {
			wanted = slotReleased
		}
	}
	switch {
	case s.state != wanted || (kind != last && kind != typePubrec) || (e.cfg.QoS == 1 && kind == typePubrec):
		e.stray++
	case reason >= 0x80:
		p.refused++
		if len(p.rejected) < maxRejected {
			p.rejected = append(p.rejected, s.seq)
		}
		p.finish(e, id-1)
	case kind == typePubrec:
		s.state = slotReleased
		p.conn.out = appendAck(p.conn.out, firstPubrel, id)
		e.touch(p.conn)
	default:
		p.acked++
		e.acked++
		if s.due >= e.from {
			e.acks.record(e.now - s.due)
		}
		p.finish(e, id-1)
	}
}

func (p *publisher) finish(e *engine, i uint16) {
	p.release(i)
	e.progress = e.now
	e.enqueue(p)
}

// unowed lists the messages that the broker never took responsibility for: unacknowledged and refused ones.
func (p *publisher) unowed() []uint64 {
	seqs := slices.Clone(p.rejected)
	for i := range p.slots {
		if p.slots[i].state != slotFree {
			seqs = append(seqs, p.slots[i].seq)
		}
	}
	return seqs
}

// unacknowledged counts the messages in flight.
func (p *publisher) unacknowledged() int { return len(p.slots) - p.idle }
