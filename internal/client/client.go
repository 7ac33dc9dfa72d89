// Package client calls the admin API of a node about commands, for the command line.
package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// ErrUnreachable: there was no answer, or none that a node gives.
var ErrUnreachable = errors.New("node cannot be reached")

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 128 << 20

// Client calls one node. Its errors are *Problem for what the node refused, and wrap ErrUnreachable for what did
// not get that far.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New makes a client for the node whose HTTP address is base, for example http://127.0.0.1:8080.
func New(base, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not an http or https URL", base)
	}
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{}}, nil
}

// Issue issues a command. key may be empty.
func (c *Client) Issue(ctx context.Context, r Request, key string) (st Status, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return st, fmt.Errorf("encode command: %w", err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	return st, c.call(ctx, http.MethodPost, "/v1/commands", header, body, &st)
}

// Status shows a command.
func (c *Client) Status(ctx context.Context, id string) (st Status, err error) {
	return st, c.call(ctx, http.MethodGet, "/v1/commands/"+url.PathEscape(id), nil, nil, &st)
}

// Executions shows up to limit executions of a command after the cursor; state may be empty.
func (c *Client) Executions(ctx context.Context, id, state, cursor string, limit int) (page ExecutionPage,
	err error) {
	query := url.Values{"state": {state}, "cursor": {cursor}, "limit": {strconv.Itoa(limit)}}
	path := "/v1/commands/" + url.PathEscape(id) + "/executions?" + query.Encode()
	return page, c.call(ctx, http.MethodGet, path, nil, nil, &page)
}

// Watch calls each with the status of a command now and whenever it changes, until the command is finished. It returns
// an error that wraps ErrUnreachable when the stream ends before that; calling it again goes on from there.
func (c *Client) Watch(ctx context.Context, id string, each func(Status)) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/commands/"+url.PathEscape(id)+"/events", nil, nil)
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

func (c *Client) call(ctx context.Context, method, path string, header http.Header, in []byte, out any) error {
	resp, err := c.do(ctx, method, path, header, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%w: read answer of %s: %w", ErrUnreachable, c.base, err)
	}
	return nil
}

// do returns a good answer, which the caller closes, or an error.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, in []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(in))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	if header != nil {
		req.Header = header
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readProblem(resp)
}

func readProblem(resp *http.Response) error {
	const longest = 1 << 20
	p := &Problem{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, longest)).Decode(p); err != nil || p.Status == 0 {
		*p = Problem{Status: resp.StatusCode}
	}
	p.Detail = cmp.Or(p.Detail, p.Title, resp.Status)
	return p
}
