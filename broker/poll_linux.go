package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const pollEvents = 256 // sockets served in one round

// poller is the driver for plain TCP on Linux: a few loops read all sockets by epoll, so that an idle connection has no
// goroutine, no stack and no buffer. A loop never blocks: CONNECT is served by the stream driver before, and a
// connection that has to be held up, or ends, gets a goroutine for that long.
type poller struct {
	b     *Broker
	loops []*pollLoop
	next  int
	mu    sync.Mutex
}

// pollLoop is one epoll instance and the goroutine that serves it.
type pollLoop struct {
	b      *Broker
	epoll  int
	wakeup int // eventfd: there is something in posted
	buf    []byte
	turns  []turn

	readLimit int // bytes read from one socket in one round

	mu     sync.Mutex
	conns  map[int32]*conn
	posted []*conn
	closed bool
	done   chan struct{}
}

// turn is what one connection did in a round.
type turn struct {
	c         *conn
	room      []*conn
	published int
	err       error
}

func newPoller(b *Broker) (*poller, error) {
	p := &poller{b: b}
	for range runtime.GOMAXPROCS(0) {
		l, err := newPollLoop(b)
		if err != nil {
			p.stop()
			return nil, fmt.Errorf("start poll driver: %w", err)
		}
		p.loops = append(p.loops, l)
		go l.run()
	}
	return p, nil
}

func newPollLoop(b *Broker) (*pollLoop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, err
	}
	l := &pollLoop{
		b: b, epoll: epoll, wakeup: wakeup, buf: make([]byte, pollBuffer), readLimit: b.limits.readAtOnce(),
		conns: make(map[int32]*conn), done: make(chan struct{}),
	}
	if err := l.control(unix.EPOLL_CTL_ADD, wakeup, unix.EPOLLIN); err != nil {
		_, _ = unix.Close(epoll), unix.Close(wakeup)
		return nil, err
	}
	return l, nil
}

// stop ends the loops and waits for them. No connection may be left.
func (p *poller) stop() {
	if p == nil {
		return
	}
	for _, l := range p.loops {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.wake()
		<-l.done
		_, _ = unix.Close(l.epoll), unix.Close(l.wakeup)
	}
}

func (l *pollLoop) control(op, fd int, events uint32) error {
	return unix.EpollCtl(l.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// adopt takes a connection over from the stream driver, which must not touch it afterwards. It reports false when that
// cannot be done now: for TLS and WebSocket never, and not while somebody is writing.
func (p *poller) adopt(c *conn) bool {
	tcp, plain := c.nc.Conn.(*net.TCPConn)
	if p == nil || !plain || c.raw == nil {
		return false
	}
	o := &c.out
	o.mu.Lock()
	if o.writing || o.closed {
		o.mu.Unlock()
		return false
	}
	o.writing = true // nobody else writes while the socket changes hands
	o.mu.Unlock()
	fd, err := duplicate(tcp)
	if err != nil {
		c.giveUpWriting()
		return false
	}
	s := &pollSocket{loop: p.pick(), fd: fd, reading: true}
	if c.raw.rbuf != nil {
		s.keep(c.raw.rbuf[:c.raw.rused], 0, c.packetLimit())
		putRead(c.raw.rbuf)
	}
	c.raw = nil
	c.polled.Store(s)
	_ = c.nc.Close() // its descriptor only: the socket lives on in ours
	c.giveUpWriting()
	if err := s.loop.add(c, s); err != nil {
		c.stop(cause{reason: "poll_error", err: err})
	}
	if c.isStopped() {
		s.loop.post(c)
	}
	c.flush()
	return true
}

// duplicate returns a descriptor for the same socket that the runtime's own poller does not know.
func duplicate(tcp *net.TCPConn) (fd int, err error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	return fd, err
}

func (p *poller) pick() *pollLoop {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = (p.next + 1) % len(p.loops)
	return p.loops[p.next]
}

func (l *pollLoop) add(c *conn, s *pollSocket) error {
	l.mu.Lock()
	l.conns[int32(s.fd)] = c
	l.mu.Unlock()
	return l.control(unix.EPOLL_CTL_ADD, s.fd, unix.EPOLLIN)
}

// post asks the loop to end a connection that was stopped.
func (l *pollLoop) post(c *conn) {
	l.mu.Lock()
	l.posted = append(l.posted, c)
	l.mu.Unlock()
	l.wake()
}

func (l *pollLoop) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(l.wakeup, one[:])
}

// run serves the loop's sockets in rounds: read all that are ready, then write what that caused, then hold up who must
// be. So many packets of many connections cost one write for each receiver.
func (l *pollLoop) run() {
	defer close(l.done)
	events := make([]unix.EpollEvent, pollEvents)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil {
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			l.b.log.Error("wait for sockets", "error", err)
			return
		}
		if l.round(events[:n]) {
			return
		}
	}
}

