package broker

import (
	"errors"
	"log/slog"
	"net"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/wire"
)

// hooks runs mochi hooks in their places. Which events any hook provides is looked up once, so that an event nobody
// listens to costs a load and no copy of a packet.
type hooks struct {
	mqtt.Hooks
	b        *Broker
	provides [mqtt.StoredSysInfo + 1]bool

	// selectSubscribers is nil unless a hook wants to choose the receivers of messages.
	selectSubscribers func([]target, *Message) []target
}

// prepare is called when all hooks have been added.
func (h *hooks) prepare() {
	for event := range h.provides {
		h.provides[event] = h.Provides(byte(event))
	}
	if h.provides[mqtt.OnSelectSubscribers] {
		h.selectSubscribers = h.chooseTargets
	}
}

// allowed asks the ACL. Without any hook that checks, everything is allowed: whoever embeds the broker decides.
func (h *hooks) allowed(cl *mqtt.Client, topic string, write bool) bool {
	return !h.provides[mqtt.OnACLCheck] || h.OnACLCheck(cl, topic, write)
}

// mayPublishWill checks again for a client that may be long gone.
func (h *hooks) mayPublishWill(w *Will) bool {
	return h.allowed(h.ghost(w.Message.Origin, w.Message.Username), w.Message.Topic, true)
}

// ghost stands in for a client that is not connected.
func (h *hooks) ghost(clientID, username string) *mqtt.Client {
	cl := h.b.server.NewClient(nil, "", clientID, false)
	cl.Properties.Username = []byte(username)
	return cl
}

func (h *hooks) authenticate(c *conn, pk *packets.Packet) bool {
	return h.provides[mqtt.OnConnectAuthenticate] && h.OnConnectAuthenticate(c.client, *pk)
}

func (h *hooks) connect(c *conn, pk *packets.Packet) error {
	if !h.provides[mqtt.OnConnect] {
		return nil
	}
	return h.OnConnect(c.client, *pk)
}

func (h *hooks) sessionEstablish(c *conn, pk *packets.Packet) {
	if h.provides[mqtt.OnSessionEstablish] {
		h.OnSessionEstablish(c.client, *pk)
	}
}

func (h *hooks) sessionEstablished(c *conn, pk *packets.Packet) {
	if h.provides[mqtt.OnSessionEstablished] {
		h.OnSessionEstablished(c.client, *pk)
	}
}

func (h *hooks) disconnect(c *conn, why *cause, expire bool) {
	if h.provides[mqtt.OnDisconnect] {
		h.OnDisconnect(c.client, why, expire)
	}
}

// read lets hooks see and change each packet after CONNECT. mochi's contract: ErrRejectPacket closes the connection.
func (h *hooks) read(c *conn, pk *packets.Packet) error {
	if !h.provides[mqtt.OnPacketRead] {
		return nil
	}
	changed, err := h.OnPacketRead(c.client, *pk)
	if errors.Is(err, packets.ErrRejectPacket) {
		return &cause{reason: "rejected_by_hook", code: packets.ErrImplementationSpecificError, tell: true, err: err}
	}
	if err == nil {
		*pk = changed
	}
	return nil
}

func (h *hooks) processed(c *conn, pk *packets.Packet, err error) {
	if h.provides[mqtt.OnPacketProcessed] && c.client != nil {
		h.OnPacketProcessed(c.client, *pk, err)
	}
}

// publish lets hooks change or stop a publish. CodeSuccessIgnore acknowledges it without routing; any other error
// refuses it, with its reason code if it has one.
func (h *hooks) publish(c *conn, pk *packets.Packet) (ignore bool, refusal *Refusal) {
	if !h.provides[mqtt.OnPublish] {
		return false, nil
	}
	changed, err := h.OnPublish(c.client, *pk)
	switch {
	case err == nil:
		*pk = changed
		return changed.Ignore, nil
	case errors.Is(err, packets.CodeSuccessIgnore):
		return true, nil
	}
	return false, Refuse(codeOr(err, packets.ErrImplementationSpecificError), "%v", err)
}

// packet shows a message to hooks as mochi would.
func (m *Message) packet() packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: m.QoS, Retain: m.Retain},
		TopicName:   m.Topic, Payload: m.Payload, Origin: m.Origin, Created: m.Received / 1000,
	}
	if m.Expires != 0 {
		pk.Expiry = m.Expires / 1000
	}
	if p := m.Properties; p != nil {
		pk.Properties = packets.Properties{
			PayloadFormat: p.PayloadFormat, PayloadFormatFlag: p.HasPayloadFormat, ContentType: p.ContentType,
			ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData, User: p.User,
		}
	}
	return pk
}

// routed: the message has been given to everyone who wants it.
func (h *hooks) routed(m *Message) {
	if h.provides[mqtt.OnPublished] {
		h.OnPublished(h.originOf(m), m.packet())
	}
}

func (h *hooks) originOf(m *Message) *mqtt.Client {
	if s := h.b.sessions.get(m.Origin); s != nil {
		if c := s.conn.Load(); c != nil {
			return c.client
		}
	}
	return h.b.server.NewClient(nil, mqtt.LocalListener, m.Origin, true)
}

// published: a PUBLISH was handed to a connection.
func (h *hooks) published(c *conn, m *Message, p *wire.PublishOut) {
	if p.QoS == 0 || !h.provides[mqtt.OnQosPublish] {
		return
	}
	defer h.contain("OnQosPublish")
	pk := m.packet()
	pk.PacketID, pk.FixedHeader.Qos, pk.FixedHeader.Dup = p.PacketID, p.QoS, p.Dup
	resends := 0
	if p.Dup {
		resends = 1
	}
	h.OnQosPublish(c.client, pk, time.Now().Unix(), resends)
}

