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
	b = appendField(b, x.Device)
	b = binary.AppendUvarint(b, x.Seq)
	b = binary.AppendVarint(b, x.Created)
	for _, t := range []int64{x.Queued, x.Sent, x.Delivered, x.Running, x.Finished, x.Expires, x.NotBefore} {
		b = appendSince(b, t, x.Created)
	}
	if o := x.Outcome; o != nil {
		b = append(b, o.Progress)
		b = binary.AppendVarint(b, o.Code)
		b = appendField(b, o.Reason)
		b = appendField(b, o.Result)
	}
	return b
}

// appendSince writes a time as what has passed since another, or a zero byte for none.
func appendSince(b []byte, t, since int64) []byte {
	if t == 0 {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), t-since)
}

var errExecutionDamaged = errors.New("stored execution ends too early or has a value out of range")

// since reads what appendSince has written.
func (r *reader) since(created int64) int64 {
	switch r.byte() {
	case 0:
		return 0
	case 1:
		return created + r.varint()
	default:
		r.fail()
		return 0
	}
}

// decodeExecution reads what appendExecution has written; the index is 0. It keeps nothing of b.
func decodeExecution(b []byte) (command.Execution, error) {
	r := &reader{rest: b}
	if v := r.byte(); !r.bad && v != executionVersion {
		return command.Execution{}, fmt.Errorf("stored execution has the unknown version %d", v)
	}
	x := command.Execution{State: command.State(r.byte())}
	flags := r.byte()
	x.Late = flags&executionLate != 0
	x.Round, x.Attempt, x.Rev = r.uint32(), r.uint32(), r.uint32()
	x.Device = string(r.bytes())
	x.Seq = r.uvarint()
	x.Created = r.varint()
	for _, t := range []*int64{&x.Queued, &x.Sent, &x.Delivered, &x.Running, &x.Finished, &x.Expires, &x.NotBefore} {
		*t = r.since(x.Created)
	}
	if flags&executionOutcome != 0 {
		x.Outcome = &command.Outcome{
			Progress: r.byte(), Code: r.varint(), Reason: string(r.bytes()), Result: append([]byte(nil), r.bytes()...),
			Truncated: flags&executionTruncated != 0,
		}
	}
	switch {
	case r.bad:
		return command.Execution{}, errExecutionDamaged
	case len(r.rest) > 0:
		return command.Execution{}, fmt.Errorf("stored execution has %d bytes too many", len(r.rest))
	case !x.State.Valid():
		return command.Execution{}, fmt.Errorf("stored execution has the unknown state %d", x.State)
	}
	return x, nil
}
