package bridge

import (
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// errAckTimeout: Kafka took longer than ack_timeout to answer for a record.
var errAckTimeout = errors.New("no answer from Kafka within ack_timeout")

// abandonAfter bounds the wait for a producer that was cut off to end.
const abandonAfter = 10 * time.Second

// producer is one life of a sarama producer: from connecting to the first failure, which ends it.
type producer struct {
	u     *Uplink
	async sarama.AsyncProducer
	gate  *gate

	failed chan struct{} // closed by fail
	ended  chan struct{} // closed when the results have been read to their end

	// Guarded by Uplink.mu.
	window queue     // fed, in order; answered ones leave when they come first
	bytes  int64     // of window
	dead   bool      // answers do not count any more
	err    error     // why it is dead
	heard  time.Time // when Kafka last acknowledged something; zero: never
}

// connect makes a producer. It blocks while it asks the brokers, and gives up when the uplink is closed.
func (u *Uplink) connect() (*producer, error) {
	g := newGate(u.ctx, u.cfg.DialTimeout)
	async, err := sarama.NewAsyncProducer(u.cfg.Brokers, g.attach(u.sarama))
	if err != nil {
		g.cut()
		return nil, fmt.Errorf("connect to Kafka: %w", err)
	}
	p := &producer{u: u, async: async, gate: g, failed: make(chan struct{}), ended: make(chan struct{})}
	g.arm()
	go p.readResults() // dismiss waits for it
	return p, nil
}

// readResults reads what becomes of the records, and comes to the gate's meetings. It owns the watch over ack_timeout:
// one look at the oldest record now and then, no timer for each.
func (p *producer) readResults() {
	defer close(p.ended)
	defer p.gate.cut() // nobody comes to the meetings any more
	watch := time.NewTicker(p.u.cfg.AckTimeout / 8)
	defer watch.Stop()
	successes, failures := p.async.Successes(), p.async.Errors()
	for successes != nil || failures != nil {
		select {
		case m, ok := <-successes:
			if !ok {
				successes = nil
				continue
			}
			p.succeed(m.Metadata.(*item))
		case f, ok := <-failures:
			if !ok {
				failures = nil
				continue
			}
			p.fail(f.Err)
		case <-p.gate.ask:
		case now := <-watch.C:
			if p.overdue(now) {
				p.fail(errAckTimeout)
			}
		}
	}
}

// succeed takes Kafka's acknowledgement of one record.
func (p *producer) succeed(it *item) {
	u, now := p.u, time.Now()
	u.mu.Lock()
	if p.dead {
		u.mu.Unlock()
		return // it goes to the spool; Kafka will get it again
	}
	done, fed := it.done, it.fed
	it.acked = true
	p.heard = now
	if done != nil {
		u.direct--
		u.held -= it.size
	}
	if p.popAcked() {
		signal(u.wakeFeeder)
	}
	if u.closing && u.direct == 0 {
		signal(u.settled)
	}
	u.mu.Unlock()
	u.m.ackSeconds.Observe(now.Sub(fed).Seconds())
	if done != nil {
		done(nil)
	}
}

// popAcked takes answered records from the front of the window. It reports whether the feeder may have waited for that.
// Uplink.mu is held.
func (p *producer) popAcked() (roomAgain bool) {
	u, full := p.u, p.bytes >= int64(p.u.cfg.MaxInflight)
	for p.window.len() > 0 && p.window.first().acked {
		it := p.window.pop()
		p.bytes -= it.size
		if it.done == nil {
			u.removed.upTo = it.seq
			u.removed.messages++
			u.removed.bytes += it.disk
		}
		it.recycle()
	}
	toRemove := p.window.len() == 0 && u.removed.messages > 0
	return toRemove || u.spilling || full && p.bytes < int64(u.cfg.MaxInflight)
}

// overdue reports whether Kafka has stopped answering: altogether, or for the oldest record while others go on. A slow
// Kafka that answers steadily may take longer for a record: there can be many before it.
func (p *producer) overdue(now time.Time) bool {
	const patience = 4 // times the timeout, for one record while others are answered
	timeout := p.u.cfg.AckTimeout
	p.u.mu.Lock()
	defer p.u.mu.Unlock()
	if p.dead || p.window.len() == 0 {
		return false
	}
	oldest := now.Sub(p.window.first().fed)
	return oldest > timeout && now.Sub(p.heard) > timeout || oldest > patience*timeout
}

// fail ends the producer's life: from here on nothing more reaches Kafka through it. Only the first error counts.
func (p *producer) fail(err error) {
	p.u.mu.Lock()
	first := !p.dead
	if first {
		p.dead, p.err = true, err
	}
	p.u.mu.Unlock()
	if first {
		p.gate.cut()
		close(p.failed)
	}
}

// dismiss ends sarama's goroutines. It waits for them, but not for ever: they can do no harm any more.
func (p *producer) dismiss() {
	p.async.AsyncClose()
	select {
	case <-p.ended:
	case <-time.After(abandonAfter):
		p.u.log.Warn("a Kafka producer that was cut off takes long to end")
	}
}
