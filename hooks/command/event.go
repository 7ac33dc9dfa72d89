package command

import (
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Transition is a change of one execution, as events tell it.
type Transition struct {
	Execution string `json:"execution"`
	Device    string `json:"device"`
	State     State  `json:"state"`
	Attempt   uint32 `json:"attempt"`
	At        int64  `json:"at"` // Unix milliseconds
	Late      bool   `json:"late,omitempty"`
	Answer
}

// Answer is an Outcome as callers see it.
type Answer struct {
	Progress  uint8           `json:"progress,omitempty"`
	Code      int64           `json:"code,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	Result    json.RawMessage `json:"result,omitempty" doc:"The device's result: JSON as it came, other text as a string"`
	Base64    string          `json:"result_base64,omitempty" doc:"The device's result when it is not text"`
	Truncated bool            `json:"result_truncated,omitempty" doc:"Only the first part of the result was kept"`
}

func (a *Answer) describe(o *Outcome) {
	if o == nil {
		return
	}
	*a = Answer{Progress: o.Progress, Code: o.Code, Reason: o.Reason, Truncated: o.Truncated}
	switch {
	case len(o.Result) == 0:
	case !o.Truncated && json.Valid(o.Result):
		a.Result = o.Result
	case utf8.Valid(o.Result):
		text, err := json.Marshal(string(o.Result))
		if err == nil {
			a.Result = text
		}
	default:
		a.Base64 = base64.StdEncoding.EncodeToString(o.Result)
	}
}

// Event is what is published on admin/commands/{id}/events.
type Event struct {
	Type string `json:"type"` // issued, progress, or finished
	Status
	Executions []Transition `json:"executions,omitempty"` // what has changed since the last event, in order
	Incomplete bool         `json:"incomplete,omitempty"` // more has changed than Executions lists
}

const (
	maxEventDetail = 1000     // transitions in one event
	maxEventResult = 4 * 1024 // bytes of a result in an event; longer ones can be read over HTTP
)

// count makes stored transitions visible, in the order in which they happened.
func (s *Service) count(moves []transition) {
	var last *command
	for i := range moves {
		t := &moves[i]
		if t.from != t.to {
			s.metrics.transitions(t.to).Inc()
			if t.to == Delivered {
				s.metrics.delivery.Observe(float64(t.at-t.created) / 1000)
			}
		}
		t.cmd.count(t)
		if last != nil && last != t.cmd {
			s.changed(last)
		}
		last = t.cmd
	}
	if last != nil {
		s.changed(last)
	}
}

func (c *command) count(t *transition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.from != t.to {
		*c.record.Counts.Of(t.from)--
		*c.record.Counts.Of(t.to)++
	}
	if t.detail != nil {
		if len(t.detail.Result)+len(t.detail.Base64) > maxEventResult {
			t.detail.Result, t.detail.Base64, t.detail.Truncated = nil, "", true
		}
		if len(c.news) < maxEventDetail {
			c.news = append(c.news, *t.detail)
		} else {
			c.skipped = true
		}
	}
	c.unstored.Add(-1)
}

// changed has an event told, and ends the command when nothing more is to come.
func (s *Service) changed(c *command) {
	s.finish(c)
	s.announce(c)
}

// finish ends the command if nothing more is to come, and keeps its counts in the store. While a transition is not
// counted yet, it waits for that one: so the stored counts are complete. A command that has come to life again,
// because a device that was through with it says that it is at work, is unfinished from then on.
func (s *Service) finish(c *command) {
	c.mu.Lock()
	open := c.record.Counts.open(c.awaitsResult) > 0
	var released *[]byte
	changed := c.live != open && (open || c.unstored.Load() == 0)
	if !open && c.unstored.Load() == 0 {
		c.closeLocked(s)
		released = c.payload.Swap(nil)
	}
	if changed {
		c.live = open
	}
	counts := c.record.Counts
	c.mu.Unlock()
	switch {
	case changed && open:
		s.mu.Lock()
		s.active++
		s.mu.Unlock()
	case changed:
		s.log.Info("command finished", "command_id", c.id, "trace_id", c.traceID(), "total", counts.Total,
			"succeeded", counts.Succeeded, "delivered", counts.Delivered)
		s.release(c, released)
	}
}

// closeLocked keeps the final counts, if the store does not have them.
func (c *command) closeLocked(s *Service) {
	if c.closed {
		return
	}
	c.closed = true
	c.record.Finished = nowMillis()
	r := c.record
	s.store.Apply(&Tx{Commands: []*Record{&r}, Lazy: true}, func(err error) {
		if err != nil { // they are counted again at the next start
			s.log.Warn("counts of a finished command not stored", "error", err, "command_id", c.id)
		}
	})
}

// release gives back what a command took while it was unfinished.
func (s *Service) release(c *command, payload *[]byte) {
	s.mu.Lock()
	s.active--
	if payload != nil {
		s.bytes -= int64(len(*payload))
	}
	s.mu.Unlock()
	s.ended.put(c)
}

func (c *command) traceID() string {
	if !validTraceparent(c.traceparent) {
		return ""
	}
	return c.traceparent[3:35]
}

// announce has an event told about c, soon.
func (s *Service) announce(c *command) {
	c.mu.Lock()
	queued := c.queued
	c.queued = true
	c.mu.Unlock()
	if !queued {
		s.news.put(c)
	}
}

// tell is the goroutine that publishes events: at once after a quiet time, then at most one for each command in an
// interval.
func (s *Service) tell() {
	for {
		select {
		case <-s.news.wake:
		case <-s.stop:
			return
		}
		for _, c := range s.news.take() {
			ev := c.event()
			s.publish(eventTopic(c.id), ev, nil)
			if ev.Type == "issued" && ev.Done() { // so quick; the last event is always "finished"
				s.publish(eventTopic(c.id), c.event(), nil)
			}
		}
		select {
		case <-time.After(s.cfg.EventInterval):
		case <-s.stop:
			return
		}
	}
}

// event takes what is to be told, and shows it to the watchers as well.
func (c *command) event() Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	ev := Event{Type: "progress", Status: c.statusLocked(), Executions: c.news, Incomplete: c.skipped}
	switch {
	case !c.told:
		ev.Type = "issued"
	case ev.Done():
		ev.Type = "finished"
	}
	c.news, c.skipped, c.queued, c.told = nil, false, false, true
	for w := range c.watchers {
		w.show(ev.Status)
	}
	return ev
}

// watcher sees the latest status of a command. command.mu guards it.
type watcher struct{ latest chan Status }

// show replaces what the watcher has not looked at yet.
func (w *watcher) show(st Status) {
	select {
	case <-w.latest:
	default:
	}
	w.latest <- st // there is room: only holders of command.mu put something in
}

// maxWatchers bounds who watches one command at once.
const maxWatchers = 1000

// Watch gives the status of a command now and whenever it changes; a slow reader misses what is between, never the
// latest. cancel ends it and must be called. The channel is not closed.
func (s *Service) Watch(id string) (status <-chan Status, cancel func(), err error) {
	c, err := s.lookup(id)
	if err != nil {
		return nil, nil, err
	}
	w := &watcher{latest: make(chan Status, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.watchers) >= maxWatchers {
		return nil, nil, problem(429, "the command is watched by %d others", len(c.watchers))
	}
	if c.watchers == nil {
		c.watchers = map[*watcher]struct{}{}
	}
	c.watchers[w] = struct{}{}
	w.show(c.statusLocked())
	return w.latest, func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}, nil
}
