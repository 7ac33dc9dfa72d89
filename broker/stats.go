package broker

import (
	"sync"
	"sync/atomic"
)

// Why a message was dropped, a publish refused, or a connection ended: the values of the reason label in metrics.
const (
	DropQueueFull    = "queue_full"     // the session's queue was at its bound
	DropSlowConsumer = "slow_consumer"  // QoS 0, and the socket's out-buffer was at its bound
	DropExpired      = "expired"        // the message expiry interval had passed
	DropTooLarge     = "too_large"      // larger than the client's Maximum Packet Size
	DropSessionEnded = "session_ended"  // the session ended with the message still queued
	DropOffline      = "offline"        // QoS 0 for a session without a connection
	DropStoreFailed  = "store_failed"   // the store could not keep it; its publisher was refused
	DropCorrupt      = "corrupt"        // the store could not read it back
	DropWithdrawn    = "withdrawn"      // its sender did not want it sent any more
	DropDenied       = "not_authorized" // a will that its client may not publish
)

// counters are the broker's own; Stats is their snapshot.
type counters struct {
	connections, connectionsMax, subscriptions, queued, queuedBytes atomic.Int64
	bytesIn, bytesOut, packetsIn, packetsOut                        atomic.Int64
	publishIn, delivered                                            [3]atomic.Int64
	publishAcked, deliveryAcked, connectAccepted                    atomic.Int64

	dropped, publishRefused, connectRefused, disconnects reasons
}

// reasons counts by reason. Reasons come from this package's own words, never from clients, so the map stays small.
type reasons struct {
	mu sync.RWMutex
	n  map[string]*atomic.Int64
}

func (r *reasons) add(reason string, n int64) {
	r.mu.RLock()
	c := r.n[reason]
	r.mu.RUnlock()
	if c == nil {
		r.mu.Lock()
		if r.n == nil {
			r.n = make(map[string]*atomic.Int64)
		}
		if c = r.n[reason]; c == nil {
			c = new(atomic.Int64)
			r.n[reason] = c
		}
		r.mu.Unlock()
	}
	c.Add(n)
}

func (r *reasons) snapshot() map[string]int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make(map[string]int64, len(r.n))
	for reason, n := range r.n {
		out[reason] = n.Load()
	}
	return out
}

func (c *counters) connected() {
	now := c.connections.Add(1)
	for {
		most := c.connectionsMax.Load()
		if now <= most || c.connectionsMax.CompareAndSwap(most, now) {
			return
		}
	}
}

// Stats returns a snapshot of the counters. It does not walk the sessions.
func (b *Broker) Stats() Stats {
	c := &b.counters
	s := Stats{
		Connections: c.connections.Load(), ConnectionsMax: c.connectionsMax.Load(),
		Sessions: int64(b.sessions.len()), Subscriptions: c.subscriptions.Load(), Retained: int64(b.retained.Len()),
		QueuedMessages: c.queued.Load(), QueuedBytes: c.queuedBytes.Load(),
		BytesReceived: c.bytesIn.Load(), BytesSent: c.bytesOut.Load(),
		PacketsReceived: c.packetsIn.Load(), PacketsSent: c.packetsOut.Load(),
		PublishAcked: c.publishAcked.Load(), PublishRefused: c.publishRefused.snapshot(),
		DeliveryAcked: c.deliveryAcked.Load(), Dropped: c.dropped.snapshot(),
		ConnectAccepted: c.connectAccepted.Load(), ConnectRefused: c.connectRefused.snapshot(),
		Disconnects: c.disconnects.snapshot(),
	}
	for q := range s.PublishReceived {
		s.PublishReceived[q], s.Delivered[q] = c.publishIn[q].Load(), c.delivered[q].Load()
	}
	return s
}
