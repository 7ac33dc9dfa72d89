// Package client calls the HTTP API of a node, for the command line.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrUnreachable: there was no answer, or none that a node gives.
var ErrUnreachable = errors.New("node cannot be reached")

const (
	// maxAnswer and maxProblem bound what is read of an answer, in bytes.
	maxAnswer  = 128 << 20
	maxProblem = 1 << 20
	// callTimeout bounds a call whose answer is no stream.
	callTimeout = 30 * time.Second
)

// Client calls one node. Its errors are *Problem for what the node refused, and wrap ErrUnreachable for what did
// not get that far. Its methods block until there is an answer, or the context ends; those that follow nothing give up
// after 30 s.
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

// request is one call: in is sent as JSON, unless it is nil.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	in           any
}

// call reads the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%w: read answer of %s: %w", ErrUnreachable, c.base, err)
	}
	return nil
}

// do returns a good answer, which the caller closes, or an error.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	req, err := c.encode(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("make request for %s: %w", r.path, err)
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

func (c *Client) encode(ctx context.Context, r request) (*http.Request, error) {
	var content bytes.Buffer
	if r.in != nil {
		if err := json.NewEncoder(&content).Encode(r.in); err != nil {
			return nil, err
		}
	}
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, &content)
	if err != nil {
		return nil, err
	}
	if r.header != nil {
		req.Header = r.header
	}
	if r.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// Problem is an error that the node answered with (RFC 9457).
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

// Error is what went wrong, and on lines of their own the fields that are at fault.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Detail)
	for _, e := range p.Errors {
		b.WriteString("\n  " + e.Location + ": " + e.Message)
	}
	return b.String()
}

func readProblem(resp *http.Response) error {
	p := &Problem{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(p); err != nil || p.Status == 0 {
		*p = Problem{Status: resp.StatusCode}
	}
	p.Detail = cmp.Or(p.Detail, p.Title, resp.Status)
	return p
}
