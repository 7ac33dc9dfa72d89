package command

import (
	"sync"
	"time"
)

// shard owns the executions of its part of the devices. Whoever holds mu may change them; the shard's own goroutine
// does what must not be done on a connection's goroutine or with mu held: it sends, writes, counts and watches
// deadlines.
//
// Lock order: shard.mu, then command.mu, then the notifier's. No lock is held during calls of the broker; Store.Apply,
// which returns at once, is called with mu held, so that the store gets the versions of an execution in their order.
type shard struct {
	s    *Service
	wake chan struct{} // holds one token: there is something to do
	done chan error    // of the write that is on its way
	load sync.Mutex    // held while an execution is read from the store and put into hot; before mu

	mu        sync.Mutex
	hot       map[*command]map[uint32]*execution // those that may still change, and those being written
	devices   map[string]*device
	ready     []*device // to be looked at by the goroutine
	deadlines deadlines
	waiting   int // executions in all queues

	dirty    []*execution // to be written
	moves    []transition // to be counted when the write is done
	waiters  []func(error)
	urgent   bool // something that was told to a device, or by it, must not be lost
	writing  bool
	inFlight write // what is being written
	retryAt  time.Time
	stopped  bool // nothing is written any more
}

// transition is one change of state, on its way to be counted and told.
type transition struct {
	cmd      *command
	from, to State
	at       int64
	created  int64       // when the execution came to be
	detail   *Transition // nil for commands that tell only counts
}

// write is what one transaction carries.
type write struct {
	executions []*execution
	moves      []transition
	waiters    []func(error)
}

func newShard(s *Service) *shard {
	return &shard{
		s: s, wake: make(chan struct{}, 1), done: make(chan error, 1),
		hot: map[*command]map[uint32]*execution{}, devices: map[string]*device{},
	}
}

// nudge makes the goroutine look. It never blocks.
func (sh *shard) nudge() {
	select {
	case sh.wake <- struct{}{}:
	default:
	}
}

// run is the shard's goroutine. When stop is closed it writes what is left and returns.
func (sh *shard) run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var written *error
		select {
		case <-sh.wake:
		case err := <-sh.done:
			written = &err
		case <-timer.C:
		case <-stop:
			sh.drain()
			return
		}
		if written != nil {
			sh.written(*written)
		}
		sh.expire()
		sh.sendReady()
		sh.flush()
		timer.Reset(sh.untilNext())
	}
}

// untilNext is how long the goroutine may sleep when nobody wakes it.
func (sh *shard) untilNext() time.Duration {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	wait := time.Hour
	if at := sh.deadlines.next(); at != 0 {
		wait = min(wait, time.Until(time.UnixMilli(at)))
	}
	if len(sh.dirty)+len(sh.waiters) > 0 && !sh.writing {
		wait = min(wait, time.Until(sh.retryAt))
	}
	return max(wait, 0)
}

// advance moves e and puts it where its new state belongs. It reports whether the move was allowed. mu is held.
func (sh *shard) advance(e *execution, to, implied State, reason string) bool {
	now := nowMillis()
	p := e.Execution.advance(to, implied, now)
	if p.n == 0 {
		return false
	}
	e.because(reason)
	sh.moved(e, p, now)
	return true
}

// moved notes the transitions of e and puts it where its state belongs. mu is held.
func (sh *shard) moved(e *execution, p path, now int64) {
	for i := 1; i < p.n; i++ {
		sh.note(e, p.states[i-1], p.states[i], now)
	}
	sh.settle(e)
	sh.touch(e, e.State > Sent)
}

// note keeps a transition until it is stored. One from a state to itself is news about that state. mu is held.
func (sh *shard) note(e *execution, from, to State, now int64) {
	t := transition{cmd: e.cmd, from: from, to: to, at: now, created: e.Created}
	if e.cmd.targets <= sh.s.cfg.EventDetail {
		t.detail = &Transition{
			Execution: executionID(e.cmd.id, e.Index, e.Round), Device: e.Device, State: to, Attempt: e.Attempt,
			At: now, Late: e.Late,
		}
		if to == e.State {
			t.detail.describe(e.Outcome)
		}
	}
	sh.moves = append(sh.moves, t)
	e.cmd.unstored.Add(1)
}

