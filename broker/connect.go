package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/topic"
	"github.com/penstockmq/penstock/broker/wire"
)

// connect handles the first packet. It may block: for the authenticator, for another connection that is just taking
// over the same client identifier, and for the store.
func (c *conn) connect(bt *batch, pk *packets.Packet, decodeErr error) error {
	c.version = pk.ProtocolVersion
	if decodeErr != nil {
		return c.refuseConnect(malformed(decodeErr).code, "malformed", decodeErr)
	}
	pk.Connect.ClientIdentifier = strings.Clone(pk.Connect.ClientIdentifier)
	pk.Connect.Username = bytes.Clone(pk.Connect.Username)
	pk.Connect.WillTopic = strings.Clone(pk.Connect.WillTopic)
	pk.Connect.WillPayload = bytes.Clone(pk.Connect.WillPayload)
	if pk.Properties.RequestProblemInfoFlag {
		c.problemInfo = pk.Properties.RequestProblemInfo == 1
	}
	c.maxPacket = pk.Properties.MaximumPacketSize
	if pk.Properties.AuthenticationMethod != "" { // [MQTT-4.12.0-1]
		return c.refuseConnect(packets.ErrBadAuthenticationMethod, "auth_method", errors.New("there is none"))
	}
	assigned := ""
	if pk.Connect.ClientIdentifier == "" {
		assigned = c.b.newClientID()
		pk.Connect.ClientIdentifier = assigned
	}
	c.introduce(pk)
	if c.b.isFullFor(pk.Connect.ClientIdentifier) {
		return c.refuseConnect(packets.ErrServerBusy, "connection_limit", errors.New("limits.connections is reached"))
	}
	if err := c.authenticate(pk); err != nil {
		return err
	}
	will, err := c.checkWill(pk)
	if err != nil {
		return err
	}
	if err := c.b.hooks.connect(c, pk); err != nil {
		return c.refuseConnect(codeOr(err, packets.ErrNotAuthorized), "hook", err)
	}
	return c.establish(bt, pk, will, assigned)
}

// isFullFor reports whether there are as many connections as there may be. Who takes over a session that is connected
// needs no more room.
func (b *Broker) isFullFor(clientID string) bool {
	most := b.limits.Connections
	return most > 0 && b.counters.connections.Load() >= int64(most) && !b.Connected(clientID)
}

// introduce makes what mochi's hooks know of the connection, and takes over what the client wants of it.
func (c *conn) introduce(pk *packets.Packet) {
	c.client = c.b.server.NewClient(nil, c.listener, pk.Connect.ClientIdentifier, false)
	c.client.Net.Conn, c.client.Net.Remote = hookConn{c}, c.remote.String() // not in NewClient: it would add a buffer
	c.client.ParseConnect(c.listener, *pk)
	c.cleanStart = pk.Connect.Clean
	c.window = c.b.limits.Inflight
	if c.version >= 5 {
		c.window = 65_535
		if m := int(pk.Properties.ReceiveMaximum); m > 0 {
			c.window = m
		}
		c.out.aliasMax = pk.Properties.TopicAliasMaximum
	}
	c.keepAlive = pk.Connect.Keepalive
	if most := c.b.limits.KeepAlive; most > 0 && (c.keepAlive == 0 || time.Duration(c.keepAlive)*time.Second > most) {
		c.keepAlive = uint16(min(most/time.Second, 65_535))
	}
}

// authenticate asks the Authenticator, and when that refuses, mochi's hooks: one that says yes is enough, as in mochi.
func (c *conn) authenticate(pk *packets.Packet) error {
	request := &ConnectRequest{
		ClientID: pk.Connect.ClientIdentifier, Username: string(pk.Connect.Username), Password: pk.Connect.Password,
		Remote: c.remote, Listener: c.listener, TLS: c.nc.TLS(), ProtocolVersion: c.version, TraceID: c.traceID,
	}
	ctx, cancel := context.WithTimeout(c.b.ctx, c.b.limits.ConnectTimeout)
	defer cancel()
	var err error = Refuse(packets.ErrNotAuthorized, "no authentication is configured")
	if c.b.auth != nil {
		c.grant, err = c.b.auth.Authenticate(ctx, request)
	}
	if err != nil && c.b.hooks.authenticate(c, pk) {
		c.grant, err = Grant{Identity: "hook:" + request.Username, Username: request.Username}, nil
	}
	clear(pk.Connect.Password)
	if err != nil {
		return c.refuseConnect(codeOr(err, packets.ErrNotAuthorized), "not_authorized", err)
	}
	c.client.Properties.Username = []byte(c.grant.Username)
	if !c.grant.Expires.IsZero() {
		c.expires = c.grant.Expires.UnixMilli()
	}
	return nil
}

