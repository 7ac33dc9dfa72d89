package broker

import (
	"slices"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/topic"
	"github.com/penstockmq/penstock/broker/wire"
)

// target is one session that gets a message, with what its matching subscriptions add up to.
type target struct {
	session *Session
	group   *topic.Group[*subscription] // that session is a member of; nil without $share
	qos     byte
	rap     bool
	ids     []uint32
	share   string
}

// route gives a message to everyone who subscribed to it. p, when given, waits for those who must have it; nothing here
// blocks.
func (b *Broker) route(bt *batch, m *Message, p *inbound) {
	var ops []Op
	if m.Retain {
		ops = b.retain(bt, m, ops)
	}
	bt.matches.Reset()
	b.index.Match(m.Topic, &bt.matches)
	if len(bt.matches.Lists) == 1 && len(bt.matches.Groups) == 0 && b.hooks.selectSubscribers == nil {
		for _, e := range bt.matches.Lists[0] { // the common case: no session can appear twice
			s, o := e.Subscriber.session, e.Subscriber.options.Load()
			if !e.Removed() && !(o.NoLocal && m.Origin == s.id) {
				bt.target = target{session: s, qos: o.QoS, rap: o.RetainAsPublished, ids: o.ids()}
				ops = b.deliver(bt, m, p, &bt.target, ops)
			}
		}
	} else if len(bt.matches.Lists)+len(bt.matches.Groups) > 0 {
		b.gather(bt, m)
		for i := range bt.targets {
			ops = b.deliver(bt, m, p, &bt.targets[i], ops)
		}
		clear(bt.targets)
		bt.targets = bt.targets[:0]
	}
	if p != nil && p.qos == 2 && p.session != nil {
		ops = p.session.rememberInbound(bt, ops, p.id)
	}
	if len(ops) > 0 {
		b.commit(bt, ops, p)
	}
	b.hooks.routed(m)
}

// gather merges overlapping subscriptions: a session gets one copy with the highest QoS and all the identifiers
// [MQTT-3.3.4-2], [MQTT-3.3.4-3]; and it picks one member of each shared subscription.
func (b *Broker) gather(bt *batch, m *Message) {
	for _, list := range bt.matches.Lists {
		for _, e := range list {
			s, o := e.Subscriber.session, e.Subscriber.options.Load()
			if e.Removed() || o.NoLocal && m.Origin == s.id {
				continue
			}
			i, seen := bt.index[s]
			if !seen {
				i = len(bt.targets)
				bt.index[s] = i
				bt.targets = append(bt.targets, target{session: s})
			}
			t := &bt.targets[i]
			t.qos = max(t.qos, o.QoS)
			t.rap = t.rap || o.RetainAsPublished
			t.ids = append(t.ids, o.ids()...)
		}
	}
	clear(bt.index)
	for _, g := range bt.matches.Groups {
		if t, ok := pickMember(g); ok {
			bt.targets = append(bt.targets, t)
		}
	}
	if b.hooks.selectSubscribers != nil {
		bt.targets = b.hooks.selectSubscribers(bt.targets, m)
	}
}

// pickMember takes the members that are online in turn, and one that is offline only when no other is there.
func pickMember(g *topic.Group[*subscription]) (t target, ok bool) {
	e, ok := g.Pick(func(s *subscription) bool { return s.session.online() })
	if !ok {
		e, ok = g.Pick(func(s *subscription) bool { return true })
	}
	if !ok {
		return t, false
	}
	o := e.Subscriber.options.Load()
	return target{e.Subscriber.session, g, o.QoS, o.RetainAsPublished, o.ids(), o.Filter}, true
}

func (s *Subscription) ids() []uint32 {
	if s.Identifier == 0 {
		return nil
	}
	return []uint32{s.Identifier}
}

