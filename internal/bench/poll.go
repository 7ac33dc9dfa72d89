package bench

import (
	"errors"
	"time"
)

// errWouldBlock says that a socket has nothing to read, or cannot take more; readiness is reported later.
var errWouldBlock = errors.New("would block")

// readiness is what a poller found out about a socket. It is reported once for each change: whoever handles it goes on
// until errWouldBlock, or remembers that there is more.
type readiness struct {
	readable bool
	writable bool // also: a connection attempt ended, well or not
	ended    bool // the peer closed, or there is an error that the next read returns
}

// socket is a connection that never blocks its caller. A read of 0 bytes without error is the end of the stream.
type socket interface {
	// established returns why a connection attempt failed; it may be called once writable was reported.
	established() error
	read(p []byte) (int, error)
	// write takes as much of p as it can; with errWouldBlock it may have taken some.
	write(p []byte) (int, error)
	close()
}

// poller waits for many sockets at once. Only wake may be called by another goroutine than the one that waits.
type poller interface {
	// connect begins a connection. Its readiness is reported under id.
	connect(id int) (socket, error)
	// wait calls handle for every socket that changed, and returns after at most timeout; with 0 it does not wait.
	wait(timeout time.Duration, handle func(id int, ready readiness)) error
	wake()
	close()
}
