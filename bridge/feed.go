package bridge

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

const (
	feedBatch     = 512     // records that the feeder takes at once
	feedBytes     = 1 * mib // bytes that the feeder reads from the spool at once
	removeBatch   = 2048    // acknowledged records that the spool forgets at once
	catchUp       = 4096    // records left in the spool at which new ones go direct again
	firstPause    = 200 * time.Millisecond
	longestPause  = 5 * time.Second
	pauseGrowth   = 2
	spoolTryAgain = time.Second // after the spool could not be read
	warnAgain     = time.Minute // after the same error was logged as a warning
)

// run owns the producers: it makes one, feeds it until it fails, cleans up after it, pauses, and makes the next.
func (u *Uplink) run() {
	pause := firstPause
	for u.ctx.Err() == nil {
		p, err := u.connect()
		if err == nil {
			u.begin(p)
			u.feed(p)
			err = u.bury(p)
			if !p.heard.IsZero() {
				pause = firstPause
			}
		}
		if u.ctx.Err() != nil {
			return
		}
		u.note(err, pause)
		select {
		case <-u.ctx.Done():
		case <-time.After(pause):
		}
		pause = min(pause*pauseGrowth, longestPause)
	}
}

func (u *Uplink) note(err error, pause time.Duration) {
	u.m.kafkaErrors.WithLabelValues(errorKind(err)).Inc()
	level := slog.LevelWarn
	u.mu.Lock()
	if now := time.Now(); u.lastErr == nil || u.lastErr.Error() != err.Error() || now.Sub(u.warned) > warnAgain {
		u.warned = now
	} else {
		level = slog.LevelDebug // a long outage does not fill the log
	}
	u.lastErr, u.errAt = err, time.Now()
	u.mu.Unlock()
	stats := u.spool.Stats()
	u.log.Log(u.ctx, level, "Kafka does not take the uplink; it goes to the spool", "error", err,
		"spool_messages", stats.Messages, "spool_bytes", stats.Bytes, "next_try_s", pause.Seconds())
}

func (u *Uplink) begin(p *producer) {
	u.mu.Lock()
	u.producer = p
	u.enter(Draining)
	backlog := u.nextSeq - u.nextRead
	u.mu.Unlock()
	u.log.Info("connected to Kafka", "spool_messages", u.spool.Stats().Messages, "backlog", backlog)
}

// feed gives records to the producer, in order, until it fails or the uplink is closed.
func (u *Uplink) feed(p *producer) {
	batch := make([]*item, 0, feedBatch)
	for {
		var wait bool
		var err error
		batch, wait, err = u.nextBatch(p, batch[:0])
		u.forget(wait)
		if err != nil {
			u.log.Error("uplink spool cannot be read", "error", err)
			if !u.sleep(p, spoolTryAgain) {
				return
			}
			continue
		}
		for _, it := range batch {
			select {
			case p.async.Input() <- &it.message:
			case <-p.failed:
				return
			case <-u.ctx.Done():
				return
			}
		}
		if wait {
			select {
			case <-u.wakeFeeder:
			case <-p.failed:
				return
			case <-u.ctx.Done():
				return
			}
		}
	}
}

func (u *Uplink) sleep(p *producer, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.failed:
	case <-u.ctx.Done():
	}
	return false
}

// nextBatch chooses what to feed next and puts it into the window. wait says that there is nothing more to do until
// wakeFeeder. It blocks for the disk when it reads the spool.
func (u *Uplink) nextBatch(p *producer, batch []*item) (_ []*item, wait bool, _ error) {
	u.mu.Lock()
	u.maybeGoDirect(p)
	single := u.nextRead <= u.careful
	if p.bytes >= int64(u.cfg.MaxInflight) || single && p.window.len() > 0 {
		u.mu.Unlock()
		return batch, true, nil
	}
	if u.nextRead <= u.durable {
		from, upTo, limit := u.nextRead, u.durable, feedBatch
		if single {
			limit = 1
		}
		u.mu.Unlock()
		batch, err := u.readSpool(p, batch, from, upTo, limit)
		return batch, false, err
	}
	defer u.mu.Unlock()
	if u.limbo > 0 || u.spilling {
		return batch, true, nil
	}
	u.enter(Closed)
	now := time.Now()
	for len(batch) < feedBatch && u.ring.len() > 0 {
		it := u.ring.pop()
		u.nextRead = it.seq + 1
		batch = append(batch, p.admit(it, now))
	}
	return batch, len(batch) == 0, nil
}

// admit puts an item into the window. Uplink.mu is held.
func (p *producer) admit(it *item, now time.Time) *item {
	it.prepare(now)
	p.window.push(it)
	p.bytes += it.size
	return it
}

// maybeGoDirect ends the spilling when Kafka has shown that it works and little is left in the spool. What is left is
// fed before the ring. Uplink.mu is held.
func (u *Uplink) maybeGoDirect(p *producer) {
	if !u.spilling || p.dead || u.held > int64(u.cfg.MaxInflight)/2 {
		return
	}
	backlog := u.nextSeq - u.nextRead // an upper bound: it counts records that were refused, too
	untried := p.heard.IsZero() && (backlog > 0 || p.window.len() > 0)
	if backlog <= catchUp && !untried {
		u.spilling = false
	}
}

