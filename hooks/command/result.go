package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// answer is what a device said about an execution.
type answer struct {
	state   State
	outcome Outcome
}

// parseAnswer reads a device's result. A JSON object with one of the four states is what it says; any other payload
// means that the execution has succeeded with that result. At most limit bytes of the result are kept.
func parseAnswer(payload []byte, limit int) answer {
	var fields map[string]json.RawMessage
	if len(payload) > 0 && bytes.TrimLeft(payload, " \t\r\n") != nil && json.Unmarshal(payload, &fields) == nil {
		var name string
		if json.Unmarshal(fields["state"], &name) == nil {
			switch state, err := ParseState(name); {
			case err != nil || name != state.String():
			case state == Running || state == Succeeded || state == Failed || state == Rejected:
				return structuredAnswer(state, fields, limit)
			}
		}
	}
	a := answer{state: Succeeded, outcome: Outcome{Progress: 100}}
	a.outcome.keep(payload, limit)
	return a
}

// structuredAnswer takes the fields that have the right type; a wrong one does not make a FAILED a success.
func structuredAnswer(state State, fields map[string]json.RawMessage, limit int) answer {
	const longestReason = 1024
	a := answer{state: state}
	var progress float64
	if json.Unmarshal(fields["progress"], &progress) == nil {
		a.outcome.Progress = uint8(min(max(progress, 0), 100))
	}
	if state == Succeeded {
		a.outcome.Progress = 100
	}
	var reason string
	if json.Unmarshal(fields["reason"], &reason) == nil {
		a.outcome.Reason = strings.ToValidUTF8(reason[:min(len(reason), longestReason)], "")
	}
	var code int64
	if json.Unmarshal(fields["code"], &code) == nil {
		a.outcome.Code = code
	}
	a.outcome.keep(fields["result"], limit)
	return a
}

func (o *Outcome) keep(result []byte, limit int) {
	o.Truncated = len(result) > limit
	o.Result = bytes.Clone(result[:min(len(result), limit)])
}

// lateResult is an answer to an execution that has to be fetched from the store first.
type lateResult struct {
	cmd    *command
	index  uint32
	round  uint32
	device string
	answer answer
	done   func(error)
}

// errForeign: the execution belongs to another device.
var errForeign = errors.New("execution of another device")

// acceptResult takes what a device published on its results topic. The device is acknowledged when the store has it.
// What answers nothing that is known, such as a command that retention has removed, is acknowledged as well, and only
// counted: the device could do nothing about it but send it again for ever.
func (s *Service) acceptResult(m *broker.Message, done func(error)) {
	device, id, _ := resultTopic(m.Topic)
	command, index, round, ok := parseExecutionID(id)
	s.mu.RLock()
	c := s.commands[command]
	s.mu.RUnlock()
	if !ok || c == nil {
		s.ignored("unknown", device, id)
		done(nil)
		return
	}
	r := lateResult{c, index, round, device, parseAnswer(m.Payload, int(s.cfg.ResultBytes)), done}
	sh := s.shard(device)
	sh.mu.Lock()
	e := sh.find(c, index)
	if e == nil {
		sh.mu.Unlock()
		if !s.loads.put(r) {
			done(broker.Refuse(packets.ErrQuotaExceeded, "too many results wait for the store"))
		}
		return
	}
	finish := sh.answer(e, r)
	sh.mu.Unlock()
	finish()
}

func (s *Service) ignored(reason, device, execution string) {
	s.metrics.ignored.WithLabelValues(reason).Inc()
	s.log.Debug("result ignored", "reason", reason, "client_id", device, "execution_id", execution)
}

