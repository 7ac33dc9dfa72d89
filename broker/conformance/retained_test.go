package conformance

import (
	"strconv"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Retained messages: sections 3.3.1.3 and 3.8.3.1.

// lateSubscriber subscribes a new client and returns the payloads of the retained messages that it gets.
func (e *env) lateSubscriber(name, filter string) (payloads []string) {
	e.Helper()
	for _, pk := range e.subscribeRetained(e.connect(name), packets.Subscription{Filter: filter, Qos: 2}) {
		require.True(e, pk.FixedHeader.Retain)
		payloads = append(payloads, string(pk.Payload))
	}
	return payloads
}

// retainedReplaces: the last one counts, with its QoS.
func retainedReplaces(e *env) {
	pub := e.connect("pub")
	for qos := range byte(3) {
		e.retain(pub, e.topic("t"), strings.Repeat("x", int(qos)+1), qos)
		sub := e.subscriber("sub", 2, e.topic("t"))
		require.True(e, e.take(sub, e.topic("t"), strings.Repeat("x", int(qos)+1), qos).FixedHeader.Retain)
		sub.Nothing()
	}
}

// retainedIsSent: the last one of each matching topic, to a new subscription.
func retainedIsSent(e *env) {
	pub := e.connect("pub")
	for _, name := range []string{"a", "a/b", "a/c", "d"} {
		e.retain(pub, e.topic(name), "old", 1)
		e.retain(pub, e.topic(name), name, 1)
	}
	require.ElementsMatch(e, []string{"a", "a/b", "a/c"}, e.lateSubscriber("hash", e.topic("a/#")))
	require.ElementsMatch(e, []string{"a/b", "a/c"}, e.lateSubscriber("plus", e.topic("a/+")))
	require.ElementsMatch(e, []string{"d"}, e.lateSubscriber("exact", e.topic("d")))
	require.ElementsMatch(e, []string{"a", "d"}, e.lateSubscriber("level", e.topic("+")))
	require.Empty(e, e.lateSubscriber("none", e.topic("a/b/c")))
}

func retainedQoS0Replaces(e *env) {
	pub := e.connect("pub")
	e.retain(pub, e.topic("t"), "old", 2)
	e.retain(pub, e.topic("t"), "new", 0)
	require.Equal(e, []string{"new"}, e.lateSubscriber("late", e.topic("t")))
}

func retainFlagToNewSubscriber(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "kept", 0)
	require.True(e, e.subscriber("sub", 0, e.topic("t")).ExpectPublish(e.topic("t"), "kept").FixedHeader.Retain)
}

func noRetainFlagToEstablished(e *env) {
	sub := e.subscriber("sub", 0, e.topic("t"))
	e.retain(e.connect("pub"), e.topic("t"), "kept", 0)
	require.False(e, sub.ExpectPublish(e.topic("t"), "kept").FixedHeader.Retain)
}

// emptyRetainedDeletes: and goes to those who are subscribed now, as any message.
func emptyRetainedDeletes(e *env) {
	pub := e.connect("pub")
	e.retain(pub, e.topic("t"), "kept", 1)
	sub := e.subscriber("sub", 0, e.topic("t"))
	sub.ExpectPublish(e.topic("t"), "kept")
	e.retain(pub, e.topic("t"), "", 1)
	require.False(e, sub.ExpectPublish(e.topic("t"), "").FixedHeader.Retain)
	require.Empty(e, e.lateSubscriber("late", e.topic("t")))
}

func emptyIsNotRetained(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "", 0)
	require.Empty(e, e.lateSubscriber("late", e.topic("t")))
}

func withoutRetainNothingChanges(e *env) {
	pub := e.connect("pub")
	e.publish(pub, e.topic("none"), "passing", 1)
	require.Empty(e, e.lateSubscriber("a", e.topic("none")))
	e.retain(pub, e.topic("t"), "kept", 1)
	e.publish(pub, e.topic("t"), "passing", 2)
	e.publish(pub, e.topic("t"), "", 1)
	require.Equal(e, []string{"kept"}, e.lateSubscriber("b", e.topic("t")))
}

