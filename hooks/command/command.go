package command

import (
	"sync"
	"sync/atomic"
	"time"
)

// The states of a command as a whole.
const (
	StateActive   = "ACTIVE"   // something is still to come
	StatePaused   = "PAUSED"   // nothing more is sent until it is resumed; what was sent goes on
	StateCanceled = "CANCELED" // what was not acknowledged by then was withdrawn; what was goes on
	StateFinished = "FINISHED" // nothing is to come by itself any more
)

// Status is a command with its counts, as callers see it. Times are Unix milliseconds.
type Status struct {
	ID            string  `json:"id"`
	State         string  `json:"state" enum:"ACTIVE,PAUSED,CANCELED,FINISHED"`
	Open          int64   `json:"open" doc:"Executions that will still change by themselves"`
	Counts        Counts  `json:"counts" doc:"Executions by state"`
	CreatedAt     int64   `json:"created_at"`
	ExpiresAt     int64   `json:"expires_at"`
	FinishedAt    int64   `json:"finished_at,omitempty"`
	AckTimeout    float64 `json:"ack_timeout_s"`
	ResultTimeout float64 `json:"result_timeout_s,omitempty"`
	Priority      int     `json:"priority"`
	Lane          string  `json:"lane,omitempty"`
	CollapseKey   string  `json:"collapse_key,omitempty"`
	PayloadBytes  int     `json:"payload_bytes"`
	Issuer        string  `json:"issuer,omitempty"`
	Traceparent   string  `json:"traceparent,omitempty"`
}

// Done reports whether nothing is to come by itself any more.
func (s *Status) Done() bool { return s.Open == 0 }

// command is one command in memory. Its counts are what the store has: a transition is counted once it is there.
type command struct {
	// Set before anyone else sees the command, and never changed.
	id            string
	seq           uint64
	targets       int
	awaitsResult  bool
	ackTimeout    int64 // milliseconds
	resultTimeout int64
	priority      uint8
	lane          string
	collapseKey   string
	traceparent   string

	paused   atomic.Bool
	removed  atomic.Bool            // retention took it away: nothing of it is stored any more
	payload  atomic.Pointer[[]byte] // nil while the command is finished
	unstored atomic.Int64           // transitions that are not counted yet

	control sync.Mutex // serialises cancel, pause, resume and retry

	mu       sync.Mutex
	record   Record // with the counts of now
	closed   bool   // the stored record has Finished set
	live     bool   // counts as unfinished, and has its payload in memory
	watchers map[*watcher]struct{}
	news     []Transition // for the next event
	skipped  bool         // news is not complete
	queued   bool         // an event is due
	told     bool         // there was an event
}

func newCommand(r *Record) *command {
	c := &command{
		id: r.ID, seq: r.Seq, targets: int(r.Counts.Total), awaitsResult: r.ResultTimeout > 0, ackTimeout: r.AckTimeout,
		resultTimeout: r.ResultTimeout, priority: r.Priority, lane: r.Lane, collapseKey: r.CollapseKey,
		traceparent: r.Traceparent, record: *r, closed: r.Finished != 0,
	}
	c.paused.Store(r.Paused)
	return c
}

// status is what callers see of the command now.
func (c *command) status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statusLocked()
}

func (c *command) statusLocked() Status {
	r := &c.record
	return Status{
		ID: r.ID, State: c.stateLocked(), Open: r.Counts.open(c.awaitsResult), Counts: r.Counts, CreatedAt: r.Created,
		ExpiresAt: r.Expires, FinishedAt: r.Finished, AckTimeout: time.Duration(r.AckTimeout * 1e6).Seconds(),
		ResultTimeout: time.Duration(r.ResultTimeout * 1e6).Seconds(), Priority: int(r.Priority), Lane: r.Lane,
		CollapseKey: r.CollapseKey, PayloadBytes: r.PayloadBytes, Issuer: r.Issuer, Traceparent: r.Traceparent,
	}
}

func (c *command) stateLocked() string {
	switch r := &c.record; {
	case r.Canceled:
		return StateCanceled
	case r.Counts.open(c.awaitsResult) == 0:
		return StateFinished
	case r.Paused:
		return StatePaused
	default:
		return StateActive
	}
}

// settled reports whether an execution of this command will not change by itself any more.
func (c *command) settled(s State) bool {
	return s == TimedOut || s.final() || s == Delivered && !c.awaitsResult
}

// deadline is when an execution of this command needs attention next, in Unix milliseconds; 0: never.
func (c *command) deadline(x *Execution, runningTimeout int64) int64 {
	switch {
	case x.State == Sent:
		return min(x.Expires, x.Sent+c.ackTimeout)
	case x.State.onTheWay() && x.NotBefore != 0:
		return min(x.Expires, x.NotBefore)
	case x.State.onTheWay():
		return x.Expires
	case (x.State == Delivered || x.State == Running) && c.awaitsResult:
		return x.Delivered + c.resultTimeout
	case x.State == Running:
		return x.Running + runningTimeout
	}
	return 0
}
