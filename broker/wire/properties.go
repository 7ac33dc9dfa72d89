// Package wire turns bytes into MQTT packets and back: a guard that checks what a client sent before mochi's decoder
// sees it, and encoders that append to a caller's buffer.
package wire

import (
	"math"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Properties are the MQTT 5 PUBLISH properties that the server forwards unaltered (MQTT 5, 3.3.2.3).
type Properties struct {
	PayloadFormat    byte
	HasPayloadFormat bool
	ContentType      string
	ResponseTopic    string
	CorrelationData  []byte
	User             []packets.UserProperty // in the order in which they were sent
}

// UserProperty returns the value of the first user property called key.
func (p *Properties) UserProperty(key string) (string, bool) {
	if p == nil {
		return "", false
	}
	for i := range p.User {
		if p.User[i].Key == key {
			return p.User[i].Val, true
		}
	}
	return "", false
}

// FromPacket copies the properties of a decoded PUBLISH that go on to its subscribers; nil when it carries none of
// them. Nothing in the result aliases the read buffer. Message expiry, topic alias and subscription identifiers belong
// to one hop and are not among them.
func FromPacket(pk *packets.Packet) *Properties {
	return clone(&pk.Properties)
}

// FromWill does the same for the will of a CONNECT.
func FromWill(pk *packets.Packet) *Properties {
	return clone(&pk.Connect.WillProperties)
}

func clone(p *packets.Properties) *Properties {
	if !p.PayloadFormatFlag && p.ContentType == "" && p.ResponseTopic == "" && p.CorrelationData == nil &&
		len(p.User) == 0 {
		return nil
	}
	out := &Properties{PayloadFormat: p.PayloadFormat, HasPayloadFormat: p.PayloadFormatFlag}
	if p.CorrelationData != nil {
		out.CorrelationData = append([]byte{}, p.CorrelationData...)
	}
	// One allocation holds all strings.
	size := len(p.ContentType) + len(p.ResponseTopic)
	for i := range p.User {
		size += len(p.User[i].Key) + len(p.User[i].Val)
	}
	var text strings.Builder
	text.Grow(size)
	keep := func(s string) string {
		start := text.Len()
		text.WriteString(s)
		return text.String()[start:]
	}
	out.ContentType = keep(p.ContentType)
	out.ResponseTopic = keep(p.ResponseTopic)
	if len(p.User) > 0 {
		out.User = make([]packets.UserProperty, len(p.User))
		for i := range p.User {
			out.User[i] = packets.UserProperty{Key: keep(p.User[i].Key), Val: keep(p.User[i].Val)}
		}
	}
	return out
}

// size is the encoded length, without a length field; 0 for nil.
func (p *Properties) size() int {
	if p == nil {
		return 0
	}
	n := 2 * int(bit(p.HasPayloadFormat))
	n += stringPropertySize(p.ContentType) + stringPropertySize(p.ResponseTopic)
	return n + bytesPropertySize(p.CorrelationData) + userSize(p.User)
}

// append appends the encoded properties, without a length field.
func (p *Properties) append(dst []byte) []byte {
	if p == nil {
		return dst
	}
	if p.HasPayloadFormat {
		dst = append(dst, packets.PropPayloadFormat, p.PayloadFormat)
	}
	dst = appendStringProperty(dst, packets.PropContentType, p.ContentType)
	dst = appendStringProperty(dst, packets.PropResponseTopic, p.ResponseTopic)
	dst = appendBytesProperty(dst, packets.PropCorrelationData, p.CorrelationData)
	return appendUser(dst, p.User)
}

// bytesPropertySize is the length of a binary property; nil is absent, empty is not.
func bytesPropertySize(b []byte) int {
	if b == nil {
		return 0
	}
	return 3 + min(len(b), math.MaxUint16)
}

func appendBytesProperty(dst []byte, id byte, b []byte) []byte {
	if b == nil {
		return dst
	}
	b = b[:min(len(b), math.MaxUint16)]
	dst = append(dst, id, byte(len(b)>>8), byte(len(b)))
	return append(dst, b...)
}

func userSize(user []packets.UserProperty) int {
	n := 0
	for i := range user {
		n += 5 + len(clip(user[i].Key)) + len(clip(user[i].Val))
	}
	return n
}

func appendUser(dst []byte, user []packets.UserProperty) []byte {
	for i := range user {
		dst = appendString(append(dst, packets.PropUser), user[i].Key)
		dst = appendString(dst, user[i].Val)
	}
	return dst
}
