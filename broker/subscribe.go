package broker

import (
	"slices"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/topic"
	"github.com/penstockmq/penstock/broker/wire"
)

// handleSubscribe adds subscriptions and answers each filter in the order in which it was sent. A durable session's are
// on disk before SUBACK: what the client may rely on survives a crash.
func (c *conn) handleSubscribe(bt *batch, pk *packets.Packet) error {
	s := c.session.Load()
	c.b.hooks.subscribe(c, pk)
	codes := make([]byte, len(pk.Filters))
	var replays []replay
	var ops []Op
	for i, f := range pk.Filters {
		sub := Subscription{
			Filter: strings.Clone(f.Filter), QoS: f.Qos, NoLocal: f.NoLocal,
			RetainAsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling, Identifier: uint32(f.Identifier),
		}
		if codes[i] = c.checkSubscribe(s, &sub); codes[i] >= packets.ErrUnspecifiedError.Code {
			continue
		}
		existed := s.subscribe(sub)
		if s.isRecorded() {
			ops = append(ops, Op{Kind: OpPutSubscription, Session: s.id, Subscription: sub})
		}
		if group, _ := topic.SplitShare(sub.Filter); group == "" &&
			(sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed) {
			// Now, not after SUBACK: what is published from here on comes by itself, and must not come twice.
			if messages := c.b.matchRetained(s, &sub); len(messages) > 0 {
				replays = append(replays, replay{sub, messages})
				c.replaying.Add(int64(len(messages)))
			}
		}
	}
	id, version := pk.PacketID, c.version
	answered := answeredBy(pk)
	c.whenStored(ops, func() {
		c.append(func(dst []byte) []byte { return wire.AppendSuback(dst, version, id, codes) })
		c.b.hooks.subscribed(c, answered, codes)
		if len(replays) > 0 {
			c.b.spawn(func() { c.b.sendReplays(c, s, replays) }) // it may wait for this client's socket
		}
	})
	return nil
}

// whenStored runs answer once the store has ops, or now if there are none.
func (c *conn) whenStored(ops []Op, answer func()) {
	if len(ops) == 0 || c.b.store == nil {
		answer()
		return
	}
	c.b.store.Apply(&Tx{Ops: ops}, func(err error) {
		if err != nil {
			c.stop(cause{reason: "store_failed", code: codeServerUnavailable, tell: true, err: err})
			return
		}
		answer()
		c.b.flushLater(c)
	})
}

// answeredBy is what hooks are shown when a SUBSCRIBE or UNSUBSCRIBE has been answered, which may be after the read
// buffer that pk aliases is in use again.
func answeredBy(pk *packets.Packet) *packets.Packet {
	shown := &packets.Packet{
		FixedHeader: pk.FixedHeader, PacketID: pk.PacketID, ProtocolVersion: pk.ProtocolVersion,
		Filters: slices.Clone(pk.Filters),
	}
	for i := range shown.Filters {
		shown.Filters[i].Filter = strings.Clone(shown.Filters[i].Filter)
	}
	return shown
}

// checkSubscribe returns the granted QoS, or the reason code of a refusal.
func (c *conn) checkSubscribe(s *Session, sub *Subscription) byte {
	if err := topic.CheckFilter(sub.Filter, c.b.limits.TopicLevels); err != nil {
		c.debug("subscription refused", "error", err)
		return packets.ErrTopicFilterInvalid.Code
	}
	_, filter := topic.SplitShare(sub.Filter)
	if !c.b.hooks.allowed(c.client, filter, false) {
		c.log().Info("subscription refused", "reason", "not authorized", "filter", clip(sub.Filter))
		return packets.ErrNotAuthorized.Code
	}
	if c.replaying.Load() >= maxReplaying {
		c.log().Info("subscription refused", "reason", "retained messages of earlier ones wait", "filter", clip(sub.Filter))
		return packets.ErrQuotaExceeded.Code
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, has := s.subs[sub.Filter]; !has && len(s.subs) >= c.b.limits.Subscriptions {
		return packets.ErrQuotaExceeded.Code
	}
	return sub.QoS
}

// subscribe adds or replaces a subscription; it reports whether the filter was there before. Replacing one interrupts
// nothing [MQTT-3.8.4-3].
func (s *Session) subscribe(sub Subscription) (existed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return false
	}
	if entry := s.subs[sub.Filter]; entry != nil {
		entry.Subscriber.options.Store(&sub)
		return true
	}
	if s.subs == nil {
		s.subs = make(map[string]*topic.Entry[*subscription])
	}
	held := &subscription{session: s}
	held.options.Store(&sub)
	group, filter := topic.SplitShare(sub.Filter)
	s.subs[sub.Filter] = s.b.index.Add(filter, group, held)
	s.b.counters.subscriptions.Add(1)
	return false
}

// unsubscribe removes a subscription; it reports whether there was one.
func (s *Session) unsubscribe(filter string) bool {
	s.mu.Lock()
	entry := s.subs[filter]
	delete(s.subs, filter)
	s.mu.Unlock()
	if entry == nil {
		return false
	}
	s.b.index.Remove(entry)
	s.b.counters.subscriptions.Add(-1)
	return true
}

// handleUnsubscribe removes subscriptions. What is already queued for them is still delivered (MQTT 5, 3.10.4).
func (c *conn) handleUnsubscribe(bt *batch, pk *packets.Packet) {
	s := c.session.Load()
	c.b.hooks.unsubscribe(c, pk)
	codes := make([]byte, len(pk.Filters))
	var ops []Op
	for i, f := range pk.Filters {
		filter := strings.Clone(f.Filter)
		if !s.unsubscribe(filter) {
			codes[i] = packets.CodeNoSubscriptionExisted.Code
			continue
		}
		if s.isRecorded() {
			ops = append(ops, Op{Kind: OpDeleteSubscription, Session: s.id, Subscription: Subscription{Filter: filter}})
		}
	}
	id, version := pk.PacketID, c.version
	answered := answeredBy(pk)
	c.whenStored(ops, func() {
		c.append(func(dst []byte) []byte { return wire.AppendUnsuback(dst, version, id, codes) })
		c.b.hooks.unsubscribed(c, answered)
	})
}
