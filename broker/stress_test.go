package broker_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// The name of a topic that is given an alias must not lie in its publisher's read buffer, which the next packet
// overwrites.
func TestAliasesOutliveTheReadBuffer(t *testing.T) {
	n := startNode(t, broker.Options{})
	sub, pub := n.dial(5), n.dial(5)
	sub.MustConnect("sub", func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = 10 })
	sub.Subscribe(0, "#")
	pub.MustConnect("pub")
	names := map[uint16]string{}
	for _, name := range strings.Fields(strings.Repeat("t/a t/b t/c ", 10)) {
		pub.Publish(name, name, 0, 0)
		pk := sub.Expect(packets.Publish)
		if pk.TopicName != "" {
			names[pk.Properties.TopicAlias] = pk.TopicName
		} else {
			pk.TopicName = names[pk.Properties.TopicAlias]
		}
		if pk.TopicName != name {
			t.Fatalf("%q was delivered as %q", name, pk.TopicName)
		}
	}
}

// slowHook stops whoever sends to one client until the test says so.
type slowHook struct {
	mqtt.HookBase
	client           string
	stopped, release chan struct{}
}

func (h *slowHook) ID() string           { return "slow" }
func (h *slowHook) Provides(b byte) bool { return b == mqtt.OnQosPublish }

func (h *slowHook) OnQosPublish(cl *mqtt.Client, _ packets.Packet, _ int64, _ int) {
	if cl.ID == h.client {
		h.stopped <- struct{}{}
		<-h.release
	}
}

// A client's PUBACK can overtake its publisher on the way to the store; the entry must not stay there.
func TestAcknowledgementFasterThanTheStoreLeavesNothingThere(t *testing.T) {
	t.Setenv("PENSTOCK_TEST_DRIVER", "stream") // whose connections flush what others wrote for them
	hook := &slowHook{client: "slow", stopped: make(chan struct{}), release: make(chan struct{})}
	store := openStore(t, t.TempDir())
	n := startNode(t, broker.Options{Store: store}, hook)
	release := sync.OnceFunc(func() { close(hook.release) })
	t.Cleanup(release)
	fast, slow := n.dial(4), n.dial(4)
	fast.MustConnect("fast", testmqtt.Durable())
	fast.Subscribe(1, "t")
	slow.MustConnect("slow", testmqtt.Durable())
	slow.Subscribe(1, "t")
	published := make(chan error, 1)
	go func() { published <- publishAndWait(n, &broker.Message{Topic: "t", Payload: []byte("x"), QoS: 1}) }()
	<-hook.stopped
	fast.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}) // its own flush sends the message
	fast.Ack(packets.Puback, fast.ExpectPublish("t", "x").PacketID)
	fast.Expect(packets.Pingresp)
	fast.Nothing()
	release()
	require.NoError(t, <-published)
	testenv.Eventually(t, 5*time.Second, "the acknowledged entry has left the store", func() bool {
		entries, err := store.Queue("fast", 1, 10, 1<<20)
		require.NoError(t, err)
		return len(entries) == 0
	})
}
