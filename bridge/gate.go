package bridge

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// gate stands between one sarama producer and its connections, so that nothing can reach Kafka after a record failed.
//
// Why it is needed: when sarama gives up on a batch, it reports its records as failed and goes on with the next batch
// of that partition. Were that one written, later records of a device would be in Kafka before earlier ones, which are
// on their way to the spool. sarama reports failures on an unbuffered channel before it lets the next batch of the
// partition go, so whoever reads that channel has received the failure by then, but need not have acted on it yet.
// Hence every write to a connection first meets the reader of the results (ask): the reader comes to that meeting only
// after it has dealt with everything it received before, and a failure cuts the gate.
type gate struct {
	ask    chan struct{}      // a write waits here until the reader of results has caught up
	ctx    context.Context    // ended: no write and no dialling succeeds any more
	cutOff context.CancelFunc // ends ctx

	mu    sync.Mutex
	armed bool // the reader of results runs
	conns map[*gatedConn]struct{}

	dialer net.Dialer
}

var errCut = errors.New("producer was cut off from Kafka")

// newGate makes a gate that is cut when parent ends, at the latest.
func newGate(parent context.Context, dialTimeout time.Duration) *gate {
	ctx, cancel := context.WithCancel(parent)
	g := &gate{ask: make(chan struct{}), ctx: ctx, cutOff: cancel, conns: map[*gatedConn]struct{}{},
		dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}}
	context.AfterFunc(ctx, g.closeAll)
	return g
}

// attach makes a copy of the configuration whose connections pass the gate, and that waits for nothing once it is cut.
func (g *gate) attach(base *sarama.Config) *sarama.Config {
	s := *base
	s.Net.Proxy.Enable = true
	s.Net.Proxy.Dialer = g
	backoff := func(int, int) time.Duration {
		if g.ctx.Err() != nil {
			return 0 // let a dead producer end at once: it backs off for every single message
		}
		return retryBackoff
	}
	s.Producer.Retry.BackoffFunc = backoff
	s.Producer.Transaction.Retry.BackoffFunc = backoff
	s.Metadata.Retry.BackoffFunc = backoff
	return &s
}

// Dial is what sarama connects with.
func (g *gate) Dial(network, address string) (net.Conn, error) {
	conn, err := g.dialer.DialContext(g.ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &gatedConn{Conn: conn, gate: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		_ = conn.Close()
		return nil, errCut
	}
	g.conns[c] = struct{}{}
	return c, nil
}

// arm says that the reader of results runs from now on and comes to the meetings.
func (g *gate) arm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = true
}

// cut separates the producer from Kafka for good. It may be called more than once.
func (g *gate) cut() {
	g.cutOff()
	g.closeAll()
}

func (g *gate) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		_ = c.Conn.Close()
	}
	clear(g.conns)
}

// pass returns when a write may go ahead, or an error when it may not.
func (g *gate) pass() error {
	g.mu.Lock()
	armed := g.armed
	g.mu.Unlock()
	if armed {
		select {
		case g.ask <- struct{}{}:
		case <-g.ctx.Done():
		}
	}
	if g.ctx.Err() != nil {
		return errCut
	}
	return nil
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Write(b []byte) (int, error) {
	if err := c.gate.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *gatedConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}