// contain keeps a hook's panic away from the broker where its locks are held.
func (h *hooks) contain(event string) {
	if r := recover(); r != nil {
		h.b.log.Error("a hook panicked", "event", event, "error", r, "stack", stack())
	}
}

func (h *hooks) dropped(c *conn, m *Message) {
	if h.provides[mqtt.OnPublishDropped] {
		h.OnPublishDropped(c.client, m.packet())
	}
}

// acked: a QoS 1 or 2 delivery is complete.
func (h *hooks) acked(s *Session, d *delivery) {
	if !h.provides[mqtt.OnQosComplete] {
		return
	}
	if c := s.conn.Load(); c != nil {
		defer h.contain("OnQosComplete")
		h.OnQosComplete(c.client, packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Puback, Qos: d.qos}, PacketID: d.packetID(),
		})
	}
}

func (h *hooks) subscribe(c *conn, pk *packets.Packet) {
	if h.provides[mqtt.OnSubscribe] {
		*pk = h.OnSubscribe(c.client, *pk)
	}
}

func (h *hooks) subscribed(c *conn, pk *packets.Packet, codes []byte) {
	if h.provides[mqtt.OnSubscribed] {
		h.OnSubscribed(c.client, *pk, codes)
	}
}

func (h *hooks) unsubscribe(c *conn, pk *packets.Packet) {
	if h.provides[mqtt.OnUnsubscribe] {
		*pk = h.OnUnsubscribe(c.client, *pk)
	}
}

func (h *hooks) unsubscribed(c *conn, pk *packets.Packet) {
	if h.provides[mqtt.OnUnsubscribed] {
		h.OnUnsubscribed(c.client, *pk)
	}
}

func (h *hooks) retained(m *Message, kept bool) {
	if h.provides[mqtt.OnRetainMessage] {
		r := int64(1)
		if !kept {
			r = -1
		}
		h.OnRetainMessage(h.originOf(m), m.packet(), r)
	}
}

func (h *hooks) retainedExpired(topic string) {
	if h.provides[mqtt.OnRetainedExpired] {
		h.OnRetainedExpired(topic)
	}
}

func (h *hooks) expired(s *Session) {
	if h.provides[mqtt.OnClientExpired] {
		h.OnClientExpired(h.ghost(s.id, s.info().Username))
	}
}

// will lets hooks change a will, or stop it with an error.
func (h *hooks) will(m *Message) bool {
	if !h.provides[mqtt.OnWill] {
		return true
	}
	w := mqtt.Will{TopicName: m.Topic, Payload: m.Payload, Qos: m.QoS, Retain: m.Retain, Flag: 1}
	for _, hook := range h.GetAll() {
		if !hook.Provides(mqtt.OnWill) {
			continue
		}
		changed, err := hook.OnWill(h.ghost(m.Origin, m.Username), w)
		if err != nil {
			h.b.log.Info("a hook stopped a will", "client_id", m.Origin, "hook", hook.ID(), "error", err)
			return false
		}
		w = changed
	}
	m.Topic, m.Payload, m.QoS, m.Retain = w.TopicName, w.Payload, w.Qos, w.Retain
	return true
}

func (h *hooks) willSent(m *Message) {
	if h.provides[mqtt.OnWillSent] {
		h.OnWillSent(h.ghost(m.Origin, m.Username), m.packet())
	}
}

// chooseTargets lets hooks take receivers away.
func (h *hooks) chooseTargets(targets []target, m *Message) []target {
	subs := &mqtt.Subscribers{
		Shared:              map[string]map[string]packets.Subscription{},
		SharedSelected:      map[string]packets.Subscription{},
		Subscriptions:       map[string]packets.Subscription{},
		InlineSubscriptions: map[int]mqtt.InlineSubscription{},
	}
	for _, t := range targets {
		sub := packets.Subscription{Filter: m.Topic, Qos: t.qos, RetainAsPublished: t.rap}
		if t.share != "" {
			subs.SharedSelected[t.session.id] = sub
		} else {
			subs.Subscriptions[t.session.id] = sub
		}
	}
	subs = h.OnSelectSubscribers(subs, m.packet())
	kept := targets[:0]
	for _, t := range targets {
		from := subs.Subscriptions
		if t.share != "" {
			from = subs.SharedSelected
		}
		if _, ok := from[t.session.id]; ok {
			kept = append(kept, t)
		}
	}
	return kept
}

// hookConn is the net.Conn that hooks see: what they write goes through the connection's out-buffer, in one piece, and
// closing it ends the connection in good order.
type hookConn struct{ c *conn }

func (h hookConn) Read([]byte) (int, error) { return 0, net.ErrClosed }

func (h hookConn) Write(p []byte) (int, error) {
	if !h.c.append(func(dst []byte) []byte { return append(dst, p...) }) {
		return 0, net.ErrClosed
	}
	h.c.b.flushLater(h.c)
	return len(p), nil
}

func (h hookConn) Close() error {
	h.c.stop(cause{reason: "closed_by_hook"})
	return nil
}

func (h hookConn) LocalAddr() net.Addr              { return h.c.nc.LocalAddr() }
func (h hookConn) RemoteAddr() net.Addr             { return h.c.nc.RemoteAddr() }
func (h hookConn) SetDeadline(time.Time) error      { return nil }
func (h hookConn) SetReadDeadline(time.Time) error  { return nil }
func (h hookConn) SetWriteDeadline(time.Time) error { return nil }

// discardLog is what mochi's own code logs to: its warnings are about its server loop, which does not run.
var discardLog = slog.New(slog.DiscardHandler)
