package command

import (
	"net/http"
	"sort"
	"strconv"
)

// ExecutionView is an execution as callers see it. Times are Unix milliseconds.
type ExecutionView struct {
	ID          string `json:"id"`
	Device      string `json:"device"`
	State       State  `json:"state"`
	Attempt     uint32 `json:"attempt"`
	Retries     uint32 `json:"retries,omitempty" doc:"How often it was started again by a retry"`
	Late        bool   `json:"late,omitempty" doc:"The device answered after the execution had been given up"`
	CreatedAt   int64  `json:"created_at"`
	QueuedAt    int64  `json:"queued_at,omitempty"`
	SentAt      int64  `json:"sent_at,omitempty"`
	DeliveredAt int64  `json:"delivered_at,omitempty"`
	RunningAt   int64  `json:"running_at,omitempty"`
	FinishedAt  int64  `json:"finished_at,omitempty"`
	ExpiresAt   int64  `json:"expires_at"`
	Answer
}

// StatusPage is some commands, the newest first, and the cursor of the next page; it is empty on the last one.
type StatusPage struct {
	Commands []Status `json:"commands"`
	Next     string   `json:"next,omitempty" doc:"The cursor of the next page; absent on the last one."`
}

// ExecutionPage is some executions of a command, and the cursor of the next page; it is empty on the last one. A page
// may be empty and still have a cursor: few executions of a big command are in the state that was asked for.
type ExecutionPage struct {
	Executions []ExecutionView `json:"executions"`
	Next       string          `json:"next,omitempty" doc:"The cursor of the next page; absent on the last one."`
}

const (
	maxPage = 1000
	maxScan = 100_000 // executions looked at for one page
)

func pageLimit(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, maxPage)
}

func badCursor(location string) *Problem {
	return faultAt(location, "is not a cursor that was given out")
}

func faultAt(location, message string) *Problem {
	p := problem(http.StatusUnprocessableEntity, "the request is not valid")
	p.Fields = []FieldFault{{location, message}}
	return p
}

// Status returns a command with its counts, or a *Problem with 404. It does not block.
func (s *Service) Status(id string) (Status, error) {
	c, err := s.lookup(id)
	if err != nil {
		return Status{}, err
	}
	return c.status(), nil
}

// List returns commands older than the cursor, the newest first. limit 0 means 100; at most 1,000 come. It does not
// block.
func (s *Service) List(cursor string, limit int) (StatusPage, error) {
	before := ^uint64(0)
	if cursor != "" {
		var err error
		if before, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return StatusPage{}, badCursor("query.cursor")
		}
	}
	limit = pageLimit(limit)
	s.mu.RLock()
	defer s.mu.RUnlock()
	at := sort.Search(len(s.order), func(i int) bool { return s.order[i].seq >= before })
	page := StatusPage{Commands: []Status{}}
	for at--; at >= 0; at-- {
		if len(page.Commands) == limit {
			page.Next = strconv.FormatUint(s.order[at+1].seq, 10)
			break
		}
		page.Commands = append(page.Commands, s.order[at].status())
	}
	return page, nil
}

// Executions returns executions of a command after the cursor, as they are stored, all of them or (state not empty)
// those in one state. limit 0 means 100; at most 1,000 come. It blocks for the disk.
func (s *Service) Executions(id, state, cursor string, limit int) (ExecutionPage, error) {
	c, err := s.lookup(id)
	if err != nil {
		return ExecutionPage{}, err
	}
	var from uint64
	if cursor != "" {
		if from, err = strconv.ParseUint(cursor, 10, 32); err != nil {
			return ExecutionPage{}, badCursor("query.cursor")
		}
	}
	wanted := numStates
	if state != "" {
		if wanted, err = ParseState(state); err != nil {
			return ExecutionPage{}, faultAt("query.state", err.Error())
		}
	}
	limit = pageLimit(limit)
	page, seen := ExecutionPage{Executions: []ExecutionView{}}, 0
	err = s.store.Executions(c.id, uint32(from), func(x *Execution) bool {
		if len(page.Executions) == limit || seen == maxScan {
			page.Next = strconv.FormatUint(uint64(x.Index), 10)
			return false
		}
		seen++
		if wanted == numStates || x.State == wanted {
			page.Executions = append(page.Executions, c.view(x))
		}
		return true
	})
	if err != nil {
		return ExecutionPage{}, problem(http.StatusServiceUnavailable, "the executions could not be read: %v", err)
	}
	return page, nil
}

func (c *command) view(x *Execution) ExecutionView {
	v := ExecutionView{
		ID: executionID(c.id, x.Index, x.Round), Device: x.Device, State: x.State, Attempt: x.Attempt, Retries: x.Round,
		Late: x.Late, CreatedAt: x.Created, QueuedAt: x.Queued, SentAt: x.Sent, DeliveredAt: x.Delivered,
		RunningAt: x.Running, FinishedAt: x.Finished, ExpiresAt: x.Expires,
	}
	v.describe(x.Outcome)
	return v
}
