package systest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
)

// healthy is a client that sends itself one message after another, with QoS 1, and notes what does not come back.
type healthy struct {
	t     testing.TB
	c     *testmqtt.Client
	stop  chan struct{}
	done  sync.WaitGroup
	trips atomic.Int64
	worst time.Duration
	fault error
}

func startHealthy(t testing.TB, n *node) *healthy {
	t.Helper()
	h := &healthy{t: t, c: testmqtt.Dial(t, n.MQTT, 5), stop: make(chan struct{})}
	h.c.MustConnect("healthy")
	h.c.Subscribe(1, "healthy/#")
	h.done.Go(func() {
		for h.fault == nil {
			select {
			case <-h.stop:
				return
			default:
			}
			began := time.Now()
			h.fault = h.trip()
			h.worst = max(h.worst, time.Since(began))
		}
	})
	t.Cleanup(h.end)
	return h
}

func (h *healthy) trip() error {
	payload := fmt.Sprint(h.trips.Add(1))
	if err := h.c.TrySend(testmqtt.PublishPacket("healthy/x", []byte(payload), 1, 1)); err != nil {
		return err
	}
	for acked, came := false, false; !acked || !came; {
		pk, err := h.c.Read(patience)
		switch {
		case err != nil:
			return fmt.Errorf("message %s: %w", payload, err)
		case pk.FixedHeader.Type == packets.Puback && pk.ReasonCode < 0x80:
			acked = true
		case pk.FixedHeader.Type == packets.Publish && string(pk.Payload) == payload:
			came = true
			ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}
			if err := h.c.TrySend(ack); err != nil {
				return err
			}
		default:
			return fmt.Errorf("message %s: unexpected packet of type %d, reason 0x%02X, payload %.20q", payload,
				pk.FixedHeader.Type, pk.ReasonCode, pk.Payload)
		}
	}
	return nil
}

func (h *healthy) end() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	h.done.Wait()
}

// check ends the client; nothing may have been lost.
func (h *healthy) check() {
	h.t.Helper()
	h.end()
	require.NoError(h.t, h.fault, "the healthy client")
	require.Greater(h.t, h.trips.Load(), int64(10))
	h.t.Logf("the healthy client: %d round trips, the slowest %v", h.trips.Load(), h.worst.Round(time.Millisecond))
}
