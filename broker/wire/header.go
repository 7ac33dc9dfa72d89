package wire

import "github.com/mochi-mqtt/server/v2/packets"

// Header parses a fixed header: its first byte, the remaining length, and how many bytes the header itself takes (2 to
// 5). headerLen 0 with a nil error means that buf does not hold all of it yet. A remaining length of more than four
// bytes, or one with needless trailing zeros, is packets.ErrMalformedVariableByteInteger.
func Header(buf []byte) (first byte, remaining, headerLen int, err error) {
	if len(buf) < 2 {
		return 0, 0, 0, nil
	}
	if buf[1] < 0x80 { // nearly every packet of a device
		return buf[0], int(buf[1]), 2, nil
	}
	n, size, err := varint(buf[1:])
	if size == 0 || err != nil {
		return 0, 0, 0, err
	}
	return buf[0], n, 1 + size, nil
}

// varint reads a variable byte integer (MQTT 5, 1.5.5). size 0 with a nil error means that buf ends within it.
func varint(buf []byte) (n, size int, err error) {
	for i := range min(len(buf), 4) {
		n |= int(buf[i]&0x7F) << (7 * i)
		if buf[i] < 0x80 {
			if i > 0 && buf[i] == 0 { // [MQTT-1.5.5-1]: the shortest form only
				return 0, 0, packets.ErrMalformedVariableByteInteger
			}
			return n, i + 1, nil
		}
	}
	if len(buf) >= 4 {
		return 0, 0, packets.ErrMalformedVariableByteInteger
	}
	return 0, 0, nil
}
