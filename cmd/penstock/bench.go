package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/bench"
)

// newBenchCommand is `penstock bench`: load for any MQTT broker, and a comparison of brokers.
func newBenchCommand() *cobra.Command {
	cfg := bench.NewConfig(bench.ModeFanIn, "127.0.0.1:1883")
	var asJSON, lossy bool
	var mode, token string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Load an MQTT broker, account for every message, and measure what it costs",
		Long: `Load an MQTT broker, account for every message, and measure what it costs.

The modes are idle, connect, fan-in, fan-out, device-to-device and uplink. Any broker can be the target; name its
processes with --pid to have their CPU time and memory measured. The run ends by itself; an interrupt ends it early and
prints what there is. The exit code is 1 when a message was lost or a connection failed.`,
		Example: `  penstock bench --mode fan-in --qos 1 --pid $(pidof penstock)
  penstock bench --mode device-to-device --qos 1 --rate 20000 --duration 30s
  penstock bench --mode idle --clients 10000 --pid $(pidof mosquitto) --json
  penstock bench compare`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Mode = bench.Mode(mode)
			if token != "" {
				cfg.Password = token
			}
			return runBench(cmd, cfg, asJSON, lossy)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&mode, "mode", string(cfg.Mode), "idle, connect, fan-in, fan-out, device-to-device or uplink")
	flags.StringVar(&token, "token", "", "token to connect with, in the place of a password")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	flags.BoolVar(&lossy, "allow-loss", false, "exit with 0 even when messages or connections were lost")
	benchFlags(cmd, &cfg)
	cmd.AddCommand(newBenchCompareCommand())
	return cmd
}

func runBench(cmd *cobra.Command, cfg bench.Config, asJSON, lossy bool) error {
	if err := cfg.Validate(); err != nil {
		return &exitError{exitUsage, err}
	}
	report, err := bench.Run(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	if err := printBench(cmd.OutOrStdout(), report, asJSON); err != nil {
		return err
	}
	if !lossy && !report.Interrupted && !report.Complete() {
		return errors.New("messages or connections were lost")
	}
	return nil
}

// benchFlags binds the configuration of a run.
func benchFlags(cmd *cobra.Command, cfg *bench.Config) {
	f := cmd.Flags()
	f.StringVar(&cfg.Target, "target", cfg.Target, "the broker, host:port")
	f.IntVar(&cfg.Clients, "clients", cfg.Clients, "connections of idle and connect")
	f.IntVar(&cfg.Publishers, "publishers", cfg.Publishers, "publishers; -1: the mode's default")
	f.IntVar(&cfg.Subscribers, "subscribers", cfg.Subscribers, "subscribers; -1: the mode's default")
	f.IntVar(&cfg.QoS, "qos", cfg.QoS, "0, 1 or 2")
	f.IntVar(&cfg.Size, "size", cfg.Size, fmt.Sprintf("payload bytes, at least %d", bench.StampSize))
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate,
		"messages (connect: connections) a second in all; 0: as fast as the window allows")
	f.IntVar(&cfg.Inflight, "inflight", cfg.Inflight, "window of each publisher (connect: handshakes under way)")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "length of the measured interval")
	f.Int64Var(&cfg.Messages, "messages", cfg.Messages, "end the measured interval after so many messages")
	f.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "load before the measured interval")
	f.DurationVar(&cfg.Settle, "settle", cfg.Settle, "wait between connecting and loading")
	f.DurationVar(&cfg.Drain, "drain", cfg.Drain, "longest wait for what is under way at the end")
	f.DurationVar(&cfg.Timeout, "timeout", cfg.Timeout, "longest wait for all connections")
	f.IntSliceVar(&cfg.PIDs, "pid", nil, "a process of the broker, to measure (may be repeated)")
	f.StringVar(&cfg.Username, "username", "", "user name to connect with")
	f.StringVar(&cfg.Password, "password", "", "password to connect with")
	f.Uint8Var(&cfg.Version, "version", cfg.Version, "4: MQTT 3.1.1, 5: MQTT 5")
	f.BoolVar(&cfg.Clean, "clean", cfg.Clean, "clean session (MQTT 5: clean start)")
	f.DurationVar(&cfg.KeepAlive, "keepalive", cfg.KeepAlive, "keep-alive, with a ping every half of it; 0: none")
	f.StringVar(&cfg.ClientID, "client-id", "", "prefix of client identifiers; empty: new for each run")
	f.StringVar(&cfg.Topic, "topic", "", "topic to publish to; {run}, {i}, {id}, {peer} are filled in")
	f.StringVar(&cfg.Filter, "filter", "", "filter to subscribe to; {run}, {i}, {id} are filled in")
}

// tabular is an outcome that can be shown as a table.
type tabular interface {
	WriteTable(w io.Writer) error
}

func printBench(w io.Writer, outcome tabular, asJSON bool) error {
	if !asJSON {
		return outcome.WriteTable(w)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(outcome)
}
