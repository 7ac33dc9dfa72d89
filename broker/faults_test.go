package broker_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// The faults that were found in mochi's server loop, each as something that this broker must do right.

var versions = []byte{4, 5}

func eachVersion(t *testing.T, f func(t *testing.T, version byte)) {
	for _, v := range versions {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { f(t, v) })
	}
}

func TestPacketIdentifiersOfBothDirectionsAreApart(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		n := startNode(t, broker.Options{})
		dev, pub := n.dial(v), n.dial(v)
		dev.MustConnect("dev")
		pub.MustConnect("pub")
		dev.Subscribe(1, "down")
		pub.Publish("down", "order", 1, 1)
		out := dev.ExpectPublish("down", "order")
		pub.Expect(packets.Puback)

		dev.Publish("up", "report", 1, out.PacketID) // the client's own use of the same identifier
		require.Equal(t, out.PacketID, dev.Expect(packets.Puback).PacketID)
		dev.Subscribe(1, "other") // and a SUBSCRIBE is not disturbed by it
		dev.Drop()
		n.eventuallyOffline("dev")
		require.EqualValues(t, 1, n.Stats().Dropped[broker.DropSessionEnded], "the delivery was still unacknowledged")
	})
}

func TestAcknowledgedOnlyAfterRouting(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		gate := newGate("slow/")
		n := startNode(t, broker.Options{}, gate)
		pub := n.dial(v)
		pub.MustConnect("pub")
		pub.Publish("slow/1", "a", 1, 7)
		pub.Publish("fast", "b", 1, 8)
		pub.Nothing() // neither is acknowledged: the first waits, and the second must not overtake it [MQTT-4.6.0-2]
		gate.answer(nil)
		require.EqualValues(t, 7, pub.Expect(packets.Puback).PacketID)
		require.EqualValues(t, 8, pub.Expect(packets.Puback).PacketID)
	})
}

func TestRefusedPublishIsNotAcknowledged(t *testing.T) {
	t.Run("v5 gets the reason code", func(t *testing.T) {
		gate := newGate("slow/")
		n := startNode(t, broker.Options{}, gate)
		for _, qos := range []byte{1, 2} {
			c := n.dial(5)
			c.MustConnect("pub" + strconv.Itoa(int(qos)))
			c.Publish("slow/1", "a", qos, 7)
			gate.answer(broker.Refuse(packets.ErrQuotaExceeded, "full"))
			ack := c.Expect(map[byte]byte{1: packets.Puback, 2: packets.Pubrec}[qos])
			require.EqualValues(t, 0x97, ack.ReasonCode)
			c.Publish("fast", "b", qos, 7) // the identifier is free again
			require.Zero(t, c.Expect(ack.FixedHeader.Type).ReasonCode)
		}
	})
	t.Run("v3.1.1 is disconnected", func(t *testing.T) {
		gate := newGate("slow/")
		n := startNode(t, broker.Options{}, gate)
		c := n.dial(4)
		c.MustConnect("pub")
		c.Publish("slow/1", "a", 1, 7)
		gate.answer(broker.Refuse(packets.ErrQuotaExceeded, "full"))
		require.Zero(t, c.ExpectClosed().FixedHeader.Type, "no packet came before the end")
	})
}

func TestEverythingAcknowledgedIsDeliveredToSlowSubscriber(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		n := startNode(t, broker.Options{Limits: broker.Limits{Inflight: 10}})
		sub, pub := n.dial(v), n.dial(v)
		sub.MustConnect("sub")
		sub.Subscribe(1, "t")
		pub.MustConnect("pub")
		const messages = 500
		for i := range messages {
			pub.Publish("t", strconv.Itoa(i), 1, uint16(i+1))
			pub.Expect(packets.Puback) // acknowledged while the subscriber reads nothing
		}
		for i := range messages {
			pk := sub.ExpectPublish("t", strconv.Itoa(i))
			require.False(t, pk.FixedHeader.Dup)
			sub.Ack(packets.Puback, pk.PacketID)
		}
	})
}

func TestReceiveMaximumOfTheClientIsKept(t *testing.T) {
	n := startNode(t, broker.Options{})
	sub, pub := n.dial(5), n.dial(5)
	sub.MustConnect("sub", func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 2 })
	sub.Subscribe(1, "t")
	pub.MustConnect("pub")
	for i := range 12 {
		pub.Publish("t", strconv.Itoa(i), 1, uint16(i+1))
		pub.Expect(packets.Puback)
	}
	for i := 0; i < 12; i += 2 {
		first, second := sub.ExpectPublish("t", strconv.Itoa(i)), sub.ExpectPublish("t", strconv.Itoa(i+1))
		sub.Nothing()
		sub.Ack(packets.Puback, first.PacketID)
		sub.Ack(packets.Puback, second.PacketID)
	}
	sub.Nothing()
}

func TestTakeoverLeavesOneConnectionAndLosesNothing(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		n := startDurable(t, broker.Options{Limits: broker.Limits{Queue: 100_000}})
		first, pub := n.dial(v), n.dial(v)
		first.MustConnect("dev", testmqtt.Durable())
		first.Subscribe(1, "t")
		pub.MustConnect("pub")
		const messages = 2000
		published := make(chan struct{})
		go func() {
			defer close(published)
			for i := range messages {
				if pub.TrySend(testmqtt.PublishPacket("t", []byte(strconv.Itoa(i)), 1, uint16(i+1))) != nil {
					return
				}
				if i%500 != 499 {
					continue
				}
				for range 500 { // within the server's Receive Maximum
					if _, err := pub.Read(testmqtt.Patience); err != nil {
						return
					}
				}
			}
		}()
		got := receiveAcrossTakeovers(t, n, v, first, messages)
		<-published
		requireInOrderOnceEach(t, got, messages)
	})
}

// receiveAcrossTakeovers reads until every message has come, and connects anew every hundred messages.
func receiveAcrossTakeovers(t *testing.T, n *node, v byte, c *testmqtt.Client, messages int) (got []int) {
	seen := make(map[int]bool)
	for i := 0; len(seen) < messages; i++ {
		if i%100 == 99 {
			old := c
			c = n.dial(v)
			require.True(t, c.MustConnect("dev", testmqtt.Durable()).SessionPresent)
			old.Drop()
		}
		pk := c.Expect(packets.Publish)
		number, err := strconv.Atoi(string(pk.Payload))
		require.NoError(t, err)
		seen[number] = true
		got = append(got, number)
		c.Ack(packets.Puback, pk.PacketID)
	}
	return got
}

// requireInOrderOnceEach checks that the first occurrences of 0…n-1 came in order; later ones are redeliveries.
func requireInOrderOnceEach(t *testing.T, got []int, n int) {
	t.Helper()
	next := 0
	for _, number := range got {
		if number == next {
			next++
		} else {
			require.Less(t, number, next, "%d came before %d", number, next)
		}
	}
	require.Equal(t, n, next)
}

func TestManyConnectsOfOneClientLeaveOneConnection(t *testing.T) {
	n := startNode(t, broker.Options{})
	const clients = 50
	results := make(chan *testmqtt.Client, clients)
	for range clients {
		c := n.dial(5)
		go func() {
			if c.TrySend(c.ConnectPacket("same")) != nil {
				c = nil
			}
			results <- c
		}()
	}
	live := 0
	for range clients {
		c := <-results
		require.NotNil(t, c)
		if ack := c.Expect(packets.Connack); ack.ReasonCode != 0 {
			t.Fatalf("refused with 0x%02X", ack.ReasonCode)
		}
	}
	testenv.Eventually(t, 10*time.Second, "one connection is left", func() bool {
		live = int(n.Stats().Connections)
		return live == 1
	})
	require.True(t, n.Connected("same"))
}

func TestRedeliveryKeepsOrderAndSetsDup(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		n := startDurable(t, broker.Options{})
		c, pub := n.dial(v), n.dial(v)
		c.MustConnect("dev", testmqtt.Durable())
		c.Subscribe(2, "t")
		pub.MustConnect("pub")
		for i := range 20 {
			pub.Publish("t", strconv.Itoa(i), 1+byte(i%2), uint16(i+1))
			if pub.Expect(map[int]byte{0: packets.Puback, 1: packets.Pubrec}[i%2]); i%2 == 1 {
				pub.Ack(packets.Pubrel, uint16(i+1))
				pub.Expect(packets.Pubcomp)
			}
		}
		ids := make([]uint16, 20)
		for i := range ids {
			pk := c.ExpectPublish("t", strconv.Itoa(i))
			require.False(t, pk.FixedHeader.Dup, "first delivery")
			ids[i] = pk.PacketID
		}
		c.Drop()
		c = n.dial(v)
		require.True(t, c.MustConnect("dev", testmqtt.Durable()).SessionPresent)
		for i, id := range ids {
			pk := c.ExpectPublish("t", strconv.Itoa(i))
			require.True(t, pk.FixedHeader.Dup, "redelivery")
			require.Equal(t, id, pk.PacketID)
		}
	})
}

