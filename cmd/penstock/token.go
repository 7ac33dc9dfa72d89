package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstockmq/penstock/hooks/auth"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make credentials", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newTokenHashCommand(), newTokenIssueCommand())
	return cmd
}

func newTokenIssueCommand() *cobra.Command {
	var api apiFlags
	var product string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "issue DEVICE", Short: "Make a token for a device, known or new; it is the device's MQTT password",
		Args: cobra.ExactArgs(1),
	}
	api.add(cmd)
	cmd.Flags().StringVar(&product, "product", "", "product of a device that is new")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "life of the token; 0: as configured")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := api.client()
		if err != nil {
			return err
		}
		issued, err := c.IssueToken(cmd.Context(), args[0], product, ttl)
		if err != nil {
			return fmt.Errorf("issue token for %s: %w", printable(args[0]), err)
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "expires", issued.ExpiresAt.Local().Format(time.RFC3339))
		fmt.Fprintln(cmd.OutOrStdout(), issued.Token)
		return nil
	}
	return cmd
}

func newTokenHashCommand() *cobra.Command {
	return &cobra.Command{
		Use: "hash", Short: "Hash a user's password for auth.users; it is read from the terminal or standard input",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return fmt.Errorf("read password: %w", err)
			}
			if password == "" {
				return &exitError{exitUsage, errors.New("the password is empty")}
			}
			fmt.Fprintln(cmd.OutOrStdout(), auth.HashPassword(password))
			return nil
		},
	}
}

// readPassword asks at a terminal without showing what is typed, and otherwise reads one line. A password is no
// argument, because arguments are seen by everybody on the machine.
func readPassword(in io.Reader, prompt io.Writer) (string, error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(prompt, "Password: ")
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		return string(text), err
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}
