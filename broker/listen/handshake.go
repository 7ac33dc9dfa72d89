package listen

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// refusal is why a connection did not make it.
type refusal struct {
	reason string // one of the Reason constants
	err    error
}

// acceptPending accepts for the types that need a handshake, and gives each socket a goroutine for it. It takes a slot
// before it accepts, so that a flood waits in the kernel's queue and not in memory.
func (l *Listener) acceptPending() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.closing:
			return
		}
		tcp, err := l.acceptSocket()
		if err != nil {
			return
		}
		if !l.track(tcp) {
			tcp.Close()
			return
		}
		l.running.Go(func() {
			defer func() { <-l.slots }()
			l.prepare(tcp)
		})
	}
}

// track registers a socket in handshake, unless the listener is closed.
func (l *Listener) track(tcp *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending == nil {
		return false
	}
	l.pending[tcp] = struct{}{}
	return true
}

func (l *Listener) untrack(tcp *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, tcp)
}

// prepare brings one socket to its first MQTT byte and passes it to Accept, or refuses it.
func (l *Listener) prepare(tcp *net.TCPConn) {
	conn, refused := l.handshake(tcp, time.Now().Add(l.cfg.HandshakeTimeout))
	l.untrack(tcp)
	if refused != nil {
		l.refuse(tcp, conn.remote, refused)
		return
	}
	select {
	case l.ready <- conn:
	case <-l.closing:
		conn.Close()
	}
}

// handshake does what comes before MQTT, all of it before the deadline. With a refusal, the connection holds the
// address as far as it was known. Setting deadlines fails on closed sockets only, and there the next read fails too.
func (l *Listener) handshake(tcp *net.TCPConn, deadline time.Time) (*Conn, *refusal) {
	conn := &Conn{Conn: tcp, tcp: tcp, remote: addrPortOf(tcp)}
	_ = tcp.SetDeadline(deadline)
	if l.cfg.ProxyProtocol != "" {
		remote, err := l.proxiedAddress(tcp, conn.remote)
		if err != nil {
			return conn, &refusal{ReasonProxy, err}
		}
		conn.remote = remote
	}
	if refused := l.admit(conn.remote.Addr()); refused != nil {
		return conn, refused
	}
	if l.cfg.usesTLS() {
		conn.tls = tls.Server(tcp, l.certs.current.Load())
		conn.Conn = conn.tls
		if err := conn.tls.Handshake(); err != nil {
			return conn, &refusal{ReasonTLS, err}
		}
	}
	if l.cfg.usesWebSocket() {
		socket, err := l.upgrade(conn.Conn, deadline)
		if err != nil {
			return conn, &refusal{ReasonWebSocket, err}
		}
		conn.Conn = socket
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, nil
}

func (l *Listener) admit(addr netip.Addr) *refusal {
	if ok, why := l.cfg.Admit(addr); !ok {
		return &refusal{cmp.Or(why, ReasonDenied), errors.New("source address is not admitted")}
	}
	return nil
}

// refuse closes a socket and counts it, unless it was Close that cut it. A silent peer gets a reason of its own,
// whatever it was silent in.
func (l *Listener) refuse(tcp *net.TCPConn, remote netip.AddrPort, refused *refusal) {
	tcp.Close()
	select {
	case <-l.closing:
		return
	default:
	}
	reason := refused.reason
	if errors.Is(refused.err, os.ErrDeadlineExceeded) {
		reason = ReasonTimeout
	}
	l.cfg.Refused(reason)
	l.cfg.Logger.Debug("connection refused", "remote", remote, "reason", reason, "error", refused.err)
}