// retainedAfterSuback: what is published after SUBACK is not yet there when the subscription is made, and comes once.
func retainedAfterSuback(e *env) {
	pub := e.connect("pub")
	for name, session := range map[string]testmqtt.Option{"clean": testmqtt.Clean(true), "durable": testmqtt.Durable()} {
		sub := e.connect(name, session)
		for i := range 50 {
			topic := e.topic(name + strconv.Itoa(i))
			sub.Subscribe(2, topic)
			e.retain(pub, topic, "x", 2)
			require.False(e, e.take(sub, topic, "x", 2).FixedHeader.Retain)
			require.Empty(e, e.subscribeRetained(sub))
		}
	}
}

func retainHandling0(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "kept", 0)
	sub := e.connect("sub")
	for range 2 {
		sub.SubscribeWith(packets.Subscription{Filter: e.topic("t"), RetainHandling: 0})
		sub.ExpectPublish(e.topic("t"), "kept")
	}
}

func retainHandling1(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "kept", 0)
	sub := e.connect("sub")
	ifNew := packets.Subscription{Filter: e.topic("t"), RetainHandling: 1}
	require.Len(e, e.subscribeRetained(sub, ifNew), 1)
	require.Empty(e, e.subscribeRetained(sub, ifNew))
	sub.Unsubscribe(e.topic("t"))
	require.Len(e, e.subscribeRetained(sub, ifNew), 1)
}

func retainHandling2(e *env) {
	pub := e.connect("pub")
	e.retain(pub, e.topic("t"), "kept", 0)
	sub := e.connect("sub")
	for range 2 {
		require.Empty(e, e.subscribeRetained(sub, packets.Subscription{Filter: e.topic("t"), RetainHandling: 2}))
	}
	e.retain(pub, e.topic("t"), "newer", 0)
	require.False(e, sub.ExpectPublish(e.topic("t"), "newer").FixedHeader.Retain)
}

func retainHandling3(e *env) {
	e.breaks("retain handling 3", e.rawSubscribe(e.topic("t"), 0x30), 0x82)
}

func retainAsPublished0(e *env) {
	sub, pub := e.connect("sub"), e.connect("pub")
	sub.SubscribeWith(packets.Subscription{Filter: e.topic("t"), Qos: 1})
	e.retain(pub, e.topic("t"), "x", 1)
	require.False(e, e.take(sub, e.topic("t"), "x", 1).FixedHeader.Retain)
	e.publish(pub, e.topic("t"), "y", 1)
	require.False(e, e.take(sub, e.topic("t"), "y", 1).FixedHeader.Retain)
}

func retainAsPublished1(e *env) {
	sub, pub := e.connect("sub"), e.connect("pub")
	sub.SubscribeWith(packets.Subscription{Filter: e.topic("t"), Qos: 2, RetainAsPublished: true})
	for qos := range byte(3) {
		e.retain(pub, e.topic("t"), "x", qos)
		require.True(e, e.take(sub, e.topic("t"), "x", qos).FixedHeader.Retain)
		e.publish(pub, e.topic("t"), "y", qos)
		require.False(e, e.take(sub, e.topic("t"), "y", qos).FixedHeader.Retain)
	}
}

// replacingSendsRetainedAgain: a subscription to the same filter, in 3.1.1 always and in MQTT 5 with retain handling 0.
func replacingSendsRetainedAgain(e *env) {
	e.retain(e.connect("pub"), e.topic("t"), "kept", 1)
	sub := e.connect("sub")
	for qos := range byte(2) {
		sub.Subscribe(qos, e.topic("t"))
		e.take(sub, e.topic("t"), "kept", qos)
	}
}
