package listen

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// closeWait bounds the goodbyes of Close, which are small and fit where the peer reads at all.
const closeWait = 100 * time.Millisecond

// Conn is a connection whose next byte is MQTT, whatever carries it. One goroutine may read while another writes, and
// deadlines and Close may be used from anywhere; Close makes a blocked Read and Write return.
//
// Over TLS a Write that timed out, and over WebSocket also a Read that did, leaves the connection good for nothing but
// Close. Over WebSocket each Write is one binary message, so writing whole packets saves frames.
type Conn struct {
	net.Conn // where MQTT's bytes go: tcp itself, TLS on it, or WebSocket on either

	tcp    *net.TCPConn
	tls    *tls.Conn
	remote netip.AddrPort
}

// RemoteAddr returns the address of the client: the one that the load balancer gave, where PROXY headers are used.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// RemoteAddrPort is RemoteAddr without an allocation; IPv4 is never in its IPv6-mapped form.
func (c *Conn) RemoteAddrPort() netip.AddrPort { return c.remote }

// Close says goodbye in the words of every layer, where that does not take long, and closes the socket. It returns
// within moments also when the peer does not read: crypto/tls alone would wait for five seconds.
func (c *Conn) Close() error {
	if c.tls != nil {
		cut := time.AfterFunc(closeWait, func() { c.tcp.Close() })
		defer cut.Stop()
	}
	return c.Conn.Close()
}

// CloseWrite tells the peer that nothing more comes, in the words of every layer, while reading goes on. It may block
// as a Write does, and is for who has written everything.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// TLS returns the state of the TLS session, with the client's verified certificates, or nil without TLS.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	state := c.tls.ConnectionState()
	return &state
}

// Raw returns the TCP socket when MQTT's bytes can be read and written on it directly, and nil otherwise. No byte that
// follows a PROXY header has been read from it.
func (c *Conn) Raw() syscall.RawConn {
	if c.Conn != net.Conn(c.tcp) {
		return nil
	}
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
