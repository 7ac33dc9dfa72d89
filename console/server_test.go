package console

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

const testToken = "letmein"

// fakeClients are sessions without a broker.
type fakeClients struct {
	ids    []string
	kicked []string
}

func (f *fakeClients) Client(id string) (broker.ClientInfo, bool) {
	return broker.ClientInfo{ClientID: id}, slices.Contains(f.ids, id)
}

func (f *fakeClients) Clients(cursor string, limit int) []broker.ClientInfo {
	var out []broker.ClientInfo
	for _, id := range f.ids {
		if id > cursor && len(out) < limit {
			out = append(out, broker.ClientInfo{ClientID: id, Subscriptions: []string{}})
		}
	}
	return out
}

func (f *fakeClients) Kick(id string) bool {
	if !slices.Contains(f.ids, id) {
		return false
	}
	f.kicked = append(f.kicked, id)
	return true
}

type echoInput struct {
	Body struct {
		Count int    `json:"count" minimum:"1"`
		Name  string `json:"name"`
	}
}

// newTestServer serves on a free port of the loopback until the test ends.
func newTestServer(t *testing.T, change func(*Options)) (base string, clients *fakeClients) {
	t.Helper()
	clients = &fakeClients{ids: []string{"a", "b/c", "d"}}
	opts := Options{
		Logger: slog.New(slog.DiscardHandler), AdminToken: testToken, Version: "1.2.3", Clients: clients,
		Node:    func() NodeInfo { return NodeInfo{Name: "n1", URLs: []string{}} },
		Config:  func() any { return map[string]any{"node": map[string]any{"name": "n1"}} },
		Metrics: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&opts)
	}
	opts.Routes = append(opts.Routes, func(api huma.API) {
		huma.Post(api, "/v1/echo", func(context.Context, *echoInput) (*struct{}, error) { return nil, nil })
		huma.Get(api, "/v1/panic", func(context.Context, *struct{}) (*struct{}, error) { panic("on purpose") })
	})
	s := New(opts)
	l := listenLoopback(t)
	s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		assert.NoError(t, s.Close(ctx))
	})
	return "http://" + l.Addr().String(), clients
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func call(t *testing.T, method, url, token, sent string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(sent))
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if sent != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(text)
}

func TestEveryErrorIsProblemJSONThatNamesTheField(t *testing.T) {
	base, _ := newTestServer(t, nil)
	cases := map[string]struct {
		method, path, token, body string
		status                    int
		names                     string
	}{
		"no such path":           {"GET", "/v1/nothing", "", "", 404, "openapi.json"},
		"wrong method":           {"PUT", "/v1/clients", testToken, "", 405, "GET"},
		"no token":               {"GET", "/v1/clients", "", "", 401, "admin token"},
		"wrong token":            {"GET", "/v1/clients", "letmeout", "", 401, "admin token"},
		"token of another case":  {"GET", "/v1/clients", "LETMEIN", "", 401, "admin token"},
		"profiles without token": {"GET", "/debug/pprof/", "", "", 401, "admin token"},
		"no such client":         {"GET", "/v1/clients/zz", testToken, "", 404, "client identifier"},
		"kick of nobody":         {"DELETE", "/v1/clients/zz", testToken, "", 404, "connected"},
		"limit not a number":     {"GET", "/v1/clients?limit=many", testToken, "", 422, "query.limit"},
		"limit too large":        {"GET", "/v1/clients?limit=5000", testToken, "", 422, "query.limit"},
		"unknown parameter":      {"GET", "/v1/clients?limt=5", testToken, "", 422, "query.limt"},
		"not JSON":               {"POST", "/v1/echo", "", "{count", 400, "invalid character"},
		"unknown field":          {"POST", "/v1/echo", "", `{"count":1,"name":"x","nmae":"y"}`, 422, "body.nmae"},
		"wrong type":             {"POST", "/v1/echo", "", `{"count":"one","name":"x"}`, 422, "body.count"},
		"missing field":          {"POST", "/v1/echo", "", `{"count":1}`, 422, "name"},
		"too large a body":       {"POST", "/v1/echo", "", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "limit"},
		"a panic":                {"GET", "/v1/panic", "", "", 500, "Internal Server Error"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			resp, text := call(t, c.method, base+c.path, c.token, c.body)
			assert.Equal(t, c.status, resp.StatusCode, text)
			assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			assert.Contains(t, text, c.names)
			var problem huma.ErrorModel
			require.NoError(t, json.Unmarshal([]byte(text), &problem))
			assert.Equal(t, c.status, problem.Status)
		})
	}
}

func TestABodyIsJSONWhateverItsTypeSays(t *testing.T) {
	base, _ := newTestServer(t, nil)
	for _, kind := range []string{"", "application/x-www-form-urlencoded", "text/plain", "application/cbor"} {
		for sent, want := range map[string]int{`{"count":1,"name":"x"}`: 204, "count=1&name=hunter2": 400} {
			resp, err := http.Post(base+"/v1/echo", kind, strings.NewReader(sent))
			require.NoError(t, err)
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, want, resp.StatusCode, "%q: %s", kind, text)
			assert.NotContains(t, string(text), "hunter2")
		}
	}
}