func (l *pollLoop) round(events []unix.EpollEvent) (closed bool) {
	bt := l.b.getBatch()
	woken := false
	for i := range events {
		e := &events[i]
		if int(e.Fd) == l.wakeup {
			woken = true
			continue
		}
		l.mu.Lock()
		c := l.conns[e.Fd]
		l.mu.Unlock()
		if c == nil {
			continue
		}
		s := c.polled.Load()
		if e.Events&unix.EPOLLOUT != 0 {
			c.continueWriting(s)
		}
		if e.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0 {
			l.read(bt, c, s)
		}
	}
	bt.flush(nil)
	for i := range l.turns { // also one that somebody else's round means to flush later
		l.turns[i].c.flush()
	}
	l.b.putBatch(bt)
	l.settle()
	if woken {
		return l.endPosted()
	}
	return false
}

// read reads one socket once and handles what is complete.
func (l *pollLoop) read(bt *batch, c *conn, s *pollSocket) {
	s.mu.Lock()
	phase := s.phase
	over := phase == phaseLingering && s.discard(l.buf)
	s.mu.Unlock()
	if over {
		c.finish(s)
	}
	if phase != phaseServing {
		return
	}
	n, err := l.fill(s)
	t := turn{c: c, err: err}
	if err == nil && n > 0 {
		before := bt.published
		data := s.rest
		if data == nil {
			data = l.buf[:n]
		}
		var consumed int
		if consumed, t.err = c.feed(bt, data); t.err == nil {
			s.keep(data, consumed, c.packetLimit())
		}
		t.room, t.published = bt.takeRoom(), bt.published-before
	}
	l.turns = append(l.turns, t)
}

// discard throws away what a lingering client sends, and reports whether that was the last of it. The caller holds mu:
// a timer may be about to close the descriptor.
func (s *pollSocket) discard(scratch []byte) (over bool) {
	n, err := unix.Read(s.fd, scratch)
	return n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
}

// fill reads into the loop's own buffer, or behind the incomplete packet that the connection holds.
func (l *pollLoop) fill(s *pollSocket) (n int, err error) {
	into := l.buf
	if s.rest != nil {
		into = s.rest[len(s.rest):cap(s.rest)]
	}
	into = atMost(into, l.readLimit)
	for {
		n, err = unix.Read(s.fd, into)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		if s.rest != nil {
			s.rest = s.rest[:len(s.rest)+n]
		}
		return n, nil
	}
}

// settle looks at everyone who had a turn: who ended, and who must be held up before being read again.
func (l *pollLoop) settle() {
	for i := range l.turns {
		t := &l.turns[i]
		c, s := t.c, t.c.polled.Load()
		if t.err != nil {
			c.endPolled(s, t.err)
		} else if pause, must := c.mustHold(t.room, t.published); must {
			s.setReading(false)
			go c.holdPolled(s, t.room, pause)
		}
		*t = turn{}
	}
	l.turns = l.turns[:0]
}

// holdPolled waits on behalf of a connection that is not read meanwhile. When the connection is stopped, the loop hears
// of it from whoever stopped it.
func (c *conn) holdPolled(s *pollSocket, room []*conn, pause time.Duration) {
	if c.hold(room, pause) == nil {
		s.setReading(true)
	}
}

// endPosted ends connections that were stopped by others, or have lingered long enough.
func (l *pollLoop) endPosted() (closed bool) {
	var count [8]byte
	_, _ = unix.Read(l.wakeup, count[:])
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	closed = l.closed
	l.mu.Unlock()
	for _, c := range posted {
		c.endPolled(c.polled.Load(), errStopped)
	}
	return closed
}

// endPolled ends a connection, in a goroutine of its own because that may block for the store.
func (c *conn) endPolled(s *pollSocket, err error) {
	if !s.advance(phaseServing, phaseEnding) {
		return
	}
	go func() {
		if !c.goOffline(err) || !c.outEmpty() || unix.Shutdown(s.fd, unix.SHUT_WR) != nil {
			c.finish(s)
			return
		}
		s.advance(phaseEnding, phaseLingering)
		c.b.wheel.ScheduleIn(&c.timer, lingerFor, lingering{c, s})
	}()
}

// lingering is the timer of a connection that may still read its last packet.
type lingering struct {
	c *conn
	s *pollSocket
}

// Fire closes it.
func (t lingering) Fire(int64) { t.c.finish(t.s) }

// finish closes the socket, once: when it comes a second time, the descriptor's number may be another socket's.
func (c *conn) finish(s *pollSocket) {
	s.mu.Lock()
	if s.phase == phaseClosed {
		s.mu.Unlock()
		return
	}
	s.phase = phaseClosed
	s.loop.mu.Lock()
	delete(s.loop.conns, int32(s.fd))
	s.loop.mu.Unlock()
	_ = unix.Close(s.fd)
	s.mu.Unlock()
	c.b.wheel.Cancel(&c.timer)
	c.closeOut()
	c.closed()
}
