package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/client"
)

func newUplinkCommand() *cobra.Command {
	var api apiFlags
	cmd := &cobra.Command{Use: "uplink", Short: "Look at uplink messages", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	api.add(cmd)
	cmd.AddCommand(newUplinkTailCommand(&api))
	return cmd
}

func newUplinkTailCommand(api *apiFlags) *cobra.Command {
	var follow, asJSON bool
	var from uint64
	cmd := &cobra.Command{
		Use: "tail", Short: "Show the messages in the local log, which a node keeps where no Kafka is configured",
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false,
		"wait for new messages, starting with the next one unless --from is given")
	cmd.Flags().Uint64Var(&from, "from", 0, "sequence number to start with; 0: the oldest that is kept")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print lines of JSON with all there is, payloads as base64")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := api.client()
		if err != nil {
			return err
		}
		var start *uint64
		if cmd.Flags().Changed("from") {
			start = &from
		}
		err = c.TailUplink(cmd.Context(), start, follow, func(record []byte) error {
			return printRecord(cmd.OutOrStdout(), record, asJSON)
		})
		var refused *client.Problem
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
			return errors.New("this node has Kafka configured: the messages are there")
		}
		return err
	}
	return cmd
}

func printRecord(w io.Writer, record []byte, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintf(w, "%s\n", record)
		return err
	}
	var r struct {
		Seq      uint64            `json:"seq"`
		Time     time.Time         `json:"time"`
		ClientID string            `json:"client_id"`
		Headers  map[string]string `json:"headers"`
		Value    []byte            `json:"value"`
	}
	if err := json.Unmarshal(record, &r); err != nil {
		return fmt.Errorf("read uplink: %w", err)
	}
	_, err := fmt.Fprintf(w, "%d %s %s %s\n", r.Seq, r.Time.Local().Format("15:04:05.000"),
		printable(r.Headers["mqtt_topic"]), printable(string(r.Value)))
	return err
}