func TestStalledSubscriberHoldsUpNobody(t *testing.T) {
	n := startNode(t, broker.Options{Limits: broker.Limits{Queue: 50, OutBuffer: 16 << 10}})
	stalled, healthy, pub := n.dial(4), n.dial(4), n.dial(4)
	stalled.MustConnect("stalled", testmqtt.KeepAlive(0))
	stalled.Subscribe(1, "t", "q0")
	healthy.MustConnect("healthy")
	healthy.Subscribe(1, "t")
	pub.MustConnect("pub")
	payload := strings.Repeat("x", 10_000)
	for i := range 1000 { // 10 MB to a client that reads nothing
		pub.Publish("q0", payload, 0, 0)
		pub.Publish("t", payload, 1, uint16(i+1))
		pub.Expect(packets.Puback)
		healthy.Ack(packets.Puback, healthy.ExpectPublish("t", payload).PacketID)
	}
	stats := n.Stats()
	require.NotZero(t, stats.Dropped[broker.DropQueueFull])
	require.NotZero(t, stats.Dropped[broker.DropSlowConsumer])
	again := n.dial(4)
	again.MustConnect("stalled") // its own takeover is not held up either
}

func TestExpiredSessionLosesItsSubscriptions(t *testing.T) {
	n := startDurable(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev", testmqtt.Durable(), func(pk *packets.Packet) { pk.Properties.SessionExpiryInterval = 1 })
	c.Subscribe(1, "t")
	c.Drop()
	testenv.Eventually(t, 10*time.Second, "the session has expired", func() bool { return n.Stats().Sessions == 0 })
	require.Zero(t, n.Stats().Subscriptions)
	c = n.dial(5)
	require.False(t, c.MustConnect("dev").SessionPresent)
	c.Publish("t", "x", 1, 1)
	c.Expect(packets.Puback)
	c.Nothing()
}

func TestRedeliveryCarriesTheTopicNotAnAliasOfBefore(t *testing.T) {
	n := startDurable(t, broker.Options{})
	aliases := func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = 10 }
	c, pub := n.dial(5), n.dial(5)
	c.MustConnect("dev", testmqtt.Durable(), aliases)
	c.Subscribe(1, "t")
	pub.MustConnect("pub")
	for i := range 2 {
		pub.Publish("t", strconv.Itoa(i), 1, uint16(i+1))
		pub.Expect(packets.Puback)
	}
	first, second := c.Expect(packets.Publish), c.Expect(packets.Publish)
	require.Equal(t, "t", first.TopicName)
	require.NotZero(t, first.Properties.TopicAlias)
	require.Empty(t, second.TopicName, "the alias is known by now")
	require.Equal(t, first.Properties.TopicAlias, second.Properties.TopicAlias)
	c.Drop()
	c = n.dial(5)
	c.MustConnect("dev", testmqtt.Durable())
	for range 2 {
		pk := c.Expect(packets.Publish)
		require.Equal(t, "t", pk.TopicName)
		require.Zero(t, pk.Properties.TopicAlias)
	}
}

func TestUnknownInboundAliasIsAProtocolError(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	pk := testmqtt.PublishPacket("", nil, 1, 1)
	pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 3, true
	c.Send(pk)
	c.ExpectDisconnect(0x82)
}

func TestACLSeesTheTopicBehindAnAlias(t *testing.T) {
	acl := &aclHook{allow: func(_, topic string, _ bool) bool { return topic == "good" }}
	n := startNode(t, broker.Options{}, acl)
	c := n.dial(5)
	c.MustConnect("dev")
	for i, topic := range []string{"good", "", "bad"} {
		pk := testmqtt.PublishPacket(topic, nil, 1, uint16(i+1))
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 1, true
		c.Send(pk)
		code := c.Expect(packets.Puback).ReasonCode
		if topic == "bad" {
			require.EqualValues(t, 0x87, code)
		} else {
			require.Zero(t, code)
		}
	}
}

