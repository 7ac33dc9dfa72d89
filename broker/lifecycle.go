package broker

import (
	"fmt"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/topic"
)

// disconnected takes an ended connection out of its session. It does nothing to a session that another connection has
// taken over in the meantime.
func (c *conn) disconnected(why *cause) {
	s := c.session.Load()
	if s == nil {
		c.debug("connection ended before CONNECT was accepted", "reason", why.Error())
		return
	}
	c.b.counters.connections.Add(-1)
	c.b.counters.disconnects.add(why.reason, 1)
	c.log().Info("disconnected", "reason", why.Error())
	s.mu.Lock()
	if s.conn.Load() != c {
		s.mu.Unlock()
		c.b.hooks.disconnect(c, why, false)
		return
	}
	done := c.b.goOffline(s, why.clean, why.keepWill)
	ended := !s.durable
	willWaits := why.keepWill && s.will != nil && s.inStore
	s.mu.Unlock()
	done()
	c.b.hooks.disconnect(c, why, ended)
	if ended && !willWaits {
		release := c.b.sessions.claim(s.id)
		if c.b.sessions.get(s.id) == s && !s.online() {
			c.b.endSession(s, "disconnected")
		}
		release()
	}
}

// goOffline detaches the session's connection and decides about its will. The caller holds mu, and calls what is
// returned after it has let go of it.
func (b *Broker) goOffline(s *Session, clean, keepWill bool) (done func()) {
	gates, lost := s.detach()
	now := max(time.Now().UnixMilli(), b.wheel.Now()) // the wheel may lag, and nothing may end too early
	s.disconnectedAt = now
	var fire *Will
	switch {
	case s.will == nil:
	case clean: // [MQTT-3.14.4-3]
		s.will = nil
	case keepWill: // this process ends: it is published after the next start, unless the client is back by then
		s.will.DueAt = now
	default:
		if delay := min(s.will.Delay, s.expiry); delay > 0 && s.durable {
			s.will.DueAt = now + int64(delay)*1000 // [MQTT-3.1.3-9]
		} else {
			fire, s.will = s.will, nil
		}
	}
	if s.durable {
		s.scheduleOffline()
	}
	return func() {
		for _, h := range lost {
			h.Lost(ErrNotConnected)
		}
		b.release(s, gates)
		if fire != nil {
			b.publishWill(s, fire)
		}
		s.recordOffline()
	}
}

// recordOffline writes the record of a durable session as it is now: its client may be back already, or the session
// have ended, and what was true a moment ago must not overwrite that.
func (s *Session) recordOffline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.durable && s.inStore && !s.dead && !s.online() {
		_ = s.b.storeRecord(s.record(), false)
	}
}

// scheduleOffline sets the timer to whatever comes first: the will or the session's end. The caller holds mu.
func (s *Session) scheduleOffline() {
	at := s.endsAt()
	if s.will != nil && s.will.DueAt != 0 && (at == 0 || s.will.DueAt < at) {
		at = s.will.DueAt
	}
	if at != 0 {
		s.b.wheel.Schedule(&s.timer, at, s)
	}
}

// endsAt is when an offline session expires, in Unix milliseconds; 0: never.
func (s *Session) endsAt() int64 {
	if s.expiry == expiryNever {
		return 0
	}
	if s.expiry == 0 && s.will != nil { // of the last run; only its will is left to do
		return s.will.DueAt
	}
	return s.disconnectedAt + int64(s.expiry)*1000
}

// offlineTimer publishes a will whose time has come, and ends a session that has expired. It may block.
func (b *Broker) offlineTimer(s *Session) {
	release := b.sessions.claim(s.id)
	defer release()
	now := b.wheel.Now()
	s.mu.Lock()
	if s.dead || s.online() {
		s.mu.Unlock()
		return
	}
	var fire *Will
	if s.will != nil && s.will.DueAt != 0 && s.will.DueAt <= now {
		fire, s.will = s.will, nil
	}
	ends := s.endsAt()
	expired := ends != 0 && ends <= now
	var record *SessionRecord
	if !expired {
		if fire != nil && s.inStore {
			record = s.record()
		}
		s.scheduleOffline()
	}
	s.mu.Unlock()
	if fire != nil {
		b.publishWill(s, fire)
	}
	if expired {
		b.endSession(s, "expired")
		b.hooks.expired(s)
		return
	}
	_ = b.storeRecord(record, false)
}

