package broker

import (
	"sync"
	"sync/atomic"

	"github.com/penstockmq/penstock/broker/timer"
	"github.com/penstockmq/penstock/broker/topic"
)

// expiryNever is the session expiry interval of a session that does not expire (MQTT 5, 3.1.2.11.2).
const expiryNever = 0xFFFF_FFFF

// Session is what the broker knows of one client identifier, connected or not.
//
// Lock order: conn.acks.mu before inMu; mu before conn.acks.mu and conn.out.mu; nothing of another session while one
// session's mu is held.
type Session struct {
	b  *Broker
	id string

	conn atomic.Pointer[conn] // the live connection, if any; changed with mu held

	mu             sync.Mutex
	identity       string // who made it; only the same identity inherits it
	username       string
	admin          bool
	version        byte
	dead           bool // ended: it is in no registry any more
	durable        bool // outlives its connection
	inStore        bool // the store has a record of it
	expiry         uint32
	created        int64
	disconnectedAt int64
	subs           map[string]*topic.Entry[*subscription]
	will           *Will
	timer          timer.Timer // offline: the will's time or the session's end; online: the end of a gate

	outbound

	inMu sync.Mutex
	in   map[uint16]*received // QoS 2 packet identifiers received and not yet released
}

// received is a QoS 2 publish between its arrival and its PUBREL [MQTT-4.3.3-10].
type received struct {
	accepted bool  // PUBREC was sent
	again    *conn // the client sent it again, on this connection, before it was accepted
}

// subscription is one topic filter of one session, as the index holds it.
type subscription struct {
	session *Session
	options atomic.Pointer[Subscription] // replaced when the client subscribes to the same filter again
}

func (s *Session) online() bool { return s.conn.Load() != nil }

// record is what the store keeps, a copy that nobody changes. The caller holds mu.
func (s *Session) record() *SessionRecord {
	will := s.will
	if will != nil {
		held := *will
		will = &held
	}
	return &SessionRecord{
		ClientID: s.id, Identity: s.identity, Username: s.username, Admin: s.admin, ProtocolVersion: s.version,
		Created: s.created, ExpiryInterval: s.expiry, DisconnectedAt: s.disconnectedAt, SentTo: s.sentTo,
		NextSeq: s.nextSeq, Will: will,
	}
}

// recorded reports whether the store has a record of this session: it does for a durable one, and for one whose will
// must be published even if the process dies. The caller holds mu.
func (s *Session) recorded() bool { return s.b.store != nil && !s.dead && (s.durable || s.will != nil) }

func (s *Session) isRecorded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorded()
}

// Fire is the session's timer.
func (s *Session) Fire(int64) {
	s.mu.Lock()
	online, gates := s.online(), s.closeGates()
	s.mu.Unlock()
	s.b.release(s, gates)
	if !online {
		s.b.spawn(func() { s.b.offlineTimer(s) })
	}
}

// inboundBegin notes a QoS 2 publish. It reports false when the packet identifier is one that was received before and
// not yet released: the message must not be delivered again.
func (s *Session) inboundBegin(c *conn, id uint16) (fresh, accepted bool) {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	if r := s.in[id]; r != nil {
		if !r.accepted {
			r.again = c
		}
		return false, r.accepted
	}
	if s.in == nil {
		s.in = make(map[uint16]*received)
	}
	s.in[id] = &received{}
	return true, false
}

// inboundSettled notes that a QoS 2 publish was accepted, or refused if there is a refusal. When the client had sent it
// again on a newer connection, that connection gets the answer.
func (s *Session) inboundSettled(id uint16, refusal *Refusal) {
	s.inMu.Lock()
	r := s.in[id]
	if r == nil {
		s.inMu.Unlock()
		return
	}
	again := r.again
	r.again = nil
	r.accepted = refusal == nil
	if !r.accepted {
		delete(s.in, id)
	}
	s.inMu.Unlock()
	switch {
	case again == nil:
		return
	case refusal == nil:
		again.ack(pubrec, id, 0, "")
	default:
		s.b.refused(again, pubrec, id, refusal)
	}
	s.b.flushLater(again)
}

// inboundRelease forgets a packet identifier (PUBREL); it reports whether PUBREC had been sent for it.
func (s *Session) inboundRelease(id uint16) bool {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	r := s.in[id]
	if r == nil || !r.accepted {
		return false
	}
	delete(s.in, id)
	return true
}

// info describes the session for the admin API.
func (s *Session) info() ClientInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := ClientInfo{
		ClientID: s.id, Identity: s.identity, Username: s.username, ProtocolVersion: s.version,
		DisconnectedAt: s.disconnectedAt, ExpiryInterval: s.expiry,
		QueueLen: s.count, QueueBytes: s.bytes, Inflight: s.inflight.n,
		Subscriptions: make([]string, 0, len(s.subs)),
	}
	for filter := range s.subs {
		i.Subscriptions = append(i.Subscriptions, filter)
	}
	if c := s.conn.Load(); c != nil {
		i.Connected, i.DisconnectedAt = true, 0
		i.Remote, i.Listener, i.KeepAlive = c.remote.String(), c.listener, c.keepAlive
		i.ConnectedAt, i.TokenID, i.TraceID = c.accepted.UnixMilli(), c.grant.TokenID, c.traceID
	}
	return i
}
