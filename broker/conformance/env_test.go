package conformance

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/store/local"
)

// node is a running broker with a TCP and a WebSocket listener.
type node struct {
	*broker.Broker
	addr, wsAddr string
	watch        *watcher
}

// Authenticate lets everyone in but the user "refused"; the user name is the identity.
func (*watcher) Authenticate(_ context.Context, c *broker.ConnectRequest) (broker.Grant, error) {
	if c.Username == "refused" {
		return broker.Grant{}, broker.Refuse(packets.ErrBadUsernameOrPassword, "this user is always refused")
	}
	return broker.Grant{Identity: "user:" + c.Username, Username: c.Username}, nil
}

// watcher notes who has gone for good, and forbids topics that end with /forbidden.
type watcher struct {
	mqtt.HookBase
	mu   sync.Mutex
	gone map[string]int
}

func (*watcher) ID() string { return "conformance" }

func (*watcher) Provides(b byte) bool { return b == mqtt.OnACLCheck || b == mqtt.OnDisconnect }

func (*watcher) OnACLCheck(_ *mqtt.Client, topic string, _ bool) bool {
	return !strings.HasSuffix(topic, "/forbidden")
}

// OnDisconnect runs after the will of the connection was published, or was not.
func (w *watcher) OnDisconnect(cl *mqtt.Client, _ error, _ bool) {
	w.mu.Lock()
	w.gone[cl.ID]++
	w.mu.Unlock()
}

func (w *watcher) count(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone[id]
}

// startDurable runs a broker on a store in a folder of its own until the test ends.
func startDurable(t testing.TB, o broker.Options) *node {
	t.Helper()
	db, err := local.Open(t.TempDir(), local.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	o.Store = db.BrokerStore()
	return start(t, o)
}

func start(t testing.TB, o broker.Options) *node {
	t.Helper()
	w := &watcher{gone: map[string]int{}}
	o.Logger, o.Authenticator = slog.New(slog.DiscardHandler), w
	b, err := broker.New(o)
	require.NoError(t, err)
	require.NoError(t, b.AddHook(w, nil))
	require.NoError(t, b.Start())
	n := &node{Broker: b, watch: w}
	n.addr, n.wsAddr = n.listen(t, "tcp"), n.listen(t, "ws")
	b.Publish(&broker.Message{Topic: endOfRetained, Retain: true, Payload: []byte("end")}, nil)
	t.Cleanup(func() { n.stop(t) })
	return n
}

func (n *node) listen(t testing.TB, kind string) string {
	l, err := listen.New(listen.Config{Name: kind, Type: kind, Address: "127.0.0.1:0"})
	require.NoError(t, err)
	n.Serve(kind, l)
	return l.Addr().String()
}

func (n *node) stop(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		t.Error("shutdown:", err)
	}
}

// endOfRetained is the topic of a retained message. Whoever subscribes to it last in a SUBSCRIBE knows, when it comes,
// that it has got all other retained messages.
const endOfRetained = "$end/retained"

// env is what one case works with: a broker, which others use at the same time, and names that nobody else uses.
type env struct {
	*testing.T
	*node
	version    byte
	prefix     string
	streamOnly bool // which driver serves the broker's connections
}

// alone gives the case a broker of its own, without a store.
func (e *env) alone(o broker.Options) *env {
	e.Helper()
	own := *e
	o.StreamOnly = e.streamOnly
	own.node = start(e.T, o)
	return &own
}

// anew is the same case with names of its own once more.
func (e *env) anew() *env {
	again := *e
	again.prefix = newPrefix()
	return &again
}

func (e *env) v5() bool { return e.version == 5 }

// topic makes a topic name or filter that no other case uses.
func (e *env) topic(name string) string { return e.prefix + "/" + name }

// id makes a client identifier that no other case uses.
func (e *env) id(name string) string { return e.prefix + "x" + name }

func (e *env) dial() *testmqtt.Client {
	e.Helper()
	return testmqtt.Dial(e.T, e.addr, e.version)
}

