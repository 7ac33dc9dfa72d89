//go:build !unix

package broker

import "syscall"

// rawIO is not available here: connections read and write through net.Conn.
type rawIO struct {
	rbuf  []byte
	rused int
	rn    int
}

func newRawIO(syscall.RawConn, int) *rawIO    { return nil }
func (r *rawIO) tryWrite([]byte) (int, error) { return 0, nil }
func (r *rawIO) fill() error                  { return nil }
