package broker

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/penstockmq/penstock/broker/listen"
)

// open admits everyone; the user name is the identity.
type open struct{}

func (open) Authenticate(_ context.Context, c *ConnectRequest) (Grant, error) {
	return Grant{Identity: "user:" + c.Username, Username: c.Username}, nil
}

// start runs a broker on a free loopback port until the test ends.
func start(t testing.TB, o Options) (*Broker, string) {
	t.Helper()
	b, stop := launch(t, o)
	t.Cleanup(stop)
	return b, listenTCP(t, b)
}

// launch starts a broker without a listener and returns what stops it.
func launch(t testing.TB, o Options) (b *Broker, stop func()) {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if o.Authenticator == nil {
		o.Authenticator = open{}
	}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	return b, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
	}
}

func listenTCP(t testing.TB, b *Broker) string {
	t.Helper()
	l, err := listen.New(listen.Config{Name: "tcp", Type: "tcp", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	b.Serve("tcp", l)
	return l.Addr().String()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
