package bridge_test

import (
	"bytes"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/hooks/uplink"
	"github.com/penstockmq/penstock/internal/testenv"
)

// BenchmarkUplinkToKafka measures our own processor time for each 1 kB record, from Send to its answer, against a real
// Kafka in another process: acks = all, idempotent.
func BenchmarkUplinkToKafka(b *testing.B) {
	k := testenv.StartKafka(b)
	_, spool := openSpool(b, b.TempDir(), 4<<30)
	u, err := bridge.NewUplink(kafkaConfig(b, k.Brokers...), bridge.Options{Spool: spool,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(b, err)
	u.Start()
	defer closeUplink(b, u)
	send := sender(u)
	send(1000) // topic and connections
	testenv.Eventually(b, 10*time.Second, "circuit closes", func() bool { return u.Status().Circuit == "closed" })

	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	send(b.N)
	b.StopTimer()
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(u.Status().SpoolMessages), "spooled")
}

// sender returns a function that sends n records of 1 kB from 1,000 devices, at most 10,000 unanswered at once, and
// returns when all are answered.
func sender(s uplink.Sink) func(n int) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 64)
	keys := make([][]byte, 1000)
	for i := range keys {
		keys[i] = []byte("device-" + strconv.Itoa(i))
	}
	headers := []uplink.Header{{Key: []byte("client_id"), Value: keys[0]}, {Key: []byte("qos"), Value: []byte("1")}}
	window := make(chan struct{}, 10000)
	return func(n int) {
		var wg sync.WaitGroup
		done := func(error) { <-window; wg.Done() }
		for i := range n {
			window <- struct{}{}
			wg.Add(1)
			s.Send(&uplink.Record{Topic: "bench", Key: keys[i%len(keys)], Value: payload, Headers: headers,
				Time: 1700000000000}, done)
		}
		wg.Wait()
	}
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkLog measures the local log, on disk, with fsync.
func BenchmarkLog(b *testing.B) {
	_, spool := openSpool(b, b.TempDir(), 4<<30)
	l, err := bridge.NewLog(bridge.SpoolConfig{MaxBytes: 4 << 30}, bridge.Options{Spool: spool})
	require.NoError(b, err)
	l.Start()
	defer l.Close(b.Context())
	send := sender(l)
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	send(b.N)
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
