package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// quick is a short run that ends after an exact number of messages.
func quick(mode Mode, target string, qos int) Config {
	cfg := NewConfig(mode, target)
	cfg.QoS, cfg.Publishers, cfg.Subscribers, cfg.Inflight = qos, 1, 1, 50
	cfg.Messages, cfg.Warmup, cfg.Settle, cfg.Duration = 100, 0, 0, 10*time.Second
	cfg.Timeout = 10 * time.Second
	return cfg
}

// The bench must notice what a faulty broker does, exactly.
func TestFaultsAreCounted(t *testing.T) {
	t.Parallel()
	every := func(k int, otherwise func(packet []byte) [][]byte) func(int, []byte) [][]byte {
		return func(n int, packet []byte) [][]byte {
			if n%k == k-1 {
				return otherwise(packet)
			}
			return [][]byte{packet}
		}
	}
	nothing := func([]byte) [][]byte { return nil }
	twice := func(p []byte) [][]byte { return [][]byte{p, p} }
	var held []byte
	swap := func(n int, packet []byte) [][]byte {
		if n%10 == 0 {
			held = packet
			return nil
		}
		if n%10 == 1 {
			return [][]byte{packet, held}
		}
		return [][]byte{packet}
	}
	spoil := func(p []byte) [][]byte {
		spoilt := append([]byte(nil), p...)
		spoilt[len(p)-64] ^= 0xFF // the run's number
		return [][]byte{spoilt}
	}
	cases := []struct {
		name     string
		qos      int
		broker   fakeBroker
		want     Messages
		complete bool
	}{
		{"nothing wrong at QoS 0", 0, fakeBroker{}, Messages{Received: 100}, true},
		{"nothing wrong at QoS 1", 1, fakeBroker{}, Messages{Received: 100, Acknowledged: 100}, true},
		{"nothing wrong at QoS 2", 2, fakeBroker{}, Messages{Received: 100, Acknowledged: 100}, true},
		{"MQTT 5 at QoS 2", 2, fakeBroker{version: 5}, Messages{Received: 100, Acknowledged: 100}, true},
		{"QoS 0 lost", 0, fakeBroker{delivery: every(10, nothing)}, Messages{Received: 90, Lost: 10}, false},
		{"QoS 1 lost", 1, fakeBroker{delivery: every(20, nothing)},
			Messages{Received: 95, Lost: 5, Acknowledged: 100}, false},
		{"the last one lost", 1, fakeBroker{delivery: every(100, nothing)},
			Messages{Received: 99, Lost: 1, Acknowledged: 100}, false},
		{"duplicates", 1, fakeBroker{delivery: every(10, twice)},
			Messages{Received: 100, Duplicates: 10, Acknowledged: 100}, true},
		{"reordered", 0, fakeBroker{delivery: swap}, Messages{Received: 100, OutOfOrder: 10}, true},
		{"not stamped by this run", 0, fakeBroker{delivery: every(50, spoil)},
			Messages{Received: 98, Foreign: 2, Lost: 2}, false},
		{"not acknowledged", 1, fakeBroker{ack: func(n int) (bool, byte) { return n%50 != 49, 0 }},
			Messages{Received: 100, Acknowledged: 98, Unacknowledged: 2}, false},
		{"neither acknowledged nor delivered", 1,
			fakeBroker{delivery: every(50, nothing), ack: func(n int) (bool, byte) { return n%50 != 49, 0 }},
			Messages{Received: 98, Acknowledged: 98, Unacknowledged: 2}, false},
		{"refused", 1, fakeBroker{version: 5, delivery: every(25, nothing),
			ack: func(n int) (bool, byte) {
				if n%25 == 24 {
					return true, 0x97
				}
				return true, 0x00
			}},
			Messages{Received: 96, Acknowledged: 96, Refused: 4}, false},
		{"refused at PUBREC", 2, fakeBroker{version: 5, delivery: every(25, nothing),
			ack: func(n int) (bool, byte) {
				if n%25 == 24 {
					return true, 0x97
				}
				return true, 0x10
			}},
			Messages{Received: 96, Acknowledged: 96, Refused: 4}, false},
	}
	for i := range cases {
		c := &cases[i]
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := c.broker.start(t)
			cfg := quick(ModeFanIn, b.address(), c.qos)
			cfg.Version = b.version
			r, err := Run(context.Background(), cfg)
			require.NoError(t, err)
			c.want.Sent, c.want.Expected = 100, 100
			assert.Equal(t, c.want, *r.Messages)
			assert.Equal(t, c.complete, r.Complete())
			assert.Empty(t, r.Errors)
		})
	}
}

// A broker that stands still must show in the latencies of all messages that were due meanwhile, not of one.
func TestLatencyCountsFromWhenAMessageWasDue(t *testing.T) {
	t.Parallel()
	const stall = 400 * time.Millisecond
	seen := 0
	b := (&fakeBroker{publish: func() {
		if seen++; seen == 500 {
			time.Sleep(stall)
		}
	}}).start(t)
	cfg := quick(ModeFanIn, b.address(), 1)
	cfg.Rate, cfg.Messages, cfg.Inflight = 1000, 1000, 10
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	require.True(t, r.Complete())
	// 400 of 1000 messages were due in the stall, and waited 200 ms on average.
	assert.GreaterOrEqual(t, r.AckLatency.Max, 350.0)
	assert.GreaterOrEqual(t, r.AckLatency.P90, 200.0)
	assert.GreaterOrEqual(t, r.SendLag.P90, 150.0, "the window of 10 held messages back")
}

