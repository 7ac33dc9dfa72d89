package listen_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
)

// headerV2 is a header of version 2 with a payload of size bytes, of which the addresses are the first.
func headerV2(command, family byte, size int, addresses string) string {
	raw := append([]byte{}, proxyproto.SIGV2...)
	raw = append(raw, command, family)
	raw = binary.BigEndian.AppendUint16(raw, uint16(size))
	return string(raw) + addresses + strings.Repeat("\x00", max(0, size-len(addresses)))
}

const (
	addressesV4 = "\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x67\x07\x5b"
	bigTLVs     = 4096
)

var addressesV6 = "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" + strings.Repeat("\x00", 16) +
	"\x12\x67\x07\x5b"

func TestProxyHeaders(t *testing.T) {
	const self = "the socket's"
	for _, c := range []struct {
		name, allow, header string
		want                string // the client's address; "" when the connection is refused
	}{
		{"v1 TCP4", "any", "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n", "192.0.2.7:4711"},
		{"v1 TCP6", "v1", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 1883\r\n", "[2001:db8::7]:4711"},
		{"v1 UNKNOWN", "v1", "PROXY UNKNOWN\r\n", self},
		{"v1 UNKNOWN with addresses", "v1", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", self},
		{"v1 where v2 is demanded", "v2", "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n", ""},
		{"v1 without a line end", "v1", "PROXY TCP4 192.0.2.7 192.0.2.1 4711" + strings.Repeat(" ", 100), ""},
		{"v1 with a bare line feed", "v1", "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\n", ""},
		{"v1 with a bad address", "v1", "PROXY TCP4 192.0.2.777 192.0.2.1 4711 1883\r\n", ""},
		{"v2 IPv4", "any", headerV2(0x21, 0x11, 12, addressesV4), "192.0.2.7:4711"},
		{"v2 IPv6", "v2", headerV2(0x21, 0x21, 36, addressesV6), "[2001:db8::7]:4711"},
		{"v2 with further values", "v2", headerV2(0x21, 0x11, 2000, addressesV4), "192.0.2.7:4711"},
		{"v2 LOCAL", "v2", headerV2(0x20, 0x00, 0, ""), self},
		{"v2 LOCAL with addresses", "v2", headerV2(0x20, 0x11, 12, addressesV4), self},
		{"v2 where v1 is demanded", "v1", headerV2(0x21, 0x11, 12, addressesV4), ""},
		{"v2 larger than allowed", "v2", headerV2(0x21, 0x11, bigTLVs+1, addressesV4), ""},
		{"v2 shorter than its addresses", "v2", headerV2(0x21, 0x21, 12, addressesV4), ""},
		{"v2 about UDP", "v2", headerV2(0x21, 0x12, 12, addressesV4), ""},
		{"v2 about a Unix socket", "v2", headerV2(0x21, 0x31, 216, "/a"), ""},
		{"v2 of version 3", "v2", headerV2(0x31, 0x11, 12, addressesV4), ""},
		{"no header but MQTT", "any", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", ""},
		{"garbage", "any", "PROXX", ""},
		{"nothing but the end", "any", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, listen.Config{Type: "tcp", ProxyProtocol: c.allow, ProxyFrom: loopback}, nil)
			client := r.socket(t, c.header)
			if c.want == "" {
				client.CloseWrite()
				eventually(t, "counted", func() bool { return r.refused.of(listen.ReasonProxy) == 1 })
				return
			}
			conn := r.accepted(t)
			if c.want == self {
				c.want = client.LocalAddr().String()
			}
			require.Equal(t, c.want, conn.RemoteAddrPort().String())
			require.Equal(t, c.want, conn.RemoteAddr().String())
		})
	}
}

func TestProxyHeaderIsReadFromTrustedSourcesOnly(t *testing.T) {
	r := start(t, listen.Config{Type: "tcp", ProxyProtocol: "any",
		ProxyFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, nil)
	requireClosed(t, r.socket(t, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n"))
	requireClosed(t, r.socket(t, ""))
	eventually(t, "both are counted", func() bool { return r.refused.of(listen.ReasonProxy) == 2 })
	require.Empty(t, r.conns)
}

func TestProxyHeaderMayComeInPieces(t *testing.T) {
	for name, header := range map[string]string{
		"v1": "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n",
		"v2": headerV2(0x21, 0x11, 40, addressesV4),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, listen.Config{Type: "tcp", ProxyProtocol: name, ProxyFrom: loopback}, echo)
			client := r.socket(t, "")
			for i := range len(header) {
				_, err := client.Write([]byte{header[i]})
				require.NoError(t, err)
			}
			exchange(t, client, "MQTT")
			require.Equal(t, "192.0.2.7:4711", r.accepted(t).RemoteAddrPort().String())
		})
	}
}

// The bytes behind the header, which a client that speaks first sends along with it, must still be in the socket: who
// uses Raw reads there.
func TestNothingBehindTheProxyHeaderIsTaken(t *testing.T) {
	for name, header := range map[string]string{
		"v1": "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n",
		"v2": headerV2(0x21, 0x11, 40, addressesV4),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, listen.Config{Type: "tcp", ProxyProtocol: name, ProxyFrom: loopback}, nil)
			r.socket(t, header+"MQTT")
			conn := r.accepted(t)
			require.NotNil(t, conn.Raw())
			got := make([]byte, 4)
			_, err := io.ReadFull(conn.Conn.(*net.TCPConn), got)
			require.NoError(t, err)
			require.Equal(t, "MQTT", string(got))
		})
	}
}
