package conformance

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// What follows makes packets that no encoder would, and independently of the one under test.

// raw makes a packet of its first byte and what follows the remaining length.
func raw(first byte, parts ...[]byte) []byte {
	body := join(parts...)
	return join([]byte{first}, varint(len(body)), body)
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func varint(n int) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func u16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// str makes a length-prefixed string, or binary data.
func str(s string) []byte { return append(u16(uint16(len(s))), s...) }

// prop makes one property.
func prop(id byte, value []byte) []byte { return append([]byte{id}, value...) }

// props makes a property section: its length and the properties, and nothing in MQTT 3.1.1.
func (e *env) props(list ...[]byte) []byte {
	if !e.v5() {
		return nil
	}
	body := join(list...)
	return append(varint(len(body)), body...)
}

// The connect flags.
const (
	cleanFlag    = 0x02
	willFlag     = 0x04
	willQoS1     = 0x08
	willQoS3     = 0x18
	willRetain   = 0x20
	passwordFlag = 0x40
	userFlag     = 0x80
)

// rawConnect makes a CONNECT with these flags and fields.
func (e *env) rawConnect(flags byte, fields ...[]byte) []byte {
	return raw(0x10, str("MQTT"), []byte{e.version, flags}, u16(60), e.props(), join(fields...))
}

// rawConnect5 makes a CONNECT with properties.
func (e *env) rawConnect5(list ...[]byte) []byte {
	return raw(0x10, str("MQTT"), []byte{5, cleanFlag}, u16(60), e.props(list...), str(e.id("raw")))
}

func (e *env) rawPublish(first byte, topic string, id []byte, properties []byte, payload string) []byte {
	return raw(first, str(topic), id, properties, []byte(payload))
}

func (e *env) rawSubscribe(filter string, options byte) []byte {
	return raw(0x82, u16(7), e.props(), str(filter), []byte{options})
}

func (e *env) rawUnsubscribe(filter string) []byte { return raw(0xA2, u16(7), e.props(), str(filter)) }

// refuses sends a CONNECT that is malformed, and perhaps more after it. MQTT 5 is told why in a CONNACK with one of the
// codes; 3.1.1 is told nothing.
func (e *env) refuses(what string, data []byte, codes ...byte) {
	e.Helper()
	c := e.dial()
	c.ID = what
	c.SendRaw(data...)
	last := c.ExpectClosed()
	if !e.v5() {
		require.Zero(e, last.FixedHeader.Type, "%s: a packet came before the end", what)
		return
	}
	require.Equal(e, byte(packets.Connack), last.FixedHeader.Type, what)
	require.Contains(e, codes, last.ReasonCode, what)
	require.False(e, last.SessionPresent, what)
}

// breaks sends what breaks the protocol on a new connection: MQTT 5 gets a DISCONNECT with one of the codes, 3.1.1
// nothing, and both are closed.
func (e *env) breaks(what string, data []byte, codes ...byte) {
	e.Helper()
	e.breaksOn(e.connect("breaker"), what, data, codes...)
}

func (e *env) breaksOn(c *testmqtt.Client, what string, data []byte, codes ...byte) {
	e.Helper()
	c.ID = what
	c.SendRaw(data...)
	last := c.ExpectClosed()
	if !e.v5() {
		require.Zero(e, last.FixedHeader.Type, "%s: a packet came before the end", what)
		return
	}
	require.Equal(e, byte(packets.Disconnect), last.FixedHeader.Type, what)
	require.Contains(e, codes, last.ReasonCode, what)
}

// next reads a packet as it came.
func (e *env) next(c *testmqtt.Client) (first byte, body []byte) {
	e.Helper()
	first, body, err := c.ReadRaw(testmqtt.Patience)
	require.NoError(e, err)
	return first, body
}
