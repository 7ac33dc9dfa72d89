package wire

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Where a property may stand: a bit for each packet type, and one for the will.
const (
	inWill        = 1 << 0
	inConnect     = 1 << packets.Connect
	inPublish     = 1 << packets.Publish
	inAcks        = 1<<packets.Puback | 1<<packets.Pubrec | 1<<packets.Pubrel | 1<<packets.Pubcomp
	inSubscribe   = 1 << packets.Subscribe
	inUnsubscribe = 1 << packets.Unsubscribe
	inDisconnect  = 1 << packets.Disconnect
	inAuth        = 1 << packets.Auth
)

// The types of property values (MQTT 5, 2.2.2.2).
type valueType byte

const (
	unknownValue valueType = iota
	byteValue
	uint16Value
	uint32Value
	varintValue
	textValue
	binaryValue
	pairValue
)

// propertyRule says what a property looks like and in which packets of a client it may stand. In those of serverOnly
// the protocol knows it, but only from a server.
type propertyRule struct {
	value      valueType
	in         uint16
	serverOnly uint16
}

var propertyRules = [packets.PropSharedSubAvailable + 1]propertyRule{
	packets.PropPayloadFormat:          {value: byteValue, in: inPublish | inWill},
	packets.PropMessageExpiryInterval:  {value: uint32Value, in: inPublish | inWill},
	packets.PropContentType:            {value: textValue, in: inPublish | inWill},
	packets.PropResponseTopic:          {value: textValue, in: inPublish | inWill},
	packets.PropCorrelationData:        {value: binaryValue, in: inPublish | inWill},
	packets.PropSubscriptionIdentifier: {value: varintValue, in: inSubscribe, serverOnly: inPublish},
	packets.PropSessionExpiryInterval:  {value: uint32Value, in: inConnect | inDisconnect},
	packets.PropAuthenticationMethod:   {value: textValue, in: inConnect | inAuth},
	packets.PropAuthenticationData:     {value: binaryValue, in: inConnect | inAuth},
	packets.PropRequestProblemInfo:     {value: byteValue, in: inConnect},
	packets.PropWillDelayInterval:      {value: uint32Value, in: inWill},
	packets.PropRequestResponseInfo:    {value: byteValue, in: inConnect},
	packets.PropServerReference:        {value: textValue, serverOnly: inDisconnect},
	packets.PropReasonString:           {value: textValue, in: inAcks | inDisconnect | inAuth},
	packets.PropReceiveMaximum:         {value: uint16Value, in: inConnect},
	packets.PropTopicAliasMaximum:      {value: uint16Value, in: inConnect},
	packets.PropTopicAlias:             {value: uint16Value, in: inPublish},
	packets.PropUser: {value: pairValue, in: inConnect | inWill | inPublish | inAcks | inSubscribe | inUnsubscribe |
		inDisconnect | inAuth},
	packets.PropMaximumPacketSize: {value: uint32Value, in: inConnect},
}

// seen is the set of properties of one packet.
type seen uint64

func (s seen) has(id byte) bool { return s&(1<<id) != 0 }

// properties checks a length and as many bytes of properties. It returns both as they stand, for mochi to decode.
func (r *reader) properties(in uint16) (section []byte, found seen, err error) {
	start := r.buf
	length, err := r.varint()
	if err != nil {
		return nil, 0, err
	}
	if length > len(r.buf) {
		return nil, 0, packets.ErrMalformedProperties
	}
	section = start[:len(start)-len(r.buf)+length]
	list := reader{r.buf[:length]}
	r.buf = r.buf[length:]
	for len(list.buf) > 0 {
		id, err := list.property(in)
		if err != nil {
			return nil, 0, err
		}
		if found.has(id) && id != packets.PropUser {
			return nil, 0, packets.ErrProtocolViolation
		}
		found |= 1 << id
	}
	if found.has(packets.PropAuthenticationData) && !found.has(packets.PropAuthenticationMethod) {
		return nil, 0, packets.ErrProtocolViolation
	}
	return section, found, nil
}

