package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/hooks/uplink"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/store/local"
)

func openLog(t testing.TB, dir string, cfg bridge.SpoolConfig) *bridge.Log {
	t.Helper()
	db, err := local.Open(dir, local.Options{})
	require.NoError(t, err)
	spool, err := db.OpenUplinkLog(int64(cfg.MaxBytes))
	require.NoError(t, err)
	l, err := bridge.NewLog(cfg, bridge.Options{Spool: spool})
	require.NoError(t, err)
	l.Start()
	t.Cleanup(func() {
		assert.NoError(t, l.Close(context.Background()))
		assert.NoError(t, db.Close())
	})
	return l
}

// put stores records with the given values and waits until they are on disk.
func put(t testing.TB, l *bridge.Log, received int64, values ...string) {
	t.Helper()
	answers := make(chan error, len(values))
	for _, v := range values {
		l.Send(&uplink.Record{Topic: "up", Value: []byte(v), Time: received}, func(err error) { answers <- err })
	}
	for range values {
		require.NoError(t, <-answers)
	}
}

func tail(t testing.TB, l *bridge.Log, from uint64) (values []string) {
	t.Helper()
	require.NoError(t, l.Tail(context.Background(), from, false, func(e bridge.Entry) error {
		values = append(values, string(e.Record.Value))
		return nil
	}))
	return values
}

func TestLogIsReadFromAnyPointAndSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	cfg := bridge.SpoolConfig{MaxBytes: 1 << 20}
	t.Run("first run", func(t *testing.T) {
		l := openLog(t, dir, cfg)
		put(t, l, 1, "a", "b", "c")
		assert.Equal(t, []string{"a", "b", "c"}, tail(t, l, 0))
		assert.Equal(t, []string{"b", "c"}, tail(t, l, 2))
		assert.Empty(t, tail(t, l, 4))
	})
	l := openLog(t, dir, cfg)
	put(t, l, 1, "d")
	assert.Equal(t, []string{"a", "b", "c", "d"}, tail(t, l, 0))
	assert.EqualValues(t, 4, l.Stats().Messages)
}

func TestFollowersAreWoken(t *testing.T) {
	l := openLog(t, "", bridge.SpoolConfig{MaxBytes: 1 << 20})
	put(t, l, 1, "old")
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- l.Tail(ctx, 0, true, func(e bridge.Entry) error { got <- string(e.Record.Value); return nil })
	}()
	assert.Equal(t, "old", <-got)
	for i := range 3 {
		put(t, l, 1, fmt.Sprint("new", i))
		assert.Equal(t, fmt.Sprint("new", i), <-got)
	}
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)

	stop := errors.New("enough")
	assert.ErrorIs(t, l.Tail(context.Background(), 0, true, func(bridge.Entry) error { return stop }), stop)
}

func TestLogRemovesTheOldestForRoom(t *testing.T) {
	l := openLog(t, "", bridge.SpoolConfig{MaxBytes: 1 << 20})
	value := string(make([]byte, 10_000))
	for range 50 {
		put(t, l, time.Now().UnixMilli(), value, value, value, value, value)
		require.LessOrEqual(t, l.Stats().Bytes, int64(1<<20))
	}
	stats := l.Stats()
	assert.EqualValues(t, 250, stats.Last)
	assert.Greater(t, stats.Bytes, int64(1<<19), "no more is removed than it takes")
	assert.EqualValues(t, stats.Last-stats.First+1, stats.Messages)
	assert.Len(t, tail(t, l, 0), int(stats.Messages))
}

func TestLogRemovesWhatIsTooOld(t *testing.T) {
	l := openLog(t, "", bridge.SpoolConfig{MaxBytes: 1 << 20, Retention: time.Hour})
	put(t, l, time.Now().Add(-2*time.Hour).UnixMilli(), "old", "old")
	put(t, l, time.Now().UnixMilli(), "new")
	testenv.Eventually(t, 5*time.Second, "the old ones are gone", func() bool {
		put(t, l, time.Now().UnixMilli(), "newer")
		return tail(t, l, 0)[0] == "new"
	})
}

