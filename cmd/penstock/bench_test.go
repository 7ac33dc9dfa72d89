package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/bench"
)

func TestBenchBrokerFlag(t *testing.T) {
	cases := []struct {
		name, text, broker, address string
		pids                        []int
		fault                       string
	}{
		{"address only", "emqx=10.0.0.1:1883", "emqx", "10.0.0.1:1883", nil, ""},
		{"two processes", "nats=localhost:4222,pid=7,pid=8", "nats", "localhost:4222", []int{7, 8}, ""},
		{"no name", "=localhost:1883", "", "", nil, "is not name=host:port"},
		{"no port", "x=localhost", "", "", nil, "is not name=host:port"},
		{"no number", "x=localhost:1,pid=me", "", "", nil, "is not pid=N"},
		{"another key", "x=localhost:1,cpu=1", "", "", nil, "is not pid=N"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			contender, err := parseBroker(c.text)
			if c.fault != "" {
				require.ErrorContains(t, err, c.fault)
				return
			}
			require.NoError(t, err)
			instance, err := contender.Start(context.Background(), t.TempDir())
			require.NoError(t, err)
			assert.Equal(t, c.broker, contender.Name)
			assert.Equal(t, c.address, instance.Address)
			assert.Equal(t, c.pids, instance.PIDs)
			assert.Nil(t, instance.Stop, "a broker that somebody else runs is not ended")
		})
	}
}

func TestBenchWorkIsChosenByPartOfItsName(t *testing.T) {
	all := bench.Workloads(bench.Sizing{Duration: time.Second, Idle: 10, Rate: 10})
	assert.Len(t, chosen(all, nil), len(all))
	assert.Len(t, chosen(all, []string{"idle", "fan-out"}), 2)
	assert.Empty(t, chosen(all, []string{"no such"}))
	for _, w := range all {
		assert.NoError(t, withTarget(w.Config).Validate(), w.Name)
	}
}

func withTarget(cfg bench.Config) bench.Config {
	cfg.Target = "127.0.0.1:1883"
	return cfg
}

func TestBenchRefusesFaultyFlags(t *testing.T) {
	assert.Equal(t, exitUsage, run(context.Background(), []string{"bench", "--qos", "7"}))
	assert.Equal(t, exitUsage, run(context.Background(), []string{"bench", "compare", "--mosquitto=", "--penstock="}))
	assert.Equal(t, exitUsage, run(context.Background(), []string{"bench", "compare", "--mosquitto=",
		"--broker", "x=h:1", "--broker", "x=h:2"}))
	assert.Equal(t, exitFailed, run(context.Background(), []string{"bench", "--target", "127.0.0.1:1"}))
}
