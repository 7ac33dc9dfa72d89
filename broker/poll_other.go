//go:build !linux

package broker

// poller is the driver for many plain TCP connections; on this system the stream driver serves all.
type poller struct{}

type pollLoop struct{}

type pollSocket struct{ loop *pollLoop }

func newPoller(*Broker) (*poller, error)               { return nil, nil }
func (p *poller) adopt(*conn) bool                     { return false }
func (p *poller) stop()                                {}
func (l *pollLoop) post(*conn)                         {}
func (s *pollSocket) tryWrite([]byte) (int, error)     { return 0, nil }
func (s *pollSocket) writeLater(data []byte, from int) {}
