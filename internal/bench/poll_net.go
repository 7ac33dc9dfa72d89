package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	netReadSize = 16 << 10
	// netWritePatience is how long a write may wait for room before it counts as blocked and is tried again.
	netWritePatience = time.Millisecond
)

// netPoller works on every system, with a goroutine for each connection. It costs more than epoll; use its figures to
// compare brokers, not to compare machines.
type netPoller struct {
	target  netip.AddrPort
	changes chan netChange
	ctx     context.Context
	cancel  context.CancelFunc
	readers sync.WaitGroup
}

// netChange is a readiness report on its way from the goroutine of a connection to the loop.
type netChange struct {
	id    int
	ready readiness
}

func newNetPoller(target netip.AddrPort) *netPoller {
	ctx, cancel := context.WithCancel(context.Background())
	return &netPoller{target: target, changes: make(chan netChange, 1024), ctx: ctx, cancel: cancel}
}

func (p *netPoller) connect(id int) (socket, error) {
	s := &netSocket{poller: p, id: id, emptied: make(chan struct{}, 1), gone: make(chan struct{})}
	p.readers.Add(1)
	go func() {
		defer p.readers.Done()
		s.run()
	}()
	return s, nil
}

// report waits until the loop takes a change, and tells whether it ever will.
func (p *netPoller) report(id int, ready readiness) bool {
	select {
	case p.changes <- netChange{id, ready}:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func (p *netPoller) wait(timeout time.Duration, handle func(id int, ready readiness)) error {
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case change := <-p.changes:
			p.pass(change, handle)
		case <-timer.C:
			return nil
		}
	}
	for range cap(p.changes) {
		select {
		case change := <-p.changes:
			p.pass(change, handle)
		default:
			return nil
		}
	}
	return nil
}

func (p *netPoller) pass(change netChange, handle func(id int, ready readiness)) {
	if change.id >= 0 {
		handle(change.id, change.ready)
	}
}

func (p *netPoller) wake() {
	select {
	case p.changes <- netChange{id: -1}:
	default:
	}
}

// close ends every goroutine of the poller and waits for them. The sockets must have been closed before.
func (p *netPoller) close() {
	p.cancel()
	p.readers.Wait()
}

// netSocket hands what its goroutine reads to the loop: while pending is not empty it belongs to the loop, and the
// goroutine waits for emptied.
type netSocket struct {
	poller  *netPoller
	id      int
	emptied chan struct{}
	gone    chan struct{}

	mu      sync.Mutex
	conn    net.Conn
	pending []byte
	err     error // that ended reading or the attempt to connect
	closed  bool
}

func (s *netSocket) run() {
	var dialer net.Dialer
	conn, err := dialer.DialContext(s.poller.ctx, "tcp", s.poller.target.String())
	s.mu.Lock()
	s.conn, s.err = conn, err
	if s.closed && conn != nil {
		conn.Close()
	}
	s.mu.Unlock()
	if !s.poller.report(s.id, readiness{writable: true, ended: err != nil, readable: err != nil}) || err != nil {
		return
	}
	buffer := make([]byte, netReadSize)
	for {
		n, err := conn.Read(buffer)
		s.mu.Lock()
		s.pending, s.err = buffer[:n], err
		s.mu.Unlock()
		if !s.poller.report(s.id, readiness{readable: true, ended: err != nil}) || err != nil {
			return
		}
		select {
		case <-s.emptied:
		case <-s.gone:
			return
		case <-s.poller.ctx.Done():
			return
		}
	}
}

func (s *netSocket) established() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *netSocket) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.pending) > 0:
		n := copy(p, s.pending)
		if s.pending = s.pending[n:]; len(s.pending) == 0 && s.err == nil {
			s.emptied <- struct{}{}
		}
		return n, nil
	case s.err == nil:
		return 0, errWouldBlock
	case errors.Is(s.err, net.ErrClosed), errors.Is(s.err, io.EOF):
		return 0, nil
	}
	return 0, s.err
}

func (s *netSocket) write(p []byte) (int, error) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if err := conn.SetWriteDeadline(time.Now().Add(netWritePatience)); err != nil {
		return 0, err
	}
	n, err := conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.retry()
		return n, errWouldBlock
	}
	return n, err
}

// retry reports the socket as writable a little later, by when there may be room.
func (s *netSocket) retry() {
	s.poller.readers.Add(1)
	time.AfterFunc(netWritePatience, func() {
		defer s.poller.readers.Done()
		s.poller.report(s.id, readiness{writable: true})
	})
}

func (s *netSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.gone)
	if s.conn != nil {
		s.conn.Close()
	}
}
