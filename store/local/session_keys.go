package local

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// Key prefixes of what the broker stores.
const (
	prefixSession  = 'S' // a session and all that belongs to it, so that one range holds, and deletes, it
	prefixBody     = 'B' // a message that entries of several queues refer to, by number
	prefixRetained = 'R' // a retained message, by topic
)

// What follows a session's prefix in a key. The queue comes last, so that the small things are read in one go.
const (
	partRecord       = 1
	partSubscription = 2 // then the filter
	partInbound      = 3 // then the packet identifier, big-endian
	partQueue        = 4 // then the sequence number, big-endian
)

// appendSession appends what begins all keys of a session. The length in front makes it no prefix of another's.
func appendSession(key []byte, session string) []byte {
	key = append(key, prefixSession)
	key = binary.AppendUvarint(key, uint64(len(session)))
	return append(key, session...)
}

func appendEntryKey(key []byte, session string, seq uint64) []byte {
	key = append(appendSession(key, session), partQueue)
	return binary.BigEndian.AppendUint64(key, seq)
}

func appendInboundKey(key []byte, session string, id uint16) []byte {
	key = append(appendSession(key, session), partInbound)
	return binary.BigEndian.AppendUint16(key, id)
}

func appendBodyKey(key []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(key, prefixBody), id)
}

// splitSessionKey takes a session's key apart. rest aliases key.
func splitSessionKey(key []byte) (session, rest []byte, part byte, ok bool) {
	if len(key) == 0 || key[0] != prefixSession {
		return nil, nil, 0, false
	}
	size, n := binary.Uvarint(key[1:])
	if n <= 0 || size >= uint64(len(key)-1-n) {
		return nil, nil, 0, false
	}
	key = key[1+n:]
	return key[:size], key[size+1:], key[size], true
}

// after returns the first key that does not begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// within bounds an iterator to the keys that begin with prefix.
func within(prefix []byte) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)}
}