// connect connects a client that must be accepted.
func (e *env) connect(name string, options ...testmqtt.Option) *testmqtt.Client {
	e.Helper()
	c := e.dial()
	c.MustConnect(e.id(name), options...)
	return c
}

// reconnect is connect that returns the CONNACK too.
func (e *env) reconnect(name string, options ...testmqtt.Option) (*testmqtt.Client, packets.Packet) {
	e.Helper()
	c := e.dial()
	return c, c.MustConnect(e.id(name), options...)
}

// subscriber connects a client and subscribes it.
func (e *env) subscriber(name string, qos byte, filters ...string) *testmqtt.Client {
	e.Helper()
	c := e.connect(name)
	for i, code := range c.Subscribe(qos, filters...) {
		require.Equal(e, qos, code, filters[i])
	}
	return c
}

// subscribeRetained subscribes, and returns the retained messages that come because of it, unacknowledged.
func (e *env) subscribeRetained(c *testmqtt.Client, subs ...packets.Subscription) (messages []packets.Packet) {
	e.Helper()
	c.SubscribeWith(append(subs, packets.Subscription{Filter: endOfRetained})...)
	for {
		pk := c.Expect(packets.Publish)
		if pk.TopicName == endOfRetained {
			return messages
		}
		messages = append(messages, pk)
	}
}

// drop ends a connection without DISCONNECT and waits until the broker has done all that follows from it.
func (e *env) drop(c *testmqtt.Client) {
	e.Helper()
	n := e.watch.count(c.ID)
	c.Drop()
	e.gone(c.ID, n+1)
}

// leave is drop with a DISCONNECT before.
func (e *env) leave(c *testmqtt.Client) {
	e.Helper()
	n := e.watch.count(c.ID)
	c.Disconnect()
	e.gone(c.ID, n+1)
}

// gone waits until the n-th connection of a client has ended.
func (e *env) gone(id string, n int) {
	e.Helper()
	testenv.Eventually(e, testmqtt.Patience, id+" is gone", func() bool { return e.watch.count(id) >= n })
}

// publish publishes and waits until the broker has acknowledged it, and with that delivered it.
func (e *env) publish(c *testmqtt.Client, topic, payload string, qos byte) {
	e.Helper()
	e.publishPacket(c, testmqtt.PublishPacket(topic, []byte(payload), qos, 0))
}

// retain is publish with RETAIN set.
func (e *env) retain(c *testmqtt.Client, topic, payload string, qos byte) {
	e.Helper()
	pk := testmqtt.PublishPacket(topic, []byte(payload), qos, 0)
	pk.FixedHeader.Retain = true
	e.publishPacket(c, pk)
}

func (e *env) publishPacket(c *testmqtt.Client, pk packets.Packet) {
	e.Helper()
	const id = 60_000
	pk.Mods.AllowResponseInfo = true // or mochi's encoder leaves response topics out
	if pk.FixedHeader.Qos > 0 {
		pk.PacketID = id
	}
	c.Send(pk)
	switch pk.FixedHeader.Qos {
	case 0:
		c.Nothing()
	case 1:
		require.Zero(e, c.Expect(packets.Puback).ReasonCode)
	case 2:
		require.Zero(e, c.Expect(packets.Pubrec).ReasonCode)
		c.Ack(packets.Pubrel, id)
		require.Zero(e, c.Expect(packets.Pubcomp).ReasonCode)
	}
}

// take expects a PUBLISH, acknowledges it, and returns it.
func (e *env) take(c *testmqtt.Client, topic, payload string, qos byte) packets.Packet {
	e.Helper()
	pk := c.ExpectPublish(topic, payload)
	require.Equal(e, qos, pk.FixedHeader.Qos)
	switch qos {
	case 1:
		c.Ack(packets.Puback, pk.PacketID)
	case 2:
		c.Ack(packets.Pubrec, pk.PacketID)
		require.Equal(e, pk.PacketID, c.Expect(packets.Pubrel).PacketID)
		c.Ack(packets.Pubcomp, pk.PacketID)
	}
	return pk
}

// pass lets time go by, where the specification speaks of time. That more of it goes by on a slow machine does no harm.
func (e *env) pass(d time.Duration) { time.Sleep(d) }
