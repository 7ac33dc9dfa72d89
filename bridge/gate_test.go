package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dialGate connects through a gate to a server that reads everything and reports what it got.
func dialGate(t *testing.T, g *gate) (net.Conn, <-chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		if conn, err := l.Accept(); err == nil {
			all, _ := io.ReadAll(conn)
			got <- all
		}
	}()
	conn, err := g.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	return conn, got
}

// TestNothingPassesAfterAFailureWasHandedOver is why there are meetings: the reader has received the failure, but has
// not come to act on it, when the next batch is written.
func TestNothingPassesAfterAFailureWasHandedOver(t *testing.T) {
	g := newGate(context.Background(), time.Second)
	conn, got := dialGate(t, g)
	failures := make(chan error)
	ended := make(chan struct{})
	g.arm()
	go func() {
		defer close(ended)
		for {
			select {
			case <-failures:
				time.Sleep(20 * time.Millisecond) // anything may keep it from acting at once
				g.cut()
				return
			case <-g.ask:
			}
		}
	}()
	_, err := conn.Write([]byte("first"))
	require.NoError(t, err)
	failures <- errors.New("batch failed")
	_, err = conn.Write([]byte("second"))
	assert.ErrorIs(t, err, errCut)
	<-ended
	assert.Equal(t, "first", string(<-got))
}

func TestCutGateLetsNobodyIn(t *testing.T) {
	parent, cancel := context.WithCancel(context.Background())
	g := newGate(parent, time.Second)
	conn, got := dialGate(t, g)
	cancel()
	<-got // the server sees the connection end
	_, err := conn.Write([]byte("x"))
	assert.ErrorIs(t, err, errCut)
	_, err = g.Dial("tcp", "127.0.0.1:1")
	assert.ErrorIs(t, err, context.Canceled)
	g.cut()
}

func TestQueueKeepsOrder(t *testing.T) {
	var q queue
	pushed, popped := uint64(0), uint64(0)
	for round := range 200 {
		for range 50 {
			pushed++
			q.push(&item{seq: pushed})
		}
		for range 30 + round%30 {
			if q.len() == 0 {
				break
			}
			popped++
			require.Equal(t, popped, q.first().seq)
			require.Equal(t, popped, q.pop().seq)
		}
	}
	for _, it := range q.take() {
		popped++
		require.Equal(t, popped, it.seq)
	}
	assert.Equal(t, pushed, popped)
	assert.Zero(t, q.len())
}
