package local

import (
	"encoding/binary"
	"math"
)

// reader takes a stored value apart, from its first byte to its last. After the first fault it is bad and yields zeros,
// so that who uses it asks only once, at the end.
type reader struct {
	rest []byte // not yet read
	bad  bool
}

func (r *reader) fail() {
	r.bad, r.rest = true, nil
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uvarint()
	if v > math.MaxUint32 {
		r.fail()
		return 0
	}
	return uint32(v)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// take returns the next size bytes, which alias the value. They are nil only after a fault.
func (r *reader) take(size uint64) []byte {
	if size > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	b := r.rest[:size:size]
	r.rest = r.rest[size:]
	return b
}

// bytes is take of a size that stands before the bytes.
func (r *reader) bytes() []byte { return r.take(r.uvarint()) }

// count reads a number of things of which each takes at least size bytes, so that nobody allocates for more than are
// there.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.fail()
		return 0
	}
	return int(n)
}
