package command

import (
	"fmt"
	"strings"
)

// State is where an execution stands.
type State uint8

// The states of an execution. Pending to Running are on the way; the others end it.
const (
	Pending       State = iota // stored, and not yet in its device's queue
	Queued                     // waits in its device's queue
	Sent                       // handed to the device's connection, not acknowledged yet
	Delivered                  // the device acknowledged the message
	Running                    // the device says that it works on it
	Succeeded                  // the device says that it is done
	Failed                     // the device says that it could not do it
	Rejected                   // the device says that it will not do it, or refused the message itself
	Expired                    // its time was over before the device acknowledged it
	Canceled                   // withdrawn before the device acknowledged it
	Undeliverable              // given up before the device acknowledged it
	TimedOut                   // delivered, but no result in time; a late result still lands
	numStates
)

var stateNames = [numStates]string{"PENDING", "QUEUED", "SENT", "DELIVERED", "RUNNING", "SUCCEEDED", "FAILED",
	"REJECTED", "EXPIRED", "CANCELED", "UNDELIVERABLE", "TIMED_OUT"}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Valid reports whether s is one of the states.
func (s State) Valid() bool { return s < numStates }

// MarshalText writes the name of the state.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name of a state.
func (s *State) UnmarshalText(text []byte) (err error) {
	*s, err = ParseState(string(text))
	return err
}

// ParseState reads the name of a state, in upper or lower case.
func ParseState(name string) (State, error) {
	for i, n := range stateNames {
		if strings.EqualFold(n, name) {
			return State(i), nil
		}
	}
	return 0, fmt.Errorf("%q is not a state: use one of %s", name, strings.Join(stateNames[:], ", "))
}

// rank orders the states: an execution only ever moves to a higher rank, but for Sent → Queued.
func (s State) rank() int {
	switch s {
	case Pending, Queued, Sent, Delivered, Running:
		return int(s)
	case TimedOut:
		return int(Running) + 1
	default:
		return int(Running) + 2
	}
}

// onTheWay reports whether the device has not acknowledged the message yet and nothing has ended the execution.
func (s State) onTheWay() bool { return s <= Sent }

// final reports whether nothing can change the state any more, short of a retry that an operator asks for.
func (s State) final() bool { return s > Running && s != TimedOut }

// allowed reports whether an execution may move from one state to another.
func allowed(from, to State) bool {
	switch {
	case from.final() || from == to:
		return false
	case from == Sent && to == Queued:
		return true
	case to == Expired || to == Canceled || to == Undeliverable:
		return from.onTheWay()
	case to == TimedOut:
		return from == Delivered || from == Running
	default:
		return to.rank() > from.rank()
	}
}

// Counts says how many executions are in each state. The states add up to Total.
type Counts struct {
	Total         int64 `json:"total" doc:"Number of executions, which is the number of target devices"`
	Pending       int64 `json:"PENDING"`
	Queued        int64 `json:"QUEUED"`
	Sent          int64 `json:"SENT"`
	Delivered     int64 `json:"DELIVERED"`
	Running       int64 `json:"RUNNING"`
	Succeeded     int64 `json:"SUCCEEDED"`
	Failed        int64 `json:"FAILED"`
	Rejected      int64 `json:"REJECTED"`
	Expired       int64 `json:"EXPIRED"`
	Canceled      int64 `json:"CANCELED"`
	Undeliverable int64 `json:"UNDELIVERABLE"`
	TimedOut      int64 `json:"TIMED_OUT"`
}

// Of points to the count of one state. s must be a state.
func (c *Counts) Of(s State) *int64 {
	return [numStates]*int64{&c.Pending, &c.Queued, &c.Sent, &c.Delivered, &c.Running, &c.Succeeded, &c.Failed,
		&c.Rejected, &c.Expired, &c.Canceled, &c.Undeliverable, &c.TimedOut}[s]
}

// open is how many executions will still change by themselves: a delivered one does only if a result is awaited.
func (c *Counts) open(awaitsResult bool) int64 {
	n := c.Pending + c.Queued + c.Sent + c.Running
	if awaitsResult {
		n += c.Delivered
	}
	return n
}
