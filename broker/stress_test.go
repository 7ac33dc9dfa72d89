package broker_test

import (
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/store/local"
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

// chaos is what the random clients of TestChaos share.
type chaos struct {
	n     *node
	until time.Time
}

func (x *chaos) over() bool { return time.Now().After(x.until) }

// connect returns a connected client, or nil.
func (x *chaos) connect(v byte, id string, options ...testmqtt.Option) *testmqtt.Client {
	nc, err := net.Dial("tcp", x.n.addr)
	if err != nil {
		return nil
	}
	c := testmqtt.New(x.n.t, nc, v)
	if c.TrySend(c.ConnectPacket(id, options...)) == nil {
		if pk, err := c.Read(testmqtt.Patience); err == nil && pk.ReasonCode == 0 {
			return c
		}
	}
	c.Drop()
	return nil
}

// publish sends numbers to a topic of its own, each after the last was acknowledged, and returns how many were.
func (x *chaos) publish(v byte, name string, random *rand.Rand) (acked int) {
	c := x.connect(v, name)
	defer c.Drop()
	for ; !x.over(); acked++ {
		qos, id := byte(1+random.IntN(2)), uint16(acked%60_000+1)
		if c.TrySend(testmqtt.PublishPacket("k/"+name, []byte(strconv.Itoa(acked)), qos, id)) != nil {
			break
		}
		if _, err := c.Read(testmqtt.Patience); err != nil {
			x.n.t.Errorf("publisher %s, message %d, QoS %d: no acknowledgement: %v", name, acked, qos, err)
			break
		}
		if qos == 2 {
			_ = c.TrySend(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: id})
			_, _ = c.Read(testmqtt.Patience)
		}
	}
	return acked
}

// keep reads for a durable session, over many connections, until stop says that everything has come.
func (x *chaos) keep(v byte, id string, random *rand.Rand, got map[string][]int, enough func() bool) {
	for deadline := x.until.Add(30 * time.Second); !enough() && time.Now().Before(deadline); {
		c := x.connect(v, id, testmqtt.Durable())
		if c == nil {
			continue
		}
		for left := 20 + random.IntN(400); (left > 0 || x.over()) && !enough(); left-- {
			pk, err := c.Read(100 * time.Millisecond)
			if err != nil {
				break
			}
			answer := map[byte]byte{packets.Publish: packets.Puback, packets.Pubrel: packets.Pubcomp}[pk.FixedHeader.Type]
			if pk.FixedHeader.Type == packets.Publish {
				number, _ := strconv.Atoi(string(pk.Payload))
				got[pk.TopicName] = append(got[pk.TopicName], number)
				if pk.FixedHeader.Qos == 2 {
					answer = packets.Pubrec
				}
			}
			if c.TrySend(packets.Packet{FixedHeader: packets.FixedHeader{Type: answer}, PacketID: pk.PacketID}) != nil {
				break
			}
		}
		c.Drop()
	}
}

// misbehave connects as one of a few, does something, and goes, often without reading.
func (x *chaos) misbehave(random *rand.Rand) {
	filters := []string{"k/#", "c/+", "$share/g/k/#", "c/1"}
	for !x.over() {
		id, v := "chaos-"+strconv.Itoa(random.IntN(4)), byte(4+random.IntN(2))
		c := x.connect(v, id, testmqtt.Clean(random.IntN(2) == 0), testmqtt.Will("c/w", "gone", byte(random.IntN(3)), false),
			func(pk *packets.Packet) {
				pk.Properties.SessionExpiryInterval = uint32(random.IntN(3))
				pk.Properties.SessionExpiryIntervalFlag = true
			})
		if c == nil {
			continue
		}
		for i := range random.IntN(30) {
			sub := packets.Subscriptions{{Filter: filters[random.IntN(len(filters))], Qos: byte(random.IntN(3))}}
			pk := testmqtt.PublishPacket("c/1", []byte("c"), byte(random.IntN(3)), uint16(i+1))
			switch random.IntN(6) {
			case 0:
				pk = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: sub}
			case 1:
				pk = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 1, Filters: sub}
			case 2:
				_, _ = c.Read(time.Duration(random.IntN(20)) * time.Millisecond)
			}
			if c.TrySend(pk) != nil {
				break
			}
		}
		if random.IntN(2) == 0 {
			_ = c.TrySend(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		}
		c.Drop()
	}
}

// Whatever others do, a session that is subscribed all the time gets everything acknowledged, in order, and when all
// sessions have ended nothing is left of them.
func TestChaos(t *testing.T) {
	for _, driver := range []string{"poll", "stream"} {
		t.Run(driver, func(t *testing.T) {
			t.Setenv("PENSTOCK_TEST_DRIVER", driver)
			before := runtime.NumGoroutine()
			db, err := local.Open(t.TempDir(), local.Options{})
			require.NoError(t, err)
			n, stop := launch(t, broker.Options{
				Store: db.BrokerStore(), Limits: broker.Limits{Queue: 1_000_000, OutBuffer: 16 << 10},
			})
			runChaos(t, &chaos{n: n, until: time.Now().Add(2 * time.Second)})
			var s broker.Stats
			defer func() { t.Log(s.Connections, s.Sessions, s.Subscriptions, s.QueuedMessages, s.QueuedBytes) }()
			testenv.Eventually(t, 10*time.Second, "nothing is left", func() bool {
				s = n.Stats()
				return s.Connections == 0 && s.Sessions == 0 && s.Subscriptions == 0 && s.QueuedMessages == 0 &&
					s.QueuedBytes == 0
			})
			stop()
			require.NoError(t, db.Close())
			testenv.Eventually(t, 10*time.Second, "no goroutine is left", func() bool {
				return runtime.NumGoroutine() <= before
			})
		})
	}
}

func runChaos(t *testing.T, x *chaos) {
	keepers := map[string]byte{"keeper-4": 4, "keeper-5": 5}
	for id, v := range keepers {
		c := x.n.dial(v)
		c.MustConnect(id, testmqtt.Durable())
		c.Subscribe(2, "k/#")
		c.Drop()
	}
	var publishers, others sync.WaitGroup
	acked := [3]int{}
	for i := range acked {
		publishers.Go(func() { acked[i] = x.publish(byte(4+i%2), strconv.Itoa(i), rand.New(rand.NewPCG(1, uint64(i)))) })
	}
	var done atomic.Bool
	got := map[string]map[string][]int{}
	for id, v := range keepers {
		mine := map[string][]int{}
		got[id] = mine
		others.Go(func() {
			x.keep(v, id, rand.New(rand.NewPCG(2, uint64(v))), mine, func() bool {
				return done.Load() && complete(mine, acked[:])
			})
		})
	}
	for i := range 4 {
		others.Go(func() { x.misbehave(rand.New(rand.NewPCG(3, uint64(i)))) })
	}
	publishers.Wait()
	done.Store(true)
	others.Wait()
	for id := range keepers {
		for i, count := range acked {
			require.NotZero(t, count)
			requireInOrderOnceEach(t, got[id]["k/"+strconv.Itoa(i)], count)
		}
	}
	for _, client := range x.n.Clients("", 100) { // a clean session that ends leaves nothing
		x.n.dial(4).MustConnect(client.ClientID)
		x.n.Disconnect(client.ClientID, packets.ErrAdministrativeAction)
	}
}

// complete reports whether the last number of every publisher has come.
func complete(got map[string][]int, acked []int) bool {
	for i, count := range acked {
		if !slices.Contains(got["k/"+strconv.Itoa(i)], count-1) {
			return false
		}
	}
	return true
}
