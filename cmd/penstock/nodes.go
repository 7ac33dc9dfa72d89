package main

import (
	"fmt"
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
		nodes, err := c.Nodes(cmd.Context())
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NODE\tVERSION\tUP\tCONNECTIONS\tSESSIONS\tURLS")
		for _, n := range nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", n.Name, n.Version, time.Since(n.Started).Truncate(time.Second),
				n.Connections, n.Sessions, strings.Join(n.URLs, " "))
		}
		return w.Flush()
	}
	return cmd
}
