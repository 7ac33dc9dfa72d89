// Package timer is one hashed timing wheel for all the deadlines of a broker: keep-alive, expiry, delayed wills.
package timer

import (
	"sync"
	"sync/atomic"
	"time"
)

// shards is how many locks share the timers; a power of two.
const shards = 16

// maxDelay bounds how far in the future a timer can lie, in milliseconds (more than 200 years), so that nothing
// overflows.
const maxDelay = 1 << 43

// Handler is what a timer calls.
type Handler interface {
	// Fire runs on the wheel's goroutine and must not block: all timers wait for it. It may call Schedule and Cancel.
	// now is Wheel.Now.
	Fire(now int64)
}

// Timer is a place in the wheel, to be embedded by value and not copied. Its zero value is ready for use, with one
// wheel only.
type Timer struct {
	next, prev *Timer
	handler    Handler
	tick       int64         // fires when the wheel has come to it
	home       atomic.Uint32 // 1 + the shard, for good; 0: never scheduled
	state      state
}

type state uint8

const (
	idle state = iota
	waiting
	due // taken out of its slot, about to fire
)

// Wheel fires timers from one goroutine. Its precision is one tick. All methods but Start and Stop are safe for
// concurrent use.
type Wheel struct {
	tick   time.Duration
	now    atomic.Int64
	mono   atomic.Int64
	homes  atomic.Uint32
	shards [shards]shard
	stop   chan struct{}
	done   chan struct{}
}

type shard struct {
	mu    sync.Mutex
	tick  int64    // the last one that was worked off
	now   int64    // Wheel.Now at that tick: delays count from here, or a timer could be early by a tick
	slots []*Timer // lists of the waiting, by tick modulo their number
	due   *Timer   // list of those about to fire
	_     [8]byte  // keeps the locks of neighbours on different cache lines
}

// New returns a wheel that turns once in slots ticks. tick is at least a millisecond. A timer costs a glance at each
// turn, so slots × tick should be about as long as most timers run.
func New(tick time.Duration, slots int) *Wheel {
	w := &Wheel{tick: max(tick, time.Millisecond), stop: make(chan struct{}), done: make(chan struct{})}
	w.now.Store(time.Now().UnixMilli())
	w.mono.Store(w.now.Load())
	for i := range w.shards {
		w.shards[i].now = w.now.Load()
		w.shards[i].slots = make([]*Timer, max(slots, 1))
	}
	return w
}

// Start starts the wheel's goroutine. Call it once.
func (w *Wheel) Start() { go w.run() }

// Stop ends the goroutine and waits for it; no timer fires afterwards. Call it once, after Start, and not from a
// handler.
func (w *Wheel) Stop() {
	close(w.stop)
	<-w.done
}

// Now returns the Unix time in milliseconds as of the last tick. It is for times that are stored or sent. While the
// system's clock is less than a minute away, it runs up to a sixteenth faster or slower until both agree, and never
// goes back; when somebody sets the system's clock further, Now jumps with it.
func (w *Wheel) Now() int64 { return w.now.Load() }

// Monotonic returns milliseconds as of the last tick on a clock that nobody can set: only differences mean something.
// It is for measuring how long ago something was, as for keep-alive.
func (w *Wheel) Monotonic() int64 { return w.mono.Load() }

// Schedule sets a timer, also one that is set already, to fire when Now comes to atMillis, or up to a tick later; one
// that is past due fires at the next tick. Setting the system's clock meanwhile does not shift it.
func (w *Wheel) Schedule(t *Timer, atMillis int64, f Handler) {
	s := w.home(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(t, w.ticks(s.now, atMillis), f)
}

// ScheduleIn sets a timer, also one that is set already, to fire after delay, or up to two ticks later.
func (w *Wheel) ScheduleIn(t *Timer, delay time.Duration, f Handler) {
	s := w.home(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(t, w.ticks(0, max(delay, 0).Milliseconds()+1)+1, f) // nearly all of the current tick may have passed
}

func (s *shard) set(t *Timer, ticks int64, f Handler) {
	s.unlink(t)
	t.handler, t.tick, t.state = f, s.tick+ticks, waiting
	push(s.slot(t.tick), t)
}

// ticks is the time between two times in ticks, rounded up, and at least 1.
func (w *Wheel) ticks(now, atMillis int64) int64 {
	if atMillis <= now {
		return 1
	}
	delay := time.Duration(min(uint64(atMillis)-uint64(now), maxDelay)) * time.Millisecond
	return int64((delay-1)/w.tick) + 1
}

// Cancel takes a timer out. Once it returns, the handler does not start any more, though it may still be running.
// Cancelling a timer that is not set does nothing.
func (w *Wheel) Cancel(t *Timer) {
	if t.home.Load() == 0 {
		return
	}
	s := w.home(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlink(t)
	t.handler = nil
}

// home returns the shard of a timer.
func (w *Wheel) home(t *Timer) *shard {
	home := t.home.Load()
	if home == 0 {
		t.home.CompareAndSwap(0, w.homes.Add(1)%shards+1)
		home = t.home.Load()
	}
	return &w.shards[home-1]
}

func (s *shard) slot(tick int64) **Timer { return &s.slots[tick%int64(len(s.slots))] }

// unlink takes a timer out of the list that it is in, if any.
func (s *shard) unlink(t *Timer) {
	switch {
	case t.state == idle:
		return
	case t.prev != nil:
		t.prev.next = t.next
	case t.state == due:
		s.due = t.next
	default:
		*s.slot(t.tick) = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.next, t.prev, t.state = nil, nil, idle
}

func push(head **Timer, t *Timer) {
	t.prev, t.next = nil, *head
	if *head != nil {
		(*head).prev = t
	}
	*head = t
}

func (w *Wheel) run() {
	defer close(w.done)
	ticker := time.NewTicker(w.tick)
	defer ticker.Stop()
	start, first, clock := time.Now(), w.mono.Load(), newClock(w.now.Load())
	for tick := int64(0); ; {
		select {
		case <-w.stop:
			return
		case <-ticker.C:
		}
		now := time.Now()
		passed := int64(now.Sub(start)/w.tick) - tick // the ticker drops ticks when we are late; the clock does not
		if passed == 0 {
			continue
		}
		tick += passed
		w.mono.Store(first + (time.Duration(tick) * w.tick).Milliseconds())
		w.now.Store(clock.advance(time.Duration(passed)*w.tick, now.UnixMilli()))
		for i := range w.shards {
			if !w.turn(&w.shards[i], tick) {
				return
			}
		}
	}
}

// turn fires what is due in one shard; it returns false when the wheel was stopped.
func (w *Wheel) turn(s *shard, tick int64) bool {
	now := w.now.Load()
	s.collect(tick, now)
	for h := s.pop(); h != nil; h = s.pop() {
		select {
		case <-w.stop:
			return false
		default:
			h.Fire(now)
		}
	}
	return true
}

// collect moves all timers up to tick from their slots to the list of the due. now is the time of that tick.
func (s *shard) collect(tick, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := max(s.tick+1, tick-int64(len(s.slots))+1) // after a long pause, each slot once
	for i := first; i <= tick; i++ {
		for t := *s.slot(i); t != nil; {
			next := t.next
			if t.tick <= tick {
				s.unlink(t)
				t.state = due
				push(&s.due, t)
			}
			t = next
		}
	}
	s.tick, s.now = tick, now
}

// pop takes one timer that is due; from here on its handler counts as running.
func (s *shard) pop() Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.due
	if t == nil {
		return nil
	}
	h := t.handler
	s.unlink(t)
	t.handler = nil
	return h
}
