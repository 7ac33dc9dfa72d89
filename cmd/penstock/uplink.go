package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
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
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for new messages, starting with the next one unless --from is given")
	cmd.Flags().Uint64Var(&from, "from", 0, "sequence number to start with; 0: the oldest that is kept")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print lines of JSON with all there is, payloads as base64")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := api.client()
		if err != nil {
			return err
		}
		query := url.Values{"follow": {strconv.FormatBool(follow)}}
		if cmd.Flags().Changed("from") || !follow {
			query.Set("from", strconv.FormatUint(from, 10))
		}
		resp, err := c.do(cmd.Context(), http.MethodGet, "/v1/uplink/tail?"+query.Encode(), nil)
		var fault *problem
		if errors.As(err, &fault) && fault.Status == http.StatusNotFound {
			return errors.New("this node has Kafka configured: the messages are there")
		}
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return printTail(cmd.OutOrStdout(), resp.Body, asJSON)
	}
	return cmd
}

// printTail prints records until the node ends the stream, or the person who waits for more does.
func printTail(w io.Writer, stream io.Reader, asJSON bool) error {
	in := json.NewDecoder(stream)
	for {
		var raw json.RawMessage
		err := in.Decode(&raw)
		if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read uplink: %w", err)
		}
		if asJSON {
			fmt.Fprintf(w, "%s\n", raw)
			continue
		}
		var r struct {
			Seq      uint64            `json:"seq"`
			Time     time.Time         `json:"time"`
			ClientID string            `json:"client_id"`
			Headers  map[string]string `json:"headers"`
			Value    []byte            `json:"value"`
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("read uplink: %w", err)
		}
		fmt.Fprintf(w, "%d %s %s %s\n", r.Seq, r.Time.Local().Format("15:04:05.000"), printable(r.Headers["mqtt_topic"]),
			printable(string(r.Value)))
	}
}
