package testnode

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Readiness is the status of /readyz, or 0 when nobody answers.
func (n *Node) Readiness() int {
	resp, err := http.Get("http://" + n.HTTP + "/readyz")
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// Answer is what an HTTP call got.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Into reads the answer's JSON.
func (a Answer) Into(t testing.TB, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.Body, v), string(a.Body))
}

// Call makes an HTTP call with a bearer token, or without one where it is empty. The body is sent as it is if it is a
// string, else as JSON, and not at all if it is nil. Headers come in pairs.
func (n *Node) Call(method, path, bearer string, body any, headers ...string) Answer {
	n.T.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(body)
		require.NoError(n.T, err)
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(n.T.Context(), method, "http://"+n.HTTP+path, content)
	require.NoError(n.T, err)
	request.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(n.T, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(n.T, err)
	return Answer{response.StatusCode, response.Header, text}
}