// settle puts e where its state belongs: into its device's queue, one of its slots, or neither. mu is held.
func (sh *shard) settle(e *execution) {
	if e.State != Queued {
		e.sending = false
	}
	want := nowhere
	switch {
	case e.State == Sent || e.State == Queued && e.sending:
		want = inSlot
	case e.State == Queued:
		want = waiting
	}
	if want != e.place {
		sh.move(e, want)
	}
	sh.deadlines.set(e, e.cmd.deadline(&e.Execution, sh.s.runningTimeout))
	if e.heapAt == 0 { // the goroutine may be asleep until a later one
		sh.nudge()
	}
}

// move takes e from one place at its device to another, and forgets a device with nothing left. mu is held.
func (sh *shard) move(e *execution, to place) {
	d := sh.device(e.Device)
	if e.place == waiting {
		sh.waiting--
	}
	if e.place != nowhere {
		d.take(e)
	}
	switch to {
	case waiting:
		d.enqueue(e)
		sh.waiting++
	case inSlot:
		d.occupy(e)
	}
	if d.idle() && !d.ready { // a ready one is forgotten when the goroutine comes to it
		delete(sh.devices, d.id)
		return
	}
	sh.look(d)
}

// admit gives a new execution to its device's queue, within the queue's limits. mu is held.
func (sh *shard) admit(e *execution) {
	d := sh.device(e.Device)
	if key := e.cmd.collapseKey; key != "" {
		if old := d.collapsible(key); old != nil && old.Seq < e.Seq {
			sh.advance(old, Canceled, Pending, "superseded")
		} else if old != nil {
			sh.advance(e, Canceled, Pending, "superseded")
			return
		}
	}
	if d.waiting >= sh.s.cfg.Queue {
		if sh.s.cfg.QueuePolicy == PolicyReject {
			sh.advance(e, Undeliverable, Pending, "queue_full")
			return
		}
		sh.advance(d.oldest(), Undeliverable, Pending, "queue_overflow")
	}
	sh.settle(e)
}

func (sh *shard) device(id string) *device {
	d := sh.devices[id]
	if d == nil {
		d = &device{id: id}
		sh.devices[id] = d
	}
	return d
}

// look has the goroutine look at what the device may be sent. mu is held.
func (sh *shard) look(d *device) {
	if !d.ready && !d.parked {
		d.ready = true
		sh.ready = append(sh.ready, d)
		sh.nudge()
	}
}

// wakeUp says that the device has connected or subscribed. It is called on connections' goroutines.
func (sh *shard) wakeUp(id string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if d := sh.devices[id]; d != nil {
		d.wakes++
		d.parked = false
		sh.look(d)
	}
}

// touch has e written. mu is held.
func (sh *shard) touch(e *execution, urgent bool) {
	sh.urgent = sh.urgent || urgent
	if !e.dirty {
		e.dirty = true
		sh.dirty = append(sh.dirty, e)
	}
	sh.nudge()
}

// find returns an execution that is in memory. mu is held.
func (sh *shard) find(c *command, index uint32) *execution { return sh.hot[c][index] }

// put takes an execution into memory. mu is held.
func (sh *shard) put(c *command, x Execution) *execution {
	e := &execution{Execution: x, cmd: c, heapAt: -1}
	group := sh.hot[c]
	if group == nil {
		group = map[uint32]*execution{}
		sh.hot[c] = group
	}
	group[x.Index] = e
	return e
}

// forget drops an execution that is settled and stored. mu is held.
func (sh *shard) forget(e *execution) {
	if e.dirty || e.writing || e.outstanding > 0 || !e.cmd.settled(e.State) {
		return
	}
	sh.deadlines.set(e, 0)
	group := sh.hot[e.cmd]
	if group[e.Index] != e {
		return
	}
	delete(group, e.Index)
	if len(group) == 0 {
		delete(sh.hot, e.cmd)
	}
}
