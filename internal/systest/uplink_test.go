package systest

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/bench"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
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

// eachRecord reads all partitions of a topic from the beginning to what is their end now.
func eachRecord(t testing.TB, k *testenv.Kafka, topic string, each func(*sarama.ConsumerMessage)) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Consumer.Fetch.Default = 4 << 20
	client, err := sarama.NewClient(k.Brokers, cfg)
	require.NoError(t, err)
	defer client.Close()
	partitions, err := client.Partitions(topic)
	require.NoError(t, err)
	consumer, err := sarama.NewConsumerFromClient(client)
	require.NoError(t, err)
	defer consumer.Close()
	for _, p := range partitions {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		require.NoError(t, err)
		if end == 0 {
			continue
		}
		pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		require.NoError(t, err)
		for last := int64(-1); last+1 < end; {
			m := next(t, pc.Messages())
			last = m.Offset
			each(m)
		}
		require.NoError(t, pc.Close())
	}
}

func readRecords(t testing.TB, k *testenv.Kafka, topic string) (records []*sarama.ConsumerMessage) {
	t.Helper()
	eachRecord(t, k, topic, func(m *sarama.ConsumerMessage) { records = append(records, m) })
	return records
}

// readTopic accounts for the stamps of package bench in a topic: run, device, sequence number. Records were keyed by
// device, so that all of one device's are in one partition.
func readTopic(t testing.TB, k *testenv.Kafka, topic string, devices int) *received {
	t.Helper()
	r := &received{count: make([][]uint16, devices)}
	eachRecord(t, k, topic, func(m *sarama.ConsumerMessage) { r.note(m.Value) })
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
	n.t.Helper()
	testenv.Eventually(n.t, 2*time.Minute, "the spool has drained", func() bool {
		time.Sleep(20 * time.Millisecond)
		return n.metric("penstock_spool_messages") == 0 && n.metric("penstock_uplink_circuit_state") == 0
	})
}

func TestUplinkIntoKafka(t *testing.T) {
	t.Parallel()
	k := testenv.StartKafka(t)
	t.Run("records", func(t *testing.T) { uplinkRecords(t, k) })
	t.Run("stopped", func(t *testing.T) { uplinkThroughOutage(t, k, 100, 20_000, 5000, 3*time.Second) })
	t.Run("frozen", func(t *testing.T) { uplinkThroughFreeze(t, k, 50, 20_000) })
	t.Run("node killed under load", func(t *testing.T) { uplinkThroughKills(t, k) })
	t.Run("node stopped with a spool", func(t *testing.T) { uplinkThroughStop(t, k) })
	t.Run("too large for Kafka", func(t *testing.T) { uplinkTooLarge(t, k) })
	t.Run("disk full while Kafka is away", func(t *testing.T) { uplinkThroughFullDisk(t, k) })
	t.Run("spool full", func(t *testing.T) { uplinkThroughFullSpool(t, k) })
	t.Run("node killed with a spool", func(t *testing.T) { uplinkThroughKill(t, k, 50, 10_000) })
}

// TestMillionUplinkMessagesSurviveKafkaBeingStopped is the acceptance case: a million messages of a thousand devices.
func TestMillionUplinkMessagesSurviveKafkaBeingStopped(t *testing.T) {
	if os.Getenv("PENSTOCK_TEST_LONG") != "1" {
		t.Skip("takes minutes: set PENSTOCK_TEST_LONG=1")
	}
	uplinkThroughOutage(t, testenv.StartKafka(t), 1000, 1_000_000, 0, 10*time.Second)
}

func uplinkThroughOutage(t *testing.T, k *testenv.Kafka, devices int, messages int64, rate float64,
	outage time.Duration) {
	n := startUplinkNode(t, k, "stopped")
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
	n.awaitDrained()
	t.Logf("Kafka was away for %v, and the spool empty %v after its return", up.Sub(down).Round(time.Millisecond),
		time.Since(up).Round(time.Millisecond))
	checkTopic(t, k, "stopped", devices, messages)
	require.Zero(t, n.metric("penstock_publish_refused_total"))
}

