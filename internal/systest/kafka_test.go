package systest

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/bench"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testkafka"
)

// startUplinkNode starts a node whose uplink goes to a topic of Kafka.
func startUplinkNode(t testing.TB, k *testenv.Kafka, topic string) *node {
	t.Helper()
	return startNode(t, sections{
		"kafka":  fmt.Sprintf(`{brokers: [%q], ack_timeout: 1s, dial_timeout: 1s}`, k.Brokers[0]),
		"uplink": fmt.Sprintf(`{routes: [{filter: "devices/+/up/#", topic: %q, key: "{client_id}"}]}`, topic),
	})
}

// uplinkLoad publishes with QoS 1 and a window until all messages are acknowledged.
type uplinkLoad struct {
	t        testing.TB
	n        *node
	devices  int
	messages int64
	report   *bench.Report
	err      error
	ended    chan struct{}
}

// startUplinkLoad starts a load of so many messages a second; rate 0 is as fast as they are acknowledged.
func startUplinkLoad(t testing.TB, n *node, devices int, messages int64, rate float64) *uplinkLoad {
	t.Helper()
	cfg := bench.NewConfig(bench.ModeUplink, n.MQTT)
	cfg.Publishers, cfg.QoS, cfg.Size, cfg.Messages = devices, 1, 100, messages
	cfg.Inflight, cfg.Warmup, cfg.Rate = 20, 0, rate
	cfg.Duration, cfg.Drain, cfg.Timeout = 150*time.Second, time.Minute, time.Minute
	l := &uplinkLoad{t: t, n: n, devices: devices, messages: messages, ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		l.report, l.err = bench.Run(t.Context(), cfg)
	}()
	return l
}

// await waits until so many messages were acknowledged.
func (l *uplinkLoad) await(acknowledged int64) {
	l.t.Helper()
	testenv.Eventually(l.t, 2*time.Minute, fmt.Sprintf("%d messages are acknowledged", acknowledged), func() bool {
		time.Sleep(20 * time.Millisecond) // reading metrics must not be a load of its own
		return l.n.metric("penstock_uplink_acked_total") >= float64(acknowledged)
	})
}

// finish waits for the end, at which every message must have been acknowledged and no connection lost.
func (l *uplinkLoad) finish() *bench.Report {
	l.t.Helper()
	<-l.ended
	require.NoError(l.t, l.err)
	require.Empty(l.t, l.report.Errors)
	require.Zero(l.t, l.report.Connections.Disconnected)
	require.Equal(l.t, l.messages, l.report.Messages.Acknowledged, "%+v", *l.report.Messages)
	return l.report
}

// received is what a topic held: how often each message of each device, and what was wrong with the order.
type received struct {
	count      [][]uint16 // by device and sequence number
	records    int64
	duplicates int64
	disorder   int64 // messages whose first occurrence came after a later one's
	foreign    int64
}

// readTopic accounts for the stamps of package bench in a topic: run, device, sequence number. Records were keyed by
// device, so that all of one device's are in one partition.
func readTopic(t testing.TB, k *testenv.Kafka, topic string, devices int) *received {
	t.Helper()
	r := &received{count: make([][]uint16, devices)}
	testkafka.Each(t, k.Brokers, topic, func(m *sarama.ConsumerMessage) { r.note(m.Value) })
	return r
}

func (r *received) note(value []byte) {
	r.records++
	if len(value) < bench.StampSize {
		r.foreign++
		return
	}
	device, seq := binary.BigEndian.Uint32(value[4:]), binary.BigEndian.Uint64(value[8:])
	if int(device) >= len(r.count) {
		r.foreign++
		return
	}
	of := r.count[device]
	switch {
	case uint64(len(of)) == seq:
		of = append(of, 1)
	case seq < uint64(len(of)):
		if of[seq] == 0 {
			r.disorder++ // its first occurrence comes after that of a later message
		} else {
			r.duplicates++
		}
		of[seq]++
	default:
		for uint64(len(of)) < seq {
			of = append(of, 0)
		}
		of = append(of, 1)
	}
	r.count[device] = of
}

// missing counts messages that are not there although later ones of the device are.
func (r *received) missing() (gaps, distinct int64) {
	for _, of := range r.count {
		for _, n := range of {
			if n == 0 {
				gaps++
			} else {
				distinct++
			}
		}
	}
	return gaps, distinct
}

// checkTopic checks that every acknowledged message is in Kafka, and in order for each device.
func checkTopic(t testing.TB, k *testenv.Kafka, topic string, devices int, messages int64) {
	t.Helper()
	r := readTopic(t, k, topic, devices)
	gaps, distinct := r.missing()
	t.Logf("Kafka has %d records: %d messages, %d duplicates, %d out of order, %d gaps", r.records, distinct,
		r.duplicates, r.disorder, gaps)
	require.Zero(t, r.foreign)
	require.Zero(t, gaps)
	require.Zero(t, r.disorder, "messages of one device that overtook another")
	require.Equal(t, messages, distinct)
}

func (n *node) awaitDrained() {
	n.T.Helper()
	testenv.Eventually(n.T, 2*time.Minute, "the spool has drained", func() bool {
		time.Sleep(20 * time.Millisecond)
		return n.metric("penstock_spool_messages") == 0 && n.metric("penstock_uplink_circuit_state") == 0
	})
}
