package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// Issue issues a command. key may be empty.
func (c *Client) Issue(ctx context.Context, in Request, key string) (st Status, err error) {
	r := request{method: http.MethodPost, path: "/v1/commands", in: in}
	if key != "" {
		r.header = http.Header{"Idempotency-Key": {key}}
	}
	return st, c.call(ctx, r, &st)
}

// Executions shows up to limit executions of a command after the cursor; state may be empty.
func (c *Client) Executions(ctx context.Context, id, state, cursor string, limit int) (page ExecutionPage, err error) {
	return page, c.call(ctx, request{
		method: http.MethodGet, path: "/v1/commands/" + url.PathEscape(id) + "/executions",
		query: url.Values{"state": {state}, "cursor": {cursor}, "limit": {strconv.Itoa(limit)}},
	}, &page)
}

// Watch calls each with the status of a command now and whenever it changes, until the command is finished. It returns
// an error that wraps ErrUnreachable when the stream ends before that; calling it again goes on from there.
func (c *Client) Watch(ctx context.Context, id string, each func(Status)) error {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: "/v1/commands/" + url.PathEscape(id) + "/events"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var st Status
		if err := json.Unmarshal(data, &st); err != nil {
			return fmt.Errorf("%w: read event: %w", ErrUnreachable, err)
		}
		each(st)
		if st.Done() {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: the stream of events ended: %w", ErrUnreachable, cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}