func uplinkThroughFreeze(t *testing.T, k *testenv.Kafka, devices int, messages int64) {
	n := startUplinkNode(t, k, "frozen")
	load := startUplinkLoad(t, n, devices, messages, 4000)
	load.await(messages / 4)
	k.Pause()
	frozen := time.NewTimer(5 * time.Second)
	load.await(messages / 2) // the devices notice nothing
	<-frozen.C
	k.Resume()
	load.finish()
	n.awaitDrained()
	checkTopic(t, k, "frozen", devices, messages)
}

func uplinkThroughKill(t *testing.T, k *testenv.Kafka, devices int, messages int64) {
	n := startUplinkNode(t, k, "killed")
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
	n.awaitDrained()
	checkTopic(t, k, "killed", devices, messages)
}

// uplinkRecords looks at what becomes of one MQTT message.
func uplinkRecords(t *testing.T, k *testenv.Kafka) {
	n := startUplinkNode(t, k, "records")
	c := testmqtt.Dial(t, n.mqtt, 5)
	c.MustConnect("pump-9")
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	pk := testmqtt.PublishPacket("devices/pump-9/up/temperature", []byte("21.5"), 1, 1)
	pk.Properties.User = []packets.UserProperty{{Key: "traceparent", Val: trace}, {Key: "unit", Val: "C"}}
	c.Send(pk)
	require.Less(t, c.Expect(packets.Puback).ReasonCode, byte(0x80))
	n.awaitDrained() // it may have come before Kafka was reached
	records := readRecords(t, k, "records")
	require.Len(t, records, 1)
	headers := map[string]string{}
	for _, h := range records[0].Headers {
		headers[string(h.Key)] = string(h.Value)
	}
	require.Equal(t, "21.5", string(records[0].Value))
	require.Equal(t, "pump-9", string(records[0].Key))
	require.Equal(t, "pump-9", headers["client_id"])
	require.Equal(t, "devices/pump-9/up/temperature", headers["mqtt_topic"])
	require.Equal(t, "1", headers["qos"])
	require.Equal(t, "C", headers["user.unit"])
	require.Contains(t, headers["traceparent"], "0af7651916cd43dd8448eb211c80319c")
	require.NotEmpty(t, headers["received_at"])
}

// uplinkThroughFullSpool stops Kafka until the spool is full. What is refused then is told so, what was accepted
// arrives, and publishes are accepted again as soon as there is room.
func uplinkThroughFullSpool(t *testing.T, k *testenv.Kafka) {
	n := newNode(t, sections{
		"kafka":  fmt.Sprintf(`{brokers: [%q], ack_timeout: 1s, dial_timeout: 1s, max_inflight: 1MiB}`, k.Brokers[0]),
		"uplink": `{routes: [{filter: "devices/+/up/#", topic: full}]}`,
		"spool":  `{max_bytes: 1MiB}`,
	})
	k.Stop()
	n.start()
	p := startCounting(t, n)
	var code byte
	for code < 0x80 && p.sent < 10_000 {
		code = p.publish()
	}
	require.EqualValues(t, 0x97, code, "after %d messages of 4 kB", p.sent)
	require.Greater(t, len(p.accepted), 100)
	three := testmqtt.Dial(t, n.mqtt, 4)
	three.MustConnect("pump-2")
	three.Publish("devices/pump-2/up/x", strings.Repeat("x", 4000), 1, 1)
	require.NotEqual(t, byte(packets.Puback), three.ExpectClosed().FixedHeader.Type, "MQTT 3 was told that it is safe")
	require.Positive(t, n.metric("penstock_uplink_refused_total"))
	k.Start()
	p.awaitAccepted()
	n.awaitDrained()
	p.check(k, "full")
}

// counting publishes numbered messages of 4 kB one by one, and remembers which were accepted.
type counting struct {
	t        testing.TB
	c        *testmqtt.Client
	sent     int
	accepted []string
}

func startCounting(t testing.TB, n *node) *counting {
	t.Helper()
	p := &counting{t: t, c: testmqtt.Dial(t, n.mqtt, 5)}
	p.c.MustConnect("pump-1")
	return p
}

