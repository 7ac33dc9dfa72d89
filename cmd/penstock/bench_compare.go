package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/bench"
)

// comparing holds the flags of `penstock bench compare`.
type comparing struct {
	asJSON              bool
	mosquitto, penstock string
	brokers, only       []string
	repetitions         int
	sizing              bench.Sizing
}

// newBenchCompareCommand is `penstock bench compare`.
func newBenchCompareCommand() *cobra.Command {
	c := comparing{
		repetitions: 3,
		sizing:      bench.Sizing{Duration: 4 * time.Second, Idle: 10000, Rate: 10000},
	}
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Run the same work on Penstock and mosquitto in turn, and print the ratios",
		Long: `Run the same work on Penstock and mosquitto in turn, and print the ratios.

Each run starts a fresh broker on a free port of the loopback, with nothing kept on disk and every limit lifted. Other
brokers join with --broker; they are not restarted. The exit code is 1 when a run failed or anything was lost; ratios
have no part in it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	f := cmd.Flags()
	f.BoolVar(&c.asJSON, "json", false, "print JSON, with the report of every run")
	f.StringVar(&c.mosquitto, "mosquitto", "mosquitto", "program of mosquitto; empty: leave it out")
	f.StringVar(&c.penstock, "penstock", "self", "program of Penstock; self: this one; empty: leave it out")
	f.StringArrayVar(&c.brokers, "broker", nil, "another broker that runs: name=host:port,pid=N (may be repeated)")
	f.StringArrayVar(&c.only, "only", nil, "run only work whose name contains this (may be repeated)")
	f.IntVar(&c.repetitions, "repetitions", c.repetitions, "runs of each work on each broker; the median counts")
	f.DurationVar(&c.sizing.Duration, "duration", c.sizing.Duration, "length of each measured interval")
	f.IntVar(&c.sizing.Idle, "idle-clients", c.sizing.Idle, "connections where memory and connecting are measured")
	f.Float64Var(&c.sizing.Rate, "rate", c.sizing.Rate, "messages a second where latency is measured")
	return cmd
}

func (c *comparing) run(cmd *cobra.Command) error {
	contenders, err := benchContenders(c.mosquitto, c.penstock, c.brokers)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	workloads := chosen(bench.Workloads(c.sizing), c.only)
	if len(workloads) == 0 {
		return &exitError{exitUsage, fmt.Errorf("no work is called %s", strings.Join(c.only, " or "))}
	}
	if c.repetitions < 1 {
		return &exitError{exitUsage, errors.New("--repetitions must be at least 1")}
	}
	comparison := bench.Compare(cmd.Context(), contenders, workloads, c.repetitions, cmd.ErrOrStderr())
	if err := printBench(cmd.OutOrStdout(), comparison, c.asJSON); err != nil {
		return err
	}
	if len(comparison.Faults) > 0 {
		return errors.New("a run failed or lost something")
	}
	return nil
}

// benchContenders lists the brokers; the first is the one that ratios refer to.
func benchContenders(mosquitto, penstock string, brokers []string) ([]bench.Contender, error) {
	var contenders []bench.Contender
	if mosquitto != "" {
		program, err := findServer(mosquitto)
		if err != nil {
			return nil, fmt.Errorf("%w: install it (Debian: apt-get install mosquitto), "+
				"or leave it out with --mosquitto=", err)
		}
		contenders = append(contenders, bench.Mosquitto(program))
	}
	if penstock == "self" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		penstock = self
	}
	if penstock != "" {
		contenders = append(contenders, bench.Penstock(penstock))
	}
	for _, text := range brokers {
		contender, err := parseBroker(text)
		if err != nil {
			return nil, fmt.Errorf("--broker %s: %w", text, err)
		}
		contenders = append(contenders, contender)
	}
	if len(contenders) == 0 {
		return nil, errors.New("no broker is left")
	}
	names := map[string]bool{}
	for _, contender := range contenders {
		if names[contender.Name] {
			return nil, fmt.Errorf("two brokers are called %s", contender.Name)
		}
		names[contender.Name] = true
	}
	return contenders, nil
}

// findServer looks for a program also where Debian keeps servers, which is not on every user's path.
func findServer(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil && !strings.Contains(program, "/") {
		if path, sbinErr := exec.LookPath("/usr/sbin/" + program); sbinErr == nil {
			return path, nil
		}
	}
	return path, err
}

// parseBroker reads name=host:port,pid=N,pid=M.
func parseBroker(text string) (bench.Contender, error) {
	name, rest, ok := strings.Cut(text, "=")
	parts := strings.Split(rest, ",")
	if !ok || name == "" || !strings.Contains(parts[0], ":") {
		return bench.Contender{}, errors.New("is not name=host:port,pid=N")
	}
	var pids []int
	for _, part := range parts[1:] {
		number, isPID := strings.CutPrefix(part, "pid=")
		pid, err := strconv.Atoi(number)
		if !isPID || err != nil || pid <= 0 {
			return bench.Contender{}, fmt.Errorf("%q is not pid=N", part)
		}
		pids = append(pids, pid)
	}
	return bench.External(name, parts[0], pids...), nil
}

func chosen(workloads []bench.Workload, only []string) []bench.Workload {
	if len(only) == 0 {
		return workloads
	}
	var kept []bench.Workload
	for _, w := range workloads {
		for _, part := range only {
			if strings.Contains(w.Name, part) {
				kept = append(kept, w)
				break
			}
		}
	}
	return kept
}
