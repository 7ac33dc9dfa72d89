package main

import (
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newNodesCommand() *cobra.Command {
	var api apiFlags
	cmd := &cobra.Command{Use: "nodes", Short: "Show the nodes", Args: cobra.NoArgs}
	api.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := api.client()
		if err != nil {
			return err
		}
		var cluster struct {
			Nodes []struct {
				Name        string    `json:"name"`
				Version     string    `json:"version"`
				URLs        []string  `json:"urls"`
				Connections int64     `json:"connections"`
				Sessions    int64     `json:"sessions"`
				Started     time.Time `json:"started"`
			} `json:"nodes"`
		}
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/cluster", nil, &cluster); err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NODE\tVERSION\tUP\tCONNECTIONS\tSESSIONS\tURLS")
		for _, n := range cluster.Nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", n.Name, n.Version, time.Since(n.Started).Truncate(time.Second),
				n.Connections, n.Sessions, strings.Join(n.URLs, " "))
		}
		return w.Flush()
	}
	return cmd
}
