package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	connectWindow = 100 // handshakes under way at most, but for ModeConnect
	// stallLimit is how long the load waits for a delivery before it takes it for lost and goes on.
	stallLimit = time.Second
)

// Run connects, loads the broker, waits until everything has arrived, and reports. It blocks for about the sum of the
// configured times. When ctx ends it stops early, and the report tells of what there was (Report.Interrupted). An error
// means that there is nothing to report: a faulty configuration, a broker that lets nobody in, a process that is not
// there. What goes wrong with the load itself stands in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	cfg.complete()
	e, err := newEngine(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	report, err := e.perform()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return report, nil
}

// perform is the course of a run from the first connection to the last.
func (e *engine) perform() (*Report, error) {
	stopWaking := context.AfterFunc(e.ctx, e.poller.wake)
	defer e.close()
	defer stopWaking()
	defer precise()()

	empty, err := e.snapshot()
	if err != nil {
		return nil, err
	}
	if err := e.connect(); err != nil {
		return nil, err
	}
	connected, err := e.snapshot()
	if err != nil {
		return nil, err
	}
	if err := e.rest(e.cfg.Settle); err != nil {
		return nil, err
	}
	start, end, err := e.measure()
	if err != nil {
		return nil, err
	}
	return e.report(marks{empty: empty, connected: connected, start: start, end: end}), nil
}

// connect begins all clients and waits until they are subscribed or have failed.
func (e *engine) connect() error {
	e.tick()
	e.dialer.start, e.dialer.window, e.dialer.running = e.now, connectWindow, true
	if e.cfg.Mode == ModeConnect {
		e.dialer.window = e.cfg.Inflight
		if e.cfg.Rate > 0 {
			e.dialer.interval = 1e9 / e.cfg.Rate
		}
	}
	all, err := e.spin(e.now+int64(e.cfg.Timeout), func() bool {
		return e.dialer.opened == len(e.conns) && e.dialer.handshakes == 0
	})
	e.dialer.running = false
	if err != nil {
		return err
	}
	if e.alive == 0 && e.ctx.Err() == nil {
		for reason := range e.reasons {
			return fmt.Errorf("%w: %s", errNone, reason)
		}
		return errNone
	}
	if !all && e.ctx.Err() == nil {
		e.blame(fmt.Errorf("not connected and subscribed within %v", e.cfg.Timeout))
	}
	return nil
}

// rest only listens.
func (e *engine) rest(d time.Duration) error {
	_, err := e.spin(e.now+int64(d), func() bool { return false })
	return err
}

// measure loads the broker and returns the marks at both ends of the measured interval, which includes the wait for
// the last acknowledgement and delivery: the work for them belongs to it.
func (e *engine) measure() (start, end mark, err error) {
	if len(e.publishers) > 0 {
		e.beginLoad()
		if err := e.load(e.cfg.Warmup); err != nil {
			return start, end, err
		}
	}
	if start, err = e.snapshot(); err != nil {
		return start, end, err
	}
	if e.cfg.Mode == ModeIdle {
		err = e.rest(e.cfg.Duration)
	} else if len(e.publishers) > 0 {
		e.from = e.now
		if e.cfg.Messages > 0 {
			e.budget = e.cfg.Messages
		}
		err = errors.Join(e.load(e.cfg.Duration), e.drain())
	}
	if err != nil {
		return start, end, err
	}
	end, err = e.snapshot()
	return start, end, err
}

func (e *engine) beginLoad() {
	e.tick()
	if e.cfg.Rate > 0 {
		e.schedule = schedule{start: e.now, interval: 1e9 / e.cfg.Rate}
	}
	e.sending = true
	e.progress = e.now
	for _, p := range e.publishers {
		e.enqueue(p)
	}
}

// load runs until the time is over or the last message of the budget was made.
func (e *engine) load(d time.Duration) error {
	_, err := e.spin(e.now+int64(d), func() bool {
		if e.now-e.progress > int64(stallLimit) && e.fanOut > 0 && e.cfg.Rate == 0 {
			e.progress = e.now
			for _, p := range e.publishers {
				p.forgive(e)
			}
		}
		return e.budget == 0
	})
	return err
}

// drain stops the publishers and waits for what is still under way: until it is all there, or nothing has come for
// defaultQuiet.
func (e *engine) drain() error {
	e.sending = false
	e.tick()
	e.progress = e.now
	_, err := e.spin(e.now+int64(e.cfg.Drain), func() bool {
		return e.settled() || e.now-e.progress > int64(defaultQuiet)
	})
	return err
}

// settled says that every message was written, acknowledged and delivered.
func (e *engine) settled() bool {
	if e.received < e.sent*e.fanOut || (e.cfg.QoS > 0 && e.acked < e.sent) {
		return false
	}
	for _, p := range e.publishers {
		if p.conn.state == stateUp && len(p.conn.out) > p.conn.sent {
			return false
		}
	}
	return true
}

// mark is what was counted up to one moment.
type mark struct {
	at                    int64
	sent, acked, received int64
	client                time.Duration // CPU time of this process
	machine               time.Duration // CPU time of all programs
	broker                []ProcessSample
}

type marks struct{ empty, connected, start, end mark }

func (e *engine) snapshot() (mark, error) {
	e.tick()
	m := mark{at: e.now, sent: e.sent, acked: e.acked, received: e.received, client: ownCPU(), machine: machineCPU()}
	for _, pid := range e.cfg.PIDs {
		sample, err := SampleProcess(pid)
		if err != nil {
			return m, err
		}
		m.broker = append(m.broker, sample)
	}
	e.tick()
	return m, nil
}

// perSecond divides, and gives 0 where no time passed.
func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return math.Round(float64(n)/d.Seconds()*10) / 10
}
