package wire

import (
	"bytes"
	"errors"
	"sync"
	"unsafe"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Decode checks and decodes one packet that a client sent, and overwrites pk with it. body is what follows the fixed
// header; version is 3, 4 or 5, and 0 for the first packet, which must be CONNECT. The error is always a packets.Code:
// its reason code is what an MQTT 5 client is told, in CONNACK or DISCONNECT.
//
// Strings and byte slices in pk alias body: clone what is kept. pk may be used again for the next packet.
//
// When a CONNECT is refused, pk.ProtocolVersion is the version in which to answer: for an unsupported one the nearest
// that we speak, 0 when the first packet was not recognisable as a CONNECT, and then there is nothing to answer.
//
// Decode does not know the session: topic aliases beyond the maximum, unknown packet identifiers, a session expiry in a
// DISCONNECT after none in the CONNECT, and where wildcards may stand in a filter are the caller's to check.
func Decode(first byte, body []byte, version byte, pk *packets.Packet) error {
	reset(pk)
	pk.FixedHeader = packets.FixedHeader{Type: first >> 4, Remaining: len(body)}
	pk.ProtocolVersion = version
	switch isConnect := first>>4 == packets.Connect; {
	case version == 0 && !isConnect:
		return packets.ErrProtocolViolationRequireFirstConnect
	case version != 0 && isConnect:
		return packets.ErrProtocolViolationSecondConnect
	}
	if first>>4 == packets.Publish {
		return decodePublish(first, body, pk)
	}
	if first&0x0F != flagsOf(first, version) {
		return packets.ErrMalformedFlags
	}
	return decodeOther(body, pk)
}

// reset clears what the last packet, or a hook that changed it, left. Only a CONNECT sets Connect, which is half of the
// packet: clearing all of its 800 bytes each time would cost more than decoding a PUBLISH.
func reset(pk *packets.Packet) {
	if pk.Connect.ProtocolName != nil {
		pk.Connect = packets.ConnectParams{}
	}
	pk.Properties = packets.Properties{}
	pk.Payload, pk.ReasonCodes, pk.Filters, pk.TopicName, pk.Origin = nil, nil, nil, "", ""
	pk.Created, pk.Expiry, pk.Mods = 0, 0, packets.Mods{}
	pk.PacketID, pk.ReasonCode, pk.ReservedBit, pk.SessionPresent, pk.Ignore = 0, 0, 0, false, false
}

// flagsOf returns the only lower bits of the first byte that its packet type may have (MQTT 5, 2.1.3). MQTT 3.1 sets
// DUP when it sends PUBREL, SUBSCRIBE or UNSUBSCRIBE again.
func flagsOf(first, version byte) byte {
	switch first >> 4 {
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		if version == 3 {
			return 0x02 | first&0x08
		}
		return 0x02
	default:
		return 0
	}
}

func decodeOther(body []byte, pk *packets.Packet) error {
	switch pk.FixedHeader.Type {
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return decodeAck(body, pk)
	case packets.Connect:
		return decodeConnect(body, pk)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		if err := guardSubscribe(body, pk.ProtocolVersion); err != nil {
			return err
		}
		return codeOf(pk.SubscribeDecode(body))
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		if err := guardUnsubscribe(body, pk.ProtocolVersion); err != nil {
			return err
		}
		return codeOf(pk.UnsubscribeDecode(body))
	case packets.Pingreq:
		if len(body) != 0 {
			return packets.ErrMalformedPacket
		}
		return nil
	case packets.Disconnect:
		return decodeDisconnect(body, pk)
	case packets.Auth:
		return decodeAuth(body, pk)
	case packets.Reserved:
		return packets.ErrMalformedPacket
	default: // what only a server sends
		return packets.ErrProtocolViolation
	}
}

// decodePublish does without mochi's PublishDecode, which allocates for each MQTT 5 packet, but for the properties.
func decodePublish(first byte, body []byte, pk *packets.Packet) error {
	header := &pk.FixedHeader
	header.Qos, header.Dup, header.Retain = first>>1&3, first&8 != 0, first&1 != 0
	switch {
	case header.Qos > 2:
		return packets.ErrMalformedQos // [MQTT-3.3.1-4]
	case header.Dup && header.Qos == 0:
		return packets.ErrProtocolViolationDupNoQos // [MQTT-3.3.1-2]
	}
	r := reader{body}
	topic, err := r.topicName()
	if err != nil {
		return err
	}
	if header.Qos > 0 {
		if pk.PacketID, err = r.packetID(); err != nil {
			return err
		}
	}
	if pk.ProtocolVersion == 5 {
		section, seen, err := r.properties(inPublish)
		if err != nil {
			return err
		}
		if err := decodeProperties(section, seen, pk); err != nil {
			return err
		}
	}
	if len(topic) == 0 && !pk.Properties.TopicAliasFlag {
		return packets.ErrProtocolViolationNoTopic
	}
	pk.TopicName = unsafe.String(unsafe.SliceData(topic), len(topic))
	pk.Payload = r.buf
	return nil
}

// decodeProperties lets mochi decode properties that passed the guard. section begins with their length.
func decodeProperties(section []byte, seen seen, pk *packets.Packet) error {
	if len(section) <= 1 {
		return nil
	}
	if seen.has(packets.PropMessageExpiryInterval) {
		pk.Expiry = expiryPresent
	}
	buf := buffers.Get().(*bytes.Buffer)
	*buf = *bytes.NewBuffer(section)
	_, err := pk.Properties.Decode(pk.FixedHeader.Type, buf)
	*buf = bytes.Buffer{} // or the pool would keep the read buffer alive
	buffers.Put(buf)
	return codeOf(err)
}

// buffers saves an allocation for each packet with properties: mochi's decoder makes its buffer escape.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// decodeAck decodes PUBACK, PUBREC, PUBREL and PUBCOMP. In MQTT 5 the reason code may be missing, and after it the
// properties.
func decodeAck(body []byte, pk *packets.Packet) (err error) {
	r := reader{body}
	if pk.PacketID, err = r.packetID(); err != nil || len(r.buf) == 0 {
		return err
	}
	if pk.ProtocolVersion != 5 {
		return packets.ErrMalformedPacket
	}
	if err := decodeReason(&r, pk); err != nil {
		return err
	}
	return decodeTail(&r, pk)
}

// decodeDisconnect does without mochi's decoder, which loses a reason code that stands alone.
func decodeDisconnect(body []byte, pk *packets.Packet) error {
	if len(body) == 0 {
		return nil
	}
	if pk.ProtocolVersion != 5 {
		return packets.ErrMalformedPacket
	}
	r := reader{body}
	if err := decodeReason(&r, pk); err != nil {
		return err
	}
	return decodeTail(&r, pk)
}

// decodeAuth wants all of the packet: it may leave out reason code and properties only for success, which is not for
// clients to say.
func decodeAuth(body []byte, pk *packets.Packet) error {
	if pk.ProtocolVersion != 5 {
		return packets.ErrProtocolViolation
	}
	r := reader{body}
	if err := decodeReason(&r, pk); err != nil {
		return err
	}
	if err := decodeTail(&r, pk); err != nil {
		return err
	}
	if pk.Properties.AuthenticationMethod == "" {
		return packets.ErrProtocolViolation
	}
	return nil
}

func decodeReason(r *reader, pk *packets.Packet) (err error) {
	if pk.ReasonCode, err = r.byte(); err != nil {
		return err
	}
	if !reasonAllowed(pk.FixedHeader.Type, pk.ReasonCode) {
		return packets.ErrProtocolViolationInvalidReason
	}
	return nil
}

// decodeTail decodes the properties that end a packet, if there are any.
func decodeTail(r *reader, pk *packets.Packet) error {
	if len(r.buf) == 0 {
		return nil
	}
	section, seen, err := r.properties(1 << pk.FixedHeader.Type)
	if err != nil {
		return err
	}
	if len(r.buf) != 0 {
		return packets.ErrMalformedPacket
	}
	return decodeProperties(section, seen, pk)
}

// reasonAllowed tells which reason codes a client may send in which packet (MQTT 5, 3.4.2.1 to 3.15.2.1).
func reasonAllowed(packetType, code byte) bool {
	switch packetType {
	case packets.Puback, packets.Pubrec:
		switch code {
		case 0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99:
			return true
		}
	case packets.Pubrel, packets.Pubcomp:
		return code == 0x00 || code == 0x92
	case packets.Disconnect:
		switch code {
		case 0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99:
			return true
		}
	case packets.Auth:
		return code == 0x18 || code == 0x19
	}
	return false
}

// expiryPresent in Packet.Expiry, which is otherwise unused here, tells a message expiry of 0 from none.
const expiryPresent = 1

// MessageExpiry returns the message expiry interval, in seconds, of a decoded PUBLISH, or of the will of a decoded
// CONNECT. ok is false when it was not sent; 0 was sent is not the same: such a message expires at once.
func MessageExpiry(pk *packets.Packet) (seconds uint32, ok bool) {
	if pk.FixedHeader.Type == packets.Connect {
		return pk.Connect.WillProperties.MessageExpiryInterval, pk.Expiry == expiryPresent
	}
	return pk.Properties.MessageExpiryInterval, pk.Expiry == expiryPresent
}

// codeOf unwraps what mochi's decoders return.
func codeOf(err error) error {
	if err == nil {
		return nil
	}
	var code packets.Code
	if errors.As(err, &code) {
		return code
	}
	return packets.ErrMalformedPacket
}
