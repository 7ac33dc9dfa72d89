package bench

import "time"

const (
	// breath is how long the loop leaves a broker alone that has enough to do.
	breath = time.Millisecond
	// enough is the least number of answers under way that is worth a breath.
	enough = 1000
)

// spin runs the loop until done says so, the time has come, or the run is interrupted. It reports whether it was done.
func (e *engine) spin(until int64, done func() bool) (bool, error) {
	e.tick()
	for e.now < until && e.ctx.Err() == nil {
		if done() {
			return true, nil
		}
		if err := e.step(until); err != nil {
			return false, err
		}
	}
	return done(), nil
}

// step waits for sockets, reads, lets publishers make messages, and writes.
func (e *engine) step(until int64) error {
	if e.busy() {
		nap(breath)
	}
	if err := e.poller.wait(e.patience(until), e.handle); err != nil {
		return err
	}
	e.tick()
	e.readOn()
	e.dialer.pump(e)
	e.pump()
	e.pings.pump(e)
	e.flush()
	return nil
}

// busy says that the broker has plenty to do: more than half of all windows. Waking for each of its answers would then
// only take CPU time from it, so that the loop takes a breath and finds many answers at once.
func (e *engine) busy() bool {
	if !e.sending || e.cfg.Rate > 0 {
		return false
	}
	open := int64(0)
	if e.cfg.QoS > 0 {
		open = e.sent - e.acked
	}
	if e.fanOut > 0 {
		open = max(open, e.sent-e.received/e.fanOut)
	}
	half := int64(e.cfg.Inflight) * int64(len(e.publishers)) / 2
	return open > half && open*max(e.fanOut, 1) > enough
}

// patience is how long there is nothing to do without news from a socket.
func (e *engine) patience(until int64) time.Duration {
	if len(e.ready)+len(e.unread)+len(e.dirty) > 0 {
		return 0
	}
	e.tick()
	next := min(until, e.now+int64(longestWait), e.dialer.next(e))
	if e.sending && e.cfg.Rate > 0 {
		next = min(next, e.schedule.next())
	}
	return time.Duration(max(next-e.now, 0))
}

func (e *engine) handle(id int, ready readiness) {
	c := e.conns[id]
	if c.state == stateClosed {
		return
	}
	if ready.writable {
		switch {
		case c.state == stateDialing:
			c.greet(e)
		case c.blocked:
			c.unblock(e)
		}
	}
	if ready.ended {
		c.ended = true
	}
	if ready.readable && c.state > stateDialing && c.state != stateClosed && !c.paused {
		c.read(e)
	}
}

// readOn continues with the connections whose last read filled the buffer.
func (e *engine) readOn() {
	if len(e.unread) == 0 {
		return
	}
	e.unread, e.again = e.again[:0], e.unread
	for _, c := range e.again {
		if c.state != stateClosed && !c.paused {
			c.read(e)
		}
	}
}

// pump gives every publisher that may send its turn.
func (e *engine) pump() {
	if !e.sending {
		e.ready = e.ready[:0]
		return
	}
	if e.cfg.Rate > 0 {
		e.schedule.advance(e)
	}
	e.ready, e.turn = e.turn[:0], e.ready
	for _, p := range e.turn {
		p.queued = false
		p.send(e)
	}
}

func (e *engine) flush() {
	// A flush may let a publisher go on, but never makes another connection dirty.
	for _, c := range e.dirty {
		c.flush(e)
	}
	e.dirty = e.dirty[:0]
}

// schedule says when each message is due: message k of all at start + k × interval, by publisher k mod their number.
type schedule struct {
	start    int64
	interval float64 // nanoseconds
	count    uint64  // messages that became due
}

func (s *schedule) dueAt(k uint64) int64 { return s.start + int64(float64(k)*s.interval) }

func (s *schedule) next() int64 { return s.dueAt(s.count) }

// advance tells the publishers what has become due.
func (s *schedule) advance(e *engine) {
	for s.next() <= e.now {
		p := e.publishers[s.count%uint64(len(e.publishers))]
		p.due++
		s.count++
		e.enqueue(p)
	}
}

// dialer connects the clients in order, a bounded number of them at a time.
type dialer struct {
	start      int64
	interval   float64 // nanoseconds between connections; 0: as fast as handshakes allow
	window     int     // handshakes under way at most
	opened     int     // clients that were begun
	handshakes int     // under way
	failed     int
	running    bool
}

// due is when the next client should be begun.
func (d *dialer) due() int64 { return d.start + int64(float64(d.opened)*d.interval) }

func (d *dialer) next(e *engine) int64 {
	if !d.running || d.opened == len(e.conns) || d.handshakes >= d.window {
		return never
	}
	return d.due()
}

func (d *dialer) pump(e *engine) {
	for d.next(e) <= e.now {
		c := e.conns[d.opened]
		c.began = e.now
		if d.interval > 0 {
			c.began = d.due()
		}
		d.opened++
		d.handshakes++
		c.state = stateDialing
		sock, err := e.poller.connect(c.index)
		if err != nil {
			e.drop(c, err)
			continue
		}
		c.sock = sock
	}
}

// pings spreads PINGREQ evenly over all connections.
type pings struct {
	start    int64
	interval float64 // nanoseconds from one connection to the next; 0: none are needed
	count    uint64
}

// heed takes over a keep-alive that the broker set, in seconds; negative where it set none.
func (e *engine) heed(seconds int) {
	keepAlive := e.cfg.KeepAlive
	if seconds >= 0 {
		keepAlive = time.Duration(seconds) * time.Second
	}
	if keepAlive == 0 {
		return
	}
	interval := float64(keepAlive) / 2 / float64(len(e.conns))
	if e.pings.interval == 0 || interval < e.pings.interval {
		e.pings = pings{start: e.now, interval: interval}
	}
}

func (p *pings) pump(e *engine) {
	if p.interval == 0 {
		return
	}
	for range len(e.conns) {
		if p.start+int64(float64(p.count)*p.interval) > e.now {
			return
		}
		c := e.conns[p.count%uint64(len(e.conns))]
		p.count++
		if c.state == stateUp && !c.blocked {
			c.out = append(c.out, firstPingreq, 0)
			e.touch(c)
		}
	}
}
