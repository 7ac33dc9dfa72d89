package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/command"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/store/local"
)

// deviceBroker stands for the broker: the device "here" is connected, and its acknowledgements come when the test
// wants.
type deviceBroker struct {
	mu   sync.Mutex
	open []broker.SendHandler
}

func (b *deviceBroker) Send(id string, _ *broker.Message, h broker.SendHandler) error {
	if id != "here" {
		return broker.ErrNotConnected
	}
	h.Sent()
	b.mu.Lock()
	b.open = append(b.open, h)
	b.mu.Unlock()
	return nil
}

func (b *deviceBroker) Publish(_ *broker.Message, done func(error)) { done(nil) }

func (b *deviceBroker) Clients(cursor string, _ int) []broker.ClientInfo {
	if cursor != "" {
		return nil
	}
	return []broker.ClientInfo{{ClientID: "here", Connected: true}}
}

func (b *deviceBroker) ack(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, "something was sent", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.open) > 0
	})
	b.mu.Lock()
	h := b.open[0]
	b.open = b.open[1:]
	b.mu.Unlock()
	h.Acked(0)
}

// newCommandServer serves the real command service with its real store.
func newCommandServer(t *testing.T) (base string, b *deviceBroker, svc *command.Service) {
	t.Helper()
	db, err := local.Open(t.TempDir(), local.Options{})
	require.NoError(t, err)
	var cfg command.Config
	require.NoError(t, conf.SetDefaults(&cfg))
	cfg.Payload, cfg.PayloadMemory, cfg.Active = 1000, 100_000, 20
	b = &deviceBroker{}
	svc, err = command.New(command.Options{Broker: b, Store: db.Commands(), Config: cfg})
	require.NoError(t, err)
	require.NoError(t, svc.Start(context.Background()))
	t.Cleanup(func() {
		require.NoError(t, svc.Stop())
		require.NoError(t, db.Close())
	})
	base, _ = newTestServer(t, func(o *Options) {
		o.Routes = append(o.Routes, func(api huma.API) { RegisterCommands(api, svc) })
	})
	return base, b, svc
}

// answerTo calls and decodes the answer.
func answerTo[T any](t *testing.T, status int, method, url, sent string) (v T) {
	t.Helper()
	resp, text := call(t, method, url, testToken, sent)
	require.Equal(t, status, resp.StatusCode, text)
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	return v
}

func TestCommandsOverHTTP(t *testing.T) {
	base, b, _ := newCommandServer(t)
	url := base + "/v1/commands"
	st := answerTo[command.Status](t, 202, "POST", url,
		`{"targets":{"devices":["here","away"]},"payload":{"open":true},"ttl_s":60,"result_timeout_s":30}`)
	require.EqualValues(t, 2, st.Counts.Total)
	b.ack(t)
	testenv.Eventually(t, 10*time.Second, "the acknowledgement is counted", func() bool {
		return answerTo[command.Status](t, 200, "GET", url+"/"+st.ID, "").Counts.Delivered == 1
	})
	page := answerTo[command.ExecutionPage](t, 200, "GET", url+"/"+st.ID+"/executions?state=DELIVERED", "")
	require.Len(t, page.Executions, 1)
	require.Equal(t, "here", page.Executions[0].Device)
	page = answerTo[command.ExecutionPage](t, 200, "GET", url+"/"+st.ID+"/executions?limit=1", "")
	require.NotEmpty(t, page.Next)
	page = answerTo[command.ExecutionPage](t, 200, "GET", url+"/"+st.ID+"/executions?limit=1&cursor="+page.Next, "")
	require.Equal(t, "away", page.Executions[0].Device)
	require.Empty(t, page.Next)

	require.Equal(t, "PAUSED", answerTo[command.Status](t, 200, "POST", url+"/"+st.ID+"/pause", "").State)
	require.Equal(t, "ACTIVE", answerTo[command.Status](t, 200, "POST", url+"/"+st.ID+"/resume", "").State)
	st = answerTo[command.Status](t, 200, "POST", url+"/"+st.ID+"/cancel", "")
	require.EqualValues(t, 1, st.Counts.Canceled)
	st = answerTo[command.Status](t, 200, "POST", url+"/"+st.ID+"/retry", "")
	require.EqualValues(t, 1, st.Counts.Queued)
	list := answerTo[command.StatusPage](t, 200, "GET", url, "")
	require.Len(t, list.Commands, 1)
}

