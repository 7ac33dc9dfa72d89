package client

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
)

// Nodes shows the nodes of the cluster.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var cluster struct {
		Nodes []Node `json:"nodes"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/cluster"}, &cluster)
	return cluster.Nodes, err
}

// Sessions shows up to limit sessions after the cursor, in the order of their client identifiers.
func (c *Client) Sessions(ctx context.Context, cursor string, limit int) (page SessionPage, err error) {
	return page, c.call(ctx, request{
		method: http.MethodGet, path: "/v1/clients",
		query: url.Values{"cursor": {cursor}, "limit": {strconv.Itoa(limit)}},
	}, &page)
}

// Session shows all that the node says about one session, as JSON.
func (c *Client) Session(ctx context.Context, clientID string) (info json.RawMessage, err error) {
	return info, c.call(ctx, request{method: http.MethodGet, path: "/v1/clients/" + url.PathEscape(clientID)}, &info)
}

// Kick closes a client's connection.
func (c *Client) Kick(ctx context.Context, clientID string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: "/v1/clients/" + url.PathEscape(clientID)}, nil)
}

// IssueToken makes a token for a device, known or new. product may be empty; a ttl of 0 is the node's default.
func (c *Client) IssueToken(ctx context.Context, device, product string, ttl time.Duration) (t Token, err error) {
	return t, c.call(ctx, request{
		method: http.MethodPost, path: "/v1/devices/" + url.PathEscape(device) + "/token",
		in: map[string]any{"product": product, "ttl_s": int64(ttl / time.Second)},
	}, &t)
}

// TailUplink calls each with the records of the node's local uplink log, as JSON, from a sequence number on (nil: the
// oldest one, or with follow the next one). With follow it waits for more until ctx ends, which is no error. A *Problem
// with status 404 says that the node keeps no such log.
func (c *Client) TailUplink(ctx context.Context, from *uint64, follow bool, each func(record []byte) error) error {
	query := url.Values{"follow": {strconv.FormatBool(follow)}}
	if from != nil {
		query.Set("from", strconv.FormatUint(*from, 10))
	}
	resp, err := c.do(ctx, request{method: http.MethodGet, path: "/v1/uplink/tail", query: query})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for in := json.NewDecoder(resp.Body); ; {
		var record json.RawMessage
		err := in.Decode(&record)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
			return nil
		case err != nil:
			return fmt.Errorf("%w: read uplink: %w", ErrUnreachable, err)
		}
		if err := each(record); err != nil {
			return err
		}
	}
}