// publish returns the reason code of PUBACK.
func (p *counting) publish() byte {
	p.t.Helper()
	p.sent++
	payload := fmt.Sprintf("%06d", p.sent)
	p.c.Publish("devices/pump-1/up/x", payload+strings.Repeat("x", 4000), 1, uint16(p.sent%60_000+1))
	code := p.c.Expect(packets.Puback).ReasonCode
	if code < 0x80 {
		p.accepted = append(p.accepted, payload)
	}
	return code
}

func (p *counting) awaitAccepted() {
	p.t.Helper()
	testenv.Eventually(p.t, patience, "publishes are accepted again", func() bool {
		time.Sleep(20 * time.Millisecond)
		return p.publish() < 0x80
	})
}

// check looks for what was accepted in Kafka: all of it, in order. What was refused may be there as well.
func (p *counting) check(k *testenv.Kafka, topic string) {
	p.t.Helper()
	seen := map[string]bool{}
	var got []string
	for _, r := range readRecords(p.t, k, topic) {
		if payload := string(r.Value[:6]); string(r.Key) == "pump-1" && !seen[payload] {
			seen[payload] = true
			got = append(got, payload)
		}
	}
	require.True(p.t, slices.IsSorted(got), "out of order")
	for _, a := range p.accepted {
		require.True(p.t, seen[a], "message %s was accepted and is lost", a)
	}
}

// uplinkThroughFullDisk fills the disk while Kafka is away, so that the spool has no room.
func uplinkThroughFullDisk(t *testing.T, k *testenv.Kafka) {
	disk := tinyDisk(t, "64m")
	n := newNode(t, nil)
	n.configure(sections{
		"node":   fmt.Sprintf("{data: %q, sys_interval: 0s}", filepath.Join(disk, "data")),
		"kafka":  fmt.Sprintf(`{brokers: [%q], ack_timeout: 1s, dial_timeout: 1s}`, k.Brokers[0]),
		"uplink": `{routes: [{filter: "devices/+/up/#", topic: disk}]}`,
	})
	n.start()
	p := startCounting(t, n)
	for range 50 {
		require.Less(t, p.publish(), byte(0x80))
	}
	k.Stop()
	for range 50 {
		require.Less(t, p.publish(), byte(0x80))
	}
	ballast := fillDisk(t, disk)
	var code byte
	for code < 0x80 && p.sent < 20_000 {
		code = p.publish()
	}
	t.Logf("refused with 0x%02X after %d messages", code, p.sent)
	require.GreaterOrEqual(t, code, byte(0x80))
	require.NoError(t, os.Remove(ballast))
	p.awaitAccepted()
	ballast = fillDisk(t, disk)
	k.Start() // Kafka comes back while the disk is full: the spool drains, and so makes room
	p.awaitAccepted()
	require.NoError(t, os.Remove(ballast))
	n.awaitDrained()
	p.check(k, "disk")
	n.kill() // before its disk goes
}

// uplinkTooLarge publishes what Kafka would not take, between what it does.
func uplinkTooLarge(t *testing.T, k *testenv.Kafka) {
	n := startNode(t, sections{
		"kafka":  fmt.Sprintf(`{brokers: [%q], max_message_bytes: 10KiB}`, k.Brokers[0]),
		"uplink": `{routes: [{filter: "devices/+/up/#", topic: large}]}`,
	})
	p := startCounting(t, n)
	for range 5 {
		require.Less(t, p.publish(), byte(0x80))
		p.c.Publish("devices/pump-1/up/x", strings.Repeat("x", 50_000), 1, 60_001)
		code := p.c.Expect(packets.Puback).ReasonCode
		require.GreaterOrEqual(t, code, byte(0x80), "50 kB")
	}
	n.awaitDrained()
	require.Len(t, readRecords(t, k, "large"), 5)
	p.check(k, "large")
}

// uplinkDevice publishes numbered messages with a window, and after each loss of its connection sends again what was
// not acknowledged, as a device does.
type uplinkDevice struct {
	n      *node
	number uint32
	halt   *atomic.Bool // no new messages
	next   uint64       // of those that are acknowledged
	done   chan struct{}
}