func TestLogRefusesWhatTheDiskFails(t *testing.T) {
	db, err := local.Open("", local.Options{})
	require.NoError(t, err)
	spool, err := db.OpenUplinkLog(1 << 20)
	require.NoError(t, err)
	l, err := bridge.NewLog(bridge.SpoolConfig{MaxBytes: 1 << 20}, bridge.Options{Spool: spool})
	require.NoError(t, err)
	l.Start()
	require.NoError(t, db.Close())
	answer := make(chan error, 1)
	l.Send(&uplink.Record{Topic: "up"}, func(err error) { answer <- err })
	assert.Error(t, <-answer)
	require.NoError(t, l.Close(context.Background()))
	l.Send(&uplink.Record{Topic: "up"}, func(err error) { answer <- err })
	assert.ErrorContains(t, <-answer, "shut down")
}

func TestConfigurationFaults(t *testing.T) {
	faults := func(change func(*bridge.KafkaConfig)) map[string]string {
		cfg := kafkaConfig(t, "127.0.0.1:9092")
		change(&cfg)
		got := map[string]string{}
		cfg.Validate(func(key, problem string) { got[key] = problem })
		return got
	}
	assert.Empty(t, faults(func(*bridge.KafkaConfig) {}), "the defaults are right")
	for name, c := range map[string]struct {
		change func(*bridge.KafkaConfig)
		key    string
	}{
		"broker without port":    {func(c *bridge.KafkaConfig) { c.Brokers = []string{"a:1", "kafka"} }, "brokers[1]"},
		"version":                {func(c *bridge.KafkaConfig) { c.Version = "0.8.2.0" }, "version"},
		"compression":            {func(c *bridge.KafkaConfig) { c.Compression = "rar" }, "compression"},
		"linger":                 {func(c *bridge.KafkaConfig) { c.Linger = -1 }, "linger"},
		"batch":                  {func(c *bridge.KafkaConfig) { c.BatchBytes = 1 }, "batch_bytes"},
		"message":                {func(c *bridge.KafkaConfig) { c.MaxMessageBytes = 1 << 30 }, "max_message_bytes"},
		"inflight":               {func(c *bridge.KafkaConfig) { c.MaxInflight = 1 }, "max_inflight"},
		"ack timeout":            {func(c *bridge.KafkaConfig) { c.AckTimeout = 0 }, "ack_timeout"},
		"dial timeout":           {func(c *bridge.KafkaConfig) { c.DialTimeout = time.Hour }, "dial_timeout"},
		"mechanism":              {func(c *bridge.KafkaConfig) { c.SASL.Mechanism = "GSSAPI" }, "sasl.mechanism"},
		"user without mechanism": {func(c *bridge.KafkaConfig) { c.SASL.Username = "u" }, "sasl.mechanism"},
		"no password":            {func(c *bridge.KafkaConfig) { c.SASL.Mechanism, c.SASL.Username = "PLAIN", "u" }, "sasl"},
		"half a pair":            {func(c *bridge.KafkaConfig) { c.TLS.Enabled, c.TLS.Cert = true, "f" }, "tls"},
		"tls keys without tls":   {func(c *bridge.KafkaConfig) { c.TLS.CA = "f" }, "tls.enabled"},
	} {
		got := faults(c.change)
		assert.Contains(t, got, c.key, name)
		assert.Len(t, got, 1, name)
	}
	got := map[string]string{}
	spool := bridge.SpoolConfig{MaxBytes: 1, Retention: -1}
	spool.Validate(func(key, problem string) { got[key] = problem })
	assert.Len(t, got, 2)
	var defaults bridge.SpoolConfig
	require.NoError(t, conf.SetDefaults(&defaults))
}
