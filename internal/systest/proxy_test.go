package systest

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

func TestProxyProtocolShowsTheRealAddress(t *testing.T) {
	t.Parallel()
	v1, v2, strangers := testnode.Address(), testnode.Address(), testnode.Address()
	n := startNode(t, sections{
		"listeners": fmt.Sprintf(`[{type: tcp, address: "$MQTT"},
  {type: tcp, name: v1, address: %q, proxy_protocol: v1, proxy_from: ["127.0.0.0/8"]},
  {type: tcp, name: v2, address: %q, proxy_protocol: v2, proxy_from: ["127.0.0.0/8"]},
  {type: tcp, name: strangers, address: %q, proxy_protocol: any, proxy_from: ["10.0.0.0/8"]}]`, v1, v2, strangers),
		"access": `{deny: ["203.0.113.66/32"]}`,
	})
	dial := func(t *testing.T, address string, version byte, source string, sourcePort int) *testmqtt.Client {
		c := testmqtt.Dial(t, address, 5)
		ip := net.ParseIP(source)
		header := proxyproto.HeaderProxyFromAddrs(version, &net.TCPAddr{IP: ip, Port: sourcePort},
			&net.TCPAddr{IP: net.ParseIP(map[bool]string{true: "192.0.2.1", false: "2001:db8::1"}[ip.To4() != nil]), Port: 1883})
		_, err := header.WriteTo(c.Conn)
		require.NoError(t, err)
		return c
	}
	for name, test := range map[string]struct {
		address string
		version byte
		source  string
		remote  string
	}{
		"v1 over IPv4": {v1, 1, "203.0.113.7", "203.0.113.7:4711"},
		"v1 over IPv6": {v1, 1, "2001:db8::7", "[2001:db8::7]:4711"},
		"v2 over IPv4": {v2, 2, "203.0.113.8", "203.0.113.8:4711"},
		"v2 over IPv6": {v2, 2, "2001:db8::8", "[2001:db8::8]:4711"},
	} {
		t.Run(name, func(t *testing.T) {
			id := fmt.Sprintf("behind-%d-%d", test.version, len(test.source))
			dial(t, test.address, test.version, test.source, 4711).MustConnect(id)
			info, found := n.client(id)
			require.True(t, found)
			require.Equal(t, test.remote, info.Remote)
		})
	}
	t.Run("the real address is denied", func(t *testing.T) {
		c := dial(t, v1, 1, "203.0.113.66", 4711)
		_ = c.TrySend(c.ConnectPacket("denied")) // it may be closed already
		_, err := c.Read(patience)
		require.Error(t, err)
		_, found := n.client("denied")
		require.False(t, found)
	})
	t.Run("a header from a stranger is not believed", func(t *testing.T) {
		c := dial(t, strangers, 1, "203.0.113.9", 4711)
		_ = c.TrySend(c.ConnectPacket("liar"))
		_, _ = c.Read(patience)
		info, found := n.client("liar")
		require.False(t, found && info.Remote == "203.0.113.9:4711")
	})
	t.Run("no header where one is due", func(t *testing.T) {
		c := testmqtt.Dial(t, v2, 5)
		c.Send(c.ConnectPacket("bare"))
		_, err := c.Read(patience)
		require.Error(t, err)
	})
}

func TestCertificatesReloadWhileClientsStay(t *testing.T) {
	t.Parallel()
	ca, dir := testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	secure := testnode.Address()
	n := startNode(t, sections{
		"listeners": fmt.Sprintf(`[{type: tls, address: %q, cert: %q, key: %q}]`, secure, cert, key),
	})
	dial := func() (net.Conn, string) {
		nc, err := tls.Dial("tcp", secure, &tls.Config{RootCAs: ca.Pool()})
		require.NoError(t, err)
		t.Cleanup(func() { _ = nc.Close() })
		return nc, nc.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	nc, serial := dial()
	stays := testmqtt.New(t, nc, 5)
	stays.MustConnect("stays")
	stays.Subscribe(1, "stays")
	probe := func() string {
		probed, s := dial()
		_ = probed.Close()
		return s
	}

	ca.Server(t, dir)
	testenv.Eventually(t, patience, "the new certificate is served, by itself", func() bool { return probe() != serial })
	serial = probe()
	ca.Server(t, dir)
	n.Signal(syscall.SIGHUP)
	testenv.Eventually(t, patience, "the new certificate is served, after SIGHUP", func() bool {
		return probe() != serial
	})
	serial = probe()

	require.NoError(t, os.WriteFile(cert, []byte("half-written"), 0o600))
	n.Signal(syscall.SIGHUP)
	testenv.Eventually(t, patience, "the fault is reported", func() bool {
		return strings.Contains(n.Log(), "reload certificates")
	})
	require.Equal(t, serial, probe(), "the last good certificate stays")

	stays.Publish("stays", "still here", 0, 0)
	stays.ExpectPublish("stays", "still here")
	require.Equal(t, http.StatusOK, n.Readiness())
}
