// Package bridge carries uplink records to Kafka and keeps them on disk while Kafka cannot take them.
//
// # How a record goes
//
// Send gives every record a sequence number and, under one lock, one of two ways:
//
//	direct   ─ ring ──────────────┐
//	                              ├─ feeder ─ window ─ sarama ─ Kafka ─ results ─ done(nil)
//	spilling ─ spooler ─ spool ───┘                             (spooled records were acknowledged at fsync)
//
// The circuit is closed when records go direct; open when there is no producer that works; draining in between, while a
// producer works off the spool. The rules that keep the order of a key:
//
//  1. There is one feeder. It gives the producer records in the order of their sequence numbers: first what is in the
//     spool, then the ring. While records are spilled, the ring is empty.
//  2. When the ring is full, all of it moves to the spool, in order, and records are spilled from then on. When little
//     is left in the spool and Kafka answers, records go direct again: they wait in the ring until the feeder has
//     passed the end of the spool. Both changes happen under the lock, between two records.
//  3. When the producer fails a record, or does not answer in time, it is cut off for good: nothing later reaches
//     Kafka through it (see gate). What it had not acknowledged goes to the spool under its old sequence numbers, and
//     so before everything newer. A new producer starts from the oldest record that was not acknowledged.
//  4. The spool forgets a record only when that record and all before it were acknowledged by Kafka.
//
// Hence Kafka may get a record twice, but the first occurrences of a key's records are in order and complete. This
// takes that a topic's number of partitions stays the same: adding some moves keys, with Kafka's usual consequences.
package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/uplink"
)

