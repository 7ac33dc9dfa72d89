package broker

// delivery is one message on its way to one session.
type delivery struct {
	msg     *Message // nil once released
	seq     uint64
	ids     []uint32 // subscription identifiers
	share   string   // the $share filter that chose this session
	handler SendHandler
	qos     byte
	retain  bool
	replay  bool // a retained message for a new subscription: bounded by the queue's bytes, not by its length

	stored    bool // it is in the store, or on its way there
	committed bool // the store has it
	sent      bool // it was sent before: send it again with DUP
	released  bool // QoS 2: PUBREC received
	acked     bool // acknowledged out of turn; it leaves with those before it
}

func (d *delivery) size() int64 {
	if d.msg == nil {
		return 0
	}
	return int64(d.msg.Size())
}

// packetID is derived from the sequence number. So it need not be stored to be the same after a restart, and the
// acknowledgement of a packet identifier finds its delivery without a map.
func (d *delivery) packetID() uint16 { return packetID(d.seq) }

func packetID(seq uint64) uint16 { return uint16((seq-1)%65_535) + 1 }

// deque is a ring of deliveries in ascending order of seq.
type deque struct {
	ring []delivery // its length is a power of two, or zero
	head int
	n    int
}

func (q *deque) at(i int) *delivery { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *deque) front() *delivery { return q.at(0) }

func (q *deque) push(d delivery) {
	if q.n == len(q.ring) {
		q.grow()
	}
	q.n++
	*q.at(q.n - 1) = d
}

func (q *deque) grow() {
	ring := make([]delivery, max(4, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = *q.at(i)
	}
	q.ring, q.head = ring, 0
}

func (q *deque) pop() delivery {
	first := q.front()
	d := *first
	*first = delivery{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	if q.n--; q.n == 0 {
		q.head = 0
		if len(q.ring) > 64 {
			q.ring = nil // a burst is over: an idle session stays small
		}
	}
	return d
}

// find returns the delivery with this seq, by binary search.
func (q *deque) find(seq uint64) *delivery {
	lo, hi := 0, q.n
	for lo < hi {
		if mid := (lo + hi) / 2; q.at(mid).seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < q.n && q.at(lo).seq == seq {
		return q.at(lo)
	}
	return nil
}

// findPacketID returns the delivery with this packet identifier. The ring spans fewer than 65,535 sequence numbers, so
// there is one at most.
func (q *deque) findPacketID(id uint16) *delivery {
	if q.n == 0 {
		return nil
	}
	first := q.front().seq
	ahead := (uint64(id) + 65_535 - uint64(packetID(first))) % 65_535
	return q.find(first + ahead)
}

// filter keeps the deliveries for which keep is true, in order.
func (q *deque) filter(keep func(*delivery) bool) {
	for range q.n {
		if d := q.pop(); keep(&d) {
			q.push(d)
		}
	}
}

// drain empties the queue in order.
func (q *deque) drain(each func(delivery)) {
	for q.n > 0 {
		each(q.pop())
	}
}
