package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// refusal is why a connection did not make it.
type refusal struct {
	reason string
	err    error
}

func (r *refusal) Error() string { return r.reason + ": " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

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
	conn, err := l.handshake(tcp, time.Now().Add(l.cfg.HandshakeTimeout))
	l.untrack(tcp)
	if err != nil {
		l.refuse(tcp, conn.remote, err)
		return
	}
	select {
	case l.ready <- conn:
	case <-l.closing:
		tcp.Close()
	}
}

// handshake does what comes before MQTT, all of it before the deadline. The connection is never nil: with an error it
// holds the address as far as it was known.
func (l *Listener) handshake(tcp *net.TCPConn, deadline time.Time) (*Conn, error) {
	conn := &Conn{Conn: tcp, tcp: tcp, remote: addrPortOf(tcp)}
	if err := tcp.SetDeadline(deadline); err != nil {
		return conn, err
	}
	if l.cfg.ProxyProtocol != "" {
		remote, err := l.proxiedAddress(tcp, conn.remote)
		if err != nil {
			return conn, &refusal{ReasonProxy, err}
		}
		conn.remote = remote
	}
	if err := l.admit(conn.remote.Addr()); err != nil {
		return conn, err
	}
	if l.cfg.usesTLS() {
		conn.tls = l.tlsServer(tcp)
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
	return conn, conn.SetDeadline(time.Time{})
}

func (l *Listener) admit(addr netip.Addr) error {
	if ok, why := l.cfg.Admit(addr); !ok {
		return &refusal{ReasonDenied, fmt.Errorf("address is not admitted: %s", why)}
	}
	return nil
}

// refuse closes a socket and counts it. What Close cut, or what broke while closing, is nobody's refusal.
func (l *Listener) refuse(tcp *net.TCPConn, remote netip.AddrPort, err error) {
	tcp.Close()
	select {
	case <-l.closing:
		return
	default:
	}
	reason := l.reasonOf(err)
	l.cfg.Refused(reason)
	l.cfg.Logger.Debug("connection refused", "remote", remote, "reason", reason, "error", err)
}

// reasonOf gives a silent peer its own reason, whatever it was silent in. An error that no stage claimed is the
// socket's: the peer left between two of them.
func (l *Listener) reasonOf(err error) string {
	var r *refusal
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ReasonTimeout
	case errors.As(err, &r):
		return r.reason
	case l.cfg.usesTLS():
		return ReasonTLS
	case l.cfg.usesWebSocket():
		return ReasonWebSocket
	default:
		return ReasonProxy
	}
}
