package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// clientInfo is what the subcommands show of a client; the API knows more, which --json prints.
type clientInfo struct {
	ClientID      string   `json:"client_id"`
	Identity      string   `json:"identity"`
	Connected     bool     `json:"connected"`
	Remote        string   `json:"remote"`
	Protocol      int      `json:"protocol_version"`
	ConnectedAt   int64    `json:"connected_at"`
	Subscriptions []string `json:"subscriptions"`
	QueueLen      int      `json:"queue_len"`
}

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
	cmd := &cobra.Command{Use: "list", Short: "List sessions, in the order of their client identifiers", Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&connected, "connected", false, "only those with a connection")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := api.client()
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CLIENT\tIDENTITY\tSTATE\tREMOTE\tMQTT\tSUBSCRIPTIONS\tQUEUED")
		for cursor, more := "", true; more; more = cursor != "" {
			var page struct {
				Clients []clientInfo `json:"clients"`
				Next    string       `json:"next"`
			}
			path := "/v1/clients?limit=1000&cursor=" + url.QueryEscape(cursor)
			if err := c.call(cmd.Context(), http.MethodGet, path, nil, &page); err != nil {
				return err
			}
			for i := range page.Clients {
				if !connected || page.Clients[i].Connected {
					page.Clients[i].row(w)
				}
			}
			cursor = page.Next
		}
		return w.Flush()
	}
	return cmd
}

func (i *clientInfo) row(w io.Writer) {
	state := "offline"
	if i.Connected {
		state = "for " + time.Since(time.UnixMilli(i.ConnectedAt)).Truncate(time.Second).String()
	}
	version := map[int]string{3: "3.1", 4: "3.1.1", 5: "5"}[i.Protocol]
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", printable(i.ClientID), printable(i.Identity), state, i.Remote, version,
		len(i.Subscriptions), i.QueueLen)
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
			var info json.RawMessage
			err = c.call(cmd.Context(), http.MethodGet, "/v1/clients/"+url.PathEscape(args[0]), nil, &info)
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
				err := c.call(cmd.Context(), http.MethodDelete, "/v1/clients/"+url.PathEscape(id), nil, nil)
				if err != nil {
					return fmt.Errorf("disconnect %s: %w", printable(id), err)
				}
			}
			return nil
		},
	}
}