// loadLate is the goroutine that reads executions from the store for results that come after they had settled.
func (s *Service) loadLate() {
	s.loads.each(s.stop, func(r lateResult) {
		sh, finish := s.shard(r.device), func() {}
		err := sh.with(r.cmd, r.index, r.device, func(e *execution) { finish = sh.answer(e, r) })
		switch {
		case errors.Is(err, ErrNotFound):
			s.ignored("unknown", r.device, executionID(r.cmd.id, r.index, r.round))
		case errors.Is(err, errForeign):
			s.ignored("foreign", r.device, executionID(r.cmd.id, r.index, r.round))
		case err != nil:
			s.log.Error("execution not read", "error", err, "command_id", r.cmd.id, "client_id", r.device)
			r.done(err)
			return
		}
		if err != nil {
			r.done(nil)
		}
		finish()
	})
}

// with calls f with mu held for an execution, which it fetches from the store if it is not in memory. It blocks.
func (sh *shard) with(c *command, index uint32, device string, f func(*execution)) error {
	sh.load.Lock()
	defer sh.load.Unlock()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.find(c, index)
	if e == nil {
		sh.mu.Unlock()
		x, err := sh.s.store.Execution(c.id, index)
		sh.mu.Lock()
		switch {
		case err != nil:
			return err
		case c.removed.Load():
			return ErrNotFound
		case x.Device != device:
			return errForeign
		}
		e = sh.put(c, x)
	}
	f(e)
	sh.forget(e)
	return nil
}

// answer applies a device's answer, and returns what is to be called after mu, which is held, was released.
func (sh *shard) answer(e *execution, r lateResult) (finish func()) {
	ignored := sh.take(e, r)
	waits, err := false, error(nil)
	if e.dirty || e.writing {
		if waits = sh.await(r.done); !waits {
			err = errStopped
		}
	}
	return func() {
		if ignored != "" {
			sh.s.ignored(ignored, r.device, executionID(r.cmd.id, r.index, r.round))
		}
		if !waits {
			r.done(err)
		}
	}
}

// take changes e as the answer says, or says why it changes nothing. mu is held.
func (sh *shard) take(e *execution, r lateResult) (ignored string) {
	a, now := r.answer, nowMillis()
	switch {
	case e.Device != r.device:
		return "foreign"
	case r.round > e.Round:
		return "unknown"
	case r.round < e.Round && a.state != Succeeded:
		return "superseded" // it has failed before, that is why it was tried again
	case e.State == Expired || e.State == Canceled || e.State == Undeliverable:
		return sh.afterTheEnd(e, a, now)
	case e.State.final():
		return "duplicate"
	case e.State == Running && a.state == Running:
		return sh.progress(e, a, now)
	}
	implied := Delivered
	if a.state == Succeeded || a.state == Failed {
		implied = Running
	}
	p := e.advance(a.state, implied, now)
	if p.n == 0 {
		return "late" // at work again after it had timed out: only its end counts
	}
	e.Late = e.Late || r.round < e.Round
	e.Outcome = &a.outcome
	sh.moved(e, p, now)
	return ""
}

// afterTheEnd records what a device has answered although the execution had been given up: the state stays, and the
// answer can be seen.
func (sh *shard) afterTheEnd(e *execution, a answer, now int64) string {
	if e.Late || a.state == Running {
		return "duplicate"
	}
	o := a.outcome
	o.Reason = strings.TrimSuffix(e.reason()+": answered "+a.state.String()+": "+o.Reason, ": ")
	e.Outcome, e.Late = &o, true
	e.Rev++
	sh.note(e, e.State, e.State, now)
	sh.touch(e, true)
	return ""
}

func (x *Execution) reason() string {
	if x.Outcome == nil {
		return ""
	}
	return x.Outcome.Reason
}

func (sh *shard) progress(e *execution, a answer, now int64) string {
	if o := e.Outcome; o != nil && o.Progress == a.outcome.Progress && o.Reason == a.outcome.Reason &&
		bytes.Equal(o.Result, a.outcome.Result) {
		return "duplicate"
	}
	e.Outcome = &a.outcome
	e.Rev++
	sh.note(e, Running, Running, now)
	sh.touch(e, true)
	return ""
}
