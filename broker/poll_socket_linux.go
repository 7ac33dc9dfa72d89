package broker

import (
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pollSocket is the socket of a connection that the poll driver serves. Reading belongs to its loop, or to the
// goroutine that holds the connection up; writing to the owner of the outbox's write side.
type pollSocket struct {
	loop *pollLoop
	rest []byte // an incomplete packet; nil while idle

	mu        sync.Mutex
	fd        int
	unwatched bool // epoll does not know the socket
	reading   bool
	writing   bool   // the socket would block: data waits for it
	data      []byte // what is being written, from the outbox
	written   int
	phase     pollPhase
}

// pollPhase is how far the end of a connection has come.
type pollPhase byte

const (
	phaseServing   pollPhase = iota
	phaseEnding              // a goroutine takes it out of its session
	phaseLingering           // what it sends is discarded, so that it can read the last packet
	phaseClosed
)

// interest tells epoll what to watch for. The caller holds s.mu.
func (s *pollSocket) interest() {
	var events uint32
	if s.reading {
		events |= unix.EPOLLIN
	}
	if s.writing {
		events |= unix.EPOLLOUT
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case events == 0 && s.phase == phaseEnding:
		op = unix.EPOLL_CTL_DEL // a hang-up is reported whether asked for or not, and would keep the loop busy
	case s.unwatched:
		op = unix.EPOLL_CTL_ADD
	}
	s.unwatched = op == unix.EPOLL_CTL_DEL
	_ = s.loop.control(op, s.fd, events)
}

// setReading starts or stops reading, unless the connection is ending.
func (s *pollSocket) setReading(on bool) {
	s.mu.Lock()
	if s.phase == phaseServing {
		s.reading = on
		s.interest()
	}
	s.mu.Unlock()
}

// advance moves from one phase to the next; it reports false when somebody else has done so.
func (s *pollSocket) advance(from, to pollPhase) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != from {
		return false
	}
	s.phase, s.reading = to, to == phaseLingering
	s.interest()
	return true
}

// tryWrite writes as much as the socket takes at once. The caller owns the outbox's write side.
func (s *pollSocket) tryWrite(data []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == phaseClosed {
		return 0, net.ErrClosed
	}
	for n < len(data) {
		wrote, err := unix.Write(s.fd, data[n:])
		switch err {
		case nil:
			n += wrote
		case syscall.EINTR:
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, err
		}
	}
	return n, nil
}

// writeLater leaves the rest of data to the loop, which writes when the socket takes more.
func (s *pollSocket) writeLater(data []byte, written int) {
	s.mu.Lock()
	if s.phase != phaseClosed {
		s.data, s.written, s.writing = data, written, true
		s.interest()
	}
	s.mu.Unlock()
}

// continueWriting is called when the socket takes more.
func (c *conn) continueWriting(s *pollSocket) {
	s.mu.Lock()
	data, written := s.data, s.written
	s.data, s.writing = nil, false
	if s.phase != phaseClosed {
		s.interest()
	}
	s.mu.Unlock()
	if data != nil {
		c.writeOut(data, written)
	}
}

// keep holds on to an incomplete packet, in a buffer that grows with what has arrived, not with what was announced.
func (s *pollSocket) keep(data []byte, consumed, limit int) {
	rest := data[consumed:]
	switch {
	case len(rest) == 0:
		s.rest = nil
	case s.rest != nil && consumed == 0 && len(rest) < cap(s.rest):
		// It stays where it is.
	default:
		grown := make([]byte, len(rest), min(max(2*len(rest), 512), limit+5)+1)
		copy(grown, rest)
		s.rest = grown
	}
}
