package broker

import (
	"slices"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/topic"
	"github.com/penstockmq/penstock/broker/wire"
)

// handlePublish is the way of a publish from its packet to its acknowledgement: validate, resolve the alias, check the
// ACL, ask those who must answer for it, route it, and acknowledge it when all of them have it.
func (c *conn) handlePublish(bt *batch, pk *packets.Packet) error {
	s, h := c.session.Load(), pk.FixedHeader
	bt.received[h.Qos]++
	bt.published++
	if err := c.resolveAlias(pk); err != nil {
		return err
	}
	if h.Qos > 0 && c.version >= 5 && c.acks.open() >= c.b.limits.ReceiveMaximum && !s.known(pk) {
		return protocolError(packets.ErrReceiveMaximum) // [MQTT-3.3.4-9]
	}
	if h.Qos == 2 {
		if fresh, accepted := s.inboundBegin(c, pk.PacketID); !fresh {
			if accepted {
				c.ack(pubrec, pk.PacketID, 0, "")
			}
			return nil // [MQTT-4.3.3-10]; if it is still being accepted, its PUBREC comes with that
		}
	}
	if refusal := c.checkPublish(pk); refusal != nil {
		return c.refusePublish(s, pk, refusal)
	}
	if ignore, err := c.b.hooks.publish(c, pk); err != nil {
		return c.refusePublish(s, pk, err)
	} else if ignore {
		return c.acceptIgnored(s, pk)
	}
	c.accept(bt, s, c.message(bt, pk), pk.PacketID)
	return nil
}

// accept offers the message to everyone that must accept it, and acknowledges it now if all of them have it already.
func (c *conn) accept(bt *batch, s *Session, m *Message, id uint16) {
	b := c.b
	if m.QoS == 0 {
		b.offer(bt, m, nil)
		b.route(bt, m, nil)
		return
	}
	p := bt.inbound
	if p == nil {
		p = new(inbound)
	}
	bt.inbound = nil
	p.c, p.session, p.id, p.qos = c, s, id, m.QoS
	p.waits.Store(1)
	asked := b.offer(bt, m, p)
	if p.routed = m.QoS == 1 || !asked; p.routed {
		b.route(bt, m, p)
	} else {
		p.msg = bt.keep(m)
	}
	if p.waits.Load() == 1 && p.routed && c.acks.empty() {
		b.acknowledge(p)
		if p.waits.Load() == 1 { // nobody else knows it: use it again
			*p = inbound{}
			bt.inbound = p
		}
		return
	}
	c.acks.push(p)
	b.settle(p, nil)
}

// resolveAlias replaces a topic alias by its topic, or remembers a new one [MQTT-3.3.2-12].
func (c *conn) resolveAlias(pk *packets.Packet) error {
	alias := pk.Properties.TopicAlias
	if c.version < 5 || alias == 0 {
		return nil
	}
	if int(alias) > c.b.limits.TopicAliasMaximum {
		return protocolError(packets.ErrTopicAliasInvalid) // [MQTT-3.3.2-9]
	}
	if pk.TopicName == "" {
		known, ok := c.aliases[alias]
		if !ok {
			return protocolError(packets.ErrProtocolViolation) // MQTT 5, 3.3.4
		}
		pk.TopicName = known
		return nil
	}
	if c.aliases == nil {
		c.aliases = make(map[uint16]string)
	}
	if c.aliases[alias] != pk.TopicName {
		c.aliases[alias] = strings.Clone(pk.TopicName)
	}
	return nil
}

// checkPublish says why the client may not publish this, or nil.
func (c *conn) checkPublish(pk *packets.Packet) *Refusal {
	if err := topic.CheckName(pk.TopicName, c.b.limits.TopicLevels); err != nil {
		return Refuse(packets.ErrTopicNameInvalid, "%v", err)
	}
	if IsSys(pk.TopicName) {
		return Refuse(packets.ErrNotAuthorized, "topics that begin with $ are the server's")
	}
	if !c.b.hooks.allowed(c.client, pk.TopicName, true) {
		return Refuse(packets.ErrNotAuthorized, "topic %.200q", pk.TopicName)
	}
	return nil
}

// refusePublish answers a publish that is not accepted. QoS 0 has no answer: it is counted.
func (c *conn) refusePublish(s *Session, pk *packets.Packet, r *Refusal) error {
	c.log().Debug("publish refused", "reason", r.Error(), "topic", clip(pk.TopicName))
	if pk.FixedHeader.Qos == 0 || c.version < 5 || c.acks.empty() { // or it is counted when it is acknowledged
		c.b.counters.publishRefused.add(r.Code.Reason, 1)
	}
	if pk.FixedHeader.Qos == 0 {
		return nil
	}
	if pk.FixedHeader.Qos == 2 {
		s.inboundSettled(pk.PacketID, r)
	}
	if c.version < 5 {
		return &cause{reason: "publish_refused", err: r}
	}
	answer := byte(puback)
	if pk.FixedHeader.Qos == 2 {
		answer = pubrec
	}
	if c.acks.empty() {
		c.ack(answer, pk.PacketID, r.Code.Code, r.Code.Reason)
		return nil
	}
	p := &inbound{c: c, session: s, id: pk.PacketID, qos: pk.FixedHeader.Qos, routed: true}
	p.refusal.Store(r)
	p.waits.Store(1)
	c.acks.push(p)
	c.b.settle(p, nil)
	return nil
}

