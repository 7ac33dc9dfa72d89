package testnode

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// backOff is how long a session waits before it connects again.
const backOff = 10 * time.Millisecond

// Session is a client that connects again whenever its connection ends, as a good device does, until it is closed or
// its work is done. The fields are set before Run and not changed after.
type Session struct {
	T       testing.TB
	Address string // host:port
	ID      string
	Version byte
	Options []testmqtt.Option // of each CONNECT

	stop context.CancelFunc
	done chan struct{}
}

// Run connects again and again, in the background, and lets serve use each connection that the node accepts until it
// ends: present says whether the node had kept the session. When serve returns nil, the work is done. The session
// is closed when the test ends, if not before; after Close, Run may be called again.
func (s *Session) Run(serve func(c *testmqtt.Client, present bool) error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.stop, s.done = stop, done
	s.T.Cleanup(s.Close)
	go func() {
		defer close(done)
		for ctx.Err() == nil && s.once(ctx, serve) != nil {
			select {
			case <-ctx.Done():
			case <-time.After(backOff):
			}
		}
	}()
}

func (s *Session) once(ctx context.Context, serve func(c *testmqtt.Client, present bool) error) error {
	nc, err := net.Dial("tcp", s.Address)
	if err != nil {
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	c := testmqtt.New(s.T, nc, s.Version)
	if err := c.TrySend(c.ConnectPacket(s.ID, s.Options...)); err != nil {
		return err
	}
	ack, err := c.Read(Patience)
	if err != nil || ack.ReasonCode != 0 {
		return fmt.Errorf("connect: code 0x%02X, %v", ack.ReasonCode, err)
	}
	return serve(c, ack.SessionPresent)
}

// Done is closed when the work is done, or after Close.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close cuts the connection, if there is one, and waits until nothing is being served any more.
func (s *Session) Close() {
	s.stop()
	<-s.done
}
