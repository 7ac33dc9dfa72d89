package wire

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// reader takes a packet's body apart; buf is what is left of it.
type reader struct{ buf []byte }

func (r *reader) byte() (byte, error) {
	if len(r.buf) < 1 {
		return 0, packets.ErrMalformedOffsetByteOutOfRange
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b, nil
}

func (r *reader) uint16() (uint16, error) {
	if len(r.buf) < 2 {
		return 0, packets.ErrMalformedOffsetUintOutOfRange
	}
	n := binary.BigEndian.Uint16(r.buf)
	r.buf = r.buf[2:]
	return n, nil
}

func (r *reader) uint32() (uint32, error) {
	if len(r.buf) < 4 {
		return 0, packets.ErrMalformedOffsetUintOutOfRange
	}
	n := binary.BigEndian.Uint32(r.buf)
	r.buf = r.buf[4:]
	return n, nil
}

func (r *reader) varint() (int, error) {
	n, size, err := varint(r.buf)
	if err == nil && size == 0 {
		err = packets.ErrMalformedVariableByteInteger
	}
	r.buf = r.buf[size:]
	return n, err
}

// packetID reads a packet identifier, which is never 0 [MQTT-2.2.1-3].
func (r *reader) packetID() (uint16, error) {
	id, err := r.uint16()
	switch {
	case err != nil:
		return 0, packets.ErrMalformedPacketID
	case id == 0:
		return 0, packets.ErrProtocolViolationNoPacketID
	}
	return id, nil
}

// binary reads binary data (MQTT 5, 1.5.6).
func (r *reader) binary() ([]byte, error) {
	if len(r.buf) < 2 {
		return nil, packets.ErrMalformedOffsetUintOutOfRange
	}
	end := 2 + int(binary.BigEndian.Uint16(r.buf))
	if len(r.buf) < end {
		return nil, packets.ErrMalformedOffsetBytesOutOfRange
	}
	b := r.buf[2:end:end]
	r.buf = r.buf[end:]
	return b, nil
}

// text reads a UTF-8 encoded string (MQTT 5, 1.5.4): well-formed, so without surrogates, and without U+0000.
func (r *reader) text() ([]byte, error) {
	b, err := r.binary()
	if err != nil {
		return nil, err
	}
	if !isText(b) {
		return nil, packets.ErrMalformedInvalidUTF8
	}
	return b, nil
}

// topicName reads a string without wildcards [MQTT-3.3.2-2]. It may be empty.
func (r *reader) topicName() ([]byte, error) {
	b, err := r.binary()
	switch {
	case err != nil:
		return nil, err
	case isPlain(b):
		return b, nil
	case !isText(b):
		return nil, packets.ErrMalformedInvalidUTF8
	case hasWildcard(b):
		return nil, packets.ErrTopicNameInvalid
	}
	return b, nil
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

func hasWildcard(topic []byte) bool {
	return bytes.IndexByte(topic, '+') >= 0 || bytes.IndexByte(topic, '#') >= 0
}

// isPlain reports whether b is ASCII without NUL, + and #, as nearly all topics are. It looks at eight bytes at once,
// in a quarter of the time of the four searches that it saves.
func isPlain(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		plus, hash := x^('+'*ones), x^('#'*ones)
		if (x|(x-ones)|(plus-ones)&^plus|(hash-ones)&^hash)&highs != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c == 0 || c == '+' || c == '#' || c >= 0x80 {
			return false
		}
	}
	return true
}
