package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/console"
	"github.com/penstockmq/penstock/hooks/command"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/store/local"
)

// answeringBroker has devices that do what their name says, all of them connected but "away".
type answeringBroker struct{ svc *command.Service }

func (b *answeringBroker) Send(id string, m *broker.Message, h broker.SendHandler) error {
	if id == "away" {
		return broker.ErrNotConnected
	}
	h.Sent()
	if id == "refuses" {
		h.Acked(0x83)
		return nil
	}
	h.Acked(0)
	answer := map[string]string{"fails": `{"state":"FAILED","reason":"jam\u001b[2J"}`, "works": string(m.Payload)}[id]
	if answer != "" {
		b.svc.Accept(&broker.Message{Topic: m.Properties.ResponseTopic, Payload: []byte(answer)}, func(error) {})
	}
	return nil
}

func (b *answeringBroker) Publish(_ *broker.Message, done func(error)) { done(nil) }

func (b *answeringBroker) Clients(cursor string, _ int) []broker.ClientInfo {
	if cursor != "" {
		return nil
	}
	return []broker.ClientInfo{{ClientID: "silent", Connected: true}, {ClientID: "works", Connected: true}}
}

// startCommandNode serves the admin API of a node whose devices are in this process.
func startCommandNode(t *testing.T) (url string) {
	t.Helper()
	db, err := local.Open("", local.Options{})
	require.NoError(t, err)
	b := &answeringBroker{}
	var cfg command.Config
	require.NoError(t, conf.SetDefaults(&cfg))
	b.svc, err = command.New(command.Options{Broker: b, Store: db.Commands(), Config: cfg})
	require.NoError(t, err)
	require.NoError(t, b.svc.Start(context.Background()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := console.New(console.Options{
		Logger: slog.New(slog.DiscardHandler), AdminToken: "admin", Version: "test", Metrics: prometheus.NewRegistry(),
		Node: func() console.NodeInfo { return console.NodeInfo{} }, Config: func() any { return nil },
		Routes: []func(huma.API){func(api huma.API) { console.RegisterCommands(api, b.svc) }},
	})
	server.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, server.Close(ctx))
		require.NoError(t, b.svc.Stop())
		require.NoError(t, db.Close())
	})
	return "http://" + l.Addr().String()
}

// runPush runs the subcommand in this process.
func runPush(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := newPushCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	if err != nil {
		exit := &exitError{exitFailed, err}
		errors.As(err, &exit)
		code = exit.code
		errs.WriteString(err.Error())
	}
	return code, out.String(), errs.String()
}

func TestPush(t *testing.T) {
	url := startCommandNode(t)
	list := filepath.Join(t.TempDir(), "devices")
	require.NoError(t, os.WriteFile(list, []byte("# pumps\nworks\n\nsilent\n"), 0o600))
	cases := map[string]struct {
		args, stdin    string
		code           int
		stdout, stderr string
	}{
		"issued":             {args: "--devices away --payload x", stdout: "ACTIVE  QUEUED 1"},
		"payload from stdin": {args: "--devices works --wait", stdin: "open", stdout: "SUCCEEDED 1"},
		"all succeeded":      {args: "--devices works --payload x --wait", stdout: "FINISHED  SUCCEEDED 1"},
		"some failed": {args: "--devices works,fails --payload x --wait",
			code: 1, stdout: "SUCCEEDED 1  FAILED 1", stderr: "1 of 2 devices have not succeeded"},
		"failures are named": {args: "--devices fails --payload x --wait",
			code: 1, stdout: "FAILED 1", stderr: `fails  FAILED  "jam\x1b[2J"`},
		"delivered is enough": {args: "--devices-file LIST --payload x --wait=delivered", stdout: "DELIVERED"},
		"devices from stdin":  {args: "--devices-file - --payload x --wait", stdin: "works\n", stdout: "SUCCEEDED 1"},
		"refused delivery": {args: "--devices refuses --payload x --wait=delivered",
			code: 1, stdout: "REJECTED 1", stderr: "not acknowledged"},
		"online": {args: "--online --payload x --wait=delivered", stdout: "DELIVERED"},
		"no result in time": {args: "--devices silent --payload x --wait --result-timeout 50ms",
			code: 1, stdout: "TIMED_OUT 1", stderr: "no_result"},
		"timeout": {args: "--devices away --payload x --wait --timeout 200ms",
			code: 1, stderr: "1 of 1 devices have no outcome"},
		"expired":             {args: "--devices away --payload x --wait --ttl 50ms", code: 1, stdout: "EXPIRED 1"},
		"as JSON":             {args: "--devices works --payload x --wait --json", stdout: `"SUCCEEDED": 1`},
		"refused by the node": {args: "--devices a/b --payload x", code: 1, stderr: "body.targets.devices[0]"},
		"wrong token":         {args: "--devices works --payload x --token wrong", code: 1, stderr: "admin token"},
		"no devices":          {args: "--payload x", code: 2, stderr: "no device"},
		"two payloads":        {args: "--devices a --payload x --payload-file y", code: 2, stderr: "only one"},
		"stdin twice":         {args: "--devices-file -", code: 2, stderr: "standard input"},
		"wait for what":       {args: "--devices a --payload x --wait=forever", code: 2, stderr: "--wait=delivered"},
		"no such file":        {args: "--devices a --payload-file /nowhere", code: 2, stderr: "/nowhere"},
		"URL that is none":    {args: "--devices a --payload x --server nowhere", code: 2, stderr: "URL"},
		"nobody there": {args: "--devices a --payload x --server http://127.0.0.1:1",
			code: 3, stderr: "cannot be reached"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields("--server " + url + " --token admin " + strings.Replace(c.args, "LIST", list, 1))
			code, stdout, stderr := runPush(t, c.stdin, args...)
			require.Equal(t, c.code, code, "stdout: %s\nstderr: %s", stdout, stderr)
			require.Contains(t, stdout, c.stdout)
			require.Contains(t, stderr, c.stderr)
		})
	}
}

func TestPushShowsProgressInLines(t *testing.T) {
	url := startCommandNode(t)
	_, _, stderr := runPush(t, "", "--server", url, "--token", "admin", "--devices", "works", "--payload", "x", "--wait")
	require.Regexp(t, `^[0-9a-z]{16}  [A-Z_]+ 1\n`, stderr)
}

func TestPushIsIssuedOnce(t *testing.T) {
	url := startCommandNode(t)
	args := []string{"--server", url, "--token", "admin", "--devices", "away", "--idempotency-key", "k", "--payload"}
	_, first, _ := runPush(t, "", append(args, "x")...)
	_, again, _ := runPush(t, "", append(args, "x")...)
	require.Equal(t, first, again)
	code, _, stderr := runPush(t, "", append(args, "y")...)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "another command")
}
