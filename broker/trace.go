package broker

import (
	"encoding/hex"
	"math/rand/v2"
	"runtime/debug"
)

// newTraceID returns 16 random bytes in hex, as W3C Trace Context wants them.
func newTraceID() string {
	var b [16]byte
	putRandom(b[:8])
	putRandom(b[8:])
	return hex.EncodeToString(b[:])
}

func putRandom(b []byte) {
	n := rand.Uint64() | 1 // an id of zeros is invalid
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
}

// traceparent is the message's W3C trace context: the publisher's own when it sent a valid one, or else a new span of
// its connection's trace (https://www.w3.org/TR/trace-context/, version 00).
func traceparent(m *Message, traceID string) string {
	if own, ok := m.Properties.UserProperty("traceparent"); ok && validTraceparent(own) {
		return own
	}
	if traceID == "" {
		traceID = newTraceID()
	}
	var span [8]byte
	putRandom(span[:])
	buf := make([]byte, 0, 55)
	buf = append(buf, "00-"...)
	buf = append(buf, traceID...)
	buf = append(buf, '-')
	buf = hex.AppendEncode(buf, span[:])
	return string(append(buf, "-01"...))
}

func validTraceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	return isHex(s[3:35]) && isHex(s[36:52]) && isHex(s[53:]) && notZero(s[3:35]) && notZero(s[36:52])
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func notZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return true
		}
	}
	return false
}

func stack() string { return string(debug.Stack()) }
