package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/uplink"
)

const (
	logPending   = 32 * mib // bytes of records that wait for the disk; beyond, publishes are refused
	trimEntries  = 1024     // records that are looked at at once when the log is trimmed
	trimBytes    = 4 * mib
	oldestAgeGap = time.Minute // how much longer than its retention a record may stay
	tailEntries  = 256         // records that a reader takes at once
	tailBytes    = mib
)

// Log is the Sink where no Kafka is configured: it keeps records on disk within a bound of bytes and age, the newest
// ones, and lets readers follow them.
type Log struct {
	cfg   SpoolConfig
	spool Spool
	log   *slog.Logger

	wake    chan struct{} // holds one token
	quit    chan struct{}
	worker  sync.WaitGroup
	removed prometheus.Counter
	expires time.Time // when the oldest record is past its age; owned by run

	mu      sync.Mutex
	closing bool
	nextSeq uint64
	pending []logItem
	held    int64         // bytes of records that are not answered
	limbo   int           // their number
	settled chan struct{} // holds one token: limbo may have become 0
	durable uint64        // the last record on disk
	grown   chan struct{} // closed when durable grows; nil: nobody waits
}

type logItem struct {
	entry Entry
	done  func(error)
}

var _ uplink.Sink = (*Log)(nil)

// NewLog makes the sink. The Spool's room must be at least cfg.MaxBytes.
func NewLog(cfg SpoolConfig, opts Options) (*Log, error) {
	last := opts.Spool.Stats().Last
	l := &Log{cfg: cfg, spool: opts.Spool, log: opts.Log, nextSeq: last + 1, durable: last,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), settled: make(chan struct{}, 1),
		removed: prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_uplink_log_removed_total",
			Help: "Records removed from the local uplink log by age or for room."})}
	if l.log == nil {
		l.log = slog.Default()
	}
	return l, registerAll(opts.Registerer, l.removed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "penstock_spool_messages",
			Help: "Records on disk that wait for Kafka."}, func() float64 { return 0 }), // dashboards ask for it
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "penstock_uplink_log_messages",
			Help: "Records in the local uplink log."}, func() float64 { return float64(l.spool.Stats().Messages) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "penstock_uplink_log_bytes",
			Help: "Bytes on disk of the local uplink log."}, func() float64 { return float64(l.spool.Stats().Bytes) }))
}

// Start begins to store. Before it, Send only gathers.
func (l *Log) Start() { l.worker.Go(l.run) }

// Send takes a record; see uplink.Sink. It refuses with 0x97 when the disk cannot keep up, and with 0x83 when the disk
// fails, or after Close.
func (l *Log) Send(r *uplink.Record, done func(error)) {
	size := int64(r.Size())
	l.mu.Lock()
	var refusal *broker.Refusal
	switch {
	case l.closing:
		refusal = broker.Refuse(packets.ErrImplementationSpecificError, "uplink is shut down")
	case l.held+size > logPending:
		refusal = broker.Refuse(packets.ErrQuotaExceeded, "disk is slower than the uplink")
	default:
		l.pending = append(l.pending, logItem{Entry{Seq: l.nextSeq, Record: r, Size: size}, done})
		l.nextSeq++
		l.held += size
		l.limbo++
	}
	l.mu.Unlock()
	if refusal != nil {
		done(refusal)
		return
	}
	signal(l.wake)
}

func (l *Log) run() {
	age := time.NewTicker(oldestAgeGap)
	defer age.Stop()
	l.trim(0)
	for {
		l.mu.Lock()
		batch := l.pending
		l.pending = nil
		l.mu.Unlock()
		if len(batch) > 0 {
			l.store(batch)
			continue
		}
		select {
		case <-l.wake:
		case <-age.C:
			l.trim(0)
		case <-l.quit:
			return
		}
	}
}

// store makes room for the batch and appends it.
func (l *Log) store(batch []logItem) {
	entries := make([]Entry, len(batch))
	bytes := int64(0)
	for i := range batch {
		entries[i] = batch[i].entry
		bytes += batch[i].entry.Size
	}
	l.trim(bytes)
	l.spool.Append(entries, func(taken int, err error) { l.stored(batch, taken, err) })
}