func (d *uplinkDevice) run(t testing.TB) {
	defer close(d.done)
	for !d.session(t) {
		time.Sleep(10 * time.Millisecond) // a device's back-off
	}
}

// session publishes until its connection ends, or until it was halted and everything is acknowledged.
func (d *uplinkDevice) session(t testing.TB) (finished bool) {
	nc, err := net.Dial("tcp", d.n.mqtt)
	if err != nil {
		return false
	}
	defer nc.Close()
	c := testmqtt.New(t, nc, 5)
	if c.TrySend(c.ConnectPacket(fmt.Sprintf("device-%d", d.number))) != nil {
		return false
	}
	if ack, err := c.Read(patience); err != nil || ack.ReasonCode != 0 {
		return false
	}
	for sent := d.next; ; {
		for ; sent < d.next+10 && !d.halt.Load(); sent++ {
			payload := make([]byte, bench.StampSize)
			binary.BigEndian.PutUint32(payload[4:], d.number)
			binary.BigEndian.PutUint64(payload[8:], sent)
			topic := fmt.Sprintf("devices/device-%d/up/x", d.number)
			if c.TrySend(testmqtt.PublishPacket(topic, payload, 1, uint16(sent%60_000+1))) != nil {
				return false
			}
		}
		if sent == d.next {
			return true
		}
		if ack, err := c.Read(patience); err != nil || ack.ReasonCode >= 0x80 {
			return false
		}
		d.next++ // acknowledgements come in order [MQTT-4.6.0-2]
	}
}

func startUplinkDevices(t *testing.T, n *node, devices int) (finish func() (acknowledged int64)) {
	halt := new(atomic.Bool)
	all := make([]*uplinkDevice, devices)
	for i := range all {
		all[i] = &uplinkDevice{n: n, number: uint32(i), halt: halt, done: make(chan struct{})}
		go all[i].run(t)
	}
	return func() (acknowledged int64) {
		halt.Store(true)
		for _, d := range all {
			next(t, d.done)
			acknowledged += int64(d.next)
		}
		return acknowledged
	}
}

// uplinkThroughKills kills the node under load, with Kafka there and away.
func uplinkThroughKills(t *testing.T, k *testenv.Kafka) {
	const devices = 20
	n := startUplinkNode(t, k, "kills")
	finish := startUplinkDevices(t, n, devices)
	for round := range 5 {
		time.Sleep(time.Duration(150+90*round) * time.Millisecond) // under load, at another moment each time
		switch round {
		case 2:
			k.Stop()
		case 3:
			k.Start()
		}
		n.kill()
		n.start()
	}
	acknowledged := finish()
	n.awaitDrained()
	t.Logf("%d messages acknowledged over 5 kills", acknowledged)
	r := readTopic(t, k, "kills", devices)
	gaps, distinct := r.missing()
	t.Logf("Kafka has %d records, %d duplicates", r.records, r.duplicates)
	require.Zero(t, gaps)
	require.Zero(t, r.disorder, "messages of one device that overtook another")
	require.GreaterOrEqual(t, distinct, acknowledged)
}

// uplinkThroughStop stops the node in good order while Kafka is away.
func uplinkThroughStop(t *testing.T, k *testenv.Kafka) {
	const devices = 20
	n := startUplinkNode(t, k, "stops")
	finish := startUplinkDevices(t, n, devices)
	k.Stop()
	testenv.Eventually(t, patience, "the spool fills", func() bool { return n.metric("penstock_spool_messages") > 100 })
	n.signal(syscall.SIGTERM)
	require.Zero(t, n.exit())
	n.start()
	acknowledged := finish()
	k.Start()
	n.awaitDrained()
	r := readTopic(t, k, "stops", devices)
	gaps, distinct := r.missing()
	require.Zero(t, gaps)
	require.Zero(t, r.disorder)
	require.GreaterOrEqual(t, distinct, acknowledged)
	t.Logf("%d messages acknowledged, %d duplicates", acknowledged, r.duplicates)
}