// Options are what an Uplink or a Log needs beside its configuration.
type Options struct {
	Spool      Spool
	Log        *slog.Logger          // nil: the default logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Circuit is the state of the way to Kafka.
type Circuit int

// The states of the way to Kafka.
const (
	Closed   Circuit = iota // records go to Kafka directly
	Draining                // Kafka works; records go to the spool until it is empty
	Open                    // Kafka does not work; records go to the spool
)

func (c Circuit) String() string { return [...]string{"closed", "draining", "open"}[c] }

// Status says how the uplink does, for readiness and the admin API.
type Status struct {
	Circuit       string    `json:"circuit"` // closed, draining or open
	Since         time.Time `json:"since"`   // when the circuit came into this state
	LastError     string    `json:"last_error,omitempty"`
	LastErrorAt   time.Time `json:"last_error_at,omitzero"`
	SpoolMessages int64     `json:"spool_messages"`
	SpoolBytes    int64     `json:"spool_bytes"`
	SetAside      int64     `json:"set_aside"` // records that Kafka will never take
	Inflight      int       `json:"inflight"`
}

// Uplink is the Sink that produces to Kafka, with the spool behind it.
type Uplink struct {
	cfg    KafkaConfig
	sarama *sarama.Config
	spool  Spool
	log    *slog.Logger
	m      *metrics

	wakeFeeder  chan struct{} // each holds one token
	wakeSpooler chan struct{}
	settled     chan struct{} // something that Close may wait for has finished

	ctx     context.Context // ended by Close: no more producing
	stop    context.CancelFunc
	runner  sync.WaitGroup // run
	drained chan struct{}  // closed by Close when nothing will be spilled any more
	spooler sync.WaitGroup // spoolLoop

	mu       sync.Mutex
	started  bool
	closing  bool
	nextSeq  uint64
	spilling bool      // new records go to the spool
	ring     queue     // direct records that the feeder has not taken
	direct   int       // direct records that are not answered: ring and window
	held     int64     // their bytes, and those of toSpool and of limbo
	toSpool  []*item   // the spooler has not taken them
	limbo    int       // records on their way to the disk, toSpool included
	durable  uint64    // the spool's records up to here are on disk, if they are there at all
	nextRead uint64    // all records below were fed, are gone, or never were
	careful  uint64    // records up to here are fed one by one, to find the one that Kafka refuses
	removed  removal   // acknowledged, and still in the spool
	producer *producer // nil: none works
	state    Circuit
	since    time.Time
	lastErr  error
	errAt    time.Time
	warned   time.Time // when an error was last logged as a warning
}

// removal is a head of the spool that can go.
type removal struct {
	upTo     uint64
	messages int
	bytes    int64
}

var _ uplink.Sink = (*Uplink)(nil)

// NewUplink makes the sink. It fails on a wrong configuration, but does not ask whether Kafka is there.
func NewUplink(cfg KafkaConfig, opts Options) (*Uplink, error) {
	s, err := saramaConfig(&cfg)
	if err != nil {
		return nil, fmt.Errorf("configure Kafka producer: %w", err)
	}
	stats := opts.Spool.Stats()
	u := &Uplink{
		cfg: cfg, sarama: s, spool: opts.Spool, log: opts.Log,
		wakeFeeder:  make(chan struct{}, 1),
		wakeSpooler: make(chan struct{}, 1),
		settled:     make(chan struct{}, 1),
		drained:     make(chan struct{}),
		// Until Kafka has answered, and what an earlier run left is gone, records are spilled.
		spilling: true, state: Open, since: time.Now(),
		nextSeq: stats.Last + 1, durable: stats.Last, nextRead: stats.First,
	}
	u.ctx, u.stop = context.WithCancel(context.Background())
	if u.log == nil {
		u.log = slog.Default()
	}
	if u.m, err = newMetrics(opts.Registerer, u); err != nil {
		return nil, err
	}
	return u, nil
}

// Start begins to connect and to drain what an earlier run left. It does not wait for Kafka.
func (u *Uplink) Start() {
	u.mu.Lock()
	u.started = true
	u.mu.Unlock()
	u.runner.Go(u.run)
	u.spooler.Go(u.spoolLoop)
}

// Send takes a record; see uplink.Sink. Refusals: 0x97 when the spool is full, 0x83 when the record is larger than
// max_message_bytes, when the disk fails, or after Close.
func (u *Uplink) Send(r *uplink.Record, done func(error)) {
	if r.Size() > int(u.cfg.MaxMessageBytes) {
		done(broker.Refuse(packets.ErrImplementationSpecificError, "record is larger than kafka.max_message_bytes"))
		return
	}
	if err := u.enqueue(r, done); err != nil {
		done(err)
	}
}

func (u *Uplink) enqueue(r *uplink.Record, done func(error)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closing || !u.started {
		return broker.Refuse(packets.ErrImplementationSpecificError, "uplink is shut down")
	}
	it := newItem(u.nextSeq, r, done)
	limit := int64(u.cfg.MaxInflight)
	if !u.spilling && u.held+it.size > limit {
		u.spill()
	}
	if u.spilling {
		// What spills at once when the circuit opens may be as much as the limit; so the disk gets twice of it.
		if u.held+it.size > 2*limit {
			return broker.Refuse(packets.ErrQuotaExceeded, "disk is slower than the uplink")
		}
		u.toSpool = append(u.toSpool, it)
		u.limbo++
		signal(u.wakeSpooler)
	} else {
		u.ring.push(it)
		u.direct++
		if u.ring.len() == 1 {
			signal(u.wakeFeeder)
		}
	}
	u.nextSeq++
	u.held += it.size
	return nil
}

// spill sends the ring, and everything from now on, to the spool. The lock is held.
func (u *Uplink) spill() {
	u.spilling = true
	if u.producer != nil {
		u.enter(Draining)
	}
	moved := u.ring.take()
	u.direct -= len(moved)
	u.limbo += len(moved)
	u.toSpool = append(u.toSpool, moved...)
	signal(u.wakeSpooler)
}

func (u *Uplink) enter(state Circuit) {
	if u.state != state {
		u.state, u.since = state, time.Now()
	}
}

func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Status says how the uplink does.
func (u *Uplink) Status() Status {
	stats := u.spool.Stats()
	u.mu.Lock()
	defer u.mu.Unlock()
	s := Status{Circuit: u.state.String(), Since: u.since, LastErrorAt: u.errAt,
		SpoolMessages: stats.Messages, SpoolBytes: stats.Bytes, SetAside: stats.SetAside}
	if u.lastErr != nil {
		s.LastError = u.lastErr.Error()
	}
	if u.producer != nil {
		s.Inflight = u.producer.window.len()
	}
	return s
}

func (u *Uplink) circuit() Circuit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state
}

func (u *Uplink) inflight() int { return u.Status().Inflight }

// Close takes no more records, waits until Kafka has what was sent to it or ctx ends, and puts the rest into the spool.
// All of Send's callbacks have been called when it returns. Whatever ctx says, it waits for the disk, and up to ten
// seconds for sarama to end. The Spool must stay open until then.
func (u *Uplink) Close(ctx context.Context) error {
	u.mu.Lock()
	if u.closing || !u.started {
		u.closing = true
		u.mu.Unlock()
		u.stop()
		return nil
	}
	u.closing = true
	u.mu.Unlock()
	flushed := u.await(ctx, func() bool { return u.direct == 0 })
	u.stop()
	u.runner.Wait() // it moved to the spool what Kafka has not acknowledged
	u.await(context.Background(), func() bool { return u.limbo == 0 })
	close(u.drained)
	u.spooler.Wait()
	if !flushed {
		return fmt.Errorf("flush uplink to Kafka: %w; the rest is in the spool", ctx.Err())
	}
	return nil
}

// await waits until ok, which is asked with the lock held, or ctx ends.
func (u *Uplink) await(ctx context.Context, ok func() bool) bool {
	for {
		u.mu.Lock()
		yes := ok()
		u.mu.Unlock()
		if yes {
			return true
		}
		select {
		case <-u.settled:
		case <-ctx.Done():
			return false
		}
	}
}
