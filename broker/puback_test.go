package broker_test

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// A QoS 2 publish that is sent again on a new connection while it is still being accepted is answered there, whichever
// way that goes.
func TestPublishSentAgainOnANewConnectionIsAnsweredThere(t *testing.T) {
	again := testmqtt.PublishPacket("slow/1", []byte("a"), 2, 7)
	again.FixedHeader.Dup = true
	resend := func(t *testing.T, v byte, answer error) *testmqtt.Client {
		gate := newGate("slow/")
		n := startDurable(t, broker.Options{}, gate)
		c := n.dial(v)
		c.MustConnect("dev", testmqtt.Durable())
		c.Publish("slow/1", "a", 2, 7)
		done := <-gate.waiting
		c.Drop()
		n.eventuallyOffline("dev")
		c = n.dial(v)
		c.MustConnect("dev", testmqtt.Durable())
		c.Send(again)
		c.Nothing()
		done(answer)
		return c
	}
	refusal := broker.Refuse(packets.ErrQuotaExceeded, "full")
	eachVersion(t, func(t *testing.T, v byte) {
		c := resend(t, v, nil)
		require.Zero(t, c.Expect(packets.Pubrec).ReasonCode)
		c.Ack(packets.Pubrel, 7)
		require.Zero(t, c.Expect(packets.Pubcomp).ReasonCode)
	})
	t.Run("refused, v5", func(t *testing.T) {
		require.EqualValues(t, 0x97, resend(t, 5, refusal).Expect(packets.Pubrec).ReasonCode)
	})
	t.Run("refused, v4", func(t *testing.T) {
		require.Zero(t, resend(t, 4, refusal).ExpectClosed().FixedHeader.Type)
	})
}