// deliver gives one copy to one session: QoS 0 at once or not at all, QoS 1 and 2 into its queue.
func (b *Broker) deliver(bt *batch, m *Message, p *inbound, t *target, ops []Op) []Op {
	qos := min(t.qos, m.QoS)
	retain := m.Retain && t.rap // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
	if qos == 0 {
		b.deliverNow(bt, m, t.session, retain, t.ids)
		return ops
	}
	op, hold, refused := t.session.enqueue(bt, delivery{
		msg: bt.keep(m), qos: qos, retain: retain, ids: t.ids, share: t.share,
	}, p)
	switch {
	case refused == errOffline:
		return b.deliverToAnother(bt, m, p, t, ops)
	case refused != nil:
		p.refuse(refused)
	case hold:
		ops = append(ops, op)
		bt.queued = append(bt.queued, queued{t.session, op.Entry.Seq})
	}
	return ops
}

// deliverToAnother: the session ended before it could be given the message. Another member of its group gets it.
func (b *Broker) deliverToAnother(bt *batch, m *Message, p *inbound, t *target, ops []Op) []Op {
	if t.group != nil {
		if other, ok := pickMember(t.group); ok && other.session != t.session {
			other.group = nil // once is enough
			return b.deliver(bt, m, p, &other, ops)
		}
	}
	b.counters.dropped.add(DropOffline, 1)
	return ops
}

// deliverNow writes a QoS 0 message to the session's connection.
func (b *Broker) deliverNow(bt *batch, m *Message, s *Session, retain bool, ids []uint32) {
	c := s.conn.Load()
	if c == nil {
		b.counters.dropped.add(DropOffline, 1)
		return
	}
	if m.expiredAt(b.wheel.Now()) {
		b.counters.dropped.add(DropExpired, 1)
		return
	}
	out := wire.PublishOut{
		Topic: m.Topic, Payload: m.Payload, Retain: retain, Identifiers: ids, Properties: m.Properties,
	}
	b.expiry(m, &out)
	switch c.publish(&out) {
	case sendOK:
	case sendFull:
		if !slices.Contains(bt.full, c) {
			bt.full = append(bt.full, c)
		}
	case sendDropped:
		b.counters.dropped.add(DropSlowConsumer, 1)
		b.hooks.dropped(c, m)
		return
	case sendTooLarge:
		b.counters.dropped.add(DropTooLarge, 1)
		return
	default:
		return
	}
	bt.delivered[0]++
	bt.touch(c)
	b.hooks.published(c, m, &out)
}

// rememberInbound makes a QoS 2 packet identifier durable together with what the message caused. A session that ends
// waits for it as for its queue's entries, or it would be left behind for the client's next session.
func (s *Session) rememberInbound(bt *batch, ops []Op, id uint16) []Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.durable && s.b.store != nil && !s.dead {
		s.uncommitted++
		bt.queued = append(bt.queued, queued{s, 0})
		ops = append(ops, Op{Kind: OpAddInbound, Session: s.id, PacketID: id})
	}
	return ops
}

// commit gives the store what one message causes, as one transaction; the publish waits for it. Where nobody waits, as
// with QoS 0, it need not be on disk at once.
func (b *Broker) commit(bt *batch, ops []Op, p *inbound) {
	if p != nil {
		p.waits.Add(1)
	}
	appended := slices.Clone(bt.queued)
	clear(bt.queued)
	bt.queued = bt.queued[:0]
	b.store.Apply(&Tx{Ops: ops, Lazy: p == nil}, func(err error) {
		for _, q := range appended {
			q.session.commitDone(q.seq, err)
		}
		if err != nil {
			b.log.Error("keep a message in the store", "error", err)
			err = Refuse(packets.ErrImplementationSpecificError, "store: %v", err)
		}
		if p != nil {
			b.settle(p, err)
		}
	})
	for _, q := range appended {
		if q.seq != 0 {
			q.session.untold.Add(-1)
		}
	}
}

// queued names one entry of one session's queue; 0 is none, but something else that the store was given for it.
type queued struct {
	session *Session
	seq     uint64
}