func TestConnectionsThatFail(t *testing.T) {
	cases := []struct {
		name    string
		version byte
		connack []byte
		reason  string
	}{
		{"refused by MQTT 3.1.1", 4, []byte{typeConnack, 2, 0, 5}, "refused with code 0x05"},
		{"refused by MQTT 5", 5, []byte{typeConnack, 3, 0, 0x87, 0}, "refused with code 0x87"},
		{"MQTT 5 refused in the form of MQTT 3", 5, []byte{typeConnack, 2, 0, 1}, "refused with code 0x01"},
		{"QoS not offered", 5, []byte{typeConnack, 5, 0, 0, 2, propMaximumQoS, 0}, "broker allows QoS 0 at most"},
		{"another packet first", 4, []byte{typePingresp, 0}, "packet 0xd0 before CONNACK"},
		{"malformed length", 4, []byte{typeConnack, 0xFF, 0xFF, 0xFF, 0xFF}, "malformed packet"},
		{"enormous packet", 4, []byte{typePublish, 0xFF, 0xFF, 0xFF, 0x7F}, "packet larger than anything"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := (&fakeBroker{version: c.version, connack: c.connack}).start(t)
			cfg := quick(ModeFanIn, b.address(), 1)
			cfg.Version = c.version
			_, err := Run(context.Background(), cfg)
			require.ErrorIs(t, err, errNone)
			assert.ErrorContains(t, err, c.reason)
		})
	}
}

func TestReceiveMaximumBoundsTheWindow(t *testing.T) {
	t.Parallel()
	b := &fakeBroker{version: 5, connack: []byte{typeConnack, 6, 0, 0, 3, propReceiveMaximum, 0, 3}}
	b.ack = func(int) (bool, byte) { return false, 0 }
	b.start(t)
	cfg := quick(ModeUplink, b.address(), 1)
	cfg.Subscribers = 0
	cfg.Version, cfg.Duration = 5, 100*time.Millisecond
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	assert.EqualValues(t, 3, r.Messages.Sent)
	assert.EqualValues(t, 3, r.Messages.Unacknowledged)
}

func TestADisconnectedClientIsReported(t *testing.T) {
	t.Parallel()
	b := &fakeBroker{version: 5}
	b.delivery = func(n int, packet []byte) [][]byte {
		if n == 10 {
			return [][]byte{packet, {typeDisconnect, 2, 0x8E, 0}}
		}
		return [][]byte{packet}
	}
	b.start(t)
	cfg := quick(ModeFanIn, b.address(), 0)
	cfg.Version, cfg.Duration = 5, 200*time.Millisecond
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	assert.EqualValues(t, 1, r.Connections.Disconnected)
	assert.False(t, r.Complete())
	assert.Contains(t, fmt.Sprint(r.Errors), "reason 0x8e")
}

func TestAnInterruptEndsTheRunWithAReport(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b := (&fakeBroker{publish: cancel}).start(t)
	cfg := quick(ModeFanIn, b.address(), 1)
	cfg.Messages, cfg.Duration, cfg.Rate = 0, time.Hour, 100
	r, err := Run(ctx, cfg)
	require.NoError(t, err)
	assert.True(t, r.Interrupted)
	assert.NotZero(t, r.Messages.Sent)
}

func TestPortablePoller(t *testing.T) {
	t.Parallel()
	for _, qos := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			b := (&fakeBroker{}).start(t)
			cfg := quick(ModeDeviceToDevice, b.address(), qos)
			cfg.Publishers, cfg.Messages = 10, 2000
			cfg.complete()
			target, err := resolve(context.Background(), cfg.Target)
			require.NoError(t, err)
			r, err := assemble(context.Background(), cfg, newNetPoller(target)).perform()
			require.NoError(t, err)
			assert.True(t, r.Complete(), "%+v %v", *r.Messages, r.Errors)
			assert.EqualValues(t, 2000, r.Messages.Received)
		})
	}
}

func TestLargePayloads(t *testing.T) {
	b := (&fakeBroker{}).start(t)
	cfg := quick(ModeFanIn, b.address(), 1)
	cfg.Size, cfg.Messages = 300_000, 20
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	assert.True(t, r.Complete())
	assert.EqualValues(t, 20, r.Messages.Received)
}

func TestFaultyConfigurationsAreReportedWhole(t *testing.T) {
	cfg := Config{Mode: "sideways", QoS: 3, Size: 10, Topic: "a/+"}
	err := cfg.Validate()
	keys := []string{"target", "mode", "qos", "version", "size", "inflight", "duration", "timeout", "topic"}
	for _, key := range keys {
		assert.ErrorContains(t, err, key+":")
	}
	for _, mode := range Modes() {
		assert.NoError(t, NewConfig(mode, "127.0.0.1:1883").Validate(), mode)
	}
}
