package systest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testkafka"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// uplinkThroughFullSpool stops Kafka until the spool is full. What is refused then is told so, what was accepted
// arrives, and publishes are accepted again as soon as there is room.
func uplinkThroughFullSpool(t *testing.T, k *testenv.Kafka) {
	n := newNode(t, sections{
		"kafka":  fmt.Sprintf(`{brokers: [%q], ack_timeout: 1s, dial_timeout: 1s, max_inflight: 1MiB}`, k.Brokers[0]),
		"uplink": `{routes: [{filter: "devices/+/up/#", topic: full}]}`,
		"spool":  `{max_bytes: 1MiB}`,
	})
	k.Stop()
	n.Start()
	p := startCounting(t, n)
	var code byte
	for code < 0x80 && p.sent < 10_000 {
		code = p.publish()
	}
	require.EqualValues(t, 0x97, code, "after %d messages of 4 kB", p.sent)
	require.Greater(t, len(p.accepted), 100)
	three := testmqtt.Dial(t, n.MQTT, 4)
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
	p := &counting{t: t, c: testmqtt.Dial(t, n.MQTT, 5)}
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
	for _, r := range testkafka.All(p.t, k.Brokers, topic) {
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
	n.Configure(sections{
		"node":   fmt.Sprintf("{data: %q, sys_interval: 0s}", filepath.Join(disk, "data")),
		"kafka":  fmt.Sprintf(`{brokers: [%q], ack_timeout: 1s, dial_timeout: 1s}`, k.Brokers[0]),
		"uplink": `{routes: [{filter: "devices/+/up/#", topic: disk}]}`,
	})
	n.Start()
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
	n.Kill() // before its disk goes
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
	require.Len(t, testkafka.All(t, k.Brokers, "large"), 5)
	p.check(k, "large")
}
