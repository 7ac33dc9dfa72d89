package bench

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

// startMosquitto runs one for a test.
func startMosquitto(t *testing.T) *Instance {
	t.Helper()
	broker, err := Mosquitto(testenv.Need(t, "mosquitto")).Start(context.Background(), t.TempDir())
	require.NoError(t, err)
	t.Cleanup(broker.Stop)
	return broker
}

func TestEveryModeAgainstMosquitto(t *testing.T) {
	t.Parallel()
	broker := startMosquitto(t)
	for _, version := range []byte{4, 5} {
		for _, mode := range []Mode{ModeFanIn, ModeFanOut, ModeDeviceToDevice, ModeUplink} {
			for qos := range 3 {
				if mode == ModeUplink && qos == 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s, QoS %d, version %d", mode, qos, version), func(t *testing.T) {
					cfg := NewConfig(mode, broker.Address)
					cfg.QoS, cfg.Version, cfg.PIDs = qos, version, broker.PIDs
					cfg.Publishers, cfg.Subscribers = 5, 3
					if mode == ModeUplink {
						cfg.Subscribers = 0
					}
					cfg.Messages, cfg.Warmup, cfg.Settle = 1000, 20*time.Millisecond, 0
					r, err := Run(context.Background(), cfg)
					require.NoError(t, err)
					checkWhole(t, r)
				})
			}
		}
	}
}

// checkWhole holds the counts of a run in which nothing went wrong against each other.
func checkWhole(t *testing.T, r *Report) {
	t.Helper()
	m := r.Messages
	assert.True(t, r.Complete(), "%+v %v", *m, r.Errors)
	assert.EqualValues(t, 1000, r.Measured.Sent)
	assert.Equal(t, m.Expected, m.Received)
	assert.Zero(t, m.Duplicates+m.OutOfOrder+m.Foreign+m.StrayReplies+m.Lost+m.Unsent)
	subscribers := map[Mode]int64{ModeFanIn: 3, ModeFanOut: 3, ModeDeviceToDevice: 1}[r.Mode]
	assert.Equal(t, m.Sent*subscribers, m.Expected)
	if r.QoS > 0 {
		assert.Equal(t, m.Sent, m.Acknowledged)
		assert.EqualValues(t, 1000, r.AckLatency.Count)
	}
	if subscribers > 0 {
		assert.EqualValues(t, 1000*subscribers, r.DeliveryLatency.Count)
	}
	assert.Positive(t, r.Broker.Processes[0].RSS)
}

// What the bench says it sent, another client must have received.
func TestMosquittoSubSeesTheSame(t *testing.T) {
	t.Parallel()
	client := testenv.Need(t, "mosquitto_sub")
	broker := startMosquitto(t)
	const messages = 500
	host, port, _ := strings.Cut(broker.Address, ":")
	observe := func(args ...string) *exec.Cmd {
		return exec.Command(client, append([]string{
			"-h", host, "-p", port, "-i", "observer", "-c", "-q", "1", "-t", "observed/#", "-W", "20",
		}, args...)...)
	}
	// It subscribes and leaves; mosquitto then keeps what its session wants.
	require.NoError(t, observe("-E").Run())
	cfg := quick(ModeFanIn, broker.Address, 1)
	cfg.Topic, cfg.Publishers, cfg.Subscribers, cfg.Messages = "observed/{i}", 5, 0, messages
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	require.True(t, r.Complete())
	require.EqualValues(t, messages, r.Messages.Acknowledged)

	output, err := observe("-F", "%x", "-C", fmt.Sprint(messages)).Output()
	require.NoError(t, err)
	seen := map[[2]uint64]int{}
	for line := range strings.Lines(string(output)) {
		payload, err := hex.DecodeString(strings.TrimSpace(line))
		require.NoError(t, err)
		require.Len(t, payload, cfg.Size)
		s, ok := readStamp(payload)
		require.True(t, ok)
		seen[[2]uint64{uint64(s.publisher), s.seq}]++
	}
	require.Len(t, seen, messages)
	for publisher := range uint64(5) {
		assert.Equal(t, 1, seen[[2]uint64{publisher, 0}], "publisher %d begins at 0", publisher)
	}
}

