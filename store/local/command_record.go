package local

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/penstockmq/penstock/hooks/command"
)

// executionVersion is the first byte of a stored execution.
const executionVersion = 1

// Flags of a stored execution.
const (
	executionLate = 1 << iota
	executionOutcome
	executionTruncated
)

// appendExecution writes an execution, but for its index, which its key has: version, state, flags, then numbers as
// varints, and strings with their length before them. Times are relative to that of creation.
func appendExecution(b []byte, x *command.Execution) []byte {
	var flags byte
	if x.Late {
		flags |= executionLate
	}
	if x.Outcome != nil {
		flags |= executionOutcome
		if x.Outcome.Truncated {
			flags |= executionTruncated
		}
	}
	b = append(b, executionVersion, byte(x.State), flags)
	b = binary.AppendUvarint(b, uint64(x.Round))
	b = binary.AppendUvarint(b, uint64(x.Attempt))
	b = binary.AppendUvarint(b, uint64(x.Rev))
	b = appendCounted(b, x.Device)
	b = binary.AppendUvarint(b, x.Seq)
	b = binary.AppendVarint(b, x.Created)
	for _, t := range []int64{x.Queued, x.Sent, x.Delivered, x.Running, x.Finished, x.Expires, x.NotBefore} {
		b = appendSince(b, t, x.Created)
	}
	if o := x.Outcome; o != nil {
		b = append(b, o.Progress)
		b = binary.AppendVarint(b, o.Code)
		b = appendCounted(b, o.Reason)
		b = appendCounted(b, o.Result)
	}
	return b
}

func appendCounted[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendSince writes a time as what has passed since another, or a zero byte for none.
func appendSince(b []byte, t, since int64) []byte {
	if t == 0 {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), t-since)
}

var errExecutionShort = errors.New("stored execution ends too early")

// executionReader takes a stored execution apart; after the first error it only gives zeros.
type executionReader struct {
	b   []byte
	err error
}

func (r *executionReader) byte() byte {
	if r.err != nil || len(r.b) == 0 {
		r.fail(errExecutionShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *executionReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *executionReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errExecutionShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *executionReader) uint32() uint32 {
	v := r.uvarint()
	if v > 1<<32-1 {
		r.fail(fmt.Errorf("stored execution has a number out of range: %d", v))
		return 0
	}
	return uint32(v)
}

func (r *executionReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(errExecutionShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *executionReader) since(created int64) int64 {
	switch mark := r.byte(); mark {
	case 0:
		return 0
	case 1:
		return created + r.varint()
	default:
		r.fail(fmt.Errorf("stored execution has an unknown mark %d before a time", mark))
		return 0
	}
}

// text returns a part of the input, which the caller copies.
func (r *executionReader) text() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail(errExecutionShort)
		return nil
	}
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

// decodeExecution reads what appendExecution has written; the index is 0. It keeps nothing of b.
func decodeExecution(b []byte) (command.Execution, error) {
	r := &executionReader{b: b}
	if v := r.byte(); r.err == nil && v != executionVersion {
		return command.Execution{}, fmt.Errorf("stored execution has the unknown version %d", v)
	}
	x := command.Execution{State: command.State(r.byte())}
	flags := r.byte()
	x.Late = flags&executionLate != 0
	x.Round, x.Attempt, x.Rev = r.uint32(), r.uint32(), r.uint32()
	x.Device = string(r.text())
	x.Seq = r.uvarint()
	x.Created = r.varint()
	for _, t := range []*int64{&x.Queued, &x.Sent, &x.Delivered, &x.Running, &x.Finished, &x.Expires, &x.NotBefore} {
		*t = r.since(x.Created)
	}
	if flags&executionOutcome != 0 {
		x.Outcome = &command.Outcome{
			Progress: r.byte(), Code: r.varint(), Reason: string(r.text()), Result: append([]byte(nil), r.text()...),
			Truncated: flags&executionTruncated != 0,
		}
	}
	switch {
	case r.err != nil:
		return command.Execution{}, r.err
	case len(r.b) > 0:
		return command.Execution{}, fmt.Errorf("stored execution has %d bytes too many", len(r.b))
	case !x.State.Valid():
		return command.Execution{}, fmt.Errorf("stored execution has the unknown state %d", x.State)
	}
	return x, nil
}
