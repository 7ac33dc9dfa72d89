package broker_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/store/local"
)

// node is a running broker with a TCP listener.
type node struct {
	*broker.Broker
	t    testing.TB
	addr string
}

// anyone is let in; the user name is the identity.
type anyone struct{}

func (anyone) Authenticate(_ context.Context, c *broker.ConnectRequest) (broker.Grant, error) {
	return broker.Grant{Identity: "user:" + c.Username, Username: c.Username}, nil
}

// startNode runs a broker without a store until the test ends.
func startNode(t testing.TB, o broker.Options, hooks ...mqtt.Hook) *node {
	t.Helper()
	n, stop := launch(t, o, hooks...)
	t.Cleanup(stop)
	return n
}

// startDurable runs a broker on a store in a folder of its own.
func startDurable(t testing.TB, o broker.Options, hooks ...mqtt.Hook) *node {
	t.Helper()
	o.Store = openStore(t, t.TempDir())
	return startNode(t, o, hooks...)
}

func openStore(t testing.TB, dir string) broker.Store {
	t.Helper()
	db, err := local.Open(dir, local.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db.BrokerStore()
}

// launch starts a broker and returns what stops it.
func launch(t testing.TB, o broker.Options, hooks ...mqtt.Hook) (n *node, stop func()) {
	t.Helper()
	o.Logger = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if o.Authenticator == nil {
		o.Authenticator = anyone{}
	}
	o.StreamOnly = os.Getenv("PENSTOCK_TEST_DRIVER") == "stream"
	b, err := broker.New(o)
	require.NoError(t, err)
	for _, h := range hooks {
		require.NoError(t, b.AddHook(h, nil))
	}
	require.NoError(t, b.Start())
	l, err := listen.New(listen.Config{Name: "tcp", Type: "tcp", Address: "127.0.0.1:0"})
	require.NoError(t, err)
	b.Serve("tcp", l)
	return &node{Broker: b, t: t, addr: l.Addr().String()}, sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
	})
}

func (n *node) dial(version byte) *testmqtt.Client { return testmqtt.Dial(n.t, n.addr, version) }

func (n *node) eventuallyOffline(id string) {
	n.t.Helper()
	testenv.Eventually(n.t, 10*time.Second, id+" is offline", func() bool { return !n.Connected(id) })
}

func publishAndWait(n *node, m *broker.Message) error {
	done := make(chan error, 1)
	n.Publish(m, func(err error) { done <- err })
	return <-done
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// gateHook is an Acceptor that answers when the test says so.
type gateHook struct {
	mqtt.HookBase
	prefix  string
	waiting chan func(error)
}

func newGate(prefix string) *gateHook {
	return &gateHook{prefix: prefix, waiting: make(chan func(error), 10_000)}
}

func (g *gateHook) ID() string              { return "gate" }
func (g *gateHook) Provides(byte) bool      { return false }
func (g *gateHook) Wants(topic string) bool { return strings.HasPrefix(topic, g.prefix) }

func (g *gateHook) Accept(_ *broker.Message, done func(error)) { g.waiting <- done }

// answer answers for the next message.
func (g *gateHook) answer(err error) { (<-g.waiting)(err) }

// aclHook decides by a function.
type aclHook struct {
	mqtt.HookBase
	allow  func(clientID, topic string, write bool) bool
	mu     sync.Mutex
	denied string
}

func (h *aclHook) ID() string           { return "acl" }
func (h *aclHook) Provides(b byte) bool { return b == mqtt.OnACLCheck }

func (h *aclHook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return topic != h.denied && h.allow(cl.ID, topic, write)
}

func (h *aclHook) forbid(topic string) {
	h.mu.Lock()
	h.denied = topic
	h.mu.Unlock()
}
