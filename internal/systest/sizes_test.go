package systest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

// sendSizes sends and gets back publishes of many sizes, on a connection for each size.
func sendSizes(t *testing.T, dial func() (net.Conn, error)) {
	t.Helper()
	sizes := []int{100, 500, 512, 513, 4095, 4096, 4097, 65_520, 65_530, 65_535, 65_536, 65_537, 100_000, 131_072, 500_000,
		1_000_000}
	var all sync.WaitGroup
	for _, size := range sizes {
		all.Go(func() {
			nc, err := dial()
			if err != nil {
				t.Errorf("connect: %v", err)
				return
			}
			defer nc.Close()
			if err := echo(t, nc, size); err != nil {
				t.Errorf("publishes of %d bytes: %v", size, err)
			}
		})
	}
	all.Wait()
}

// echo sends ten publishes to itself, each one byte longer than the one before.
func echo(t *testing.T, nc net.Conn, size int) error {
	c := testmqtt.New(t, nc, 5)
	id := fmt.Sprintf("size-%d", size)
	if err := c.TrySend(c.ConnectPacket(id)); err != nil {
		return err
	}
	if _, err := c.Read(patience); err != nil {
		return err
	}
	err := c.TrySend(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: id, Qos: 0}},
	})
	if err != nil {
		return err
	}
	if _, err := c.Read(patience); err != nil {
		return err
	}
	for k := range 10 {
		payload := garbage(k, size+k)
		if err := c.TrySend(testmqtt.PublishPacket(id, payload, 0, 0)); err != nil {
			return err
		}
		pk, err := c.Read(patience)
		if err != nil || !bytes.Equal(payload, pk.Payload) {
			return fmt.Errorf("got %d bytes, %v", len(pk.Payload), err)
		}
	}
	return nil
}

// webSocket makes a net.Conn of a WebSocket connection; each Write is a frame.
type webSocket struct {
	*websocket.Conn
	r io.Reader
}

func (w *webSocket) Read(p []byte) (int, error) {
	for {
		if w.r == nil {
			_, r, err := w.NextReader()
			if err != nil {
				return 0, err
			}
			w.r = r
		}
		n, err := w.r.Read(p)
		if err == io.EOF {
			w.r, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (w *webSocket) Write(p []byte) (int, error) {
	return len(p), w.WriteMessage(websocket.BinaryMessage, p)
}

func (w *webSocket) SetDeadline(at time.Time) error {
	return errors.Join(w.SetReadDeadline(at), w.SetWriteDeadline(at))
}

func TestPacketsOfAnySizeOverTLSAndWebSocket(t *testing.T) {
	t.Parallel()
	ca, dir := testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	ws, secure := testnode.Address(), testnode.Address()
	startNode(t, sections{"listeners": fmt.Sprintf(
		`[{type: ws, address: %q}, {type: tls, address: %q, cert: %q, key: %q}]`, ws, secure, cert, key)})
	t.Run("TLS", func(t *testing.T) {
		sendSizes(t, func() (net.Conn, error) { return tls.Dial("tcp", secure, &tls.Config{RootCAs: ca.Pool()}) })
	})
	t.Run("WebSocket", func(t *testing.T) {
		dialer := websocket.Dialer{Subprotocols: []string{"mqtt"}}
		sendSizes(t, func() (net.Conn, error) {
			c, _, err := dialer.Dial("ws://"+ws+"/mqtt", nil)
			return &webSocket{Conn: c}, err
		})
	})
}
