package demo

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

// startMosquitto runs a broker that is not ours, so that the devices are tested as what they are: plain MQTT clients.
func startMosquitto(t *testing.T) (address string) {
	t.Helper()
	program := testenv.Need(t, "mosquitto")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nuser root\n", port)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	cmd := exec.Command(program, "-c", config)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address = fmt.Sprintf("127.0.0.1:%d", port)
	testenv.Eventually(t, 10*time.Second, "mosquitto answers", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return address
}

func TestDevicesReportAndAnswerCommands(t *testing.T) {
	address := startMosquitto(t)
	var mu sync.Mutex
	heard := map[string][]string{}
	operator := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + address).SetClientID("operator"))
	require.True(t, operator.Connect().WaitTimeout(10*time.Second))
	defer operator.Disconnect(0)
	operator.Subscribe("devices/#", 1, func(_ mqtt.Client, m mqtt.Message) {
		mu.Lock()
		defer mu.Unlock()
		heard[m.Topic()] = append(heard[m.Topic()], string(m.Payload()))
	}).Wait()
	got := func(topic string) []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), heard[topic]...)
	}

	fleet, err := Start(Options{
		URL: "mqtt://" + address, Count: 2, Every: 50 * time.Millisecond, Work: time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer fleet.Stop()
	testenv.Eventually(t, 10*time.Second, "both devices report", func() bool {
		return len(got("devices/pump-1/up/telemetry")) > 1 && len(got("devices/pump-2/up/telemetry")) > 1
	})
	assert.True(t, json.Valid([]byte(got("devices/pump-1/up/telemetry")[0])))

	// Retained, so that it is there whether or not the device has subscribed by now.
	operator.Publish("devices/pump-2/commands/c1.0", 1, true, "open").Wait()
	testenv.Eventually(t, 10*time.Second, "the device answers", func() bool {
		return len(got("devices/pump-2/results/c1.0")) >= 2
	})
	results := got("devices/pump-2/results/c1.0")
	assert.JSONEq(t, `{"state":"RUNNING","progress":50}`, results[0])
	assert.JSONEq(t, `{"state":"SUCCEEDED","progress":100,"result":{"did":"open"}}`, results[1])
	assert.Empty(t, got("devices/pump-1/results/c1.0"))
}

func TestStopWithoutABrokerDoesNotHang(t *testing.T) {
	fleet, err := Start(Options{
		URL: "mqtt://127.0.0.1:1", Count: 3, Every: time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	fleet.Stop()
}