// checkWill applies to a will what applies to a publish.
func (c *conn) checkWill(pk *packets.Packet) (*Will, error) {
	if !pk.Connect.WillFlag {
		return nil, nil
	}
	name := pk.Connect.WillTopic
	if err := topic.CheckName(name, c.b.limits.TopicLevels); err != nil {
		return nil, c.refuseConnect(packets.ErrTopicNameInvalid, "will", err)
	}
	if IsSys(name) || !c.b.hooks.allowed(c.client, name, true) {
		return nil, c.refuseConnect(packets.ErrNotAuthorized, "will", fmt.Errorf("will topic %.200q", name))
	}
	w := &Will{
		Message: Message{
			Topic: name, Payload: pk.Connect.WillPayload, QoS: pk.Connect.WillQos,
			Retain: pk.Connect.WillRetain, Origin: pk.Connect.ClientIdentifier, Username: c.grant.Username,
		},
	}
	if c.version >= 5 {
		w.Message.Properties = wire.FromWill(pk)
		w.Delay = pk.Connect.WillProperties.WillDelayInterval
		if seconds, ok := wire.MessageExpiry(pk); ok {
			w.Expiry, w.HasExpiry = seconds, true
		}
	}
	return w, nil
}

// refuseConnect answers CONNECT with a reason and ends the connection. An MQTT 3 client whose CONNECT was malformed
// gets no answer [MQTT-3.1.4-1].
func (c *conn) refuseConnect(code packets.Code, reason string, err error) error {
	c.b.counters.connectRefused.add(reason, 1)
	level := slog.LevelDebug
	if c.b.refusalLog.Allow() {
		level = slog.LevelInfo
	}
	c.log().Log(context.Background(), level, "connection refused", "reason", code.Reason, "error", err)
	answered := c.version >= 5 || c.version >= 3 && (reason != "malformed" ||
		code.Code == packets.ErrUnsupportedProtocolVersion.Code || code.Code == packets.ErrClientIdentifierNotValid.Code)
	if answered {
		ack := wire.Connack{Code: code.Code, ReasonString: c.explain(code.Reason)}
		c.append(func(dst []byte) []byte { return wire.AppendConnack(dst, c.version, &ack) })
		c.flush()
	}
	return &cause{reason: "refused", code: code}
}

func codeOr(err error, otherwise packets.Code) packets.Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	var code packets.Code
	if errors.As(err, &code) && code.Code >= packets.ErrUnspecifiedError.Code {
		return code
	}
	return otherwise
}

