package timer

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// probe counts how often it fires.
type probe struct {
	Timer
	fired atomic.Int64
	at    atomic.Int64
}

func (p *probe) Fire(now int64) {
	p.at.Store(now)
	p.fired.Add(1)
}

// handlerFunc makes a Handler of a function.
type handlerFunc func(now int64)

func (f handlerFunc) Fire(now int64) { f(now) }

// manual returns a wheel that is not started, and a function that turns it by hand, so that tests depend on no clock.
func manual(slots int) (w *Wheel, advance func(ticks int64)) {
	w = New(10*time.Millisecond, slots)
	tick := int64(0)
	return w, func(ticks int64) {
		tick += ticks
		w.now.Add(ticks * 10)
		for i := range w.shards {
			w.turn(&w.shards[i], tick)
		}
	}
}

func TestScheduleRoundsUpAndNeverFiresEarly(t *testing.T) {
	tests := map[string]struct {
		delay int64 // milliseconds
		ticks int64 // until it fires
	}{
		"past due":                {delay: -1000, ticks: 1},
		"now":                     {delay: 0, ticks: 1},
		"less than a tick":        {delay: 1, ticks: 1},
		"exactly a tick":          {delay: 10, ticks: 1},
		"just over a tick":        {delay: 11, ticks: 2},
		"exactly one turn":        {delay: 80, ticks: 8},
		"more than one turn":      {delay: 85, ticks: 9},
		"many turns":              {delay: 100_000, ticks: 10_000},
		"before the epoch":        {delay: math.MinInt32 * 1000, ticks: 1},
		"a multiple of the wheel": {delay: 160, ticks: 16},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w, advance := manual(8)
			advance(3)
			var p probe
			due := w.Now() + test.delay
			w.Schedule(&p.Timer, due, &p)
			for range test.ticks - 1 {
				advance(1)
			}
			require.Zero(t, p.fired.Load(), "fired early")
			advance(1)
			require.EqualValues(t, 1, p.fired.Load())
			require.GreaterOrEqual(t, p.at.Load(), due)
			advance(100)
			require.EqualValues(t, 1, p.fired.Load(), "fires once")
		})
	}
}

func TestFarFuture(t *testing.T) {
	w, advance := manual(8)
	var days, never probe
	w.Schedule(&days.Timer, w.Now()+30*24*3600*1000, &days)
	w.Schedule(&never.Timer, math.MaxInt64, &never)
	ticks := int64(30 * 24 * 3600 * 100)
	advance(ticks - 1) // one long pause: each slot is looked at once
	require.Zero(t, days.fired.Load())
	advance(1)
	require.EqualValues(t, 1, days.fired.Load())
	require.Zero(t, never.fired.Load())
}

func TestRescheduleMovesTheTimer(t *testing.T) {
	w, advance := manual(8)
	var p probe
	w.Schedule(&p.Timer, w.Now()+30, &p)
	advance(2)
	w.Schedule(&p.Timer, w.Now()+50, &p)
	advance(4)
	require.Zero(t, p.fired.Load())
	advance(1)
	require.EqualValues(t, 1, p.fired.Load())
}

func TestCancel(t *testing.T) {
	w, advance := manual(8)
	var first, middle, last, unused probe
	for _, p := range []*probe{&first, &middle, &last} {
		p.home.Store(1) // all in one list
		w.Schedule(&p.Timer, w.Now()+20, p)
	}
	w.Cancel(&middle.Timer)
	w.Cancel(&middle.Timer)
	w.Cancel(&unused.Timer)
	advance(2)
	require.EqualValues(t, 1, first.fired.Load())
	require.Zero(t, middle.fired.Load())
	require.EqualValues(t, 1, last.fired.Load())
	w.Cancel(&first.Timer) // has fired
	w.Schedule(&first.Timer, w.Now(), &first)
	advance(1)
	require.EqualValues(t, 2, first.fired.Load())
}

// TestHandlersMayUseTheWheel: a handler sets itself again, and stops others that are due at the same tick.
func TestHandlersMayUseTheWheel(t *testing.T) {
	w, advance := manual(8)
	var timers [4]Timer
	fired := 0
	for i := range timers {
		timers[i].home.Store(1)
		w.Schedule(&timers[i], w.Now(), handlerFunc(func(int64) {
			fired++
			for j := range timers {
				w.Cancel(&timers[j])
			}
		}))
	}
	advance(1)
	require.Equal(t, 1, fired, "a timer fired after it was cancelled")

	var again Timer
	var handler handlerFunc
	handler = func(now int64) {
		fired++
		w.Schedule(&again, now, handler)
	}
	w.Schedule(&again, w.Now(), handler)
	for range 10 {
		advance(1)
	}
	require.Equal(t, 11, fired, "once for each tick")
}

// TestNoTimerIsLost compares thousands of random timers with what they should do.
func TestNoTimerIsLost(t *testing.T) {
	w, advance := manual(16)
	const count = 5000
	probes := make([]probe, count)
	due := make([]int64, count)
	for i := range probes {
		due[i] = w.Now() + int64(i*7919%3000)
		w.Schedule(&probes[i].Timer, due[i], &probes[i])
		if i%3 == 0 {
			w.Cancel(&probes[i].Timer)
		}
		if i%500 == 0 {
			advance(1)
		}
	}
	for range 310 {
		advance(1)
	}
	for i := range probes {
		if i%3 == 0 {
			require.Zero(t, probes[i].fired.Load(), i)
			continue
		}
		require.EqualValues(t, 1, probes[i].fired.Load(), i)
		require.GreaterOrEqual(t, probes[i].at.Load(), due[i], i)
		require.LessOrEqual(t, probes[i].at.Load(), max(due[i]+10, w.Now()), i)
	}
}