// property checks one property.
func (r *reader) property(in uint16) (id byte, err error) {
	id, _ = r.byte()
	if int(id) >= len(propertyRules) {
		return 0, packets.ErrMalformedBadProperty
	}
	rule := propertyRules[id]
	switch {
	case rule.serverOnly&in != 0:
		return 0, packets.ErrProtocolViolationUnsupportedProperty
	case rule.in&in == 0:
		return 0, packets.ErrMalformedBadProperty
	}
	switch rule.value {
	case byteValue, uint16Value, uint32Value, varintValue:
		return id, r.number(id, rule.value)
	case binaryValue:
		_, err = r.binary()
	case textValue:
		var text []byte
		if text, err = r.text(); err == nil {
			err = checkText(id, text)
		}
	case pairValue:
		if _, err = r.text(); err == nil {
			_, err = r.text()
		}
	}
	return id, err
}

// number checks a property whose value is a number.
func (r *reader) number(id byte, value valueType) error {
	var n int
	var err error
	switch value {
	case byteValue:
		var b byte
		b, err = r.byte()
		n = int(b)
	case uint16Value:
		var u uint16
		u, err = r.uint16()
		n = int(u)
	case uint32Value:
		var u uint32
		u, err = r.uint32()
		n = int(u)
	default:
		n, err = r.varint()
	}
	if err != nil {
		return err
	}
	return checkNumber(id, n)
}

// checkNumber refuses what is not a legal value, although it is one of its type.
func checkNumber(id byte, n int) error {
	switch id {
	case packets.PropPayloadFormat, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
		if n > 1 {
			return packets.ErrProtocolViolation
		}
	case packets.PropReceiveMaximum, packets.PropMaximumPacketSize, packets.PropSubscriptionIdentifier:
		if n == 0 {
			return packets.ErrProtocolViolation
		}
	case packets.PropTopicAlias:
		if n == 0 {
			return packets.ErrTopicAliasInvalid
		}
	}
	return nil
}

// checkText does the same for strings.
func checkText(id byte, text []byte) error {
	switch id {
	case packets.PropResponseTopic:
		if len(text) == 0 || hasWildcard(text) {
			return packets.ErrProtocolViolationInvalidTopic // [MQTT-3.3.2-14]
		}
	case packets.PropAuthenticationMethod:
		if len(text) == 0 { // mochi's decoder cannot tell it from none
			return packets.ErrBadAuthenticationMethod
		}
	}
	return nil
}

// guardSubscribe checks the body of a SUBSCRIBE. mochi's decoder panics where the last options byte is missing, and
// ignores the reserved bits.
func guardSubscribe(body []byte, version byte) error {
	return guardFilters(body, version, inSubscribe, func(r *reader, filter []byte) error {
		options, err := r.byte()
		if err != nil {
			return packets.ErrMalformedQos
		}
		return checkOptions(options, version, filter)
	})
}

// checkOptions checks the options of one subscription (MQTT 5, 3.8.3.1; 3.1.1 knows the QoS alone).
func checkOptions(options, version byte, filter []byte) error {
	const (
		qos, noLocal, retainHandling, reserved = 0x03, 0x04, 0x30, 0xC0
	)
	switch {
	case version != 5 && options > 2:
		return packets.ErrMalformedQos // [MQTT-3.8.3-4] of 3.1.1
	case options&reserved != 0:
		return packets.ErrMalformedFlags // [MQTT-3.8.3-5]
	case options&qos == qos, options&retainHandling == retainHandling:
		return packets.ErrProtocolViolationQosOutOfRange
	case options&noLocal != 0 && bytes.HasPrefix(filter, []byte("$share/")):
		return packets.ErrProtocolViolationInvalidSharedNoLocal // [MQTT-3.8.3-4]
	}
	return nil
}

func guardUnsubscribe(body []byte, version byte) error {
	return guardFilters(body, version, inUnsubscribe, func(*reader, []byte) error { return nil })
}

// guardFilters checks what SUBSCRIBE and UNSUBSCRIBE have in common; each checks what follows a filter.
func guardFilters(body []byte, version byte, in uint16, each func(r *reader, filter []byte) error) error {
	r := reader{body}
	if _, err := r.packetID(); err != nil {
		return err
	}
	if version == 5 {
		if _, _, err := r.properties(in); err != nil {
			return err
		}
	}
	if len(r.buf) == 0 {
		return packets.ErrProtocolViolationNoFilters // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
	}
	for len(r.buf) > 0 {
		filter, err := r.text()
		if err != nil {
			return err
		}
		if len(filter) == 0 {
			return packets.ErrTopicFilterInvalid // [MQTT-4.7.3-1]
		}
		if err := each(&r, filter); err != nil {
			return err
		}
	}
	return nil
}