// takeOver disconnects the connection that holds a session, because the same client has connected again
// [MQTT-3.1.4-3]. The caller holds the claim.
func (b *Broker) takeOver(s *Session, old *conn, cleanStart bool) {
	s.mu.Lock()
	done := func() {}
	if s.conn.Load() == old {
		// A will with a delay is not published when its session goes on (MQTT 5, 3.1.2.5).
		resumed := !cleanStart && s.durable && s.will != nil && s.will.Delay > 0
		done = b.goOffline(s, resumed, false)
	}
	s.mu.Unlock()
	old.stop(cause{reason: "taken_over", code: packets.ErrSessionTakenOver, tell: true})
	done()
}

// endSession removes a session for good: its subscriptions, its queue, its record. Messages of shared subscriptions go
// to another member. The caller holds the claim; the session has no connection. It blocks until the store has answered
// for everything that was under way for this session.
func (b *Broker) endSession(s *Session, why string) {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return
	}
	s.dead = true
	will := s.will
	s.will = nil
	entries := make([]*topic.Entry[*subscription], 0, len(s.subs))
	for _, e := range s.subs {
		entries = append(entries, e)
	}
	s.subs = nil
	settled := s.awaitSettled()
	s.mu.Unlock()

	b.wheel.Cancel(&s.timer)
	for _, e := range entries {
		b.index.Remove(e)
	}
	b.counters.subscriptions.Add(-int64(len(entries)))
	if settled != nil {
		<-settled
	}
	b.abandonQueue(s)
	if s.inStore {
		b.store.Apply(&Tx{Ops: []Op{{Kind: OpDeleteSession, Session: s.id}}}, nil)
	}
	b.sessions.remove(s)
	if will != nil {
		b.publishWill(s, will) // it is published when the session ends, at the latest [MQTT-3.1.2-10]
	}
	b.log.Debug("session ended", "client_id", s.id, "reason", why)
}

// awaitSettled returns a channel that is closed when the store has answered for every entry, or nil. The caller holds
// mu.
func (s *Session) awaitSettled() <-chan struct{} {
	if s.uncommitted == 0 {
		return nil
	}
	if s.settled == nil {
		s.settled = make(chan struct{})
	}
	return s.settled
}

// abandonQueue counts what an ended session leaves behind, and gives messages of shared subscriptions to another member
// of their group, unless they are QoS 2 and under way (MQTT 5, 4.8.2).
func (b *Broker) abandonQueue(s *Session) {
	s.mu.Lock()
	var left []delivery
	for _, q := range []*deque{&s.inflight, &s.ready, &s.tail} {
		q.drain(func(d delivery) {
			if !d.acked {
				left = append(left, d)
			}
		})
	}
	from, stored, gone := s.backlogFrom, s.backlog, s.gone
	s.backlog, s.acked = 0, 0
	s.account(-s.count, -s.bytes)
	s.mu.Unlock()
	dropped := 0
	for i := range left {
		if d := &left[i]; !b.redispatch(d) {
			dropped++
		}
	}
	if stored > 0 {
		b.awaitStore()
	}
	for stored > 0 {
		entries, err := b.store.Queue(s.id, from, pageLen, pageBytes)
		if err != nil || len(entries) == 0 {
			dropped += stored
			break
		}
		for _, e := range entries {
			from = e.Seq + 1
			if slices.Contains(gone, e.Seq) {
				continue
			}
			stored--
			d := delivery{msg: e.Message, qos: e.QoS, share: e.Share, released: e.Released, sent: e.Seq <= s.sentTo}
			if !b.redispatch(&d) {
				dropped++
			}
		}
	}
	if dropped > 0 {
		b.counters.dropped.add(DropSessionEnded, int64(dropped))
	}
}

