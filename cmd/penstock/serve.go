package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/node"
)

type serveFlags struct {
	config, logLevel, logFormat string
	demo                        bool
}

func newServeCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a node until SIGTERM; SIGHUP reloads what can change live", Args: cobra.NoArgs,
		Long: "Run a node. SIGTERM and SIGINT stop it gracefully, a second one at once. SIGHUP reads certificates, the\n" +
			"ACL file, address lists and the log level again.\n\nThe exit code is 2 for a configuration with faults.",
		Example: "  penstock serve --demo\n  penstock serve --config penstock.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.demo && f.config != "" {
				return &exitError{exitUsage, errors.New("--demo has a configuration of its own: leave out --config")}
			}
			return serve(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "configuration file (YAML); without it, defaults and environment")
	cmd.Flags().BoolVar(&f.demo, "demo", false, "loopback only, everybody may connect, nothing is kept, simulated devices")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error; wins over log.level")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "", "text or json; wins over log.format")
	return cmd
}

// load reads the configuration that the flags name, at the start and for each reload.
func (f *serveFlags) load() (node.Config, error) {
	if f.demo {
		return f.override(node.DemoConfig())
	}
	src, err := conf.ReadSource(f.config)
	if err != nil {
		return node.Config{}, err
	}
	return f.override(node.LoadConfig(src))
}

func (f *serveFlags) override(cfg node.Config, err error) (node.Config, error) {
	if err != nil {
		return cfg, err
	}
	if f.logLevel != "" {
		cfg.Log.Level = f.logLevel
	}
	if f.logFormat != "" {
		cfg.Log.Format = f.logFormat
	}
	return cfg, conf.Check(&cfg)
}

func serve(ctx context.Context, f serveFlags, out, logs io.Writer) error {
	cfg, err := f.load()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	// Whoever read the output or the logs may have gone; by default Go then ends the process at the next line.
	signal.Ignore(syscall.SIGPIPE)
	// A reload that is asked for while the node starts waits until it has; by default SIGHUP would end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	n, err := node.New(cfg, logs)
	if err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	greet(out, n, f.demo)
	reloadUntil(ctx, hup, n, &f)
	// From here on a second signal ends the process at once, as people at a terminal expect.
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	return n.Stop(context.WithoutCancel(ctx))
}

// reloadUntil reloads at each signal of hup until ctx ends. A configuration with faults changes nothing.
func reloadUntil(ctx context.Context, hup <-chan os.Signal, n *node.Node, f *serveFlags) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			cfg, err := f.load()
			if err == nil {
				err = n.Reload(cfg)
			}
			if err != nil {
				n.Logger().Error("reload failed", "error", err)
			}
		}
	}
}
