package bench

import (
	"encoding/binary"
	"errors"
)

var (
	errMalformed = errors.New("malformed packet")
	errTooLarge  = errors.New("packet larger than anything that was asked for")
)

// MQTT 5 property identifiers that mean something to the bench.
const (
	propSessionExpiry   = 0x11
	propServerKeepAlive = 0x13
	propReceiveMaximum  = 0x21
	propMaximumQoS      = 0x24
)

// split takes the first packet off b. size is 0 when the packet is not complete yet; body aliases b.
func split(b []byte, limit int) (first byte, body []byte, size int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	length, n, err := varint(b[1:])
	if err != nil {
		return 0, nil, 0, err
	}
	if n == 0 {
		return 0, nil, 0, nil
	}
	if length > limit {
		return 0, nil, 0, errTooLarge
	}
	size = 1 + n + length
	if len(b) < size {
		return 0, nil, 0, nil
	}
	return b[0], b[1+n : size], size, nil
}

// varint reads a variable byte integer; n is 0 when b ends inside it.
func varint(b []byte) (value, n int, err error) {
	for i := 0; i < len(b); i++ {
		if i == 4 {
			return 0, 0, errMalformed
		}
		value |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			return value, i + 1, nil
		}
	}
	if len(b) >= 4 {
		return 0, 0, errMalformed
	}
	return 0, 0, nil
}

// parsePublish returns the packet identifier (0 at QoS 0) and the payload, which aliases body.
func parsePublish(first byte, body []byte, version byte) (id uint16, payload []byte, err error) {
	if len(body) < 2 {
		return 0, nil, errMalformed
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if first&0x06 != 0 {
		if len(body) < at+2 || first&0x06 == 0x06 {
			return 0, nil, errMalformed
		}
		id = binary.BigEndian.Uint16(body[at:])
		if id == 0 {
			return 0, nil, errMalformed
		}
		at += 2
	}
	if len(body) < at {
		return 0, nil, errMalformed
	}
	if version == 5 {
		length, n, err := varint(body[at:])
		if err != nil || n == 0 || len(body) < at+n+length {
			return 0, nil, errMalformed
		}
		at += n + length
	}
	return id, body[at:], nil
}

// parseAck reads the body of PUBACK, PUBREC, PUBREL and PUBCOMP. A reason of 0x80 and more is a refusal.
func parseAck(body []byte, version byte) (id uint16, reason byte, err error) {
	if len(body) < 2 || (version != 5 && len(body) != 2) {
		return 0, 0, errMalformed
	}
	if len(body) > 2 {
		reason = body[2]
	}
	return binary.BigEndian.Uint16(body), reason, nil
}

// parseSuback returns the reason code of the first filter.
func parseSuback(body []byte, version byte) (reason byte, err error) {
	at := 2
	if version == 5 {
		if len(body) < 3 {
			return 0, errMalformed
		}
		length, n, err := varint(body[2:])
		if err != nil || n == 0 {
			return 0, errMalformed
		}
		at += n + length
	}
	if len(body) <= at {
		return 0, errMalformed
	}
	return body[at], nil
}

// connack is what a broker says on CONNECT.
type connack struct {
	reason         byte
	receiveMaximum int // 65535 when the broker says nothing
	maximumQoS     int
	keepAlive      int // seconds that replace the client's own; -1: none
}

func parseConnack(body []byte, version byte) (connack, error) {
	ack := connack{receiveMaximum: maxInflight, maximumQoS: 2, keepAlive: -1}
	if len(body) < 2 {
		return ack, errMalformed
	}
	ack.reason = body[1]
	// A broker that refuses the protocol version answers in the form of MQTT 3.
	if version != 5 || len(body) == 2 {
		return ack, nil
	}
	length, n, err := varint(body[2:])
	if err != nil || n == 0 || len(body) < 2+n+length {
		return ack, errMalformed
	}
	return ack, ack.readProperties(body[2+n : 2+n+length])
}

func (a *connack) readProperties(b []byte) error {
	for len(b) > 0 {
		id := b[0]
		size, err := propertySize(id, b[1:])
		if err != nil {
			return err
		}
		value := b[1 : 1+size]
		switch id {
		case propReceiveMaximum:
			a.receiveMaximum = int(binary.BigEndian.Uint16(value))
		case propMaximumQoS:
			a.maximumQoS = int(value[0])
		case propServerKeepAlive:
			a.keepAlive = int(binary.BigEndian.Uint16(value))
		}
		b = b[1+size:]
	}
	if a.receiveMaximum == 0 {
		return errMalformed
	}
	return nil
}

// propertySize is the length of the value of a property that CONNACK may carry (MQTT 5, 2.2.2.2).
func propertySize(id byte, b []byte) (int, error) {
	size := 0
	switch id {
	case propMaximumQoS, 0x25, 0x28, 0x29, 0x2A:
		size = 1
	case propServerKeepAlive, propReceiveMaximum, 0x22:
		size = 2
	case propSessionExpiry, 0x27:
		size = 4
	case 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F:
		size = stringSize(b)
	case 0x26:
		size = stringSize(b)
		if size <= len(b) {
			size += stringSize(b[size:])
		}
	default:
		return 0, errMalformed
	}
	if size > len(b) {
		return 0, errMalformed
	}
	return size, nil
}

// stringSize is the length of a string with its prefix; beyond the end of b when the prefix is cut.
func stringSize(b []byte) int {
	if len(b) < 2 {
		return len(b) + 1
	}
	return 2 + int(binary.BigEndian.Uint16(b))
}
