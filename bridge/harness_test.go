package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/uplink"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/store/local"
)

// kafkaConfig is the default configuration, with time-outs for tests.
func kafkaConfig(t testing.TB, brokers ...string) bridge.KafkaConfig {
	t.Helper()
	var cfg bridge.KafkaConfig
	require.NoError(t, conf.SetDefaults(&cfg))
	cfg.Brokers = brokers
	cfg.AckTimeout = time.Second
	return cfg
}

func openSpool(t testing.TB, dir string, maxBytes int64) (*local.DB, bridge.Spool) {
	t.Helper()
	db, err := local.Open(dir, local.Options{})
	require.NoError(t, err)
	spool, err := db.OpenSpool(maxBytes)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db, spool
}

func startUplink(t testing.TB, cfg bridge.KafkaConfig, spool bridge.Spool) *bridge.Uplink {
	t.Helper()
	u, err := bridge.NewUplink(cfg, bridge.Options{Spool: spool, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	u.Start()
	t.Cleanup(func() { closeUplink(t, u) })
	return u
}

func closeUplink(t testing.TB, u *bridge.Uplink) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = u.Close(ctx)
}

// fleet is a set of devices, each of which sends numbered records.
type fleet struct {
	topic string
	next  []int

	mu      sync.Mutex
	acked   map[string]bool // "device/number"
	refused map[string]error
	waiting int
}

func newFleet(topic string, devices int) *fleet {
	return &fleet{topic: topic, next: make([]int, devices), acked: map[string]bool{}, refused: map[string]error{}}
}

// send lets every device send one record with a padded payload.
func (f *fleet) send(s uplink.Sink, padding int) {
	pad := strings.Repeat(".", padding)
	for d := range f.next {
		id := fmt.Sprintf("%d/%d", d, f.next[d])
		f.next[d]++
		f.mu.Lock()
		f.waiting++
		f.mu.Unlock()
		key := []byte("device-" + strconv.Itoa(d))
		s.Send(&uplink.Record{Topic: f.topic, Key: key, Value: []byte(id + " " + pad), ClientID: string(key),
			Time: 1700000000000, Headers: []uplink.Header{{Key: []byte("client_id"), Value: key}}}, f.answer(id))
	}
}

func (f *fleet) answer(id string) func(error) {
	return func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.waiting--
		if err != nil {
			f.refused[id] = err
		} else {
			f.acked[id] = true
		}
	}
}

func (f *fleet) unanswered() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

func (f *fleet) awaitAnswers(t testing.TB, within time.Duration) {
	t.Helper()
	testenv.Eventually(t, within, "every record is answered", func() bool { return f.unanswered() == 0 })
}

// check verifies that everything acknowledged arrived, and that first occurrences are in order for each device.
func (f *fleet) check(t testing.TB, arrived []*sarama.ConsumerMessage) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[string]bool{}
	last := map[string]int{}
	for _, m := range arrived {
		id, _, _ := strings.Cut(string(m.Value), " ")
		device, number, _ := strings.Cut(id, "/")
		if seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.Atoi(number)
		require.NoError(t, err)
		if before, ok := last[device]; ok && n < before {
			t.Fatalf("device %s: %d arrived first after %d", device, n, before)
		}
		last[device] = n
	}
	for id := range f.acked {
		if !seen[id] {
			t.Fatalf("%s was acknowledged and did not arrive (%d of %d acknowledged arrived)", id, len(seen), len(f.acked))
		}
	}
	t.Logf("%d acknowledged, %d refused, %d arrived, %d of them twice", len(f.acked), len(f.refused), len(arrived),
		len(arrived)-len(seen))
}

// assertRefusals checks that every refusal has the reason code.
func (f *fleet) assertRefusals(t testing.TB, code byte) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, err := range f.refused {
		var refusal *broker.Refusal
		if !assert.True(t, errors.As(err, &refusal), "%s: %v", id, err) || !assert.Equal(t, code, refusal.Code.Code) {
			return
		}
	}
}

func awaitDrained(t testing.TB, u *bridge.Uplink, within time.Duration) {
	t.Helper()
	testenv.Eventually(t, within, "the spool is empty and the circuit closed", func() bool {
		s := u.Status()
		return s.Circuit == "closed" && s.SpoolMessages == 0 && s.Inflight == 0
	})
}
