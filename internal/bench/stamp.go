package bench

import "encoding/binary"

// StampSize is the number of payload bytes that identify a message: the smallest payload there can be.
const StampSize = 24

// stamp identifies a message and says when it was due.
type stamp struct {
	run       uint32
	publisher uint32
	seq       uint64
	due       int64 // nanoseconds on the clock of the run
}

func (s stamp) put(b []byte) {
	_ = b[StampSize-1]
	binary.BigEndian.PutUint32(b, s.run)
	binary.BigEndian.PutUint32(b[4:], s.publisher)
	binary.BigEndian.PutUint64(b[8:], s.seq)
	binary.BigEndian.PutUint64(b[16:], uint64(s.due))
}

func readStamp(b []byte) (stamp, bool) {
	if len(b) < StampSize {
		return stamp{}, false
	}
	return stamp{
		run:       binary.BigEndian.Uint32(b),
		publisher: binary.BigEndian.Uint32(b[4:]),
		seq:       binary.BigEndian.Uint64(b[8:]),
		due:       int64(binary.BigEndian.Uint64(b[16:])),
	}, true
}
