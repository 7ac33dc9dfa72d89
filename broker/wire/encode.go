package wire

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// maxVarint is the largest variable byte integer (MQTT 5, 1.5.5), and so the largest remaining length.
const maxVarint = 268435455

// PublishOut is an outgoing PUBLISH. MQTT 3 has no properties: everything after PacketID is then left out.
type PublishOut struct {
	Topic       string
	Payload     []byte
	QoS         byte // 0, 1, 2
	Retain, Dup bool
	PacketID    uint16      // written with QoS 1 and 2 only
	Alias       uint16      // topic alias; 0: none
	OmitTopic   bool        // send the alias alone; only with Alias, and only in MQTT 5
	Expiry      uint32      // remaining message expiry in seconds, if HasExpiry
	HasExpiry   bool        //
	Identifiers []uint32    // subscription identifiers, 1..268,435,455
	Properties  *Properties // what the publisher sent; nil: nothing
}

// topicFor is the topic name as it goes on the wire.
func (p *PublishOut) topicFor(version byte) string {
	if p.OmitTopic && p.Alias != 0 && version == 5 {
		return ""
	}
	return clip(p.Topic)
}

// propertiesSize is the length of the MQTT 5 properties, without their own length field.
func (p *PublishOut) propertiesSize() int {
	n := 0
	if p.HasExpiry {
		n += 5
	}
	if p.Alias != 0 {
		n += 3
	}
	for _, id := range p.Identifiers {
		n += 1 + varintSize(int(id))
	}
	return n + p.Properties.size()
}

// publishSizes returns the length of the properties and the remaining length.
func publishSizes(version byte, p *PublishOut) (properties, remaining int) {
	remaining = 2 + len(p.topicFor(version)) + len(p.Payload)
	if p.QoS > 0 {
		remaining += 2
	}
	if version == 5 {
		properties = p.propertiesSize()
		remaining += varintSize(properties) + properties
	}
	return properties, remaining
}

// PublishSize returns the length of the whole packet that AppendPublish would write, in bytes; compare it with the
// client's Maximum Packet Size.
func PublishSize(version byte, p *PublishOut) int {
	_, remaining := publishSizes(version, p)
	return 1 + varintSize(remaining) + remaining
}

// AppendPublish appends the packet to dst. It does not check p: topic and payload must fit into one packet.
func AppendPublish(dst []byte, version byte, p *PublishOut) []byte {
	properties, remaining := publishSizes(version, p)
	dst = append(dst, packets.Publish<<4|bit(p.Dup)<<3|p.QoS<<1|bit(p.Retain))
	dst = appendVarint(dst, remaining)
	dst = appendString(dst, p.topicFor(version))
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	if version == 5 {
		dst = appendVarint(dst, properties)
		dst = p.appendProperties(dst)
	}
	return append(dst, p.Payload...)
}

func (p *PublishOut) appendProperties(dst []byte) []byte {
	if p.HasExpiry {
		dst = append(dst, packets.PropMessageExpiryInterval)
		dst = binary.BigEndian.AppendUint32(dst, p.Expiry)
	}
	if p.Alias != 0 {
		dst = append(dst, packets.PropTopicAlias)
		dst = binary.BigEndian.AppendUint16(dst, p.Alias)
	}
	for _, id := range p.Identifiers {
		dst = append(dst, packets.PropSubscriptionIdentifier)
		dst = appendVarint(dst, int(id))
	}
	return p.Properties.append(dst)
}

// AppendAck appends PUBACK, PUBREC, PUBREL or PUBCOMP. MQTT 3 gets neither code nor reason; MQTT 5 gets the short form
// when code is 0 and reason is empty.
func AppendAck(dst []byte, packetType, version byte, id uint16, code byte, reason string) []byte {
	first := packetType << 4
	if packetType == packets.Pubrel {
		first |= 2 // MQTT 5, 3.6.1
	}
	if version != 5 || code == 0 && reason == "" {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	if reason == "" {
		return append(dst, first, 3, byte(id>>8), byte(id), code)
	}
	properties := stringPropertySize(reason)
	dst = append(dst, first)
	dst = appendVarint(dst, 3+varintSize(properties)+properties)
	dst = append(dst, byte(id>>8), byte(id), code)
	dst = appendVarint(dst, properties)
	return appendStringProperty(dst, packets.PropReasonString, reason)
}

// AppendPingresp appends PINGRESP.
func AppendPingresp(dst []byte) []byte {
	return append(dst, packets.Pingresp<<4, 0)
}

// AppendSuback appends SUBACK with one code for each filter of the SUBSCRIBE, in its order. MQTT 3 knows 0, 1, 2 and
// 0x80: every other failure becomes 0x80 there.
func AppendSuback(dst []byte, version byte, id uint16, codes []byte) []byte {
	dst = appendListHeader(dst, packets.Suback, version, id, len(codes))
	if version == 5 {
		return append(dst, codes...)
	}
	for _, code := range codes {
		if code >= 0x80 {
			code = 0x80
		}
		dst = append(dst, code)
	}
	return dst
}

// AppendUnsuback appends UNSUBACK; MQTT 3 has no codes in it.
func AppendUnsuback(dst []byte, version byte, id uint16, codes []byte) []byte {
	if version != 5 {
		return append(dst, packets.Unsuback<<4, 2, byte(id>>8), byte(id))
	}
	return append(appendListHeader(dst, packets.Unsuback, version, id, len(codes)), codes...)
}

// appendListHeader appends everything of SUBACK or UNSUBACK that stands before the codes.
func appendListHeader(dst []byte, packetType, version byte, id uint16, codes int) []byte {
	remaining := 2 + codes
	if version == 5 {
		remaining++
	}
	dst = append(dst, packetType<<4)
	dst = appendVarint(dst, remaining)
	dst = append(dst, byte(id>>8), byte(id))
	if version == 5 {
		dst = append(dst, 0) // no properties
	}
	return dst
}

// AppendDisconnect appends an MQTT 5 DISCONNECT. MQTT 3 has none from a server: close the connection instead.
// serverReference goes with 0x9C and 0x9D; empty strings are left out.
func AppendDisconnect(dst []byte, code byte, reason, serverReference string) []byte {
	properties := stringPropertySize(reason) + stringPropertySize(serverReference)
	dst = append(dst, packets.Disconnect<<4)
	if properties == 0 {
		return append(dst, 1, code)
	}
	dst = appendVarint(dst, 1+varintSize(properties)+properties)
	dst = append(dst, code)
	dst = appendVarint(dst, properties)
	dst = appendStringProperty(dst, packets.PropReasonString, reason)
	return appendStringProperty(dst, packets.PropServerReference, serverReference)
}

// stringPropertySize is the length of a string property, 0 for an empty string.
func stringPropertySize(s string) int {
	if s == "" {
		return 0
	}
	return 3 + len(clip(s))
}

// appendStringProperty appends a string property unless the string is empty.
func appendStringProperty(dst []byte, id byte, s string) []byte {
	if s == "" {
		return dst
	}
	return appendString(append(dst, id), s)
}

// appendString appends a UTF-8 encoded string (MQTT 5, 1.5.4).
func appendString(dst []byte, s string) []byte {
	s = clip(s)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

// clip cuts a string to the 65,535 bytes that fit, at the start of a character.
func clip(s string) string {
	if len(s) <= math.MaxUint16 {
		return s
	}
	end := math.MaxUint16
	for end > math.MaxUint16-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// appendVarint appends a variable byte integer (MQTT 5, 1.5.5).
func appendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// varintSize is the length of n as a variable byte integer.
func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	default:
		return 4
	}
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
