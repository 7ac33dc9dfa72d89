package systest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/bench"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

func uplinkThroughKill(t *testing.T, k *testenv.Kafka, devices int, messages int64) {
	n := startUplinkNode(t, k, "killed")
	load := startUplinkLoad(t, n, devices, messages, 4000)
	load.await(messages / 4)
	k.Stop()
	load.finish()
	spooled := n.metric("penstock_spool_messages")
	require.Positive(t, spooled)
	n.Kill()
	n.Start()
	require.GreaterOrEqual(t, n.metric("penstock_spool_messages"), spooled)
	k.Start()
	n.awaitDrained()
	checkTopic(t, k, "killed", devices, messages)
}

// uplinkDevice publishes numbered messages with a window, and after each loss of its connection sends again what was
// not acknowledged, as a device does.
type uplinkDevice struct {
	testnode.Session
	number uint32
	halt   *atomic.Bool // no new messages
	next   uint64       // of those that are acknowledged
}

// serve publishes until the connection ends, or until the device was halted and everything is acknowledged.
func (d *uplinkDevice) serve(c *testmqtt.Client, _ bool) error {
	for sent := d.next; ; {
		for ; sent < d.next+10 && !d.halt.Load(); sent++ {
			payload := make([]byte, bench.StampSize)
			binary.BigEndian.PutUint32(payload[4:], d.number)
			binary.BigEndian.PutUint64(payload[8:], sent)
			topic := fmt.Sprintf("devices/device-%d/up/x", d.number)
			if err := c.TrySend(testmqtt.PublishPacket(topic, payload, 1, uint16(sent%60_000+1))); err != nil {
				return err
			}
		}
		if sent == d.next {
			return nil
		}
		if ack, err := c.Read(patience); err != nil || ack.ReasonCode >= 0x80 {
			return fmt.Errorf("publish: code 0x%02X, %v", ack.ReasonCode, err)
		}
		d.next++ // acknowledgements come in order [MQTT-4.6.0-2]
	}
}

func startUplinkDevices(t *testing.T, n *node, devices int) (finish func() (acknowledged int64)) {
	halt := new(atomic.Bool)
	all := make([]*uplinkDevice, devices)
	for i := range all {
		d := &uplinkDevice{
			Session: testnode.Session{T: t, Address: n.MQTT, ID: fmt.Sprintf("device-%d", i), Version: 5},
			number:  uint32(i), halt: halt,
		}
		d.Run(d.serve)
		all[i] = d
	}
	return func() (acknowledged int64) {
		halt.Store(true)
		for _, d := range all {
			next(t, d.Done())
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
		n.Kill()
		n.Start()
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
	n.Signal(syscall.SIGTERM)
	require.Zero(t, n.Exit())
	n.Start()
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
