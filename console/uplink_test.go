package console

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/hooks/uplink"
)

// fixedLog has three messages; who follows waits for ever.
type fixedLog struct{}

func (fixedLog) Stats() bridge.SpoolStats { return bridge.SpoolStats{Last: 3} }

func (fixedLog) Tail(ctx context.Context, from uint64, follow bool, yield func(bridge.Entry) error) error {
	for seq := max(from, 1); seq <= 3; seq++ {
		err := yield(bridge.Entry{Seq: seq, Record: &uplink.Record{ClientID: "d", Value: []byte("v"), Time: 1000}})
		if err != nil {
			return err
		}
	}
	if follow {
		<-ctx.Done()
	}
	return nil
}

// endlessLog says when somebody begins to follow it.
type endlessLog struct{ started chan struct{} }

func (endlessLog) Stats() bridge.SpoolStats { return bridge.SpoolStats{} }

func (l endlessLog) Tail(ctx context.Context, _ uint64, _ bool, _ func(bridge.Entry) error) error {
	close(l.started)
	<-ctx.Done()
	return ctx.Err()
}

func TestTheUplinkLogIsStreamed(t *testing.T) {
	base, _ := newTestServer(t, func(o *Options) { o.Uplink = fixedLog{} })
	for name, c := range map[string]struct {
		query string
		seqs  []uint64
	}{
		"all":                 {"", []uint64{1, 2, 3}},
		"from a number on":    {"?from=2", []uint64{2, 3}},
		"followed from there": {"?from=3&follow=true", []uint64{3}},
		"followed from 0":     {"?from=0&follow=true", []uint64{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, enough := context.WithTimeout(t.Context(), 20*time.Second)
			defer enough()
			req, err := http.NewRequestWithContext(ctx, "GET", base+"/v1/uplink/tail"+c.query, nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+testToken)
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
			lines := bufio.NewScanner(resp.Body)
			for _, want := range c.seqs {
				require.True(t, lines.Scan(), lines.Err())
				var r uplinkRecord
				require.NoError(t, json.Unmarshal(lines.Bytes(), &r))
				assert.Equal(t, uplinkRecord{Seq: want, Time: time.Unix(1, 0).UTC(), ClientID: "d",
					Headers: map[string]string{}, Value: []byte("v")}, r)
			}
		})
	}
	for path, status := range map[string]int{"?from=x": 422, "?from=-2": 422, "?follow=perhaps": 422, "?form=1": 422} {
		resp, text := call(t, "GET", base+"/v1/uplink/tail"+path, testToken, "")
		assert.Equal(t, status, resp.StatusCode, text)
	}
	resp, _ := call(t, "GET", base+"/v1/uplink/tail", "", "")
	assert.Equal(t, 401, resp.StatusCode)
}

func TestTheDescriptionHasEveryOperation(t *testing.T) {
	base, _ := newTestServer(t, func(o *Options) { o.Uplink = fixedLog{} })
	_, text := call(t, "GET", base+"/openapi.json", "", "")
	var description struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &description))
	for _, path := range strings.Fields("/healthz /readyz /metrics /v1/uplink/tail /v1/clients /v1/cluster /v1/config") {
		assert.Contains(t, description.Paths[path], "get", path)
	}
	assert.Contains(t, description.Paths["/v1/clients/{id}"], "delete")
}
