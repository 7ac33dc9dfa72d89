package command_test

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/hooks/command"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/store/local"
)

const patience = 10 * time.Second

// everyone lets every client in.
type everyone struct{}

func (everyone) Authenticate(_ context.Context, c *broker.ConnectRequest) (broker.Grant, error) {
	return broker.Grant{Identity: c.ClientID, Username: "operator"}, nil
}

// startBroker runs the real broker with commands and the real store, until the test ends.
func startBroker(t *testing.T) (addr string, s *command.Service) {
	t.Helper()
	db, err := local.Open(t.TempDir(), local.Options{})
	require.NoError(t, err)
	b, err := broker.New(broker.Options{
		Logger: slog.New(slog.DiscardHandler), Authenticator: everyone{}, Store: db.BrokerStore(),
	})
	require.NoError(t, err)
	var cfg command.Config
	require.NoError(t, conf.SetDefaults(&cfg))
	s, err = command.New(command.Options{Broker: b, Store: db.Commands(), Config: cfg})
	require.NoError(t, err)
	require.NoError(t, b.AddHook(s, nil))
	require.NoError(t, b.Start())
	require.NoError(t, s.Start(context.Background()))
	l, err := listen.New(listen.Config{Name: "tcp", Type: "tcp", Address: "127.0.0.1:0"})
	require.NoError(t, err)
	b.Serve("tcp", l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, b.Shutdown(ctx))
		require.NoError(t, s.Stop())
		require.NoError(t, db.Close())
	})
	return l.Addr().String(), s
}

func reach(t *testing.T, s *command.Service, id, what string, want func(command.Counts) bool) {
	t.Helper()
	testenv.Eventually(t, patience, what, func() bool {
		st, err := s.Status(id)
		return err == nil && want(st.Counts)
	})
}

func TestCommandsThroughTheRealBroker(t *testing.T) {
	addr, s := startBroker(t)
	operator := testmqtt.Dial(t, addr, 5)
	operator.MustConnect("operator")
	operator.Subscribe(1, "admin/commands/+/events")
	job := `{"id":"job","targets":{"devices":["pump"]},"payload":"open","result_timeout_s":60}`
	operator.Publish("admin/commands", job, 1, 7)
	acked, told := false, false
	for !acked || !told { // in either order
		pk, err := operator.Read(patience)
		require.NoError(t, err)
		switch pk.FixedHeader.Type {
		case packets.Puback:
			require.Zero(t, pk.ReasonCode)
			acked = true
		case packets.Publish:
			require.Equal(t, "admin/commands/job/events", pk.TopicName)
			operator.Ack(packets.Puback, pk.PacketID)
			told = true
		}
	}

	pump := testmqtt.Dial(t, addr, 5)
	pump.MustConnect("pump")
	reach(t, s, "job", "it waits for a subscription", func(c command.Counts) bool { return c.Queued == 1 })
	pump.Subscribe(1, "devices/pump/commands/+")
	pk := pump.ExpectPublish("devices/pump/commands/job-0", "open")
	require.Equal(t, "job-0", string(pk.Properties.CorrelationData))
	require.Equal(t, "devices/pump/results/job-0", pk.Properties.ResponseTopic)
	require.NotZero(t, pk.Properties.MessageExpiryInterval)
	reach(t, s, "job", "it is sent", func(c command.Counts) bool { return c.Sent == 1 })

	pump.Drop()
	reach(t, s, "job", "it waits again", func(c command.Counts) bool { return c.Queued == 1 })
	pump = testmqtt.Dial(t, addr, 5)
	pump.MustConnect("pump")
	pump.Subscribe(1, "devices/pump/commands/+")
	pk = pump.ExpectPublish("devices/pump/commands/job-0", "open")
	pump.Ack(packets.Puback, pk.PacketID)
	reach(t, s, "job", "it is delivered", func(c command.Counts) bool { return c.Delivered == 1 })
	pump.Publish("devices/pump/results/job-0", `{"state":"SUCCEEDED"}`, 1, 3)
	require.Zero(t, pump.Expect(packets.Puback).ReasonCode)
	reach(t, s, "job", "it has succeeded", func(c command.Counts) bool { return c.Succeeded == 1 })
}

func TestCommandsInOrderThroughTheRealBroker(t *testing.T) {
	addr, s := startBroker(t)
	const many = 50
	for i := range many {
		_, err := s.Issue(context.Background(), command.Input{
			Body: fmt.Appendf(nil, `{"id":"job%d","targets":{"devices":["pump"]},"payload":%d}`, i, i)})
		require.NoError(t, err)
	}
	pump := testmqtt.Dial(t, addr, 4)
	pump.MustConnect("pump")
	pump.Subscribe(1, "devices/pump/commands/+")
	for i := range many {
		pk := pump.ExpectPublish(fmt.Sprintf("devices/pump/commands/job%d-0", i), fmt.Sprint(i))
		pump.Ack(packets.Puback, pk.PacketID)
	}
	reach(t, s, fmt.Sprintf("job%d", many-1), "the last is delivered",
		func(c command.Counts) bool { return c.Delivered == 1 })
}

func TestCommandsWithMosquittoClients(t *testing.T) {
	pub, sub := testenv.Need(t, "mosquitto_pub"), testenv.Need(t, "mosquitto_sub")
	addr, s := startBroker(t)
	host, port, _ := strings.Cut(addr, ":")
	run := func(args ...string) {
		t.Helper()
		args = append([]string{"-h", host, "-p", port, "-q", "1"}, args...)
		out, err := exec.CommandContext(t.Context(), pub, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	run("-t", "admin/commands", "-m", `{"id":"m","targets":{"devices":["valve"]},"payload":"shut"}`)
	out, err := exec.CommandContext(t.Context(), sub, "-h", host, "-p", port, "-q", "1", "-i", "valve", "-W", "10",
		"-C", "1", "-v", "-t", "devices/valve/commands/+").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "devices/valve/commands/m-0 shut\n", string(out))
	reach(t, s, "m", "it is delivered", func(c command.Counts) bool { return c.Delivered == 1 })
	run("-i", "valve", "-t", "devices/valve/results/m-0", "-m", "is shut")
	reach(t, s, "m", "it has succeeded", func(c command.Counts) bool { return c.Succeeded == 1 })
}