// establish gives the connection its session: the one that its client identifier has, or a new one. Whoever held it
// before is disconnected. Never are two connections live for one client identifier.
func (c *conn) establish(bt *batch, pk *packets.Packet, will *Will, assigned string) error {
	b, id := c.b, pk.Connect.ClientIdentifier
	asked, granted := c.sessionExpiry(pk)
	ack := c.connack(pk, assigned)
	if asked != granted && c.version >= 5 {
		ack.SessionExpiryInterval, ack.HasSessionExpiryInterval = granted, true
	}
	answer := wire.AppendConnack(nil, c.version, ack)
	if c.maxPacket > 0 && len(answer) > int(c.maxPacket) {
		return c.refuseConnect(packets.ErrPacketTooLarge, "maximum_packet_size",
			errors.New("no CONNACK fits into the client's Maximum Packet Size"))
	}
	release := b.sessions.claim(id)
	defer release()
	s, present, err := b.openSession(c, id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	before := s.will
	s.identity, s.username, s.admin, s.version = c.grant.Identity, c.grant.Username, c.grant.Admin, c.version
	s.expiry, s.durable, s.will, s.disconnectedAt = granted, granted > 0, will, 0
	wait := s.durable
	var record *SessionRecord
	if s.recorded() || s.inStore {
		s.inStore, record = true, s.record()
	}
	s.mu.Unlock()
	b.sessions.put(s)
	if err := b.storeRecord(record, wait); err != nil {
		b.giveBack(s, before, present)
		return c.refuseConnect(codeServerUnavailable, "store_failed", err)
	}
	b.hooks.sessionEstablish(c, pk)
	ack.SessionPresent = present
	c.append(func(dst []byte) []byte { return wire.AppendConnack(dst, c.version, ack) })
	c.session.Store(s)
	c.fresh = true
	b.wheel.Cancel(&s.timer)
	s.mu.Lock()
	s.attach(bt, c)
	s.mu.Unlock()
	bt.touch(c)
	b.counters.connected()
	b.counters.connectAccepted.Add(1)
	c.scheduleTimer()
	c.log().Info("connected", "identity", c.grant.Identity, "version", c.version, "session_present", present)
	b.hooks.sessionEstablished(c, pk)
	return nil
}

// giveBack undoes what a connection that could not be accepted has done to its session: one that was there before stays
// as if its client had just gone. The caller holds the claim.
func (b *Broker) giveBack(s *Session, will *Will, present bool) {
	s.mu.Lock()
	s.will, s.disconnectedAt = will, b.wheel.Now()
	s.scheduleOffline()
	s.mu.Unlock()
	if !present {
		b.endSession(s, "store_failed")
	}
}

// storeRecord writes a session's record. For a durable session CONNACK waits for it.
func (b *Broker) storeRecord(record *SessionRecord, wait bool) error {
	if record == nil {
		return nil
	}
	tx := &Tx{Ops: []Op{{Kind: OpPutSession, Session: record.ClientID, Record: record}}, Lazy: !wait}
	if !wait {
		b.store.Apply(tx, nil)
		return nil
	}
	result := make(chan error, 1)
	b.store.Apply(tx, func(err error) { result <- err })
	return <-result
}

// openSession finds or makes the session of id. The caller holds its claim.
func (b *Broker) openSession(c *conn, id string) (s *Session, present bool, err error) {
	s = b.sessions.get(id)
	var nextSeq uint64 = 1
	if s != nil {
		if old := s.conn.Load(); old != nil {
			if old.grant.Identity != c.grant.Identity {
				return nil, false, c.refuseConnect(packets.ErrClientIdentifierNotValid, "identity",
					errors.New("another identity is connected with this client identifier"))
			}
			b.takeOver(s, old, c.cleanStart)
		}
		s.mu.Lock()
		keep := s.durable && !s.dead && s.identity == c.grant.Identity && !c.cleanStart
		nextSeq = s.nextSeq
		if !s.durable {
			s.will = nil // left over from a crash, and its client is back
		}
		s.mu.Unlock()
		if keep {
			return s, true, nil
		}
		b.endSession(s, "clean_start")
	}
	s = &Session{b: b, id: id, created: b.wheel.Now()}
	s.nextSeq = nextSeq
	return s, false, nil
}

// sessionExpiry is what the client asked for and what it gets, in seconds.
func (c *conn) sessionExpiry(pk *packets.Packet) (asked, granted uint32) {
	most := uint32(min(c.b.limits.SessionExpiry/time.Second, expiryNever))
	if c.version < 5 {
		if c.cleanStart {
			return 0, 0
		}
		return most, most
	}
	asked = pk.Properties.SessionExpiryInterval
	return asked, min(asked, most)
}

func (c *conn) connack(pk *packets.Packet, assigned string) *wire.Connack {
	l := &c.b.limits
	ack := &wire.Connack{
		AssignedClientID: assigned, ReceiveMaximum: uint16(l.ReceiveMaximum), MaximumPacketSize: uint32(l.PacketSize),
		TopicAliasMaximum: uint16(l.TopicAliasMaximum),
	}
	if c.keepAlive != pk.Connect.Keepalive {
		ack.ServerKeepAlive, ack.HasServerKeepAlive = c.keepAlive, true
	}
	if pk.Properties.RequestResponseInfo == 1 && c.b.responseInfo != "" {
		ack.ResponseInformation = strings.ReplaceAll(c.b.responseInfo, "%c", pk.Connect.ClientIdentifier)
	}
	return ack
}
