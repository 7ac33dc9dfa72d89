package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/client"
)

func newClientsCommand() *cobra.Command {
	var api apiFlags
	cmd := &cobra.Command{Use: "clients", Short: "Show and disconnect clients", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	api.add(cmd)
	cmd.AddCommand(newClientsListCommand(&api), newClientsShowCommand(&api), newClientsKickCommand(&api))
	return cmd
}

func newClientsListCommand(api *apiFlags) *cobra.Command {
	var connected bool
	cmd := &cobra.Command{Use: "list", Short: "List sessions, ordered by client identifier", Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&connected, "connected", false, "only those with a connection")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := api.client()
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CLIENT\tIDENTITY\tSTATE\tREMOTE\tMQTT\tSUBSCRIPTIONS\tQUEUED")
		for cursor, more := "", true; more; more = cursor != "" {
			page, err := c.Sessions(cmd.Context(), cursor, 1000)
			if err != nil {
				return err
			}
			for i := range page.Sessions {
				if !connected || page.Sessions[i].Connected {
					writeSession(w, &page.Sessions[i])
				}
			}
			cursor = page.Next
		}
		return w.Flush()
	}
	return cmd
}

func writeSession(w io.Writer, s *client.Session) {
	state := "offline"
	if s.Connected {
		state = "for " + time.Since(time.UnixMilli(s.ConnectedAt)).Truncate(time.Second).String()
	}
	version := map[int]string{3: "3.1", 4: "3.1.1", 5: "5"}[s.Protocol]
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", printable(s.ClientID), printable(s.Identity), state, s.Remote, version,
		len(s.Subscriptions), s.QueueLen)
}

// printable quotes text of clients that could draw on the operator's terminal.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

func newClientsShowCommand(api *apiFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show CLIENT", Short: "Show all about one session, as JSON", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := api.client()
			if err != nil {
				return err
			}
			info, err := c.Session(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), info)
		},
	}
}

func printJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func newClientsKickCommand(api *apiFlags) *cobra.Command {
	return &cobra.Command{
		Use: "kick CLIENT...", Short: "Close the connections of clients; their sessions stay", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := api.client()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := c.Kick(cmd.Context(), id); err != nil {
					return fmt.Errorf("disconnect %s: %w", printable(id), err)
				}
			}
			return nil
		},
	}
}
