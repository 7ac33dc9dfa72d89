//go:build linux

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// portsPerSource is how many connections share a local loopback address: few enough that the kernel finds a free
	// one of its about 28,000 ephemeral ports at once.
	portsPerSource = 5000
	wakeID         = -1
)

// epollPoller watches edges, so that each socket is registered once and never again.
type epollPoller struct {
	fd       int
	wakeFD   int
	target   unix.Sockaddr
	family   int
	loopback bool
	events   []unix.EpollEvent
	// coarse is set where the kernel lacks epoll_pwait2 (before 5.11): waits are then whole milliseconds.
	coarse bool
}

func newPoller(target netip.AddrPort) (poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wakeFD, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	p := &epollPoller{fd: fd, wakeFD: wakeFD, events: make([]unix.EpollEvent, 512)}
	p.aim(target)
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeID}
	if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, wakeFD, &event); err != nil {
		p.close()
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return p, nil
}

func (p *epollPoller) aim(target netip.AddrPort) {
	addr := target.Addr().Unmap()
	if addr.Is4() {
		p.family, p.target = unix.AF_INET, &unix.SockaddrInet4{Port: int(target.Port()), Addr: addr.As4()}
		p.loopback = addr.IsLoopback()
		return
	}
	p.family, p.target = unix.AF_INET6, &unix.SockaddrInet6{Port: int(target.Port()), Addr: addr.As16()}
}

func (p *epollPoller) connect(id int) (socket, error) {
	fd, err := unix.Socket(p.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create socket: %w", err)
	}
	if err := p.start(fd, id); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return fdSocket(fd), nil
}

func (p *epollPoller) start(fd, id int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if group := id / portsPerSource; group > 0 && p.loopback {
		if err := bindLoopback(fd, group); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, p.target); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(id),
	}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// bindLoopback gives a socket one of the other addresses of 127.0.0.0/8, for more connections than there are ports.
func bindLoopback(fd, group int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("set IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	source := &unix.SockaddrInet4{Addr: [4]byte{127, 0, byte(1 + group/250), byte(1 + group%250)}}
	if err := unix.Bind(fd, source); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func (p *epollPoller) wait(timeout time.Duration, handle func(id int, ready readiness)) error {
	n, err := p.poll(timeout)
	if err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("wait for sockets: %w", err)
	}
	for _, event := range p.events[:n] {
		if event.Fd == wakeID {
			var counter [8]byte
			_, _ = unix.Read(p.wakeFD, counter[:])
			continue
		}
		ended := event.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		handle(int(event.Fd), readiness{
			readable: ended || event.Events&unix.EPOLLIN != 0,
			writable: ended || event.Events&unix.EPOLLOUT != 0,
			ended:    ended,
		})
	}
	return nil
}

func (p *epollPoller) poll(timeout time.Duration) (int, error) {
	if p.coarse || timeout == 0 {
		return unix.EpollWait(p.fd, p.events, int((timeout+time.Millisecond-1)/time.Millisecond))
	}
	until := unix.NsecToTimespec(int64(timeout))
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
		uintptr(len(p.events)), uintptr(unsafe.Pointer(&until)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.ENOSYS:
		p.coarse = true
		return p.poll(timeout)
	}
	return 0, errno
}

func (p *epollPoller) wake() {
	// It fails only when the counter is full, and then the poller is awake anyway.
	_, _ = unix.Write(p.wakeFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (p *epollPoller) close() {
	unix.Close(p.wakeFD)
	unix.Close(p.fd)
}

type fdSocket int

func (s fdSocket) established() error {
	code, err := unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

func (s fdSocket) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(s), p)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			return 0, errWouldBlock
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}

func (s fdSocket) write(p []byte) (int, error) {
	taken := 0
	for taken < len(p) {
		n, err := unix.Write(int(s), p[taken:])
		switch err {
		case nil:
			taken += n
		case unix.EAGAIN:
			return taken, errWouldBlock
		case unix.EINTR:
		default:
			return taken, err
		}
	}
	return taken, nil
}

func (s fdSocket) close() { unix.Close(int(s)) }
