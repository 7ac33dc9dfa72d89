package listen_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/internal/testcert"
)

func TestEveryTypeEchoes(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "ws", "wss"} {
		for _, proxy := range []string{"", "any"} {
			name, header, from := kind, "", "127.0.0.1"
			if proxy != "" {
				name, header, from = kind+" behind a load balancer", "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n", "192.0.2.7"
			}
			t.Run(name, func(t *testing.T) {
				r := start(t, listen.Config{Type: kind, ProxyProtocol: proxy, ProxyFrom: loopback}, echo)
				client := r.dial(t, header)
				exchange(t, client, "first")
				exchange(t, client, strings.Repeat("x", 4000))

				conn := r.accepted(t)
				require.Equal(t, from, conn.RemoteAddrPort().Addr().String())
				require.Equal(t, conn.RemoteAddrPort().String(), conn.RemoteAddr().String())
				if proxy == "" {
					require.Equal(t, client.LocalAddr().String(), conn.RemoteAddr().String())
				}
				require.Equal(t, r.Addr().String(), conn.LocalAddr().String())
				require.Equal(t, kind == "tls" || kind == "wss", conn.TLS() != nil)
				require.Equal(t, kind == "tcp", conn.Raw() != nil)
			})
		}
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	ca, dir := testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	_, otherKey := ca.Server(t, t.TempDir())
	garbage := filepath.Join(dir, "garbage.pem")
	require.NoError(t, os.WriteFile(garbage, []byte("not PEM"), 0o600))
	broken := filepath.Join(dir, "broken.pem")
	require.NoError(t, os.WriteFile(broken,
		[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600))
	missing := filepath.Join(dir, "missing.pem")
	taken := start(t, listen.Config{Type: "tcp"}, nil).Addr().String()
	secure := func(cert, key, ca string) listen.Config {
		return listen.Config{Type: "tls", Address: "127.0.0.1:0", Cert: cert, Key: key, ClientCA: ca}
	}

	for _, c := range []struct {
		name string
		cfg  listen.Config
		want []string
	}{
		{"address in use", listen.Config{Type: "tcp", Address: taken}, []string{taken, "address already in use"}},
		{"address without port", listen.Config{Type: "tcp", Address: "localhost"}, []string{"localhost", "missing port"}},
		{"no address", listen.Config{Type: "tcp"}, []string{"address is missing"}},
		{"unknown type", listen.Config{Type: "udp", Address: ":0"}, []string{`type "udp"`}},
		{"no certificate", secure("", "", ""), []string{"type tls needs both cert and key"}},
		{"certificate file missing", secure(missing, key, ""), []string{"certificate " + missing, "no such file"}},
		{"key file missing", secure(cert, missing, ""), []string{"key " + missing, "no such file"}},
		{"CA file missing", secure(cert, key, missing), []string{"client CA " + missing, "no such file"}},
		{"certificate is not PEM", secure(garbage, key, ""), []string{"certificate " + garbage, "no certificate"}},
		{"certificate is broken", secure(broken, key, ""), []string{"certificate " + broken, "malformed"}},
		{"key is not PEM", secure(cert, garbage, ""), []string{"key " + garbage}},
		{"key of another certificate", secure(cert, otherKey, ""), []string{otherKey, cert, "does not match"}},
		{"CA without certificates", secure(cert, key, garbage), []string{garbage, "no certificate"}},
		{"certificate without TLS", listen.Config{Type: "ws", Address: ":0", Cert: cert}, []string{"ws does not use cert"}},
		{"client_auth without CA", listen.Config{Type: "tls", Address: ":0", Cert: cert, Key: key, ClientAuth: "require"},
			[]string{"needs client_ca"}},
		{"PROXY from nowhere", listen.Config{Type: "tcp", Address: ":0", ProxyProtocol: "v2"}, []string{"proxy_from"}},
		{"several faults", listen.Config{Type: "tcp", MinTLS: "1.1", Path: "mqtt", MaxPending: -1, ClientAuth: "maybe",
			ProxyProtocol: "v3", HandshakeTimeout: -1},
			[]string{"address", "min_tls", "path", "max_pending", "client_auth", "proxy_protocol", "handshake_timeout"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Name = "field"
			l, err := listen.New(c.cfg)
			require.Nil(t, l)
			require.Error(t, err)
			for _, want := range append(c.want, "listener field: ") {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}

	_, err := listen.New(listen.Config{Type: "tcp", Address: taken})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestAddressesAreAdmittedBeforeAnyByte(t *testing.T) {
	for _, c := range []struct {
		name, kind, proxy, first string
		denied                   string
	}{
		{"plain TCP", "tcp", "", "\x10\x0c", "127.0.0.1"},
		{"TLS", "tls", "", "\x16\x03\x01", "127.0.0.1"},
		{"WebSocket", "ws", "", "GET /mqtt HTTP/1.1\r\n\r\n", "127.0.0.1"},
		{"client behind a load balancer", "ws", "v1", "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n", "192.0.2.7"},
		{"load balancer itself", "tcp", "v1", "PROXY UNKNOWN\r\n", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			admit := func(a netip.Addr) (bool, string) { return a.String() != c.denied, "on_a_list" }
			cfg := listen.Config{Type: c.kind, ProxyProtocol: c.proxy, ProxyFrom: loopback, Admit: admit}
			r := start(t, cfg, nil)
			requireClosed(t, r.socket(t, c.first))
			eventually(t, "counted with Admit's word", func() bool { return r.refused.of("on_a_list") == 1 })
			require.Empty(t, r.conns)
		})
	}
}

func TestSilentPeersAreCutWhileOthersConnect(t *testing.T) {
	for _, c := range []struct {
		name, kind, proxy, first, header string
	}{
		{name: "no ClientHello", kind: "tls"},
		{name: "half a ClientHello", kind: "tls", first: "\x16\x03\x01\x02\x00\x01"},
		{name: "no request", kind: "ws"},
		{name: "half a request", kind: "ws", first: "GET /mqtt HTTP/1.1\r\nHost: x\r\n"},
		{name: "no ClientHello before the request", kind: "wss"},
		{name: "no PROXY header", kind: "tcp", proxy: "any", header: "PROXY UNKNOWN\r\n"},
		{name: "half a PROXY header", kind: "tcp", proxy: "any", first: "PROXY TCP4 1.", header: "PROXY UNKNOWN\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, listen.Config{Type: c.kind, HandshakeTimeout: time.Second, ProxyProtocol: c.proxy,
				ProxyFrom: loopback}, echo)
			silent := r.socket(t, c.first)
			other := r.dial(t, c.header)
			exchange(t, other, "meanwhile")
			requireClosed(t, silent)
			eventually(t, "counted as timeout", func() bool { return r.refused.of(listen.ReasonTimeout) == 1 })
			exchange(t, other, "thereafter")
		})
	}
}

func TestDrippedBytesDoNotExtendTheTimeout(t *testing.T) {
	request := "GET /mqtt HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 5000)
	for _, c := range []struct{ name, kind, proxy, drip string }{
		{"request", "ws", "", request},
		{"request line", "ws", "", "GET /" + strings.Repeat("y", 5000)},
		{"PROXY header", "tcp", "v1", "PROXY TCP4 " + strings.Repeat("1", 5000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, listen.Config{Type: c.kind, HandshakeTimeout: 200 * time.Millisecond, ProxyProtocol: c.proxy,
				ProxyFrom: loopback}, nil)
			conn := r.socket(t, "")
			for i := range len(c.drip) {
				if _, err := conn.Write([]byte{c.drip[i]}); err != nil {
					break
				}
				if r.refused.of(listen.ReasonTimeout) == 1 {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			eventually(t, "counted as timeout", func() bool { return r.refused.of(listen.ReasonTimeout) == 1 })
		})
	}
}

func TestStalledHandshakesDoNotStopAGoodOne(t *testing.T) {
	for _, kind := range []string{"tls", "ws", "wss"} {
		t.Run(kind, func(t *testing.T) {
			r := start(t, listen.Config{Type: kind, HandshakeTimeout: time.Minute}, echo)
			for range 200 {
				r.socket(t, "")
			}
			exchange(t, r.dial(t, ""), "good")
		})
	}
}

func TestPendingHandshakesAreBounded(t *testing.T) {
	const timeout = 2 * time.Second
	r := start(t, listen.Config{Type: "ws", MaxPending: 2, HandshakeTimeout: timeout}, echo)
	begin := time.Now()
	r.socket(t, "")
	r.socket(t, "")
	exchange(t, r.dial(t, ""), "after a slot is free")
	require.GreaterOrEqual(t, time.Since(begin), timeout, "a third handshake was begun beside the two")
}

func TestPlainTCPHasNoGoroutineForAConnection(t *testing.T) {
	r := start(t, listen.Config{Type: "tcp"}, nil)
	before := runtime.NumGoroutine()
	for range 50 {
		r.socket(t, "")
		r.accepted(t)
	}
	require.Less(t, runtime.NumGoroutine(), before+10)
}

func TestCloseReleasesEverything(t *testing.T) {
	ca := testcert.New(t)
	cert, key := ca.Server(t, t.TempDir())
	before := runtime.NumGoroutine()
	for _, kind := range []string{"tcp", "tls", "ws", "wss"} {
		cfg := listen.Config{Type: kind, Address: "127.0.0.1:0", HandshakeTimeout: time.Minute}
		if strings.HasSuffix(kind, "s") && kind != "ws" {
			cfg.Cert, cfg.Key = cert, key
		}
		refused := counter{}
		cfg.Refused = refused.add
		l, err := listen.New(cfg)
		require.NoError(t, err)
		var stalled []net.Conn
		for range 20 {
			conn, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			stalled = append(stalled, conn)
		}
		require.NoError(t, l.Close())
		require.NoError(t, l.Close(), "closing again is harmless")
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		for _, conn := range stalled {
			requireClosed(t, conn)
			conn.Close()
		}
		require.Empty(t, refused.counts, "what Close cut is not a refusal")
		again, err := net.Listen("tcp", l.Addr().String())
		require.NoError(t, err, "the port is free")
		again.Close()
	}
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestCloseEndsWhatNobodyAccepted(t *testing.T) {
	l, err := listen.New(listen.Config{Type: "ws", Address: "127.0.0.1:0"})
	require.NoError(t, err)
	r := &rig{Listener: l, cfg: listen.Config{Type: "ws"}}
	client := r.dial(t, "") // the upgrade is finished, and there is no Accept
	require.NoError(t, l.Close())
	_, err = client.Read(make([]byte, 1))
	require.Error(t, err)
}

func TestAcceptedConnectionsOutliveTheListener(t *testing.T) {
	for _, kind := range []string{"tcp", "wss"} {
		t.Run(kind, func(t *testing.T) {
			r := start(t, listen.Config{Type: kind}, echo)
			client := r.dial(t, "")
			exchange(t, client, "before")
			require.NoError(t, r.Close())
			exchange(t, client, "after")
		})
	}
}