func TestIdleAndConnectAgainstMosquitto(t *testing.T) {
	t.Parallel()
	broker := startMosquitto(t)
	cfg := NewConfig(ModeIdle, broker.Address)
	cfg.Clients, cfg.PIDs, cfg.Duration, cfg.KeepAlive = 2000, broker.PIDs, 100*time.Millisecond, time.Second
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	assert.True(t, r.Complete(), r.Errors)
	assert.InDelta(t, 1650, r.Broker.BytesPerConnection, 1500)
	assert.Nil(t, r.Messages)

	cfg = NewConfig(ModeConnect, broker.Address)
	cfg.Clients, cfg.Rate = 200, 1000
	r, err = Run(context.Background(), cfg)
	require.NoError(t, err)
	assert.EqualValues(t, 200, r.Connections.Latency.Count)
	assert.GreaterOrEqual(t, r.Connections.Seconds, 0.19)
	assert.Positive(t, r.Connections.PerSecond)
}

// A broker gives up clients that are silent for 1.5 × keep-alive; the bench's are not.
func TestPingsKeepConnectionsOpen(t *testing.T) {
	t.Parallel()
	broker := startMosquitto(t)
	cfg := NewConfig(ModeIdle, broker.Address)
	cfg.Clients, cfg.KeepAlive, cfg.Settle, cfg.Duration = 50, time.Second, 0, 3500*time.Millisecond
	r, err := Run(context.Background(), cfg)
	require.NoError(t, err)
	assert.True(t, r.Complete(), "%+v %v", r.Connections, r.Errors)
}

func TestCompareRunsEachBrokerAndFindsFaults(t *testing.T) {
	t.Parallel()
	program := testenv.Need(t, "mosquitto")
	lossy := (&fakeBroker{delivery: func(n int, packet []byte) [][]byte {
		if n == 10 {
			return nil
		}
		return [][]byte{packet}
	}}).start(t)
	work := Workload{"d2d", quick(ModeDeviceToDevice, "", 1), []Metric{cpuPerMessage, receivedRate}}
	contenders := []Contender{
		Mosquitto(program), External("lossy", lossy.address(), os.Getpid()),
		{"absent", Mosquitto("/no/such/program").Start},
	}
	c := Compare(context.Background(), contenders, []Workload{work}, 2, io.Discard)
	require.Len(t, c.Figures, 2)
	delivered := c.Figures[1]
	assert.Positive(t, *delivered.Values[0])
	assert.InDelta(t, *delivered.Values[1] / *delivered.Values[0], *delivered.Ratios[1], 1e-9)
	assert.Nil(t, delivered.Values[2], "it did not start")
	require.Len(t, c.Faults, 4)
	assert.Contains(t, c.Faults[0], "1 lost")
	assert.Contains(t, c.Faults[1], "no such file")
	var table strings.Builder
	require.NoError(t, c.WriteTable(&table))
	assert.Contains(t, table.String(), "broker CPU a message, µs")
}

func TestABrokerThatDoesNotStartIsReportedWithItsOutput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := launch(context.Background(), dir, "127.0.0.1:1", testenv.Need(t, "mosquitto"), "-c", "/no/such/file")
	require.ErrorContains(t, err, "ended at once")
	assert.ErrorContains(t, err, "Unable to open config file")
}

func TestMedian(t *testing.T) {
	cases := []struct {
		name   string
		values []float64
		want   float64
	}{
		{"one", []float64{3}, 3}, {"odd", []float64{9, 1, 3}, 3}, {"even", []float64{4, 1, 2, 9}, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, *median(c.values)) })
	}
	assert.Nil(t, median(nil))
}

func TestSampleProcess(t *testing.T) {
	before, err := SampleProcess(os.Getpid())
	require.NoError(t, err)
	assert.Greater(t, before.RSS, int64(1<<20))
	own := ownCPU()
	testenv.Eventually(t, 10*time.Second, "CPU time is counted", func() bool {
		for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
		}
		after, err := SampleProcess(os.Getpid())
		require.NoError(t, err)
		return after.User+after.System > before.User+before.System && ownCPU() > own
	})
	_, err = SampleProcess(1 << 30)
	assert.Error(t, err)
}
