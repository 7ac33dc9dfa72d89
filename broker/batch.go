package broker

import (
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/topic"
)

const (
	readBuffer = 16 << 10 // of a connection that the stream driver reads
	pollBuffer = 64 << 10 // of a loop of the poll driver; more is never read at once
)

var readPool = sync.Pool{New: func() any { b := make([]byte, readBuffer); return &b }}

func getRead() []byte { return *readPool.Get().(*[]byte) }

func putRead(b []byte) {
	if len(b) == readBuffer {
		readPool.Put(&b)
	}
}

// batch is the scratch space of one round of work, usually the packets of one read. It gathers the connections to flush
// and the store operations that may be lazy, so that many packets cost one system call and one transaction.
type batch struct {
	packet  packets.Packet
	matches topic.Matches[*subscription]
	targets []target
	target  target // the only one, in the common case
	index   map[*Session]int

	dirty   []*conn  // to be flushed at the end
	scratch Message  // the publish under way, whose strings alias the read buffer
	kept    *Message // its copy, once somebody keeps it
	traceID string   // of the connection it came from
	inbound *inbound // to be used again
	queued  []queued // what the message under way has appended to queues

	full      []*conn // subscribers whose out-buffers are over their bound
	lazy      []Op    // store operations that need not be waited for
	packets   int64
	published int
	received  [3]int64
	delivered [3]int64
}

func (b *Broker) getBatch() *batch { return b.batches.Get().(*batch) }

// putBatch ends a round: whatever is still dirty is flushed, lazy operations go to the store, counters are added up.
func (b *Broker) putBatch(bt *batch) {
	bt.flush(nil)
	if len(bt.lazy) > 0 {
		b.store.Apply(&Tx{Ops: append([]Op(nil), bt.lazy...), Lazy: true}, nil)
		clear(bt.lazy)
		bt.lazy = bt.lazy[:0]
	}
	bt.count(&b.counters)
	clear(bt.full)
	bt.full = bt.full[:0]
	bt.target = target{}
	b.batches.Put(bt)
}

func (bt *batch) count(c *counters) {
	if bt.packets > 0 {
		c.packetsIn.Add(bt.packets)
	}
	for q := range 3 {
		if n := bt.received[q]; n > 0 {
			c.publishIn[q].Add(n)
		}
		if n := bt.delivered[q]; n > 0 {
			c.delivered[q].Add(n)
			c.packetsOut.Add(n)
		}
	}
	bt.packets, bt.published, bt.received, bt.delivered = 0, 0, [3]int64{}, [3]int64{}
}

// touch remembers to flush c at the end of the round.
func (bt *batch) touch(c *conn) {
	if c.dirty.CompareAndSwap(false, true) {
		bt.dirty = append(bt.dirty, c)
	}
}

// flush writes what this round has caused. own, when given, is flushed too.
func (bt *batch) flush(own *conn) {
	if own != nil {
		own.flush()
	}
	for i, c := range bt.dirty {
		c.dirty.Store(false)
		c.flush()
		bt.dirty[i] = nil
	}
	bt.dirty = bt.dirty[:0]
}

// later hands the round's connections to the flusher, for a goroutine that must not make their system calls.
func (bt *batch) later(b *Broker) {
	for i, c := range bt.dirty {
		c.dirty.Store(false)
		b.flushLater(c)
		bt.dirty[i] = nil
	}
	bt.dirty = bt.dirty[:0]
}

// takeRoom returns the subscribers that a publisher has to wait for, once.
func (bt *batch) takeRoom() []*conn {
	if len(bt.full) == 0 {
		return nil
	}
	full := append([]*conn(nil), bt.full...)
	clear(bt.full)
	bt.full = bt.full[:0]
	return full
}

// flushLater flushes c soon, from the flusher's goroutine: for those who have no batch, or must not make system calls.
func (b *Broker) flushLater(c *conn) {
	if !c.dirty.CompareAndSwap(false, true) {
		return
	}
	b.flushMu.Lock()
	b.toFlush = append(b.toFlush, c)
	b.flushMu.Unlock()
	select {
	case b.flushWake <- struct{}{}:
	default:
	}
}

// flushLoop is the flusher: it never blocks, because flush does not.
func (b *Broker) flushLoop() {
	defer close(b.flushed)
	var work []*conn
	for {
		select {
		case <-b.flushWake:
		case <-b.stopped:
			return
		}
		b.flushMu.Lock()
		work, b.toFlush = b.toFlush, work[:0]
		b.flushMu.Unlock()
		for i, c := range work {
			c.dirty.Store(false)
			c.flush()
			work[i] = nil
		}
	}
}