// acceptIgnored acknowledges a publish that a mochi hook took for itself (CodeSuccessIgnore).
func (c *conn) acceptIgnored(s *Session, pk *packets.Packet) error {
	if pk.FixedHeader.Qos == 0 {
		return nil
	}
	p := &inbound{c: c, session: s, id: pk.PacketID, qos: pk.FixedHeader.Qos, routed: true}
	p.waits.Store(1)
	c.acks.push(p)
	c.b.settle(p, nil)
	return nil
}

// known reports whether a QoS 2 packet identifier has been received before: sending it again takes no new place.
func (s *Session) known(pk *packets.Packet) bool {
	if pk.FixedHeader.Qos != 2 {
		return false
	}
	s.inMu.Lock()
	defer s.inMu.Unlock()
	return s.in[pk.PacketID] != nil
}

// message makes the round's message out of a PUBLISH; it aliases the read buffer until it is kept.
func (c *conn) message(bt *batch, pk *packets.Packet) *Message {
	now := c.b.wheel.Now()
	bt.kept, bt.traceID = nil, c.traceID
	bt.scratch = Message{
		Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain,
		Origin: c.client.ID, Username: c.grant.Username, Received: now,
	}
	if c.version >= 5 {
		bt.scratch.Properties = wire.FromPacket(pk)
		if seconds, ok := wire.MessageExpiry(pk); ok {
			bt.scratch.Expires = now + int64(seconds)*1000
		}
	}
	return &bt.scratch
}

// keep returns a message that may be held on to: of the round's own a copy, the same for everyone.
func (bt *batch) keep(m *Message) *Message {
	if m != &bt.scratch {
		return m
	}
	if bt.kept == nil {
		bt.kept = m.clone()
	}
	return bt.kept
}

// offer gives the message to the acceptors that want it, and reports whether there was one.
func (b *Broker) offer(bt *batch, m *Message, p *inbound) (asked bool) {
	for _, a := range b.acceptors {
		if !a.Wants(m.Topic) {
			continue
		}
		asked = true
		held := bt.keep(m)
		if held.Traceparent == "" {
			held.Traceparent = traceparent(held, bt.traceID)
		}
		if p == nil {
			a.Accept(held, func(err error) {
				if err != nil {
					b.counters.publishRefused.add(refusalReason(err), 1)
				}
			})
			continue
		}
		p.waits.Add(1)
		a.Accept(held, func(err error) { b.settle(p, err) })
	}
	return asked
}

// target is one session that gets a message, with what its matching subscriptions add up to.
type target struct {
	session *Session
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
			if o := e.Subscriber.options.Load(); !e.Removed() && !(o.NoLocal && m.Origin == e.Subscriber.session.id) {
				ops = b.deliver(bt, m, p, &target{e.Subscriber.session, o.QoS, o.RetainAsPublished, o.ids(), ""}, ops)
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
		if e, ok := pickMember(g); ok {
			o := e.Subscriber.options.Load()
			bt.targets = append(bt.targets, target{
				session: e.Subscriber.session, qos: o.QoS, rap: o.RetainAsPublished, ids: o.ids(), share: o.Filter,
			})
		}
	}
	if b.hooks.selectSubscribers != nil {
		bt.targets = b.hooks.selectSubscribers(bt.targets, m)
	}
}

// pickMember takes the members that are online in turn, and one that is offline only when no other is there.
func pickMember(g *topic.Group[*subscription]) (*topic.Entry[*subscription], bool) {
	if e, ok := g.Pick(func(s *subscription) bool { return s.session.online() }); ok {
		return e, true
	}
	return g.Pick(func(s *subscription) bool { return true })
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
	if refused != nil && refused != errOffline {
		p.refuse(refused)
	}
	if hold {
		ops = append(ops, op)
		bt.queued = append(bt.queued, queued{t.session, op.Entry.Seq})
	}
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

// Publish routes a message as if a client had published it, without ACL checks. done (may be nil) is called exactly
// once when everyone that must has accepted it. It does not block. m must not be changed afterwards.
func (b *Broker) Publish(m *Message, done func(error)) {
	if m.Received == 0 {
		m.Received = b.wheel.Now()
	}
	if err := topic.CheckName(m.Topic, b.limits.TopicLevels); err != nil {
		if done != nil {
			done(Refuse(packets.ErrTopicNameInvalid, "%v", err))
		}
		return
	}
	p := &inbound{qos: m.QoS, done: done, msg: m}
	p.waits.Store(1)
	bt := b.getBatch()
	bt.traceID = ""
	asked := b.offer(bt, m, p)
	if p.routed = m.QoS < 2 || !asked; p.routed {
		b.route(bt, m, p)
	}
	b.putBatch(bt)
	b.settle(p, nil)
}

func refusalReason(err error) string {
	if r, ok := err.(*Refusal); ok {
		return r.Code.Reason
	}
	return "error"
}

// clip shortens what a client chose, for a log line.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
