package bridge

import (
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/penstockmq/penstock/hooks/uplink"
)

// item is one record on its way: given by Send (direct) or read from the spool (stored).
type item struct {
	seq    uint64
	record *uplink.Record
	size   int64       // what it counts for against bounds in memory
	done   func(error) // nil: stored, its publisher was acknowledged long ago
	disk   int64       // stored: what it counts for in the spool
	fed    time.Time   // when it was given to the producer
	acked  bool        // Kafka has it

	message sarama.ProducerMessage
	key     encoder
	value   encoder
	headers []sarama.RecordHeader
}

// encoder gives bytes to sarama without allocating, unlike sarama.ByteEncoder, which escapes into its interface.
type encoder []byte

func (e *encoder) Encode() ([]byte, error) { return *e, nil }
func (e *encoder) Length() int             { return len(*e) }

var items = sync.Pool{New: func() any { return new(item) }}

func newItem(seq uint64, r *uplink.Record, done func(error)) *item {
	it := items.Get().(*item)
	it.seq, it.record, it.done = seq, r, done
	it.size = int64(r.Size())
	return it
}

// recycle gives an item back after Kafka has answered for it; not one that a dead producer may still hold.
func (it *item) recycle() {
	headers := it.headers[:0]
	clear(it.headers)
	*it = item{headers: headers}
	items.Put(it)
}

// prepare fills in what sarama reads.
func (it *item) prepare(now time.Time) *sarama.ProducerMessage {
	r := it.record
	it.fed = now
	it.value = r.Value
	m := &it.message
	*m = sarama.ProducerMessage{Topic: r.Topic, Value: &it.value, Metadata: it}
	if r.Key != nil {
		it.key = r.Key
		m.Key = &it.key
	}
	if r.Time != 0 {
		m.Timestamp = time.UnixMilli(r.Time)
	}
	it.headers = it.headers[:0]
	for i := range r.Headers {
		it.headers = append(it.headers, sarama.RecordHeader(r.Headers[i]))
	}
	m.Headers = it.headers
	return m
}

// queue is a first-in-first-out list of items.
type queue struct {
	items []*item
	head  int
}

func (q *queue) len() int { return len(q.items) - q.head }

func (q *queue) first() *item { return q.items[q.head] }

func (q *queue) push(it *item) { q.items = append(q.items, it) }

// pop removes the first item. Room at the front is used again once it is half of all.
func (q *queue) pop() *item {
	it := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	} else if q.head >= 1024 && q.head*2 >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return it
}

// take removes everything.
func (q *queue) take() []*item {
	all := q.items[q.head:]
	*q = queue{}
	return all
}