func (l *Log) stored(batch []logItem, taken int, err error) {
	l.mu.Lock()
	for i := range batch {
		l.held -= batch[i].entry.Size
	}
	if taken > 0 && err == nil {
		l.durable = batch[taken-1].entry.Seq
		if l.grown != nil {
			close(l.grown)
			l.grown = nil
		}
	}
	l.mu.Unlock()
	var failure error
	if err != nil {
		failure = broker.Refuse(packets.ErrImplementationSpecificError, "%v", fmt.Errorf("store uplink: %w", err))
	}
	for i := range batch[:taken] {
		batch[i].done(failure)
	}
	for i := range batch[taken:] {
		batch[taken+i].done(broker.Refuse(packets.ErrQuotaExceeded, "uplink log is full"))
	}
	l.mu.Lock()
	if l.limbo -= len(batch); l.limbo == 0 {
		signal(l.settled)
	}
	l.mu.Unlock()
}

// trim removes the oldest records: those past their age, and as many as it takes for need more bytes to fit.
func (l *Log) trim(need int64) {
	for {
		stats := l.spool.Stats()
		// A sixteenth stays free, so that not every batch has to trim.
		tooMuch := stats.Bytes + need - int64(l.cfg.MaxBytes)
		if tooMuch > 0 {
			tooMuch += int64(l.cfg.MaxBytes) / 16
		}
		byAge := l.cfg.Retention > 0 && !time.Now().Before(l.expires)
		if stats.Messages == 0 || tooMuch <= 0 && !byAge {
			return
		}
		entries, err := l.spool.Read(stats.First, trimEntries, trimBytes)
		if err != nil {
			l.log.Error("uplink log cannot be trimmed", "error", err)
			return
		}
		messages, bytes := l.excess(entries, tooMuch)
		if messages > 0 {
			l.spool.Remove(entries[messages-1].Seq, messages, bytes)
			l.removed.Add(float64(messages))
		}
		if messages < len(entries) {
			l.expires = time.UnixMilli(entries[messages].Record.Time).Add(l.cfg.Retention)
		}
		if messages == 0 || messages < len(entries) {
			return
		}
	}
}

// excess returns how many of the oldest entries have to go.
func (l *Log) excess(entries []Entry, tooMuch int64) (messages int, bytes int64) {
	oldest := int64(0)
	if l.cfg.Retention > 0 {
		oldest = time.Now().Add(-l.cfg.Retention).UnixMilli()
	}
	for i := range entries {
		if bytes >= tooMuch && entries[i].Record.Time >= oldest {
			break
		}
		messages++
		bytes += entries[i].Size
	}
	return messages, bytes
}

// Stats returns how much the log holds.
func (l *Log) Stats() SpoolStats { return l.spool.Stats() }

// Tail yields stored records in order, from sequence number from on (0: from the oldest). With follow it then waits for
// new ones until ctx ends; without, it returns nil at the end. It returns the first error of yield. A reader that is
// slower than the log is trimmed misses what was removed.
func (l *Log) Tail(ctx context.Context, from uint64, follow bool, yield func(Entry) error) error {
	for {
		l.mu.Lock()
		durable := l.durable
		l.mu.Unlock()
		entries, err := l.spool.Read(from, tailEntries, tailBytes)
		if err != nil {
			return fmt.Errorf("read uplink log: %w", err)
		}
		for _, e := range entries {
			if e.Seq > durable {
				break // its publisher has no answer yet
			}
			if err := yield(e); err != nil {
				return err
			}
			from = e.Seq + 1
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(entries) > 0 && from <= durable {
			continue
		}
		if !follow {
			return nil
		}
		if err := l.awaitGrowth(ctx, max(from, durable+1)); err != nil {
			return err
		}
	}
}

// awaitGrowth returns when there may be a record with this sequence number.
func (l *Log) awaitGrowth(ctx context.Context, seq uint64) error {
	l.mu.Lock()
	if l.durable >= seq {
		l.mu.Unlock()
		return nil
	}
	if l.grown == nil {
		l.grown = make(chan struct{})
	}
	grown := l.grown
	l.mu.Unlock()
	select {
	case <-grown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close takes no more records and waits until all that were sent are answered, or ctx ends.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil
	}
	l.closing = true
	left := l.limbo
	l.mu.Unlock()
	for left > 0 {
		select {
		case <-l.settled:
		case <-ctx.Done():
			close(l.quit)
			l.worker.Wait()
			return fmt.Errorf("flush uplink log: %w", ctx.Err())
		}
		l.mu.Lock()
		left = l.limbo
		l.mu.Unlock()
	}
	close(l.quit)
	l.worker.Wait()
	return nil
}
