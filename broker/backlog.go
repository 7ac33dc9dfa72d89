package broker

import "slices"

// loadPage reads the next part of the backlog from the store and goes on sending. One at a time for each session.
func (s *Session) loadPage() {
	s.b.loads <- struct{}{} // a bounded number of readers
	defer func() { <-s.b.loads }()

	s.mu.Lock()
	from := s.backlogFrom
	s.mu.Unlock()

	s.b.awaitStore()
	entries, err := s.b.store.Queue(s.id, from, pageLen, pageBytes)

	bt := s.b.getBatch()
	s.mu.Lock()
	s.loading = false
	if err == nil && s.backlogFrom == from && s.online() && !s.dead {
		s.takePage(entries)
	}
	if err == nil {
		s.pump(bt)
	}
	gates, c := s.openGates(), s.conn.Load()
	s.mu.Unlock()
	bt.later(s.b)
	s.b.putBatch(bt)
	s.b.release(s, gates)
	if err != nil {
		s.b.log.Error("read a session's queue from the store", "client_id", s.id, "error", err)
		if c != nil {
			c.stop(cause{reason: "store_failed", code: codeServerUnavailable, tell: true, err: err})
		}
	}
}

// awaitStore blocks until every operation that the store was given, above all removals, is visible to Queue.
func (b *Broker) awaitStore() {
	visible := make(chan struct{})
	b.store.Apply(&Tx{Lazy: true}, func(error) { close(visible) })
	<-visible
}

// takePage puts entries read from the store into ready. The caller holds mu.
func (s *Session) takePage(entries []QueueEntry) {
	for _, e := range entries {
		if s.tail.n > 0 && e.Seq >= s.tail.front().seq {
			break // in memory already
		}
		s.backlogFrom = e.Seq + 1
		if slices.Contains(s.gone, e.Seq) {
			continue
		}
		s.ready.push(delivery{
			msg: e.Message, seq: e.Seq, ids: e.Identifiers, share: e.Share, qos: e.QoS, retain: e.Retain,
			released: e.Released, stored: true, committed: true, sent: e.Seq <= s.sentTo,
		})
		s.backlog--
	}
	if len(entries) == 0 && s.backlog > 0 { // fewer than were counted: some could not be kept
		s.b.counters.dropped.add(DropCorrupt, int64(s.backlog))
		s.account(-s.backlog, 0)
		s.backlog = 0
		if s.count == 0 {
			s.account(0, -s.bytes)
		}
	}
	if s.backlog <= 0 {
		s.backlog, s.gone = 0, nil
		s.promote()
	}
}

// attach gives the session a connection and starts sending what waits for it. The caller holds mu.
func (s *Session) attach(bt *batch, c *conn) {
	s.window = c.window
	s.stalled = false
	s.disconnectedAt = 0
	s.conn.Store(c)
	s.promote()
	s.pump(bt)
}

// detach takes the connection away. What was sent and not acknowledged goes back to the front of the queue, to be sent
// again, in order; for a durable session memory keeps only what the store does not have yet. It returns the publishes
// that waited for this session and the handlers of what is lost with the connection. The caller holds mu.
func (s *Session) detach() (gates []*inbound, lost []SendHandler) {
	s.conn.Store(nil)
	keep := func(d *delivery) bool {
		if d.handler != nil && !d.acked {
			lost = append(lost, d.handler)
		}
		if d.handler != nil || d.acked {
			s.account(-1, -d.size())
			return false
		}
		return true
	}
	// Entries acknowledged out of turn were accounted for when that happened; their removal may not be in the store yet.
	s.inflight.filter(func(d *delivery) bool {
		if d.acked {
			s.gone = append(s.gone, d.seq)
			return false
		}
		return keep(d)
	})
	s.acked = 0
	s.ready.filter(keep)
	s.tail.filter(keep)
	if s.backlog > 0 {
		s.returnToBacklog(&s.inflight)
		s.returnToBacklog(&s.ready)
	} else {
		var all deque
		for _, q := range []*deque{&s.inflight, &s.ready, &s.tail} {
			q.drain(all.push)
		}
		s.tail = all
		s.evict()
	}
	s.window = 0
	return s.takeGates(), lost
}

// returnToBacklog drops entries that lie before the backlog from memory. They all came from the store.
func (s *Session) returnToBacklog(q *deque) {
	if q.n > 0 {
		s.backlogFrom = min(s.backlogFrom, q.front().seq)
		s.backlog += q.n
	}
	*q = deque{}
}
