//go:build unix

package broker

import (
	"io"
	"syscall"
)

// rawIO reads and writes a TCP socket with one system call and without a buffer that waits with it: an idle connection
// holds no read buffer at all. Its functions are made once for each connection, so that using them allocates nothing.
type rawIO struct {
	conn syscall.RawConn

	wdata       []byte
	wn          int
	werr        error
	write, read func(fd uintptr) bool

	limit int    // what is read at once
	rbuf  []byte // the read buffer while there is something in it or a read is under way; nil while idle
	rused int    // bytes of rbuf that hold an incomplete packet
	rn    int
	rerr  error
}

func newRawIO(conn syscall.RawConn, limit int) *rawIO {
	if conn == nil {
		return nil
	}
	r := &rawIO{conn: conn, limit: limit}
	r.write, r.read = r.writeReady, r.readReady
	return r
}

// tryWrite writes as much as the socket takes at once. The caller owns the write side.
func (r *rawIO) tryWrite(data []byte) (int, error) {
	r.wdata, r.wn, r.werr = data, 0, nil
	err := r.conn.Write(r.write)
	r.wdata = nil
	if err == nil {
		err = r.werr
	}
	return r.wn, err
}

func (r *rawIO) writeReady(fd uintptr) bool {
	for r.wn < len(r.wdata) {
		n, err := syscall.Write(int(fd), r.wdata[r.wn:])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			r.werr = err
			return true
		default:
			r.wn += n
		}
	}
	return true
}

// fill blocks until there is something to read and appends it to the read buffer.
func (r *rawIO) fill() error {
	r.rn, r.rerr = 0, nil
	if err := r.conn.Read(r.read); err != nil {
		return err
	}
	return r.rerr
}

func (r *rawIO) readReady(fd uintptr) bool {
	if r.rbuf == nil {
		r.rbuf = getRead()
	}
	for {
		n, err := syscall.Read(int(fd), atMost(r.rbuf[r.rused:], r.limit))
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			if r.rused == 0 {
				putRead(r.rbuf)
				r.rbuf = nil
			}
			return false
		case err != nil:
			r.rerr = err
		case n == 0:
			r.rerr = io.EOF
		default:
			r.rn = n
		}
		return true
	}
}
