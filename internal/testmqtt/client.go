// Package testmqtt is an MQTT client for tests: it sends exactly the packets, or the bytes, that a test wants sent, and
// shows exactly what came back. It acknowledges nothing by itself.
package testmqtt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/wire"
)

// Patience is how long a client waits for a packet that must come.
const Patience = 10 * time.Second

// Client is one connection. It is not safe for concurrent use, but reading and writing may be done by two goroutines.
type Client struct {
	T       testing.TB
	Conn    net.Conn
	Version byte
	ID      string
	r       *bufio.Reader
}

// Dial connects a socket; it sends nothing. The socket is closed when the test ends.
func Dial(t testing.TB, addr string, version byte) *Client {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return New(t, nc, version)
}

// New makes a client on a connection of any kind.
func New(t testing.TB, nc net.Conn, version byte) *Client {
	return &Client{T: t, Conn: nc, Version: version, r: bufio.NewReader(nc)}
}

// Option changes a CONNECT before it is sent.
type Option func(*packets.Packet)

// Clean sets clean session (3.1.1) or clean start (5).
func Clean(clean bool) Option { return func(pk *packets.Packet) { pk.Connect.Clean = clean } }

// Durable asks for a session that outlives the connection by an hour.
func Durable() Option {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
	}
}

// KeepAlive sets the keep-alive in seconds.
func KeepAlive(seconds uint16) Option {
	return func(pk *packets.Packet) { pk.Connect.Keepalive = seconds }
}

// User sets user name and password.
func User(name, password string) Option {
	return func(pk *packets.Packet) {
		pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(name)
		pk.Connect.PasswordFlag, pk.Connect.Password = password != "", []byte(password)
	}
}

// Will sets a will.
func Will(topic, payload string, qos byte, retain bool) Option {
	return func(pk *packets.Packet) {
		c := &pk.Connect
		c.WillFlag, c.WillTopic, c.WillPayload, c.WillQos, c.WillRetain = true, topic, []byte(payload), qos, retain
	}
}

// ConnectPacket makes a CONNECT with a clean session and a keep-alive of a minute.
func (c *Client) ConnectPacket(id string, options ...Option) packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: c.Version,
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: id, Clean: true, Keepalive: 60,
		},
	}
	if c.Version == 3 {
		pk.Connect.ProtocolName = []byte("MQIsdp")
	}
	for _, o := range options {
		o(&pk)
	}
	return pk
}

// Connect sends CONNECT and returns the CONNACK, which may be a refusal.
func (c *Client) Connect(id string, options ...Option) packets.Packet {
	c.T.Helper()
	c.ID = id
	c.Send(c.ConnectPacket(id, options...))
	return c.Expect(packets.Connack)
}

// MustConnect is Connect that fails the test when it is refused.
func (c *Client) MustConnect(id string, options ...Option) packets.Packet {
	c.T.Helper()
	ack := c.Connect(id, options...)
	if ack.ReasonCode != 0 {
		c.T.Fatalf("CONNECT of %q was refused with 0x%02X", id, ack.ReasonCode)
	}
	return ack
}

// Send sends one packet.
func (c *Client) Send(pk packets.Packet) {
	c.T.Helper()
	if err := c.TrySend(pk); err != nil {
		c.T.Fatal(err)
	}
}

// TrySend sends one packet.
func (c *Client) TrySend(pk packets.Packet) error {
	pk.ProtocolVersion = c.Version
	raw, err := wire.AppendPacket(nil, &pk)
	if err != nil {
		return fmt.Errorf("encode packet of type %d: %w", pk.FixedHeader.Type, err)
	}
	_, err = c.Conn.Write(raw)
	return err
}

// SendRaw sends bytes.
func (c *Client) SendRaw(raw ...byte) {
	c.T.Helper()
	if _, err := c.Conn.Write(raw); err != nil {
		c.T.Fatal(err)
	}
}

// PublishPacket makes a PUBLISH.
func PublishPacket(topic string, payload []byte, qos byte, id uint16) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: payload, PacketID: id,
	}
}

// Publish sends a PUBLISH; it waits for nothing.
func (c *Client) Publish(topic, payload string, qos byte, id uint16) {
	c.T.Helper()
	c.Send(PublishPacket(topic, []byte(payload), qos, id))
}

// PublishRetained sends a PUBLISH with RETAIN set.
func (c *Client) PublishRetained(topic, payload string, qos byte, id uint16) {
	c.T.Helper()
	pk := PublishPacket(topic, []byte(payload), qos, id)
	pk.FixedHeader.Retain = true
	c.Send(pk)
}

// Ack sends PUBACK, PUBREC, PUBREL or PUBCOMP with success.
func (c *Client) Ack(packetType byte, id uint16) {
	c.T.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packetType}, PacketID: id}
	if packetType == packets.Pubrel {
		pk.FixedHeader.Qos = 1
	}
	c.Send(pk)
}

// Subscribe subscribes to filters with one QoS and returns the reason codes.
func (c *Client) Subscribe(qos byte, filters ...string) []byte {
	c.T.Helper()
	subs := make(packets.Subscriptions, len(filters))
	for i, f := range filters {
		subs[i] = packets.Subscription{Filter: f, Qos: qos}
	}
	return c.SubscribeWith(subs...)
}

