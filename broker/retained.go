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
		if b.retained.Delete(m.Topic) && stored {
			ops = append(ops, Op{Kind: OpDeleteRetained, Topic: bt.keep(m).Topic})
		}
		b.hooks.retained(m, false)
		return ops
	}
	held := bt.keep(m)
	b.retained.Set(held.Topic, held)
	b.hooks.retained(m, true)
	if held.Expires != 0 {
		b.expireRetained(held)
	}
	if stored {
		ops = append(ops, Op{Kind: OpPutRetained, Message: held})
	}
	return ops
}

// sendRetained gives a new subscription the retained messages that match its filter (MQTT 5, 3.3.1.3). It runs on the
// subscriber's own goroutine or on one of its own, and waits for the subscriber's socket rather than drop.
func (b *Broker) sendRetained(c *conn, s *Session, sub Subscription, filter string) {
	var matching []*Message
	now := b.wheel.Now()
	b.retained.Match(filter, func(_ string, m *Message) bool {
		if !m.expiredAt(now) && !(sub.NoLocal && m.Origin == s.id) {
			matching = append(matching, m)
		}
		return true
	})
	const atOnce = 64
	for len(matching) > 0 {
		n := min(atOnce, len(matching))
		b.sendRetainedChunk(c, s, sub, matching[:n])
		matching = matching[n:]
		for {
			room := c.awaitRoom()
			if room == nil {
				break
			}
			if !c.wait(room, 0) {
				return
			}
		}
	}
}

func (b *Broker) sendRetainedChunk(c *conn, s *Session, sub Subscription, messages []*Message) {
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

// retainedTimer removes a retained message when its expiry interval has passed.
type retainedTimer struct {
	b    *Broker
	m    *Message
	slot timer.Timer
}

// Fire removes the message unless another has taken its place.
func (t *retainedTimer) Fire(int64) {
	b := t.b
	if current, ok := b.retained.Get(t.m.Topic); !ok || current != t.m {
		return
	}
	b.retained.Delete(t.m.Topic)
	if b.store != nil {
		b.store.Apply(&Tx{Ops: []Op{{Kind: OpDeleteRetained, Topic: t.m.Topic}}, Lazy: true}, nil)
	}
	b.hooks.retainedExpired(t.m.Topic)
}

func (b *Broker) expireRetained(m *Message) {
	t := &retainedTimer{b: b, m: m}
	b.wheel.Schedule(&t.slot, m.Expires, t)
}
