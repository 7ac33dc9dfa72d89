package local

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// BenchmarkApply appends a message to one of 64 queues and removes it again, each in a transaction of its own, as a
// connected device with a durable session makes the broker do: one iteration is both. Submitters keep 256 transactions
// under way each.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{100, 1000} {
		for _, submitters := range []int{1, 8} {
			b.Run(fmt.Sprintf("%dB/submitters=%d", size, submitters), func(b *testing.B) {
				benchmarkApply(b, size, submitters)
			})
		}
	}
}

func benchmarkApply(b *testing.B, size, submitters int) {
	db := open(b, b.TempDir(), Options{})
	store := db.BrokerStore()
	payload := make([]byte, size)
	var failed, next atomic.Int64
	var wait sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	used := cpuTime()
	for w := range submitters {
		wait.Go(func() {
			session := fmt.Sprintf("device-%04d", w)
			window := make(chan struct{}, 256)
			for seq := uint64(1); next.Add(1) <= int64(b.N); seq++ {
				window <- struct{}{}
				m := &broker.Message{Topic: "devices/device-0001/up/temperature", Payload: payload, QoS: 1, Origin: session}
				entry := broker.QueueEntry{Seq: seq, Message: m, QoS: 1}
				store.Apply(&broker.Tx{Ops: []broker.Op{{Kind: broker.OpAppend, Session: session, Entry: entry}}},
					func(err error) {
						if err != nil {
							failed.Add(1)
						}
						// The device's acknowledgement comes after the message is stored, and is stored when convenient.
						remove := broker.Op{Kind: broker.OpRemove, Session: session, Entry: broker.QueueEntry{Seq: seq}}
						store.Apply(&broker.Tx{Ops: []broker.Op{remove}, Lazy: true}, nil)
						<-window
					})
			}
		})
	}
	wait.Wait()
	require.NoError(b, db.update(put("z", "all is written")))
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-used)/float64(b.N), "cpu-ns/op")
	require.Zero(b, failed.Load())
}

// cpuTime is the processor time of this process in nanoseconds, which other processes do not lengthen.
func cpuTime() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// BenchmarkApplyFanOut appends one message to 500 queues in a transaction.
func BenchmarkApplyFanOut(b *testing.B) {
	db := open(b, b.TempDir(), Options{})
	store := db.BrokerStore()
	window := make(chan struct{}, 16)
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ {
		m := &broker.Message{Topic: "all/devices", Payload: make([]byte, 1000), QoS: 1}
		ops := make([]broker.Op, 500)
		for i := range ops {
			ops[i] = broker.Op{Kind: broker.OpAppend, Session: fmt.Sprintf("device-%04d", i),
				Entry: broker.QueueEntry{Seq: seq, Message: m, QoS: 1}}
		}
		window <- struct{}{}
		store.Apply(&broker.Tx{Ops: ops}, func(error) { <-window })
	}
}

// BenchmarkQueue reads a page of 100 entries out of 10,000. A shared message is one that two queues wait for.
func BenchmarkQueue(b *testing.B) {
	for _, shared := range []bool{false, true} {
		b.Run(fmt.Sprintf("shared=%v", shared), func(b *testing.B) {
			db := open(b, b.TempDir(), Options{})
			store := db.BrokerStore()
			const entries = 10_000
			for seq := uint64(1); seq <= entries; seq++ {
				m := &broker.Message{Topic: "devices/device-0001/commands/1", Payload: make([]byte, 1000), QoS: 1}
				tx := &broker.Tx{Lazy: seq < entries}
				for _, session := range []string{"a", "b"} {
					tx.Ops = append(tx.Ops, broker.Op{Kind: broker.OpAppend, Session: session,
						Entry: broker.QueueEntry{Seq: seq, Message: m, QoS: 1}})
					if !shared {
						break
					}
				}
				store.Apply(tx, nil)
			}
			require.NoError(b, db.update(put("z", "all is written")))
			b.ReportAllocs()
			from := uint64(1)
			for b.Loop() {
				page, err := store.Queue("a", from, 100, 1<<20)
				if err != nil || len(page) != 100 {
					b.Fatal(err, len(page))
				}
				if from += 100; from > entries {
					from = 1
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/entry")
		})
	}
}

// BenchmarkDeleteSession makes and deletes a small session, one transaction each.
func BenchmarkDeleteSession(b *testing.B) {
	db := open(b, b.TempDir(), Options{})
	store := db.BrokerStore()
	window := make(chan struct{}, 256)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("device-%09d", i)
		make := []broker.Op{{Kind: broker.OpPutSession, Record: &broker.SessionRecord{ClientID: id}},
			{Kind: broker.OpPutSubscription, Session: id, Subscription: broker.Subscription{Filter: "a/b"}}}
		window <- struct{}{}
		store.Apply(&broker.Tx{Ops: make}, func(error) {
			store.Apply(&broker.Tx{Ops: []broker.Op{{Kind: broker.OpDeleteSession, Session: id}}, Lazy: true},
				func(error) { <-window })
		})
	}
}

// BenchmarkOpen opens a store that holds 10,000 writes in its log, and one that holds nothing.
func BenchmarkOpen(b *testing.B) {
	for _, writes := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("log=%d", writes), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				if writes > 0 {
					db := open(b, dir, Options{})
					for i := range writes {
						db.submit(false, put(fmt.Sprintf("z%05d", i), strings.Repeat("v", 100)), nil)
					}
					require.NoError(b, db.Close())
				}
				b.StartTimer()
				db := open(b, dir, Options{})
				b.StopTimer()
				require.NoError(b, db.Close())
				b.StartTimer()
			}
		})
	}
}
