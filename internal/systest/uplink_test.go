package systest

import (
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testkafka"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

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

// uplinkRecords looks at what becomes of one MQTT message.
func uplinkRecords(t *testing.T, k *testenv.Kafka) {
	n := startUplinkNode(t, k, "records")
	c := testmqtt.Dial(t, n.MQTT, 5)
	c.MustConnect("pump-9")
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	pk := testmqtt.PublishPacket("devices/pump-9/up/temperature", []byte("21.5"), 1, 1)
	pk.Properties.User = []packets.UserProperty{{Key: "traceparent", Val: trace}, {Key: "unit", Val: "C"}}
	c.Send(pk)
	require.Less(t, c.Expect(packets.Puback).ReasonCode, byte(0x80))
	n.awaitDrained() // it may have come before Kafka was reached
	records := testkafka.All(t, k.Brokers, "records")
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
