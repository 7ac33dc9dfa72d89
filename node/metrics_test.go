package node

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write generated documents anew")

const metricsFile = "../docs/METRICS.md"

const metricsHead = `# Metrics

Generated from the registry of a running node by ` + "`make docs`" + `. They are served at ` + "`/metrics`" + ` for
Prometheus, together with those of the Go runtime (` + "`go_…`" + `) and the process (` + "`process_…`" + `).

| metric | labels | what it says |
|---|---|---|
`

// recorder is a registerer that remembers what it was given, also metrics that have no value yet.
type recorder struct {
	*prometheus.Registry
	rows map[string]string
}

// A Desc tells its parts only as text.
var descParts = regexp.MustCompile(`fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)",.*variableLabels: \{([^}]*)\}`)

func (r *recorder) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	for d := range descs {
		parts := descParts.FindStringSubmatch(d.String())
		if parts != nil && strings.HasPrefix(parts[1], "penstock_") {
			labels := strings.ReplaceAll(parts[3], ",", ", ")
			r.rows[parts[1]] = fmt.Sprintf("| `%s` | %s | %s |\n", parts[1], labels, strings.ReplaceAll(parts[2], "|", `\|`))
		}
	}
	return r.Registry.Register(c)
}

func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// TestMetricsReference keeps docs/METRICS.md in step with what nodes register; -update writes it anew.
func TestMetricsReference(t *testing.T) {
	rows := map[string]string{}
	for _, brokers := range [][]string{nil, {"127.0.0.1:1"}} { // the local log and Kafka have metrics of their own
		cfg, err := DemoConfig()
		require.NoError(t, err)
		cfg.HTTP.Address, cfg.Kafka.Brokers = "127.0.0.1:0", brokers
		for i := range cfg.Listeners {
			cfg.Listeners[i].Address = "127.0.0.1:0"
		}
		n, err := assemble(cfg, io.Discard, &recorder{prometheus.NewRegistry(), rows})
		require.NoError(t, err)
		require.NoError(t, n.Stop(context.Background()))
	}
	names := make([]string, 0, len(rows))
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	var text strings.Builder
	text.WriteString(metricsHead)
	for _, name := range names {
		text.WriteString(rows[name])
	}
	if *update {
		require.NoError(t, os.WriteFile(metricsFile, []byte(text.String()), 0o644))
	}
	kept, err := os.ReadFile(metricsFile)
	require.NoError(t, err)
	assert.True(t, text.String() == string(kept), "docs/METRICS.md is out of step: run make docs")
	for _, name := range []string{"penstock_connections", "penstock_publish_received_total", "penstock_delivered_total",
		"penstock_dropped_total", "penstock_uplink_acked_total", "penstock_spool_messages",
		"penstock_command_transitions_total"} {
		assert.Contains(t, rows, name, "the contract names it")
	}
}