// SubscribeWith subscribes and returns the reason codes.
func (c *Client) SubscribeWith(subs ...packets.Subscription) []byte {
	c.T.Helper()
	c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 65_000, Filters: subs,
	})
	return c.Expect(packets.Suback).ReasonCodes
}

// Unsubscribe unsubscribes and returns the reason codes (none in MQTT 3).
func (c *Client) Unsubscribe(filters ...string) []byte {
	c.T.Helper()
	subs := make(packets.Subscriptions, len(filters))
	for i, f := range filters {
		subs[i] = packets.Subscription{Filter: f}
	}
	c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 65_001, Filters: subs,
	})
	return c.Expect(packets.Unsuback).ReasonCodes
}

// Disconnect says goodbye and closes the socket.
func (c *Client) Disconnect() {
	c.T.Helper()
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	_ = c.Conn.Close()
}

// Drop closes the socket without a goodbye.
func (c *Client) Drop() { _ = c.Conn.Close() }

// Read returns the next packet, or an error when none came in time or the connection ended.
func (c *Client) Read(within time.Duration) (pk packets.Packet, err error) {
	first, body, err := c.ReadRaw(within)
	if err != nil {
		return pk, err
	}
	pk.ProtocolVersion = c.Version
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining = len(body)
	return pk, decode(&pk, body)
}

// ReadRaw returns the first byte of the next packet and what follows its remaining length, as they came.
func (c *Client) ReadRaw(within time.Duration) (first byte, body []byte, err error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return 0, nil, err
	}
	if first, err = c.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	remaining, _, err := packets.DecodeLength(c.r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, remaining)
	_, err = io.ReadFull(c.r, body)
	return first, body, err
}

func decode(pk *packets.Packet, body []byte) error {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		return pk.ConnackDecode(body)
	case packets.Publish:
		return pk.PublishDecode(body)
	case packets.Puback:
		return pk.PubackDecode(body)
	case packets.Pubrec:
		return pk.PubrecDecode(body)
	case packets.Pubrel:
		return pk.PubrelDecode(body)
	case packets.Pubcomp:
		return pk.PubcompDecode(body)
	case packets.Suback:
		return pk.SubackDecode(body)
	case packets.Unsuback:
		return pk.UnsubackDecode(body)
	case packets.Disconnect:
		if len(body) == 1 { // mochi's decoder loses a reason code that stands alone
			pk.ReasonCode = body[0]
			return nil
		}
		return pk.DisconnectDecode(body)
	case packets.Pingresp:
		return nil
	}
	return fmt.Errorf("a server does not send packets of type %d", pk.FixedHeader.Type)
}

// Expect returns the next packet and fails the test when it is not of this type.
func (c *Client) Expect(packetType byte) packets.Packet {
	c.T.Helper()
	pk, err := c.Read(Patience)
	if err != nil {
		c.T.Fatalf("%s: wanted %s, got %v", c.ID, packets.PacketNames[packetType], err)
	}
	if pk.FixedHeader.Type != packetType {
		c.T.Fatalf("%s: wanted %s, got %s (reason 0x%02X, topic %q)", c.ID, packets.PacketNames[packetType],
			packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode, pk.TopicName)
	}
	return pk
}

// ExpectPublish returns the next packet, which must be a PUBLISH of this topic and payload.
func (c *Client) ExpectPublish(topic, payload string) packets.Packet {
	c.T.Helper()
	pk := c.Expect(packets.Publish)
	if pk.TopicName != topic || string(pk.Payload) != payload {
		c.T.Fatalf("%s: wanted %q on %q, got %q on %q", c.ID, payload, topic, pk.Payload, pk.TopicName)
	}
	return pk
}

// Nothing checks that nothing has been sent to the client. It asks with a PINGREQ, so that it need not wait: whatever
// the server sent before comes before the answer.
func (c *Client) Nothing() {
	c.T.Helper()
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	c.Expect(packets.Pingresp)
}

// ExpectClosed checks that the server closes the connection, and returns the DISCONNECT that it sent before, if any.
func (c *Client) ExpectClosed() (last packets.Packet) {
	c.T.Helper()
	for {
		pk, err := c.Read(Patience)
		switch {
		case err == nil:
			last = pk
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.T.Fatalf("%s: the connection was not closed", c.ID)
		default:
			return last
		}
	}
}

// ExpectDisconnect checks that the server sends DISCONNECT with this reason code and closes the connection. To MQTT 3
// it only closes.
func (c *Client) ExpectDisconnect(code byte) {
	c.T.Helper()
	last := c.ExpectClosed()
	if c.Version >= 5 && (last.FixedHeader.Type != packets.Disconnect || last.ReasonCode != code) {
		c.T.Fatalf("%s: wanted DISCONNECT 0x%02X, got %s 0x%02X", c.ID, code,
			packets.PacketNames[last.FixedHeader.Type], last.ReasonCode)
	}
}
