package wire

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Connack is an outgoing CONNACK. The zero value accepts a clean session and says nothing more. Wildcard filters,
// subscription identifiers and shared subscriptions are always available, which is what leaving them out means.
// MQTT 3 gets SessionPresent (3.1.1 only) and the return code for Code.
type Connack struct {
	SessionPresent bool
	Code           byte // MQTT 5 reason code

	SessionExpiryInterval    uint32 // seconds, if HasSessionExpiryInterval: the server uses another than was asked for
	HasSessionExpiryInterval bool
	ReceiveMaximum           uint16 // 0: not said, which means 65,535
	MaximumQoS               byte   // 0 or 1, if HasMaximumQoS; without it 2
	HasMaximumQoS            bool
	RetainUnavailable        bool
	MaximumPacketSize        uint32 // bytes; 0: not said, no limit but the protocol's
	AssignedClientID         string // empty: the client brought its own
	TopicAliasMaximum        uint16 // 0: not said, no aliases
	ReasonString             string
	ServerKeepAlive          uint16 // seconds, if HasServerKeepAlive
	HasServerKeepAlive       bool
	ResponseInformation      string
	ServerReference          string
	AuthenticationMethod     string
	AuthenticationData       []byte
	User                     []packets.UserProperty
}

// AppendConnack appends the packet to dst. A code that MQTT 3 does not have becomes 3, server unavailable; on a
// malformed CONNECT an MQTT 3 client gets no CONNACK at all, and the caller only closes.
func AppendConnack(dst []byte, version byte, c *Connack) []byte {
	if version != 5 {
		present := bit(c.SessionPresent && c.Code == 0 && version >= 4)
		return append(dst, packets.Connack<<4, 2, present, returnCode(c.Code))
	}
	properties := c.propertiesSize()
	dst = append(dst, packets.Connack<<4)
	dst = appendVarint(dst, 2+varintSize(properties)+properties)
	dst = append(dst, bit(c.SessionPresent && c.Code == 0), c.Code)
	dst = appendVarint(dst, properties)
	return c.appendProperties(dst)
}

// returnCode maps a reason code of MQTT 5 to a return code of MQTT 3.1.1 (3.2.2.3).
func returnCode(code byte) byte {
	switch code {
	case packets.CodeSuccess.Code:
		return 0
	case packets.ErrUnsupportedProtocolVersion.Code:
		return 1
	case packets.ErrClientIdentifierNotValid.Code:
		return 2
	case packets.ErrBadUsernameOrPassword.Code, packets.ErrBadAuthenticationMethod.Code:
		return 4
	case packets.ErrNotAuthorized.Code, packets.ErrBanned.Code:
		return 5
	default:
		return 3
	}
}

func (c *Connack) propertiesSize() int {
	n := 5*int(bit(c.HasSessionExpiryInterval)) + 3*int(bit(c.ReceiveMaximum != 0)) + 2*int(bit(c.HasMaximumQoS)) +
		2*int(bit(c.RetainUnavailable)) + 5*int(bit(c.MaximumPacketSize != 0)) + 3*int(bit(c.TopicAliasMaximum != 0)) +
		3*int(bit(c.HasServerKeepAlive))
	n += stringPropertySize(c.AssignedClientID) + stringPropertySize(c.ReasonString) +
		stringPropertySize(c.ResponseInformation) + stringPropertySize(c.ServerReference) +
		stringPropertySize(c.AuthenticationMethod) + bytesPropertySize(c.AuthenticationData)
	return n + userSize(c.User)
}

func (c *Connack) appendProperties(dst []byte) []byte {
	if c.HasSessionExpiryInterval {
		dst = appendUint32Property(dst, packets.PropSessionExpiryInterval, c.SessionExpiryInterval)
	}
	if c.ReceiveMaximum != 0 {
		dst = appendUint16Property(dst, packets.PropReceiveMaximum, c.ReceiveMaximum)
	}
	if c.HasMaximumQoS {
		dst = append(dst, packets.PropMaximumQos, c.MaximumQoS)
	}
	if c.RetainUnavailable {
		dst = append(dst, packets.PropRetainAvailable, 0)
	}
	if c.MaximumPacketSize != 0 {
		dst = appendUint32Property(dst, packets.PropMaximumPacketSize, c.MaximumPacketSize)
	}
	if c.TopicAliasMaximum != 0 {
		dst = appendUint16Property(dst, packets.PropTopicAliasMaximum, c.TopicAliasMaximum)
	}
	if c.HasServerKeepAlive {
		dst = appendUint16Property(dst, packets.PropServerKeepAlive, c.ServerKeepAlive)
	}
	dst = appendStringProperty(dst, packets.PropAssignedClientID, c.AssignedClientID)
	dst = appendStringProperty(dst, packets.PropReasonString, c.ReasonString)
	dst = appendStringProperty(dst, packets.PropResponseInfo, c.ResponseInformation)
	dst = appendStringProperty(dst, packets.PropServerReference, c.ServerReference)
	dst = appendStringProperty(dst, packets.PropAuthenticationMethod, c.AuthenticationMethod)
	dst = appendBytesProperty(dst, packets.PropAuthenticationData, c.AuthenticationData)
	return appendUser(dst, c.User)
}

func appendUint16Property(dst []byte, id byte, v uint16) []byte {
	return binary.BigEndian.AppendUint16(append(dst, id), v)
}

func appendUint32Property(dst []byte, id byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, id), v)
}