// readSpool takes stored records from from to upTo into the window.
func (u *Uplink) readSpool(p *producer, batch []*item, from, upTo uint64, limit int) ([]*item, error) {
	entries, err := u.spool.Read(from, limit, feedBytes)
	if err != nil {
		return batch, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	u.nextRead = upTo + 1 // unless there turns out to be more
	for i := range entries {
		e := &entries[i]
		if e.Seq > upTo {
			return batch, nil
		}
		it := newItem(e.Seq, e.Record, nil)
		it.disk = e.Size
		batch = append(batch, p.admit(it, now))
	}
	if n := len(entries); n > 0 {
		u.nextRead = entries[n-1].Seq + 1
	}
	return batch, nil
}

// forget lets the spool remove what Kafka has acknowledged, in lots, or when there is nothing else to do.
func (u *Uplink) forget(idle bool) {
	u.mu.Lock()
	r := u.removed
	if r.messages == 0 || r.messages < removeBatch && !idle {
		u.mu.Unlock()
		return
	}
	u.removed = removal{}
	u.mu.Unlock()
	u.spool.Remove(r.upTo, r.messages, r.bytes)
}

// bury opens the circuit after a producer has failed or is no longer wanted: what Kafka has not acknowledged goes to
// the spool. It returns why the producer ended.
func (u *Uplink) bury(p *producer) error {
	p.fail(errClosed) // unless it has failed already
	aside := u.setAside(p)
	unanswered := u.open(p, aside)
	u.forget(true)
	u.respool(unanswered)
	p.dismiss()
	return p.err
}

// errClosed ends a producer that works.
var errClosed = errors.New("uplink is closed")

// open makes new records go to the spool and returns the direct records that are not acknowledged, in order.
func (u *Uplink) open(p *producer, aside *item) (unanswered []*item) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.producer = nil
	u.enter(Open)
	u.spilling = true
	for _, it := range p.window.take() {
		if it.acked || it == aside {
			continue
		}
		u.nextRead = min(u.nextRead, it.seq)
		if permanent(p.err) {
			u.careful = max(u.careful, it.seq) // one of these is at fault
		}
		if it.done != nil {
			unanswered = append(unanswered, it)
		}
	}
	unanswered = append(unanswered, u.ring.take()...)
	u.direct -= len(unanswered)
	u.limbo += len(unanswered)
	return unanswered
}

// setAside keeps the one record aside that was alone under way when Kafka refused it for good. Others wait behind it,
// and its publisher was acknowledged, so that it can be neither tried for ever nor dropped.
func (u *Uplink) setAside(p *producer) *item {
	u.mu.Lock()
	alone := p.window.len() == 1 && p.window.first().done == nil && permanent(p.err)
	u.mu.Unlock()
	if !alone {
		return nil
	}
	it := p.window.first() // nobody else touches the window of a producer that is dead
	if err := u.spool.SetAside(Entry{Seq: it.seq, Record: it.record, Size: it.disk}, p.err.Error()); err != nil {
		u.log.Error("uplink record cannot be set aside", "error", err)
		return nil
	}
	u.m.setAside.Inc()
	u.log.Error("uplink record that Kafka refuses was set aside", "client_id", it.record.ClientID,
		"kafka_topic", it.record.Topic, "bytes", len(it.record.Value), "error", p.err)
	return it
}

// respool puts direct records into the spool under their old sequence numbers, and waits until they are there: the next
// producer must find them.
func (u *Uplink) respool(batch []*item) {
	if len(batch) == 0 {
		return
	}
	stored := make(chan struct{})
	u.append(batch, stored)
	<-stored
}

// spoolLoop brings spilled records to the disk. Each round takes all that gathered during the last one.
func (u *Uplink) spoolLoop() {
	for {
		u.mu.Lock()
		batch := u.toSpool
		u.toSpool = nil
		u.mu.Unlock()
		if len(batch) > 0 {
			u.append(batch, nil)
			continue
		}
		select {
		case <-u.wakeSpooler:
		case <-u.drained:
			return
		}
	}
}

// append gives a batch to the spool. Its records are answered when they are on disk; after that, stored is closed.
func (u *Uplink) append(batch []*item, stored chan struct{}) {
	entries := make([]Entry, len(batch))
	for i, it := range batch {
		entries[i] = Entry{Seq: it.seq, Record: it.record}
	}
	u.spool.Append(entries, func(taken int, err error) {
		u.stored(batch, taken, err)
		if stored != nil {
			close(stored)
		}
	})
}

// stored answers for a batch of which the disk has the first taken ones, unless err. It is in limbo until that is done:
// Close waits for it.
func (u *Uplink) stored(batch []*item, taken int, err error) {
	u.mu.Lock()
	for _, it := range batch {
		u.held -= it.size
	}
	if taken > 0 {
		u.durable = max(u.durable, batch[taken-1].seq)
	}
	u.mu.Unlock()
	var failure error
	if err != nil {
		failure = broker.Refuse(packets.ErrImplementationSpecificError, "%v", fmt.Errorf("spool uplink: %w", err))
	}
	for _, it := range batch[:taken] {
		it.done(failure)
	}
	for _, it := range batch[taken:] {
		it.done(broker.Refuse(packets.ErrQuotaExceeded, "uplink spool is full"))
	}
	u.mu.Lock()
	u.limbo -= len(batch)
	u.mu.Unlock()
	signal(u.wakeFeeder)
	signal(u.settled)
}
