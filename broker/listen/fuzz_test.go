package listen

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pires/go-proxyproto"
)

// FuzzProxyHeader checks that a header is cut off exactly where go-proxyproto, which may read ahead, finds its end, in
// whatever pieces it comes.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\nrest"))
	f.Add([]byte("PROXY TCP6 2001:db8::7 2001:db8::1 4711 1883\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n\x10\x00"))
	f.Add([]byte("PROXY \r\n"))
	f.Add(append(bytes.Clone(proxyproto.SIGV2), "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0crest"...))
	f.Add(append(bytes.Clone(proxyproto.SIGV2), "\x20\x00\x00\x00"...))
	f.Add(append(bytes.Clone(proxyproto.SIGV2), "\x21\x11\xff\xff"...))
	f.Add(append(bytes.Clone(proxyproto.SIGV2), "\x21\x01\x00\x010"...)) // a family that does not exist
	l := &Listener{cfg: Config{ProxyProtocol: "any", ProxyFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
	peer := netip.MustParseAddrPort("192.0.2.1:4711")
	f.Fuzz(func(t *testing.T, data []byte) {
		if client, err := l.proxiedAddress(bytes.NewReader(data), peer); !client.IsValid() {
			t.Fatalf("address %v, error %v", client, err)
		}
		source := bytes.NewReader(data)
		got, err := readProxyHeader(iotest.OneByteReader(source))
		whole := bytes.NewReader(data)
		again, errWhole := readProxyHeader(whole)
		if (err == nil) != (errWhole == nil) {
			t.Fatalf("in pieces: %v, at once: %v", err, errWhole)
		}
		if err != nil {
			return
		}
		reader := bufio.NewReader(bytes.NewReader(data))
		want, err := proxyproto.Read(reader)
		if err != nil {
			t.Fatalf("accepted what go-proxyproto refuses: %v", err)
		}
		if !reflect.DeepEqual(want, got) || !reflect.DeepEqual(want, again) {
			t.Fatalf("got %v and %v, want %v", got, again, want)
		}
		rest, _ := io.ReadAll(reader)
		if source.Len() != len(rest) || whole.Len() != len(rest) {
			t.Fatalf("left %d and %d bytes behind the header, want %d", source.Len(), whole.Len(), len(rest))
		}
	})
}

// memoryConn is a connection from which data comes, and into which everything goes.
type memoryConn struct {
	io.Reader
	net.Conn
}

func (c *memoryConn) Read(p []byte) (int, error)       { return c.Reader.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

const fuzzRequest = "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

func FuzzUpgrade(f *testing.F) {
	f.Add([]byte(fuzzRequest))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x00"))
	l := &Listener{cfg: Config{Type: "ws"}}
	l.cfg.setDefaults()
	f.Fuzz(func(t *testing.T, data []byte) {
		socket, err := l.upgrade(&memoryConn{Reader: bytes.NewReader(data)}, time.Now().Add(time.Hour))
		if (socket == nil) == (err == nil) {
			t.Fatalf("got %v and %v", socket, err)
		}
	})
}

// FuzzFrames reads from a WebSocket whatever comes, until its error, and a while longer: it must neither panic nor
// return more bytes than came.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x82\x84\x00\x00\x00\x00MQTT"))
	f.Add([]byte("\x02\x82\x00\x00\x00\x00MQ\x89\x80\x00\x00\x00\x00\x80\x82\x00\x00\x00\x00TT"))
	f.Add([]byte("\x81\x84\x00\x00\x00\x00text"))
	f.Add([]byte("\x88\x82\x00\x00\x00\x00\x03\xe8"))
	f.Add([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	l := &Listener{cfg: Config{Type: "ws", MaxMessage: 1 << 10}}
	l.cfg.setDefaults()
	f.Fuzz(func(t *testing.T, data []byte) {
		// The request comes first and alone, as it does on a socket.
		source := io.MultiReader(bytes.NewReader([]byte(fuzzRequest)), bytes.NewReader(data))
		socket, err := l.upgrade(&memoryConn{Reader: source}, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(socket)
		if len(got) > len(data) {
			t.Fatalf("%d bytes out of %d", len(got), len(data))
		}
		for range 2000 {
			if n, again := socket.Read(make([]byte, 1)); n != 0 || again == nil || err != nil && again != err {
				t.Fatalf("after the end: %d bytes and %v", n, again)
			}
		}
		if socket.Close() != nil {
			t.Fatal("close failed")
		}
	})
}
