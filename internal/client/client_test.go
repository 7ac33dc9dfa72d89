package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seen is a request as a node gets it.
type seen struct{ method, uri, auth, key, body string }

// newNode answers every request with status and answer, and remembers the last one.
func newNode(t *testing.T, status int, answer string) (*Client, *seen) {
	t.Helper()
	var last seen
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // the requests are complete
		auth, key := r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key")
		last = seen{r.Method, r.URL.RequestURI(), auth, key, string(body)}
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	c, err := New(server.URL+"/", "secret")
	require.NoError(t, err)
	return c, &last
}

func TestCallsAreWhatTheAPITakes(t *testing.T) {
	cases := map[string]struct {
		call func(context.Context, *Client) error
		want seen
	}{
		"nodes": {func(ctx context.Context, c *Client) error { _, err := c.Nodes(ctx); return err },
			seen{method: "GET", uri: "/v1/cluster"}},
		"sessions": {func(ctx context.Context, c *Client) error { _, err := c.Sessions(ctx, "a&b", 10); return err },
			seen{method: "GET", uri: "/v1/clients?cursor=a%26b&limit=10"}},
		"session": {func(ctx context.Context, c *Client) error { _, err := c.Session(ctx, "a/b?"); return err },
			seen{method: "GET", uri: "/v1/clients/a%2Fb%3F"}},
		"kick": {func(ctx context.Context, c *Client) error { return c.Kick(ctx, "a b") },
			seen{method: "DELETE", uri: "/v1/clients/a%20b"}},
		"token": {func(ctx context.Context, c *Client) error {
			_, err := c.IssueToken(ctx, "d", "pump", time.Minute)
			return err
		}, seen{method: "POST", uri: "/v1/devices/d/token", body: `{"product":"pump","ttl_s":60}` + "\n"}},
		"issue": {func(ctx context.Context, c *Client) error {
			_, err := c.Issue(ctx, Request{Targets: Targets{Online: true}}, "k")
			return err
		}, seen{method: "POST", uri: "/v1/commands", key: "k", body: `{"targets":{"online":true}}` + "\n"}},
		"executions": {func(ctx context.Context, c *Client) error {
			_, err := c.Executions(ctx, "id", "FAILED", "c", 5)
			return err
		}, seen{method: "GET", uri: "/v1/commands/id/executions?cursor=c&limit=5&state=FAILED"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, last := newNode(t, 200, "{}")
			require.NoError(t, tc.call(t.Context(), c))
			tc.want.auth = "Bearer secret"
			assert.Equal(t, tc.want, *last)
		})
	}
}

func TestProblemsNameTheirFields(t *testing.T) {
	for name, c := range map[string]struct {
		status       int
		answer, want string
	}{
		"a problem": {422, `{"status":422,"detail":"validation failed",` +
			`"errors":[{"message":"expected number","location":"body.x"}]}`, "validation failed\n  body.x: expected number"},
		"without detail": {404, `{"status":404,"title":"Not Found"}`, "Not Found"},
		"no problem":     {502, "<html>", "502 Bad Gateway"},
		"other JSON":     {500, `[]`, "500 Internal Server Error"},
	} {
		t.Run(name, func(t *testing.T) {
			node, _ := newNode(t, c.status, c.answer)
			err := node.Kick(t.Context(), "x")
			assert.EqualError(t, err, c.want)
			var p *Problem
			require.ErrorAs(t, err, &p)
			assert.Equal(t, c.status, p.Status)
			assert.NotErrorIs(t, err, ErrUnreachable)
		})
	}
}

func TestWhatIsNoNodeCannotBeReached(t *testing.T) {
	nobody, err := New("http://127.0.0.1:1", "")
	require.NoError(t, err)
	require.ErrorIs(t, nobody.Kick(t.Context(), "x"), ErrUnreachable)
	other, _ := newNode(t, 200, "<html>")
	_, err = other.Nodes(t.Context())
	require.ErrorIs(t, err, ErrUnreachable)
	for _, base := range []string{"", "127.0.0.1:8080", "ftp://x", "http://", "::"} {
		_, err := New(base, "")
		require.ErrorContains(t, err, "not an http or https URL", base)
	}
}

func TestWatchEndsWithTheCommand(t *testing.T) {
	c, last := newNode(t, 200, "data: {\"open\":1}\n\n: still there\n\ndata: {\"open\":0}\n\ndata: {\"open\":9}\n\n")
	var open []int64
	require.NoError(t, c.Watch(t.Context(), "id", func(st Status) { open = append(open, st.Open) }))
	assert.Equal(t, []int64{1, 0}, open)
	assert.Equal(t, "/v1/commands/id/events", last.uri)
	for name, stream := range map[string]string{"cut": "data: {\"open\":1}\n\n", "garbage": "data: x\n\n", "empty": ""} {
		c, _ := newNode(t, 200, stream)
		require.ErrorIs(t, c.Watch(t.Context(), "id", func(Status) {}), ErrUnreachable, name)
	}
}

func TestTailGivesEveryRecord(t *testing.T) {
	c, last := newNode(t, 200, "{\"seq\":1}\n{\"seq\":2}\n")
	var got []string
	keep := func(r []byte) error { got = append(got, string(r)); return nil }
	require.NoError(t, c.TailUplink(t.Context(), nil, false, keep))
	assert.Equal(t, []string{`{"seq":1}`, `{"seq":2}`}, got)
	assert.Equal(t, "/v1/uplink/tail?follow=false", last.uri)
	from := uint64(7)
	require.NoError(t, c.TailUplink(t.Context(), &from, true, keep))
	assert.Equal(t, "/v1/uplink/tail?follow=true&from=7", last.uri)
	full := errors.New("full")
	require.ErrorIs(t, c.TailUplink(t.Context(), nil, false, func([]byte) error { return full }), full)
	cut, _ := newNode(t, 200, "{\"seq\":1}\n{\"se")
	require.ErrorIs(t, cut.TailUplink(t.Context(), nil, false, keep), ErrUnreachable)
}