func TestErrorsDoNotEchoWhatWasSent(t *testing.T) {
	base, _ := newTestServer(t, nil)
	for name, sent := range map[string]string{
		"not JSON":      `hunter2`,
		"missing field": `{"count":1,"nmae":"hunter2"}`,
		"wrong type":    `{"count":"hunter2","name":"x"}`,
		"a list":        `["hunter2"]`,
		"text":          `"hunter2"`,
	} {
		_, text := call(t, "POST", base+"/v1/echo", "", sent)
		assert.NotContains(t, text, "hunter2", name)
		assert.Contains(t, text, `"location":"body`, name)
	}
	_, text := call(t, "POST", base+"/v1/echo", "", `{"`+strings.Repeat("é", 1000)+`hunter2":1}`)
	assert.NotContains(t, text, "hunter2")
	assert.Contains(t, text, `é…"`)
	_, text = call(t, "GET", base+"/v1/clients?limit=hunter2", testToken, "")
	assert.NotContains(t, text, "hunter2")
}

func TestClientsAreListedInPages(t *testing.T) {
	base, _ := newTestServer(t, nil)
	var got []string
	cursor := ""
	for {
		resp, text := call(t, "GET", base+"/v1/clients?limit=2&cursor="+url.QueryEscape(cursor), testToken, "")
		require.Equal(t, 200, resp.StatusCode, text)
		var page clientPage
		require.NoError(t, json.Unmarshal([]byte(text), &page))
		for _, c := range page.Clients {
			got = append(got, c.ClientID)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	assert.Equal(t, []string{"a", "b/c", "d"}, got)
	_, text := call(t, "GET", base+"/v1/clients?limit=3", testToken, "")
	assert.NotContains(t, text, "next", "a full page may be the last one")
}

func TestAClientIsShownAndKickedByItsEscapedIdentifier(t *testing.T) {
	base, clients := newTestServer(t, nil)
	resp, text := call(t, "GET", base+"/v1/clients/b%2Fc", testToken, "")
	assert.Equal(t, 200, resp.StatusCode, text)
	assert.Contains(t, text, `"client_id":"b/c"`)
	resp, text = call(t, "DELETE", base+"/v1/clients/b%2Fc", testToken, "")
	assert.Equal(t, 204, resp.StatusCode, text)
	assert.Equal(t, []string{"b/c"}, clients.kicked)
}

func TestWhatMonitoringReads(t *testing.T) {
	draining := false
	base, _ := newTestServer(t, func(o *Options) {
		registry := prometheus.NewRegistry()
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_x", Help: "x"}))
		o.Metrics = registry
		o.Parts = []Part{
			{"store", func() (bool, string) { return true, "" }},
			{"node", func() (bool, string) { return !draining, "draining" }},
		}
	})
	for path, want := range map[string]string{
		"/healthz": `{"status":"ok"}`, "/metrics": "penstock_x 0", "/openapi.json": `"openapi":"3.1.0"`,
		"/readyz": `{"ready":true,`,
	} {
		resp, text := call(t, "GET", base+path, "", "")
		assert.Equal(t, 200, resp.StatusCode, path)
		assert.Contains(t, text, want, path)
	}
	for path, want := range map[string]string{
		"/v1/cluster": `"name":"n1"`, "/v1/config": `{"node":{"name":"n1"}}`, "/debug/pprof/cmdline": "console",
	} {
		resp, text := call(t, "GET", base+path, testToken, "")
		assert.Equal(t, 200, resp.StatusCode, path)
		assert.Contains(t, text, want, path)
	}
	draining = true
	resp, text := call(t, "GET", base+"/readyz", "", "")
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, text, `"node":{"ready":false,"detail":"draining"}`)
}

func TestARequestKeepsItsTraceID(t *testing.T) {
	base, _ := newTestServer(t, nil)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for header, want := range map[string]string{
		"00-" + trace + "-b7ad6b7169203331-01": "^" + trace + "$",
		"":                                     "^[0-9a-f]{32}$",
		"nonsense":                             "^[0-9a-f]{32}$",
		"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01": "[1-9a-f]",
		"00-" + strings.Repeat("Z", 32) + "-b7ad6b7169203331-01": "^[0-9a-f]{32}$",
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/healthz", nil)
		require.NoError(t, err)
		req.Header.Set("traceparent", header)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Regexp(t, want, resp.Header.Get("X-Trace-Id"), header)
	}
}

func TestCloseWithoutServe(t *testing.T) {
	s := New(Options{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	assert.NoError(t, s.Close(t.Context()))
}

func TestCloseEndsStreams(t *testing.T) {
	started := make(chan struct{})
	s := New(Options{
		Logger: slog.New(slog.DiscardHandler), AdminToken: testToken, Metrics: prometheus.NewRegistry(),
		Uplink: endlessLog{started},
	})
	l := listenLoopback(t)
	s.Serve(l)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		req, _ := http.NewRequest("GET", "http://"+l.Addr().String()+"/v1/uplink/tail?follow=true", nil)
		req.Header.Set("Authorization", "Bearer "+testToken)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	<-started
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	assert.NoError(t, s.Close(ctx))
	<-ended
}
