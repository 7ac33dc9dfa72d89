// Package listen makes listeners whose connections are ready for MQTT: over TCP, TLS, WebSocket and secure WebSocket,
// with or without PROXY headers of a load balancer in front.
//
// For plain TCP, Accept hands the kernel's socket straight on. Where bytes must be exchanged first, one goroutine
// accepts, each socket gets a goroutine and one deadline for all of its handshakes, and Accept returns those that made
// it, so that a silent peer delays nobody.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// Keep-alive finds peers that vanished without MQTT keep-alive (interval 0) within seven minutes, and costs a socket
// that is idle but for MQTT pings next to nothing.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: 30 * time.Second, Count: 4}

// Listener accepts connections until Close. Its methods may be called from any goroutine.
type Listener struct {
	cfg   Config
	inner net.Listener
	certs *certificates // nil without TLS

	pressure  rate.Sometimes
	ready     chan *Conn    // finished handshakes; nil where there are none
	slots     chan struct{} // one for each socket in handshake
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	running   sync.WaitGroup

	mu      sync.Mutex
	pending map[net.Conn]struct{} // sockets in handshake, for Close to cut; nil once closed
}

// New listens. An error names the listener and the address, file or option at fault, on one line.
func New(cfg Config) (*Listener, error) {
	cfg.setDefaults()
	l, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", cfg.Name, err)
	}
	return l, nil
}

func open(cfg Config) (*Listener, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &Listener{
		cfg:      cfg,
		pressure: rate.Sometimes{Interval: time.Second},
		closing:  make(chan struct{}),
		pending:  make(map[net.Conn]struct{}),
	}
	if cfg.usesTLS() {
		certs, err := newCertificates(cfg)
		if err != nil {
			return nil, err
		}
		l.certs = certs
	}
	var err error
	if l.inner, err = bind(cfg.Address); err != nil {
		return nil, err
	}
	if l.certs != nil {
		l.watchCertificates()
	}
	if cfg.handshakes() {
		l.ready = make(chan *Conn)
		l.slots = make(chan struct{}, cfg.MaxPending)
		l.running.Go(l.acceptPending)
	}
	return l, nil
}

// bind listens on a TCP address. Of an error it keeps what the system said, and drops what Go says around it.
func bind(address string) (net.Listener, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	inner, err := config.Listen(context.Background(), "tcp", address)
	if err == nil {
		return inner, nil
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		err = operation.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	if errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("listen on %s: %w (ports below 1024 need CAP_NET_BIND_SERVICE)", address, err)
	}
	return nil, fmt.Errorf("listen on %s: %w", address, err)
}

// Addr returns the address it listens on, with the port that the system chose for port 0.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Accept waits for the next connection that was admitted and has finished its handshakes. Lack of file descriptors and
// other troubles of the system are waited out, so the only error is net.ErrClosed, after Close.
func (l *Listener) Accept() (*Conn, error) {
	if l.ready != nil {
		select {
		case conn := <-l.ready:
			return conn, nil
		case <-l.closing:
			return nil, net.ErrClosed
		}
	}
	for {
		tcp, err := l.acceptSocket()
		if err != nil {
			return nil, err
		}
		remote := addrPortOf(tcp)
		if refused := l.admit(remote.Addr()); refused != nil {
			l.refuse(tcp, remote, refused)
			continue
		}
		return &Conn{Conn: tcp, tcp: tcp, remote: remote}, nil
	}
}

// acceptSocket returns the kernel's next socket, and net.ErrClosed after Close. Between failures it waits, longer each
// time up to a second, because a process without file descriptors would spin here.
func (l *Listener) acceptSocket() (*net.TCPConn, error) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	for delay := shortest; ; delay = min(2*delay, longest) {
		sock, err := l.inner.Accept()
		if err == nil {
			return sock.(*net.TCPConn), nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		l.pressure.Do(func() { l.cfg.Logger.Error("connections cannot be accepted, trying on", "error", err) })
		select {
		case <-time.After(delay):
		case <-l.closing:
			return nil, net.ErrClosed
		}
	}
}

// Close stops listening, cuts the connections that Accept has not returned, and waits for its goroutines. Connections
// that Accept returned live on: they belong to the caller.
func (l *Listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.closing)
		l.closeErr = l.inner.Close()
		l.mu.Lock()
		for sock := range l.pending {
			sock.Close()
		}
		l.pending = nil
		l.mu.Unlock()
	})
	l.running.Wait()
	return l.closeErr
}

// Reload reads certificate, key and client CA anew for the handshakes to come; live connections and their sessions are
// left alone. On an error, which names the file, the previous ones stay in use. Without TLS there is nothing to do.
func (l *Listener) Reload() error {
	if l.certs == nil {
		return nil
	}
	if _, err := l.certs.reload(); err != nil {
		return fmt.Errorf("listener %s: %w; the previous certificate stays in use", l.cfg.Name, err)
	}
	l.logCertificate("certificate reloaded")
	return nil
}

func (l *Listener) logCertificate(message string) {
	leaf := l.certs.leaf()
	l.cfg.Logger.Info(message, "file", l.cfg.Cert, "not_after", leaf.NotAfter)
	if time.Now().After(leaf.NotAfter) {
		l.cfg.Logger.Warn("certificate has expired", "file", l.cfg.Cert, "not_after", leaf.NotAfter)
	}
}

// addrPortOf returns the peer's address, IPv4 as such also on a dual-stack socket.
func addrPortOf(tcp *net.TCPConn) netip.AddrPort {
	addr, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return unmap(addr.AddrPort())
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