// redispatch gives a message of a shared subscription to another member.
func (b *Broker) redispatch(d *delivery) bool {
	if d.share == "" || d.msg == nil || d.released || d.qos == 2 && d.sent {
		return false
	}
	group, filter := topic.SplitShare(d.share)
	bt := b.getBatch()
	defer b.putBatch(bt)
	bt.matches.Reset()
	b.index.Match(d.msg.Topic, &bt.matches)
	for _, g := range bt.matches.Groups {
		if g.Name() != group || g.Filter() != filter {
			continue
		}
		t, ok := pickMember(g)
		if !ok {
			return false
		}
		if ops := b.deliver(bt, d.msg, nil, &t, nil); len(ops) > 0 {
			b.commit(bt, ops, nil)
		}
		return true
	}
	return false
}

// changeExpiry is the session expiry interval in a client's DISCONNECT (MQTT 5, 3.14.2.2.2). It comes too late when
// another connection has the session by now.
func (s *Session) changeExpiry(c *conn, seconds uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() != c {
		return nil
	}
	if s.expiry == 0 && seconds > 0 {
		return protocolError(packets.ErrProtocolViolationZeroNonZeroExpiry)
	}
	s.expiry = min(seconds, uint32(min(s.b.limits.SessionExpiry.Seconds(), expiryNever)))
	s.durable = s.expiry > 0
	return nil
}

// publishWill publishes a will, if its client may still publish to that topic.
func (b *Broker) publishWill(s *Session, w *Will) {
	if IsSys(w.Message.Topic) || !b.hooks.mayPublishWill(w) {
		b.counters.dropped.add(DropDenied, 1)
		b.log.Warn("will not published: its client may not publish there any more",
			"client_id", s.id, "topic", clip(w.Message.Topic))
		return
	}
	m := w.Message
	if !b.hooks.will(&m) {
		return
	}
	m.Received = b.wheel.Now()
	if w.HasExpiry {
		m.Expires = m.Received + int64(w.Expiry)*1000
	}
	b.Publish(&m, nil)
	b.hooks.willSent(&m)
}

// load brings back what the store holds: sessions, their subscriptions, and retained messages. Clients of the last run
// that did not say goodbye have lost their connection; they get WillGrace to be back before their wills are published.
func (b *Broker) load() error {
	if b.store == nil {
		return nil
	}
	if err := b.store.Retained(func(m *Message) error {
		b.keepRetained(m)
		return nil
	}); err != nil {
		return fmt.Errorf("load retained messages: %w", err)
	}
	if err := b.store.Sessions(b.loadSession); err != nil {
		return fmt.Errorf("load sessions: %w", err)
	}
	return nil
}

func (b *Broker) loadSession(stored StoredSession) error {
	r, now := &stored.Record, b.wheel.Now()
	s := &Session{
		b: b, id: r.ClientID, identity: r.Identity, username: r.Username, admin: r.Admin, version: r.ProtocolVersion,
		created: r.Created, expiry: r.ExpiryInterval, durable: r.ExpiryInterval > 0, inStore: true,
		disconnectedAt: r.DisconnectedAt, will: r.Will,
	}
	s.sentTo, s.nextSeq = r.SentTo, max(r.NextSeq, stored.QueueLast+1, 1)
	if s.disconnectedAt == 0 {
		// It was connected when the process died: any of its queue's first window may have been sent.
		s.disconnectedAt = now
		s.sentTo = max(s.sentTo, stored.QueueFirst+uint64(b.limits.Inflight))
	}
	if s.will != nil {
		s.will.DueAt = max(s.will.DueAt, s.disconnectedAt+int64(min(s.will.Delay, s.expiry))*1000,
			now+b.limits.WillGrace.Milliseconds())
	}
	s.backlogFrom, s.backlog = stored.QueueFirst, stored.QueueLen
	s.account(stored.QueueLen, stored.QueueBytes)
	for _, id := range stored.Inbound {
		if s.in == nil {
			s.in = make(map[uint16]*received, len(stored.Inbound))
		}
		s.in[id] = &received{accepted: true}
	}
	b.sessions.put(s)
	for _, sub := range stored.Subscriptions {
		s.subscribe(sub)
	}
	s.mu.Lock()
	s.scheduleOffline()
	s.mu.Unlock()
	return nil
}
