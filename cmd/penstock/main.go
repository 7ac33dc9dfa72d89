// Command penstock runs a node of the broker, and talks to running ones.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/client"
	"github.com/penstockmq/penstock/node"
)

// Exit codes beside 0. Subcommands may have further ones, which their help names.
const (
	exitFailed = 1 // what was asked for could not be done
	exitUsage  = 2 // it was asked for wrongly: flags, arguments, configuration
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is main without its ties to the process, for tests.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	code := exitUsage // for what cobra itself finds wrong, before it runs a subcommand
	root.PersistentPreRun = func(*cobra.Command, []string) { code = exitFailed }
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	exit := &exitError{code, err}
	errors.As(err, &exit)
	if exit.err != nil {
		fmt.Fprintln(root.ErrOrStderr(), "penstock:", exit.err)
		if errors.Is(err, client.ErrUnreachable) {
			fmt.Fprintln(root.ErrOrStderr(), "Is it running? --server says where it is looked for.")
		}
	}
	return exit.code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "An MQTT broker for devices: uplink to Kafka, commands down to them",
		Long: "Penstock holds very many devices on MQTT connections, carries what they report up to Kafka,\n" +
			"and brings commands down to them reliably.",
		Version:      node.Version(),
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("penstock {{.Version}}\n")
	root.AddCommand(
		newServeCommand(), newPushCommand(), newClientsCommand(), newNodesCommand(), newConfigCommand(),
		newUplinkCommand(), newTokenCommand(), newBenchCommand(), newVersionCommand(),
	)
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "penstock", node.Version()) },
	}
}

// exitError is an error of a subcommand with an exit code other than exitFailed. Without err nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }
