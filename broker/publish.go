package broker

import (
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
		return protocolError(packets.ErrReceiveMaximum) // [MQTT-3.3.4-7]
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

// refusePublish answers a publish that is not accepted. QoS 0 has no answer: it is counted. MQTT 3 has none either: its
// connection ends before another packet of it is handled.
func (c *conn) refusePublish(s *Session, pk *packets.Packet, r *Refusal) error {
	c.debug("publish refused", "reason", r, "topic", clip(pk.TopicName))
	if pk.FixedHeader.Qos > 0 && c.version >= 5 {
		c.answerPublish(s, pk, r)
		return nil
	}
	c.b.counters.publishRefused.add(r.Code.Reason, 1)
	if pk.FixedHeader.Qos == 0 {
		return nil
	}
	if pk.FixedHeader.Qos == 2 {
		s.inboundSettled(pk.PacketID, r)
	}
	return &cause{reason: "publish_refused", err: r}
}

// acceptIgnored acknowledges a publish that a mochi hook took for itself (CodeSuccessIgnore).
func (c *conn) acceptIgnored(s *Session, pk *packets.Packet) error {
	if pk.FixedHeader.Qos > 0 {
		c.answerPublish(s, pk, nil)
	}
	return nil
}

// answerPublish answers a publish that is not routed in its turn: with success, or with a refusal.
func (c *conn) answerPublish(s *Session, pk *packets.Packet, r *Refusal) {
	p := &inbound{c: c, session: s, id: pk.PacketID, qos: pk.FixedHeader.Qos, routed: true}
	p.refusal.Store(r)
	p.waits.Store(1)
	c.acks.push(p)
	c.b.settle(p, nil)
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