func TestNoExpiryIsAddedToMessages(t *testing.T) {
	n := startDurable(t, broker.Options{})
	sub, pub := n.dial(5), n.dial(5)
	pub.MustConnect("pub")
	pub.PublishRetained("t", "kept", 1, 1)
	pub.Expect(packets.Puback)
	sub.MustConnect("sub")
	sub.Subscribe(1, "t")
	require.Zero(t, sub.ExpectPublish("t", "kept").Properties.MessageExpiryInterval)
}

func TestWillIsCheckedAgainAndKeepsItsProperties(t *testing.T) {
	acl := &aclHook{allow: func(id, topic string, write bool) bool { return true }}
	n := startNode(t, broker.Options{}, acl)
	sub, c := n.dial(5), n.dial(5)
	sub.MustConnect("sub")
	sub.Subscribe(1, "will/#")
	c.MustConnect("dev", testmqtt.Will("will/dev", "gone", 1, false), func(pk *packets.Packet) {
		pk.Connect.WillProperties.ContentType = "text/plain"
		pk.Connect.WillProperties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
	})
	c.Drop()
	pk := sub.ExpectPublish("will/dev", "gone")
	require.Equal(t, "text/plain", pk.Properties.ContentType)
	require.Equal(t, []packets.UserProperty{{Key: "k", Val: "v"}}, pk.Properties.User)

	c = n.dial(5)
	c.MustConnect("dev", testmqtt.Will("will/dev", "gone", 1, false))
	acl.forbid("will/dev")
	c.Drop()
	n.eventuallyOffline("dev")
	testenv.Eventually(t, 5*time.Second, "the will is counted as dropped", func() bool {
		return n.Stats().Dropped[broker.DropDenied] == 1
	})
	require.EqualValues(t, 0x87, n.dial(5).Connect("dev", testmqtt.Will("will/dev", "x", 0, false)).ReasonCode)
	require.EqualValues(t, 0x87, n.dial(5).Connect("dev", testmqtt.Will("$SYS/x", "x", 0, false)).ReasonCode)
}

func TestDisconnectWithWillMessagePublishesIt(t *testing.T) {
	n := startNode(t, broker.Options{})
	sub, c := n.dial(5), n.dial(5)
	sub.MustConnect("sub")
	sub.Subscribe(0, "w")
	c.MustConnect("dev", testmqtt.Will("w", "gone", 0, false))
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: 0x04})
	sub.ExpectPublish("w", "gone")
}

func TestPubackOfPublishWithUserPropertiesIsPlain(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	pk := testmqtt.PublishPacket("t", nil, 1, 1)
	pk.Properties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
	c.Send(pk)
	ack := c.Expect(packets.Puback)
	require.Zero(t, ack.ReasonCode)
	require.Empty(t, ack.Properties.User)
}

func TestConnackStatesTheServersLimits(t *testing.T) {
	n := startNode(t, broker.Options{})
	ack := n.dial(5).MustConnect("dev")
	require.EqualValues(t, 1<<20, ack.Properties.MaximumPacketSize)
	require.EqualValues(t, 64, ack.Properties.TopicAliasMaximum)
	require.EqualValues(t, 1024, ack.Properties.ReceiveMaximum)
}

func TestPublishToServerTopicsIsRefused(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	c.Publish("$SYS/broker/uptime", "0", 1, 1)
	require.EqualValues(t, 0x87, c.Expect(packets.Puback).ReasonCode)
}

func TestFiltersAndRetained(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	c.PublishRetained("a", "root", 1, 1)
	c.Expect(packets.Puback)
	for _, bad := range []string{"a/b#", "a+/b", "#/a", "$share/g", "$share//a", "$share/g+/a"} {
		require.EqualValues(t, []byte{0x8F}, c.Subscribe(1, bad), bad)
	}
	c.Subscribe(1, "a/#")
	c.Ack(packets.Puback, c.ExpectPublish("a", "root").PacketID)
	c.Subscribe(1, "$share/g/#")
	require.NoError(t, publishAndWait(n, &broker.Message{Topic: "$SYS/x", Payload: []byte("1")}))
	c.Nothing()
}