func TestStartAndStop(t *testing.T) {
	w := New(time.Millisecond, 64)
	w.Start()
	done := make(chan struct{})
	var timer Timer
	start, first := time.Now(), w.Monotonic()
	w.Schedule(&timer, w.Now()+20, handlerFunc(func(int64) { close(done) }))
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the timer did not fire")
	}
	require.GreaterOrEqual(t, time.Since(start), 19*time.Millisecond)
	require.GreaterOrEqual(t, w.Monotonic(), first+19)

	var late probe
	w.Schedule(&late.Timer, w.Now(), &late)
	w.Stop()
	before := late.fired.Load()
	runtime.Gosched()
	require.Equal(t, before, late.fired.Load())
}

// TestConcurrentUse is for the race detector: many goroutines set and stop shared timers while the wheel turns. In the
// end each one must still fire.
func TestConcurrentUse(t *testing.T) {
	w := New(time.Millisecond, 32)
	w.Start()
	defer w.Stop()
	probes := make([]probe, 64)
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() {
			for i := range 5000 {
				p := &probes[(i*31+g)%len(probes)]
				if i%5 == 0 {
					w.Cancel(&p.Timer)
					continue
				}
				w.Schedule(&p.Timer, w.Now()+int64(i%10), p)
			}
		})
	}
	work.Wait()
	before := make([]int64, len(probes))
	for i := range probes {
		w.Cancel(&probes[i].Timer)
	}
	for i := range probes {
		before[i] = probes[i].fired.Load()
		w.Schedule(&probes[i].Timer, w.Now()+2, &probes[i])
	}
	require.Eventually(t, func() bool {
		for i := range probes {
			if probes[i].fired.Load() <= before[i] {
				return false
			}
		}
		return true
	}, 30*time.Second, time.Millisecond)
}

func TestClock(t *testing.T) {
	const second, day = 1000, 86_400 * 1000
	tests := map[string]struct {
		start, wall int64
		want        int64 // after one second
	}{
		"in step":                {start: 0, wall: second, want: second},
		"a little behind":        {start: 0, wall: 1010, want: 1010},
		"a little ahead":         {start: 0, wall: 990, want: 990},
		"half a minute behind":   {start: 0, wall: 31 * second, want: 1062},
		"half a minute ahead":    {start: 60 * second, wall: 31 * second, want: 60*second + 937},
		"set forward by a day":   {start: 0, wall: day, want: day},
		"set back by a day":      {start: day, wall: second, want: second},
		"set back before 1970":   {start: day, wall: -5 * second, want: -5 * second},
		"slightly before 1970":   {start: 0, wall: -5, want: 937},
		"a minute is not a jump": {start: 0, wall: 61 * second, want: 1062},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := newClock(test.start)
			require.Equal(t, test.want, c.advance(time.Second, test.wall))
		})
	}
}

func TestScheduleIn(t *testing.T) {
	tests := map[string]struct {
		delay time.Duration
		ticks int64
	}{
		"negative":         {delay: -time.Second, ticks: 2},
		"none":             {delay: 0, ticks: 2},
		"less than a tick": {delay: time.Millisecond, ticks: 2},
		"a tick":           {delay: 10 * time.Millisecond, ticks: 3},
		"many ticks":       {delay: 995 * time.Millisecond, ticks: 101},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w, advance := manual(8)
			var p probe
			w.now.Add(86_400_000) // the clock was set since the last tick: it makes no difference
			w.ScheduleIn(&p.Timer, test.delay, &p)
			advance(test.ticks - 1)
			require.Zero(t, p.fired.Load(), "fired early")
			advance(1)
			require.EqualValues(t, 1, p.fired.Load())
		})
	}
}

func BenchmarkSchedule(b *testing.B) {
	w := New(100*time.Millisecond, 1024)
	w.Start()
	defer w.Stop()
	for _, count := range []int{1, 1_000_000} {
		name := map[int]string{1: "one timer", 1_000_000: "a million timers"}[count]
		b.Run(name, func(b *testing.B) {
			probes := make([]probe, count)
			for i := range probes {
				w.Schedule(&probes[i].Timer, w.Now()+3_600_000, &probes[i])
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					p := &probes[(i*7919)%count]
					w.Schedule(&p.Timer, w.Now()+int64(60_000+i%60_000), p)
				}
			})
			for i := range probes {
				w.Cancel(&probes[i].Timer)
			}
		})
	}
}

// BenchmarkTick is what a tick costs with a million timers waiting, none of them due.
func BenchmarkTick(b *testing.B) {
	w, advance := manual(1024)
	probes := make([]probe, 1_000_000)
	for i := range probes {
		w.Schedule(&probes[i].Timer, w.Now()+1<<40+int64(i*10), &probes[i])
	}
	b.ReportAllocs()
	for b.Loop() {
		advance(1)
	}
}

func BenchmarkFire(b *testing.B) {
	w, advance := manual(1024)
	var p probe
	b.ReportAllocs()
	for b.Loop() {
		w.Schedule(&p.Timer, 0, &p)
		advance(1)
	}
}
