package listen_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
)

// patience is for what must happen; it only passes when a test fails.
const patience = 15 * time.Second

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testenv.Eventually(t, patience, what, ok)
}

// counter counts refusals by reason.
type counter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *counter) add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]int)
	}
	c.counts[reason]++
}

func (c *counter) of(reason string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[reason]
}

// rig is a listener under test, and the ways to reach it.
type rig struct {
	*listen.Listener
	cfg     listen.Config
	ca      *testcert.CA
	refused counter
	conns   chan *listen.Conn // what Accept returned
}

// start listens on a free port and hands each accepted connection to conns and to serve, if that is not nil.
func start(t *testing.T, cfg listen.Config, serve func(*listen.Conn)) *rig {
	t.Helper()
	r := &rig{conns: make(chan *listen.Conn, 1000)}
	cfg.Name, cfg.Address, cfg.Refused = "test", "127.0.0.1:0", r.refused.add
	if (cfg.Type == "tls" || cfg.Type == "wss") && cfg.Cert == "" {
		r.ca = testcert.New(t)
		cfg.Cert, cfg.Key = r.ca.Server(t, t.TempDir())
	}
	l, err := listen.New(cfg)
	require.NoError(t, err)
	r.Listener, r.cfg = l, cfg
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			r.conns <- conn
			if serve != nil {
				serving.Go(func() { serve(conn) })
			}
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		for len(r.conns) > 0 {
			(<-r.conns).Close()
		}
		serving.Wait()
	})
	return r
}

func echo(conn *listen.Conn) {
	defer conn.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// accepted returns the next connection that came out of Accept.
func (r *rig) accepted(t *testing.T) *listen.Conn {
	t.Helper()
	select {
	case conn := <-r.conns:
		return conn
	case <-time.After(patience):
		t.Fatal("no connection was accepted")
		return nil
	}
}

// socket connects by TCP and says what is given, for example a PROXY header.
func (r *rig) socket(t *testing.T, first string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, first)
	require.NoError(t, err)
	return conn.(*net.TCPConn)
}

func (r *rig) tlsConfig(certs ...tls.Certificate) *tls.Config {
	config := &tls.Config{ServerName: "localhost", Certificates: certs}
	if r.ca != nil {
		config.RootCAs = r.ca.Pool()
	}
	return config
}

// dial connects as the type of the listener demands, with a header before everything else.
func (r *rig) dial(t *testing.T, header string) net.Conn {
	t.Helper()
	switch r.cfg.Type {
	case "tcp":
		return r.socket(t, header)
	case "tls":
		conn := tls.Client(r.socket(t, header), r.tlsConfig())
		require.NoError(t, conn.Handshake())
		return conn
	default:
		ws, err := r.dialWS(t, header, nil)
		require.NoError(t, err)
		return &wsClient{Conn: ws}
	}
}

// dialWS upgrades; change may alter dialer, URL and header before.
func (r *rig) dialWS(t *testing.T, header string, change func(*wsRequest)) (*websocket.Conn, error) {
	t.Helper()
	request := &wsRequest{url: "ws://" + r.Addr().String() + "/mqtt", header: map[string][]string{}}
	if r.cfg.Type == "wss" {
		request.url = "wss://" + r.Addr().String() + "/mqtt"
	}
	request.Subprotocols = []string{"mqtt"}
	request.TLSClientConfig = r.tlsConfig()
	request.NetDialContext = func(context.Context, string, string) (net.Conn, error) { return r.socket(t, header), nil }
	if change != nil {
		change(request)
	}
	ws, response, err := request.Dial(request.url, request.header)
	if err != nil {
		if response != nil {
			body, _ := io.ReadAll(response.Body)
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return nil, err
	}
	t.Cleanup(func() { ws.Close() })
	return ws, ws.SetReadDeadline(time.Now().Add(patience))
}

type wsRequest struct {
	websocket.Dialer
	url    string
	header map[string][]string
}

// wsClient reads and writes one message at a time.
type wsClient struct{ *websocket.Conn }

func (c *wsClient) Read(p []byte) (int, error) {
	kind, message, err := c.ReadMessage()
	if err == nil && kind != websocket.BinaryMessage {
		err = fmt.Errorf("frame of type %d", kind)
	}
	return copy(p, message), err
}

func (c *wsClient) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *wsClient) SetDeadline(time.Time) error { return nil }

// exchange sends text and expects it back.
func exchange(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
}

// requireClosed expects the end of a connection, and not one byte before it.
func requireClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	rest, err := io.ReadAll(conn)
	require.Empty(t, rest)
	var timeout net.Error
	require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "the connection is still open")
}
