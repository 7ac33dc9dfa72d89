package broker

import (
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/wire"
)

const (
	puback  = packets.Puback
	pubrec  = packets.Pubrec
	pubrel  = packets.Pubrel
	pubcomp = packets.Pubcomp
)

// Reason codes that mochi names otherwise or not at all.
var (
	codeMaximumConnectTime = packets.Code{Code: 0xA0, Reason: "maximum connect time"}
	codeServerUnavailable  = packets.ErrServerUnavailable
)

// handle decodes one packet and does what it asks for. body aliases the read buffer.
func (c *conn) handle(bt *batch, first byte, body []byte) error {
	pk := &bt.packet
	err := wire.Decode(first, body, c.version, pk)
	c.b.hooks.processed(c, pk, err)
	if !c.sawFirst {
		c.sawFirst = true
		return c.connect(bt, pk, err)
	}
	if err != nil {
		return malformed(err)
	}
	if err := c.b.hooks.read(c, pk); err != nil {
		return err
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return c.handlePublish(bt, pk)
	case packets.Puback:
		c.session.Load().handlePuback(bt, pk)
	case packets.Pubrec:
		c.session.Load().handlePubrec(bt, c, pk)
	case packets.Pubrel:
		c.handlePubrel(bt, pk)
	case packets.Pubcomp:
		c.session.Load().handlePubcomp(bt, pk)
	case packets.Subscribe:
		return c.handleSubscribe(bt, pk)
	case packets.Unsubscribe:
		c.handleUnsubscribe(bt, pk)
	case packets.Pingreq:
		c.append(wire.AppendPingresp)
	case packets.Disconnect:
		return c.handleDisconnect(pk)
	case packets.Auth:
		// No authentication method was agreed upon, so there is nothing to re-authenticate with [MQTT-4.12.0-6].
		return protocolError(packets.ErrProtocolViolation)
	}
	return nil
}

// handlePubrel finishes a QoS 2 publish of the client: the packet identifier may be used again once we have forgotten
// it, and must not be before that is certain to survive a crash.
func (c *conn) handlePubrel(bt *batch, pk *packets.Packet) {
	s, id := c.session.Load(), pk.PacketID
	if !s.inboundRelease(id) {
		c.ack(pubcomp, id, packets.ErrPacketIdentifierNotFound.Code, "")
		return
	}
	c.acks.mu.Lock()
	c.acks.held = max(0, c.acks.held-1)
	c.acks.mu.Unlock()
	s.mu.Lock()
	durable := s.durable
	s.mu.Unlock()
	if !durable || c.b.store == nil {
		c.ack(pubcomp, id, 0, "")
		return
	}
	tx := &Tx{Ops: []Op{{Kind: OpRemoveInbound, Session: s.id, PacketID: id}}}
	c.b.store.Apply(tx, func(err error) {
		if err != nil {
			c.stop(cause{reason: "store_failed", code: codeServerUnavailable, tell: true, err: err})
			return
		}
		c.ack(pubcomp, id, 0, "")
		c.b.flushLater(c)
	})
}

// handlePuback: the client has a QoS 1 message.
func (s *Session) handlePuback(bt *batch, pk *packets.Packet) {
	s.mu.Lock()
	if d := s.inflight.findPacketID(pk.PacketID); d != nil && d.qos == 1 && !d.acked {
		s.finish(bt, d, pk.ReasonCode)
	}
	s.progress(bt)
}

// handlePubrec: the client has a QoS 2 message. That must be certain to survive a crash before PUBREL, because after it
// the client forgets the packet identifier, and a PUBLISH sent again would be a new message to it.
func (s *Session) handlePubrec(bt *batch, c *conn, pk *packets.Packet) {
	s.mu.Lock()
	d := s.inflight.findPacketID(pk.PacketID)
	if d == nil || d.qos != 2 || d.acked {
		s.mu.Unlock()
		if c.version < 5 || pk.ReasonCode < packets.ErrUnspecifiedError.Code {
			c.ack(pubrel, pk.PacketID, packets.ErrPacketIdentifierNotFound.Code, "")
		}
		return
	}
	if pk.ReasonCode >= packets.ErrUnspecifiedError.Code {
		s.finish(bt, d, pk.ReasonCode)
		s.progress(bt)
		return
	}
	s.account(0, -d.size())
	d.released, d.msg = true, nil
	stored, seq := d.stored, d.seq
	s.mu.Unlock()
	if !stored {
		c.ack(pubrel, pk.PacketID, 0, "")
		return
	}
	id := pk.PacketID
	tx := &Tx{Ops: []Op{{Kind: OpRelease, Session: s.id, Entry: QueueEntry{Seq: seq}}}}
	s.b.store.Apply(tx, func(err error) {
		if err != nil {
			c.stop(cause{reason: "store_failed", code: codeServerUnavailable, tell: true, err: err})
			return
		}
		c.ack(pubrel, id, 0, "")
		s.b.flushLater(c)
	})
}

// handlePubcomp: a QoS 2 delivery is finished.
func (s *Session) handlePubcomp(bt *batch, pk *packets.Packet) {
	s.mu.Lock()
	if d := s.inflight.findPacketID(pk.PacketID); d != nil && d.qos == 2 && d.released && !d.acked {
		s.finish(bt, d, pk.ReasonCode)
	}
	s.progress(bt)
}

// finish removes an acknowledged delivery, wherever in the window it stands. The caller holds mu.
func (s *Session) finish(bt *batch, d *delivery, code byte) {
	s.b.counters.deliveryAcked.Add(1)
	s.account(-1, -d.size())
	s.forget(bt, d)
	s.b.hooks.acked(s, d)
	if d.handler != nil {
		d.handler.Acked(code)
	}
	d.acked, d.msg, d.handler = true, nil, nil
	s.acked++
	for s.inflight.n > 0 && s.inflight.front().acked {
		s.inflight.pop()
		s.acked--
	}
}

// progress sends what an acknowledgement has made room for, and lets publishers go on. It unlocks mu.
func (s *Session) progress(bt *batch) {
	s.pump(bt)
	gates := s.openGates()
	s.mu.Unlock()
	s.b.release(s, gates)
}

// handleDisconnect: the client says goodbye. Only reason 0x00 takes its will away [MQTT-3.1.2-10], [MQTT-3.14.4-3].
func (c *conn) handleDisconnect(pk *packets.Packet) error {
	s := c.session.Load()
	if pk.Properties.SessionExpiryIntervalFlag {
		if err := s.changeExpiry(c, pk.Properties.SessionExpiryInterval); err != nil {
			return err
		}
	}
	return &cause{reason: "closed_by_client", clean: pk.ReasonCode == packets.CodeDisconnect.Code}
}
