package command

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
)

// echoBroker has every device connected, and each acknowledges at once.
type echoBroker struct{}

func (echoBroker) Send(_ string, _ *broker.Message, h broker.SendHandler) error {
	h.Sent()
	h.Acked(0)
	return nil
}

func (echoBroker) Publish(_ *broker.Message, done func(error)) { done(nil) }

func (echoBroker) Clients(string, int) []broker.ClientInfo { return nil }

// BenchmarkDeliver10000 takes a command for 10,000 devices from its JSON to the last acknowledgement, stored in memory.
// store/local has the same with the real store.
func BenchmarkDeliver10000(b *testing.B) {
	const devices = 10_000
	store := newMemStore()
	defer store.close()
	cfg := testConfig(b)
	cfg.KeepMax = 1
	s, err := New(Options{Broker: echoBroker{}, Store: store, Config: cfg})
	require.NoError(b, err)
	require.NoError(b, s.Start(context.Background()))
	defer func() { require.NoError(b, s.Stop()) }()
	list := make([]string, devices)
	for i := range list {
		list[i] = fmt.Sprintf("device-%05d", i)
	}
	body := fmt.Appendf(nil, `{"targets":{"devices":[%s]},"payload":{"open":true}}`, commaList(list))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		st, err := s.Issue(context.Background(), Input{Body: body})
		require.NoError(b, err)
		testenv.Eventually(b, time.Minute, "the command is finished", func() bool {
			st, err = s.Status(st.ID)
			return err == nil && st.Done()
		})
		require.EqualValues(b, devices, st.Counts.Delivered)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*devices), "µs/execution")
}

// BenchmarkWaiting shows what an execution costs in memory while its device is away.
func BenchmarkWaiting(b *testing.B) {
	sh := newShard(&Service{cfg: &Config{Queue: 1000, QueuePolicy: PolicyReject, Window: 1}})
	c := newCommand(&Record{ID: "c", TTL: 1000, AckTimeout: 1000})
	devices := make([]string, b.N)
	for i := range devices {
		devices[i] = fmt.Sprintf("device-%07d", i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		sh.admit(sh.put(c, newExecution(uint32(i), devices[i], 1, 1, 1000)))
		sh.ready = sh.ready[:0]
	}
}
