package observe

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
)

// fakeBroker counts nothing: it says what a test wants to see and keeps what was published.
type fakeBroker struct {
	mu       sync.Mutex
	stats    broker.Stats
	retained map[string]string
	writes   int
}

func (f *fakeBroker) Stats() broker.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *fakeBroker) Publish(m *broker.Message, done func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if m.Retain {
		f.retained[m.Topic] = string(m.Payload)
	}
	done(nil)
}

func (f *fakeBroker) value(topic string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.retained["$SYS/broker/"+topic]
}

func TestMetricsCarryTheBrokersFigures(t *testing.T) {
	source := &fakeBroker{stats: broker.Stats{
		Connections: 3, PublishReceived: [3]int64{1, 2, 3}, Delivered: [3]int64{0, 5, 0},
		Dropped: map[string]int64{"queue_full": 4},
	}}
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, Register(registry, source, "1.2.3"))
	err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP penstock_connections Clients connected now.
# TYPE penstock_connections gauge
penstock_connections 3
# HELP penstock_dropped_total Messages dropped on their way to one receiver.
# TYPE penstock_dropped_total counter
penstock_dropped_total{reason="queue_full"} 4
# HELP penstock_publish_received_total PUBLISH packets received from clients.
# TYPE penstock_publish_received_total counter
penstock_publish_received_total{qos="0"} 1
penstock_publish_received_total{qos="1"} 2
penstock_publish_received_total{qos="2"} 3
`), "penstock_connections", "penstock_dropped_total", "penstock_publish_received_total")
	require.NoError(t, err)
	count, err := testutil.GatherAndCount(registry, "penstock_build_info", "go_goroutines", "process_open_fds")
	require.NoError(t, err)
	assert.Equal(t, 3, count)
	assert.Error(t, Register(registry, source, "1.2.3"), "a second registration must be refused, not panic")
}

func TestSysPublishesWhatDashboardsRead(t *testing.T) {
	b := &fakeBroker{retained: map[string]string{}, stats: broker.Stats{
		Connections: 2, Sessions: 5, ConnectionsMax: 4, PublishReceived: [3]int64{6, 1, 0}, Subscriptions: 9, Retained: 8,
	}}
	s := StartSys(SysOptions{Broker: b, Logger: slog.New(slog.DiscardHandler), Version: "1.2.3", Interval: time.Hour})
	testenv.Eventually(t, 5*time.Second, "a first round", func() bool { return b.value("load/sockets/15min") != "" })
	s.Stop()
	for topic, want := range map[string]string{
		"version": "penstock version 1.2.3", "clients/connected": "2", "clients/total": "5", "clients/disconnected": "3",
		"clients/maximum": "4", "publish/messages/received": "7", "subscriptions/count": "9", "retained messages/count": "8",
	} {
		assert.Equal(t, want, b.value(topic), topic)
	}
	assert.Regexp(t, `^\d+ seconds$`, b.value("uptime"))
}

func TestSysPublishesOnlyWhatChanged(t *testing.T) {
	b := &fakeBroker{retained: map[string]string{}}
	s := &Sys{
		opts:    SysOptions{Broker: b, Logger: slog.New(slog.DiscardHandler), Interval: time.Minute},
		started: time.Now(), last: map[string]string{}, loads: newLoads(),
	}
	s.round()
	first := b.writes
	s.round()
	assert.LessOrEqual(t, b.writes-first, 2, "only uptime and heap may have changed")
}

func TestLoadIsAPerMinuteAverage(t *testing.T) {
	l := load{total: func(s *broker.Stats) int64 { return s.BytesReceived }}
	stats := broker.Stats{}
	for range 30 {
		stats.BytesReceived += 100
		l.advance(&stats, 10*time.Second)
	}
	assert.InDelta(t, 600, l.average[0], 10, "five minutes of 600 a minute fill the one-minute average")
	assert.Less(t, l.average[2], l.average[1], "longer windows follow more slowly")
}