func TestRefusedCommandsNameTheField(t *testing.T) {
	base, _, _ := newCommandServer(t)
	tooLarge := `{"targets":{"devices":["a"]},"payload":"` + strings.Repeat("x", 1001) + `"}`
	cases := map[string]struct {
		method, path, body string
		status             int
		location           string
	}{
		"no body":            {"POST", "", "", 400, ""},
		"no JSON":            {"POST", "", "x", 400, "body"},
		"unknown field":      {"POST", "", `{"target":1}`, 422, "body.target"},
		"bad device":         {"POST", "", `{"targets":{"devices":["a","b/c"]},"payload":1}`, 422, "body.targets.devices[1]"},
		"tag":                {"POST", "", `{"targets":{"tag":"x"},"payload":1}`, 422, "body.targets.tag"},
		"payload too large":  {"POST", "", tooLarge, 413, ""},
		"no such command":    {"GET", "/nothing", "", 404, ""},
		"nothing to cancel":  {"POST", "/nothing/cancel", "", 404, ""},
		"nothing to watch":   {"GET", "/nothing/events", "", 404, ""},
		"limit out of range": {"GET", "?limit=5000", "", 422, "query.limit"},
		"bad cursor":         {"GET", "?cursor=x", "", 422, "query.cursor"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			resp, text := call(t, c.method, base+"/v1/commands"+c.path, testToken, c.body)
			require.Equal(t, c.status, resp.StatusCode, text)
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			var p huma.ErrorModel
			require.NoError(t, json.Unmarshal([]byte(text), &p))
			if c.location != "" {
				require.Equal(t, c.location, p.Errors[0].Location)
			}
		})
	}
	resp, _ := call(t, "GET", base+"/v1/commands", "wrong", "")
	require.Equal(t, 401, resp.StatusCode)
}

func TestIdempotencyKeyAndLimits(t *testing.T) {
	base, _, _ := newCommandServer(t)
	issue := func(key, body string) (int, string) {
		req, err := http.NewRequest("POST", base+"/v1/commands", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+testToken)
		req.Header.Set("Idempotency-Key", key)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		var st command.Status
		_ = json.NewDecoder(resp.Body).Decode(&st) // a problem has no id
		return resp.StatusCode, st.ID
	}
	status, first := issue("k", `{"targets":{"devices":["a"]},"payload":1}`)
	require.Equal(t, 202, status)
	status, again := issue("k", `{"payload":1,"targets":{"devices":["a"]}}`)
	require.Equal(t, 202, status)
	require.Equal(t, first, again)
	status, _ = issue("k", `{"targets":{"devices":["a"]},"payload":2}`)
	require.Equal(t, 409, status)
	for i := range 19 {
		status, _ = issue(fmt.Sprint("k", i), `{"targets":{"devices":["a"]},"payload":2}`)
		require.Equal(t, 202, status)
	}
	status, _ = issue("more", `{"targets":{"devices":["a"]},"payload":2}`)
	require.Equal(t, 429, status)
}

func TestCommandEventsAreStreamed(t *testing.T) {
	base, b, _ := newCommandServer(t)
	st := answerTo[command.Status](t, 202, "POST", base+"/v1/commands", `{"targets":{"devices":["here"]},"payload":1}`)
	req, err := http.NewRequest("GET", base+"/v1/commands/"+st.ID+"/events", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewScanner(resp.Body)
	acked := false
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		require.NoError(t, json.Unmarshal([]byte(data), &st))
		if !acked {
			acked = true
			b.ack(t)
		}
	}
	require.NoError(t, lines.Err())
	require.True(t, st.Done())
	require.EqualValues(t, 1, st.Counts.Delivered)
}

func TestOpenAPIDescribesCommands(t *testing.T) {
	base, _, _ := newCommandServer(t)
	_, text := call(t, "GET", base+"/openapi.json", "", "")
	for _, part := range []string{`"/v1/commands/{id}/executions"`, `"collapse_key"`, `"text/event-stream"`,
		`"Idempotency-Key"`, `"payload_base64"`} {
		require.Contains(t, text, part)
	}
}
