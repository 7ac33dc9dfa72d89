package command

import (
	"slices"
	"sort"
)

// execution is one that may still change, in memory. Its shard's mutex guards it.
type execution struct {
	Execution
	cmd    *command
	device *device // where it waits or holds a slot; nil otherwise

	deadline int64 // Unix milliseconds; 0: none
	heapAt   int32 // position in the shard's deadlines, -1: not there

	place       place
	sending     bool // given to the broker in this attempt, which has not said Sent or Lost yet
	outstanding int8 // Sends that the broker has not finished with Acked or Lost, of all attempts
	dirty       bool // differs from what was last given to the store
	writing     bool // given to the store, which has not said done yet
}

// place is where an execution is at its device.
type place uint8

const (
	nowhere place = iota
	waiting       // in its lane's queue
	inSlot        // unacknowledged at the device
)

// device is one with something to send: it exists only as long as an execution waits or is unacknowledged.
type device struct {
	id      string
	lanes   []lane
	waiting int    // executions in all lanes' queues
	slots   int    // unacknowledged executions in all lanes
	parked  bool   // not connected, or not subscribed: nothing is tried until it wakes up
	wakes   uint32 // how often it woke up
	ready   bool   // in the shard's list of devices to look at
}

// lane is the executions of one name that reach a device one after the other.
type lane struct {
	name  string
	queue []*execution // by priority, then by age
	slots int
}

func (d *device) idle() bool { return d.waiting == 0 && d.slots == 0 }

func (d *device) lane(name string) *lane {
	for i := range d.lanes {
		if d.lanes[i].name == name {
			return &d.lanes[i]
		}
	}
	d.lanes = append(d.lanes, lane{name: name})
	return &d.lanes[len(d.lanes)-1]
}

// before orders what waits: higher priority first, then the older command.
func (e *execution) before(o *execution) bool {
	if e.cmd.priority != o.cmd.priority {
		return e.cmd.priority > o.cmd.priority
	}
	if e.Seq != o.Seq {
		return e.Seq < o.Seq
	}
	return e.Index < o.Index
}

func (d *device) enqueue(e *execution) {
	l := d.lane(e.cmd.lane)
	at := sort.Search(len(l.queue), func(i int) bool { return e.before(l.queue[i]) })
	l.queue = slices.Insert(l.queue, at, e)
	d.waiting++
	e.device, e.place = d, waiting
}

// take removes e from wherever it is at its device.
func (d *device) take(e *execution) {
	l := d.lane(e.cmd.lane)
	switch e.place {
	case waiting:
		at := sort.Search(len(l.queue), func(i int) bool { return !l.queue[i].before(e) })
		l.queue = slices.Delete(l.queue, at, at+1)
		d.waiting--
	case inSlot:
		l.slots--
		d.slots--
	}
	e.device, e.place = nil, nowhere
	if len(l.queue) == 0 && l.slots == 0 {
		d.lanes = slices.DeleteFunc(d.lanes, func(l lane) bool { return len(l.queue) == 0 && l.slots == 0 })
	}
}

// occupy gives e, which must not be at the device, one of its lane's slots.
func (d *device) occupy(e *execution) {
	d.lane(e.cmd.lane).slots++
	d.slots++
	e.device, e.place = d, inSlot
}

// promote moves e from the lane's queue to one of its slots.
func (d *device) promote(l *lane, e *execution) {
	at := slices.Index(l.queue, e)
	l.queue = slices.Delete(l.queue, at, at+1)
	l.slots++
	d.waiting--
	d.slots++
	e.place = inSlot
}

// next is the execution that the lane sends next, if it may send one now. One that is in its pause between two attempts
// holds back those behind it, for the sake of their order; one of a paused command does not.
func (l *lane) next(window int, now int64) *execution {
	if l.slots >= window {
		return nil
	}
	for _, e := range l.queue {
		switch {
		case e.cmd.paused.Load():
		case e.NotBefore > now || e.outstanding >= maxOutstanding:
			return nil
		default:
			return e
		}
	}
	return nil
}

// oldest is what waits longest at the device.
func (d *device) oldest() *execution {
	var first *execution
	for i := range d.lanes {
		for _, e := range d.lanes[i].queue {
			if first == nil || e.Seq < first.Seq {
				first = e
			}
		}
	}
	return first
}

// collapsible is an execution with this collapse key that waits and was never sent.
func (d *device) collapsible(key string) *execution {
	for i := range d.lanes {
		for _, e := range d.lanes[i].queue {
			if e.cmd.collapseKey == key && e.Sent == 0 {
				return e
			}
		}
	}
	return nil
}
