package systest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

// TestWhatANodeKeepsOverAKill looks at everything durable but the load, which package killtest accounts for.
func TestWhatANodeKeepsOverAKill(t *testing.T) {
	t.Parallel()
	n := startNode(t, sections{"limits": "{will_grace: 1s}"})
	keep := testmqtt.Dial(t, n.MQTT, 5)
	keep.MustConnect("keeper", testmqtt.Durable())
	keep.Subscribe(2, "kept/#", "wills/#")
	keep.Disconnect()
	mortal := testmqtt.Dial(t, n.MQTT, 5)
	mortal.MustConnect("mortal", testmqtt.Will("wills/mortal", "gone with the node", 1, true))
	leaver := testmqtt.Dial(t, n.MQTT, 5)
	leaver.MustConnect("leaver", testmqtt.Will("wills/leaver", "must not come", 1, true))
	leaver.Disconnect()

	pub := testmqtt.Dial(t, n.MQTT, 5)
	pub.MustConnect("pub")
	publish := func(topic, payload string, retain bool, expiry uint32) {
		pk := testmqtt.PublishPacket(topic, []byte(payload), 1, 1)
		pk.FixedHeader.Retain = retain
		pk.Properties.MessageExpiryInterval = expiry
		pk.Properties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
		pub.Send(pk)
		require.Less(t, pub.Expect(packets.Puback).ReasonCode, byte(0x80))
	}
	publish("state/a", "retained", true, 0)
	publish("state/b", "removed", true, 0)
	publish("state/b", "", true, 0)
	publish("state/c", "expires", true, 1)
	publish("kept/1", "first", false, 0)
	publish("kept/2", "expires", false, 1)
	publish("kept/3", "third", false, 600)
	n.Kill()
	time.Sleep(1100 * time.Millisecond) // the expiry of messages, which goes on while no node runs
	n.Start()

	fresh := testmqtt.Dial(t, n.MQTT, 5)
	fresh.MustConnect("fresh")
	fresh.Subscribe(1, "state/#")
	got := fresh.ExpectPublish("state/a", "retained")
	require.True(t, got.FixedHeader.Retain)
	require.Equal(t, []packets.UserProperty{{Key: "k", Val: "v"}}, got.Properties.User)
	fresh.Ack(packets.Puback, got.PacketID)
	fresh.Nothing()

	keep = testmqtt.Dial(t, n.MQTT, 5)
	require.True(t, keep.MustConnect("keeper", testmqtt.Durable()).SessionPresent)
	first := keep.ExpectPublish("kept/1", "first")
	require.Equal(t, []packets.UserProperty{{Key: "k", Val: "v"}}, first.Properties.User)
	third := keep.ExpectPublish("kept/3", "third")
	require.InDelta(t, 598, third.Properties.MessageExpiryInterval, 100)
	require.Less(t, third.Properties.MessageExpiryInterval, uint32(600))
	keep.ExpectPublish("wills/mortal", "gone with the node")
	fresh.Subscribe(1, "wills/#")
	fresh.ExpectPublish("wills/mortal", "gone with the node")
}

// TestBenchAgainstANode runs the bench as a user does.
func TestBenchAgainstANode(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	for _, mode := range []string{"fan-in", "fan-out", "device-to-device", "uplink", "idle", "connect"} {
		t.Run(mode, func(t *testing.T) {
			out := runProgram(t, "", testnode.Program(t), "bench", "--target", n.MQTT, "--mode", mode, "--duration", "300ms",
				"--warmup", "0s", "--clients", "50", "--pid", fmt.Sprint(n.PID()), "--json")
			require.Zero(t, out.code, out.stderr)
			var report struct {
				Connections struct{ Accepted, Failed int }
				Messages    *struct{ Sent, Lost int }
			}
			require.NoError(t, json.Unmarshal([]byte(out.stdout), &report), out.stdout)
			require.Positive(t, report.Connections.Accepted)
			require.Zero(t, report.Connections.Failed)
			if report.Messages != nil {
				require.Positive(t, report.Messages.Sent)
				require.Zero(t, report.Messages.Lost)
			}
		})
	}
	out := runProgram(t, "", testnode.Program(t), "bench", "--target", testnode.Address(), "--mode", "idle")
	require.Equal(t, 1, out.code, out.stderr)
	out = runProgram(t, "", testnode.Program(t), "bench", "--target", n.MQTT, "--mode", "nonsense")
	require.Equal(t, 2, out.code, out.stderr)
}