func TestSharedMessagesAreNotParkedOnOfflineMembers(t *testing.T) {
	n := startDurable(t, broker.Options{})
	off, on, pub := n.dial(5), n.dial(5), n.dial(5)
	off.MustConnect("off", testmqtt.Durable())
	off.Subscribe(1, "$share/g/t")
	off.Drop()
	n.eventuallyOffline("off")
	on.MustConnect("on")
	on.Subscribe(1, "$share/g/t")
	pub.MustConnect("pub")
	for i := range 10 {
		pub.Publish("t", strconv.Itoa(i), 1, uint16(i+1))
		pub.Expect(packets.Puback)
		on.Ack(packets.Puback, on.ExpectPublish("t", strconv.Itoa(i)).PacketID)
	}
}

func TestSharedMessagesGoToAnotherWhenAMemberLeavesForGood(t *testing.T) {
	n := startNode(t, broker.Options{})
	a, pub := n.dial(5), n.dial(5)
	a.MustConnect("a")
	a.Subscribe(1, "$share/g/t")
	pub.MustConnect("pub")
	pub.Publish("t", "job", 1, 1)
	pub.Expect(packets.Puback)
	a.ExpectPublish("t", "job") // not acknowledged
	b := n.dial(5)
	b.MustConnect("b")
	b.Subscribe(1, "$share/g/t")
	a.Drop()
	b.ExpectPublish("t", "job")
}

func TestSilentSocketIsClosed(t *testing.T) {
	n := startNode(t, broker.Options{Limits: broker.Limits{ConnectTimeout: 200 * time.Millisecond}})
	n.dial(4).ExpectClosed()
	dripping := n.dial(4)
	dripping.SendRaw(0x10, 0x20, 0x00)
	dripping.ExpectClosed()
}

func TestAnnouncedSizeIsRefusedBeforeItArrives(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	c.SendRaw(0x30, 0xFF, 0xFF, 0xFF, 0x7F) // a PUBLISH of 256 MB
	c.ExpectDisconnect(0x95)
	n.dial(5).SendRaw(0x10, 0xFF, 0xFF, 0xFF, 0x7F)
}

func TestPacketsLargerThanAnyReadBuffer(t *testing.T) {
	n := startNode(t, broker.Options{})
	c, sub := n.dial(5), n.dial(5)
	sub.MustConnect("sub")
	sub.Subscribe(1, "t")
	c.MustConnect("dev")
	for i, size := range []int{500, 16 << 10, 64<<10 - 20, 64 << 10, 100_000, 100_000, 700_000, 1<<20 - 100} {
		payload := strings.Repeat(strconv.Itoa(i), size)
		c.Publish("t", payload, 1, uint16(i+1))
		c.Expect(packets.Puback)
		sub.Ack(packets.Puback, sub.ExpectPublish("t", payload).PacketID)
	}
}

func TestSubscribeWithoutOptionsByteIsMalformed(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	c.SendRaw(0x82, 6, 0, 1, 0, 0, 1, 'a')
	c.ExpectDisconnect(0x81)
}

func TestManyLevelsAreRefusedAndCostNothing(t *testing.T) {
	n := startNode(t, broker.Options{})
	c := n.dial(5)
	c.MustConnect("dev")
	deep := strings.Repeat("/", 65_000)
	require.EqualValues(t, []byte{0x8F}, c.Subscribe(0, deep))
	c.Publish(deep, "x", 1, 1)
	require.EqualValues(t, 0x90, c.Expect(packets.Puback).ReasonCode)
}

func TestAnotherIdentityDoesNotInheritTheSession(t *testing.T) {
	n := startDurable(t, broker.Options{})
	alice := n.dial(5)
	alice.MustConnect("dev", testmqtt.Durable(), testmqtt.User("alice", "x"))
	alice.Subscribe(1, "t")

	mallory := n.dial(5)
	require.EqualValues(t, 0x85, mallory.Connect("dev", testmqtt.User("mallory", "x")).ReasonCode, "alice is connected")
	alice.Drop()
	n.eventuallyOffline("dev")
	require.NoError(t, publishAndWait(n, &broker.Message{Topic: "t", Payload: []byte("secret"), QoS: 1}))

	mallory = n.dial(5)
	require.False(t, mallory.MustConnect("dev", testmqtt.Durable(), testmqtt.User("mallory", "x")).SessionPresent)
	mallory.Nothing()
}
