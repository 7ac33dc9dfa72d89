package systest

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/bench"
	"github.com/penstockmq/penstock/internal/testenv"
)

const uplinkTopic = "penstock.uplink"

func uplinkSections(k *testenv.Kafka) sections {
	return sections{
		"kafka":  fmt.Sprintf(`{brokers: [%q], ack_timeout: 1s, dial_timeout: 1s}`, k.Brokers[0]),
		"uplink": `{routes: [{filter: "devices/+/up/#", topic: penstock.uplink, key: "{client_id}"}]}`,
	}
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
	cfg := bench.NewConfig(bench.ModeUplink, n.mqtt)
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

// readTopic reads all partitions of the uplink topic from the beginning. Records were keyed by device, so that all of
// one device's are in one partition; they carry the stamp of package bench: run, device, sequence number.
func readTopic(t testing.TB, k *testenv.Kafka, devices int) *received {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Consumer.Fetch.Default = 4 << 20
	client, err := sarama.NewClient(k.Brokers, cfg)
	require.NoError(t, err)
	defer client.Close()
	partitions, err := client.Partitions(uplinkTopic)
	require.NoError(t, err)
	consumer, err := sarama.NewConsumerFromClient(client)
	require.NoError(t, err)
	defer consumer.Close()
	r := &received{count: make([][]uint16, devices)}
	for _, p := range partitions {
		end, err := client.GetOffset(uplinkTopic, p, sarama.OffsetNewest)
		require.NoError(t, err)
		if end > 0 {
			r.readPartition(t, consumer, p, end)
		}
	}
	return r
}

func (r *received) readPartition(t testing.TB, consumer sarama.Consumer, partition int32, end int64) {
	t.Helper()
	pc, err := consumer.ConsumePartition(uplinkTopic, partition, sarama.OffsetOldest)
	require.NoError(t, err)
	defer pc.Close()
	for {
		m := next(t, pc.Messages())
		r.note(m.Value)
		if m.Offset+1 >= end {
			return
		}
	}
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
func checkTopic(t testing.TB, k *testenv.Kafka, devices int, messages int64) *received {
	t.Helper()
	r := readTopic(t, k, devices)
	gaps, distinct := r.missing()
	t.Logf("Kafka has %d records: %d messages, %d duplicates, %d out of order, %d gaps", r.records, distinct,
		r.duplicates, r.disorder, gaps)
	require.Zero(t, r.foreign)
	require.Zero(t, gaps)
	require.Zero(t, r.disorder, "messages of one device that overtook another")
	require.Equal(t, messages, distinct)
	return r
}

func (n *node) awaitDrained(within time.Duration) {
	n.t.Helper()
	testenv.Eventually(n.t, within, "the spool has drained", func() bool {
		time.Sleep(20 * time.Millisecond)
		return n.metric("penstock_spool_messages") == 0 && n.metric("penstock_uplink_circuit_state") == 0
	})
}

// TestUplinkSurvivesKafkaBeingStopped is the acceptance case in small; with PENSTOCK_TEST_LONG=1 there is the whole.
func TestUplinkSurvivesKafkaBeingStopped(t *testing.T) {
	uplinkThroughOutage(t, 100, 20_000, 5000, 3*time.Second)
}

// TestMillionUplinkMessagesSurviveKafkaBeingStopped is the acceptance case: a million messages of a thousand devices.
func TestMillionUplinkMessagesSurviveKafkaBeingStopped(t *testing.T) {
	if os.Getenv("PENSTOCK_TEST_LONG") != "1" {
		t.Skip("takes minutes: set PENSTOCK_TEST_LONG=1")
	}
	uplinkThroughOutage(t, 1000, 1_000_000, 0, 10*time.Second)
}

func uplinkThroughOutage(t *testing.T, devices int, messages int64, rate float64, outage time.Duration) {
	k := testenv.StartKafka(t)
	n := startNode(t, uplinkSections(k))
	load := startUplinkLoad(t, n, devices, messages, rate)
	load.await(messages / 4)
	k.Stop()
	down := time.Now()
	time.Sleep(outage) // is the length of the outage, not a wait for something
	spooled := n.metric("penstock_spool_messages")
	require.Positive(t, spooled, "nothing went to the spool while Kafka was down")
	k.Start()
	up := time.Now()
	report := load.finish()
	t.Logf("%d acknowledged in %.1f s: %.0f a second; ack p99 %.0f ms; spool at the end of the outage: %.0f",
		report.Messages.Acknowledged, report.Measured.Seconds, report.Measured.AckedPerSecond, report.AckLatency.P99,
		spooled)
	n.awaitDrained(2 * time.Minute)
	t.Logf("Kafka was away for %v, and the spool empty %v after its return", up.Sub(down).Round(time.Millisecond),
		time.Since(up).Round(time.Millisecond))
	checkTopic(t, k, devices, messages)
	require.Zero(t, n.metric("penstock_publish_refused_total"))
}

func TestUplinkSurvivesKafkaBeingFrozen(t *testing.T) {
	const devices, messages = 50, 20_000
	k := testenv.StartKafka(t)
	n := startNode(t, uplinkSections(k))
	load := startUplinkLoad(t, n, devices, messages, 4000)
	load.await(messages / 4)
	k.Pause()
	frozen := time.NewTimer(5 * time.Second)
	load.await(messages / 2) // the devices notice nothing
	<-frozen.C
	k.Resume()
	load.finish()
	n.awaitDrained(2 * time.Minute)
	checkTopic(t, k, devices, messages)
}

func TestUplinkSpoolSurvivesKill(t *testing.T) {
	const devices, messages = 50, 10_000
	k := testenv.StartKafka(t)
	n := startNode(t, uplinkSections(k))
	load := startUplinkLoad(t, n, devices, messages, 4000)
	load.await(messages / 4)
	k.Stop()
	load.finish()
	spooled := n.metric("penstock_spool_messages")
	require.Positive(t, spooled)
	n.kill()
	n.start()
	require.GreaterOrEqual(t, n.metric("penstock_spool_messages"), spooled)
	k.Start()
	n.awaitDrained(2 * time.Minute)
	checkTopic(t, k, devices, messages)
}
