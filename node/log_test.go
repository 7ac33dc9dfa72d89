package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hostile is text of a client that would draw on a terminal: CSI as one character, its neighbours, DEL, and ESC.
const hostile = "a\u009b2Jb\u0080\u009f\u007f\x1b[1m\n\u00a0é€"

func TestLogsHoldNoControlCharacters(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		for name, args := range map[string][]any{
			"text":        {"client_id", hostile},
			"error":       {"error", errors.New(hostile)},
			"list":        {"topics", []string{hostile}},
			"key":         {hostile, 1},
			"group":       {slog.Group("g", "topic", hostile)},
			"only a DEL":  {"client_id", "\u007f"},
			"only a CSI":  {"client_id", "\u009b"},
			"at the ends": {"client_id", "\u009bx\u009b"},
		} {
			t.Run(format+"/"+name, func(t *testing.T) {
				var out bytes.Buffer
				newLogger(&out, LogConfig{Format: format}, new(slog.LevelVar)).Info(hostile, args...)
				line, ok := strings.CutSuffix(out.String(), "\n")
				require.True(t, ok)
				assert.False(t, strings.ContainsFunc(line, unicode.IsControl), "%q", line)
			})
		}
	}
}

func TestJSONLogsKeepWhatTheyEscape(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, LogConfig{Format: "json"}, new(slog.LevelVar))
	log.Info("x", "client_id", hostile, "error", errors.New(hostile))
	var line struct {
		ClientID string `json:"client_id"`
		Error    string `json:"error"`
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	assert.Equal(t, hostile, line.ClientID)
	assert.Equal(t, hostile, line.Error)
}

func FuzzLogLine(f *testing.F) {
	for _, seed := range []string{"", hostile, "\xc2", "\x9b", "a\xc2\x9b", "\xc2\xc2\x9b\x7f", `\u009b"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			log := newLogger(&out, LogConfig{Format: format}, new(slog.LevelVar))
			log.Info("x", "client_id", text, "error", errors.New(text))
			line := strings.TrimSuffix(out.String(), "\n")
			require.False(t, strings.ContainsFunc(line, unicode.IsControl), "%q", line)
			if format == "json" {
				require.True(t, json.Valid([]byte(line)), "%q", line)
			}
		}
	})
}

func BenchmarkLogLine(b *testing.B) {
	log := newLogger(io.Discard, LogConfig{Format: "json"}, new(slog.LevelVar))
	b.ReportAllocs()
	for b.Loop() {
		log.Info("client connected", "client_id", "pump-1", "remote", "192.0.2.1:40000", "listener", "tcp", "trace_id",
			"0af7651916cd43dd8448eb211c80319c")
	}
}
