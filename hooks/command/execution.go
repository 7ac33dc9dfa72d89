package command

import (
	"strconv"
	"strings"
)

// Execution is one command for one device, as it is stored. Times are Unix milliseconds, 0 when not reached.
type Execution struct {
	Index     uint32 // position within its command
	Round     uint32 // 0, and one more with each retry; every round has its own execution id and its own states
	State     State
	Late      bool   // a result came after the execution had ended otherwise
	Attempt   uint32 // of sending within the round, from 1
	Rev       uint32 // grows with every change
	Device    string
	Seq       uint64 // order among what a device gets: of the command, or of the retry
	Created   int64
	Queued    int64
	Sent      int64 // the latest attempt
	Delivered int64
	Running   int64
	Finished  int64
	Expires   int64
	NotBefore int64    // it is not sent again before this time: back-off
	Outcome   *Outcome // nil while there is nothing to say; never changed in place
}

// Outcome is what is known of how an execution goes or went.
type Outcome struct {
	Progress  uint8 // percent, 0–100
	Code      int64
	Reason    string
	Result    []byte // what the device answered, at most Config.ResultBytes of it
	Truncated bool   // Result is only the first part of what the device answered
}

// newExecution is one that enters its device's queue at now.
func newExecution(index uint32, device string, seq uint64, now, expires int64) Execution {
	return Execution{Index: index, State: Queued, Attempt: 1, Rev: 1, Device: device, Seq: seq, Created: now,
		Queued: now, Expires: expires}
}

// path is the states that an execution went through in one step, the one it came from first.
type path struct {
	states [int(Running) + 3]State
	n      int
}

func (p *path) add(s State) {
	p.states[p.n] = s
	p.n++
}

// advance moves the execution to a state and reports the way; a way of length 0 means that the move is not allowed and
// nothing was changed. The states up to implied that were not seen on their own are recorded on the way, at the same
// time: an acknowledgement implies that the message was sent, a result that it was delivered.
func (x *Execution) advance(to, implied State, now int64) (p path) {
	if !allowed(x.State, to) {
		return p
	}
	p.add(x.State)
	for s := x.State + 1; x.State < implied && s <= implied && s < to; s++ {
		x.stamp(s, now)
		p.add(s)
	}
	if x.State == TimedOut {
		x.Late = true
	}
	if x.State.onTheWay() && to > Sent {
		x.Outcome = nil // why it had to be sent again
	}
	x.State = to
	x.Rev++
	x.stamp(to, now)
	p.add(to)
	return p
}

func (x *Execution) stamp(s State, now int64) {
	switch s {
	case Pending:
	case Queued:
		if x.Queued == 0 {
			x.Queued = now
		}
	case Sent:
		x.Sent = now
	case Delivered:
		x.Delivered = now
	case Running:
		x.Running = now
	default:
		x.Finished = now
	}
}

// requeue takes the execution back from Sent, for another attempt not before a time.
func (x *Execution) requeue(now, notBefore int64, reason string) path {
	p := x.advance(Queued, Pending, now)
	if p.n > 0 {
		x.Attempt++
		x.NotBefore = notBefore
		x.because(reason)
	}
	return p
}

// restart begins a new round for an execution that ended without success.
func (x *Execution) restart(seq uint64, now, expires int64) path {
	p := path{}
	p.add(x.State)
	p.add(Pending)
	p.add(Queued)
	fresh := newExecution(x.Index, x.Device, seq, now, expires)
	fresh.Round, fresh.Rev = x.Round+1, x.Rev+1
	*x = fresh
	return p
}

// because records a reason, which explains the latest change; an empty one changes nothing.
func (x *Execution) because(reason string) {
	if reason == "" {
		return
	}
	o := Outcome{}
	if x.Outcome != nil {
		o = *x.Outcome
	}
	o.Reason = reason
	x.Outcome = &o
}

// retryable reports whether a retry starts the execution again: it ended, and not with success. One that was delivered
// and of which no result is awaited has reached its end, too.
func (x *Execution) retryable() bool { return x.State > Succeeded }

// executionID names an execution, and its round after the first, in topics and calls.
func executionID(command string, index, round uint32) string {
	b := make([]byte, 0, len(command)+12)
	b = append(append(b, command...), '-')
	b = strconv.AppendUint(b, uint64(index), 10)
	if round > 0 {
		b = strconv.AppendUint(append(b, '.'), uint64(round), 10)
	}
	return string(b)
}

// parseExecutionID is the inverse of executionID.
func parseExecutionID(id string) (command string, index, round uint32, ok bool) {
	dash := strings.LastIndexByte(id, '-')
	if dash <= 0 {
		return "", 0, 0, false
	}
	number, after, retried := strings.Cut(id[dash+1:], ".")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return "", 0, 0, false
	}
	var r uint64
	if retried {
		if r, err = strconv.ParseUint(after, 10, 32); err != nil || r == 0 {
			return "", 0, 0, false
		}
	}
	index, round = uint32(n), uint32(r)
	return id[:dash], index, round, executionID(id[:dash], index, round) == id
}
