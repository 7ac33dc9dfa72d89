package broker

import (
	"github.com/penstockmq/penstock/broker/timer"
	"github.com/penstockmq/penstock/broker/wire"
)

// retain keeps the message as its topic's retained message, or removes that one when the payload is empty
// [MQTT-3.3.1-5] to [MQTT-3.3.1-7]. What must be stored is added to ops; the server's own topics live in memory only.
func (b *Broker) retain(bt *batch, m *Message, ops []Op) []Op {
	stored := b.store != nil && !IsSys(m.Topic)
	if len(m.Payload) == 0 {
		if b.dropRetained(m.Topic) && stored {
			ops = append(ops, Op{Kind: OpDeleteRetained, Topic: bt.keep(m).Topic})
		}
		b.hooks.retained(m, false)
		return ops
	}
	held := bt.keep(m)
	b.keepRetained(held)
	b.hooks.retained(m, true)
	if stored {
		ops = append(ops, Op{Kind: OpPutRetained, Message: held})
	}
	return ops
}

// maxReplaying is how many retained messages may wait for one client; while there are more, it may not subscribe.
const maxReplaying = 100_000

// replay is the retained messages for a new subscription (MQTT 5, 3.3.1.3).
type replay struct {
	Subscription
	messages []*Message
}

// matchRetained finds the retained messages that a new subscription is to be sent.
func (b *Broker) matchRetained(s *Session, sub *Subscription) (messages []*Message) {
	now := b.wheel.Now()
	b.retained.Match(sub.Filter, func(_ string, r *retained) bool {
		if m := r.message; !m.expiredAt(now) && !(sub.NoLocal && m.Origin == s.id) {
			messages = append(messages, m)
		}
		return true
	})
	return messages
}

// sendReplays sends what the filters of one SUBSCRIBE are owed.
func (b *Broker) sendReplays(c *conn, s *Session, replays []replay) {
	for _, r := range replays {
		b.sendRetained(c, s, r)
	}
}

// sendRetained sends one of them. It waits for the subscriber's socket rather than drop.
func (b *Broker) sendRetained(c *conn, s *Session, r replay) {
	const atOnce = 64
	defer func() { c.replaying.Add(-int64(len(r.messages))) }()
	for len(r.messages) > 0 {
		n := min(atOnce, len(r.messages))
		b.sendRetainedChunk(c, s, &r.Subscription, r.messages[:n])
		r.messages = r.messages[n:]
		c.replaying.Add(-int64(n))
		for room := c.awaitRoom(); room != nil; room = c.awaitRoom() {
			if !c.wait(room, 0) {
				return
			}
		}
	}
}

func (b *Broker) sendRetainedChunk(c *conn, s *Session, sub *Subscription, messages []*Message) {
	bt := b.getBatch()
	defer b.putBatch(bt)
	for _, m := range messages {
		qos := min(sub.QoS, m.QoS)
		if qos > 0 {
			op, hold, _ := s.enqueue(bt, delivery{msg: m, qos: qos, retain: true, ids: sub.ids(), replay: true}, nil)
			if hold {
				bt.queued = append(bt.queued, queued{s, op.Entry.Seq})
				b.commit(bt, []Op{op}, nil)
			}
			continue
		}
		out := wire.PublishOut{
			Topic: m.Topic, Payload: m.Payload, Retain: true, Identifiers: sub.ids(), Properties: m.Properties,
		}
		b.expiry(m, &out)
		switch c.publish(&out) {
		case sendOK, sendFull:
			bt.delivered[0]++
			bt.touch(c)
		case sendTooLarge:
			b.counters.dropped.add(DropTooLarge, 1)
		case sendDropped:
			b.counters.dropped.add(DropSlowConsumer, 1)
		}
	}
}

// retained is the retained message of one topic; its timer runs when the message has an expiry interval.
type retained struct {
	b       *Broker
	message *Message
	timer   timer.Timer
}

func (b *Broker) keepRetained(m *Message) {
	old, replaced := b.retained.Get(m.Topic)
	r := &retained{b: b, message: m}
	b.retained.Set(m.Topic, r)
	if m.Expires != 0 {
		b.wheel.Schedule(&r.timer, m.Expires, r)
	}
	if replaced {
		b.wheel.Cancel(&old.timer)
	}
}

func (b *Broker) dropRetained(topic string) bool {
	old, ok := b.retained.Get(topic)
	if ok {
		b.wheel.Cancel(&old.timer)
	}
	return b.retained.Delete(topic)
}

// Fire removes the message, whose expiry interval has passed, unless another has taken its place.
func (r *retained) Fire(int64) {
	name := r.message.Topic
	if !r.b.retained.DeleteIf(name, func(current *retained) bool { return current == r }) {
		return
	}
	if r.b.store != nil && !IsSys(name) {
		r.b.store.Apply(&Tx{Ops: []Op{{Kind: OpDeleteRetained, Topic: name}}, Lazy: true}, nil)
	}
	r.b.hooks.retainedExpired(name)
}
