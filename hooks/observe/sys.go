package observe

import (
	"context"
	"log/slog"
	"math"
	"runtime/metrics"
	"strconv"
	"time"

	"github.com/penstockmq/penstock/broker"
)

// Target is the broker as Sys needs it.
type Target interface {
	StatsSource
	Publish(m *broker.Message, done func(error))
}

// SysOptions are what a Sys is made of.
type SysOptions struct {
	Broker   Target        // required
	Logger   *slog.Logger  // required
	Version  string        // of this build
	Interval time.Duration // between two rounds; required, greater than zero
}

// Sys publishes the broker's figures under $SYS/broker with the topic names of mosquitto, retained, and only what has
// changed since the last round.
type Sys struct {
	opts    SysOptions
	started time.Time
	cancel  context.CancelFunc
	stopped chan struct{}

	last  map[string]string // topic → value as last published
	loads []load
}

// load is a per-minute rate, averaged exponentially over 1, 5 and 15 minutes, as mosquitto computes it.
type load struct {
	name    string
	total   func(*broker.Stats) int64
	last    int64
	average [3]float64
}

var loadWindows = [3]struct {
	name    string
	minutes float64
}{{"1min", 1}, {"5min", 5}, {"15min", 15}}

// StartSys publishes a first round and then one in every interval, until Stop.
func StartSys(opts SysOptions) *Sys {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sys{
		opts: opts, started: time.Now(), cancel: cancel, stopped: make(chan struct{}),
		last: make(map[string]string), loads: newLoads(),
	}
	go s.run(ctx)
	return s
}

func newLoads() []load {
	return []load{
		{name: "messages/received", total: func(s *broker.Stats) int64 { return s.PacketsReceived }},
		{name: "messages/sent", total: func(s *broker.Stats) int64 { return s.PacketsSent }},
		{name: "publish/received", total: func(s *broker.Stats) int64 { return sum(s.PublishReceived) }},
		{name: "publish/sent", total: func(s *broker.Stats) int64 { return sum(s.Delivered) }},
		{name: "publish/dropped", total: func(s *broker.Stats) int64 { return sumOf(s.Dropped) }},
		{name: "bytes/received", total: func(s *broker.Stats) int64 { return s.BytesReceived }},
		{name: "bytes/sent", total: func(s *broker.Stats) int64 { return s.BytesSent }},
		{name: "connections", total: func(s *broker.Stats) int64 { return s.ConnectAccepted }},
		{name: "sockets", total: func(s *broker.Stats) int64 { return s.ConnectAccepted + sumOf(s.ConnectRefused) }},
	}
}

func (s *Sys) run(ctx context.Context) {
	defer close(s.stopped)
	ticker := time.NewTicker(s.opts.Interval)
	defer ticker.Stop()
	s.round()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.round()
		}
	}
}

// Stop ends the rounds and waits for the one that may be going on.
func (s *Sys) Stop() {
	s.cancel()
	<-s.stopped
}

func (s *Sys) round() {
	stats := s.opts.Broker.Stats()
	s.put("version", "penstock version "+s.opts.Version)
	s.put("uptime", strconv.FormatInt(int64(time.Since(s.started)/time.Second), 10)+" seconds")
	for _, v := range []struct {
		topic string
		value int64
	}{
		{"clients/connected", stats.Connections},
		{"clients/active", stats.Connections}, // the old name of connected, which dashboards still read
		{"clients/disconnected", max(0, stats.Sessions-stats.Connections)},
		{"clients/inactive", max(0, stats.Sessions-stats.Connections)},
		{"clients/total", stats.Sessions},
		{"clients/maximum", stats.ConnectionsMax},
		{"messages/received", stats.PacketsReceived},
		{"messages/sent", stats.PacketsSent},
		{"messages/stored", stats.Retained + stats.QueuedMessages},
		{"store/messages/count", stats.Retained + stats.QueuedMessages},
		{"store/messages/bytes", stats.QueuedBytes},
		{"publish/messages/received", sum(stats.PublishReceived)},
		{"publish/messages/sent", sum(stats.Delivered)},
		{"publish/messages/dropped", sumOf(stats.Dropped)},
		{"bytes/received", stats.BytesReceived},
		{"bytes/sent", stats.BytesSent},
		{"subscriptions/count", stats.Subscriptions},
		{"retained messages/count", stats.Retained},
		{"heap/current", heapBytes()},
	} {
		s.put(v.topic, strconv.FormatInt(v.value, 10))
	}
	for i := range s.loads {
		s.loads[i].advance(&stats, s.opts.Interval)
		for w, window := range loadWindows {
			s.put("load/"+s.loads[i].name+"/"+window.name, strconv.FormatFloat(s.loads[i].average[w], 'f', 2, 64))
		}
	}
}

func (l *load) advance(stats *broker.Stats, interval time.Duration) {
	total := l.total(stats)
	perMinute := float64(total-l.last) * float64(time.Minute) / float64(interval)
	l.last = total
	for w := range l.average {
		weight := math.Exp(-interval.Minutes() / loadWindows[w].minutes)
		l.average[w] = perMinute + weight*(l.average[w]-perMinute)
	}
}

func (s *Sys) put(name, value string) {
	if s.last[name] == value {
		return
	}
	s.last[name] = value
	m := &broker.Message{
		Topic: "$SYS/broker/" + name, Payload: []byte(value), Retain: true, Received: time.Now().UnixMilli(),
	}
	s.opts.Broker.Publish(m, func(err error) {
		if err != nil {
			s.opts.Logger.Debug("publish figures", "topic", m.Topic, "error", err)
		}
	})
}

func sum(n [3]int64) int64 { return n[0] + n[1] + n[2] }

func sumOf(byReason map[string]int64) (total int64) {
	for _, n := range byReason {
		total += n
	}
	return total
}

// heapBytes reads one figure without stopping the world, unlike runtime.ReadMemStats.
func heapBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}
