package systest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// secrets must never stand in a log.
var secrets = []string{tokenSecret, productSecret, alicePassword, bobPassword, adminToken, "eyJ"}

// checkSecrets fails when the log of the node, or a program's output, has a secret.
func checkSecrets(t testing.TB, text string, more ...string) {
	t.Helper()
	for _, secret := range append(more, secrets...) {
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("the log has the secret %q: %s", secret, text[max(0, at-200):min(len(text), at+100)])
		}
	}
}

// TestLogLinesCannotBeForged logs in with names that would look like lines of the log, or like terminal commands.
func TestLogLinesCannotBeForged(t *testing.T) {
	t.Parallel()
	forged := "x\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\r\ntime=2026 level=ERROR msg=forged " +
		"\x1b[2J\x1b]0;pwned\x07 \u009b2J\u2028"
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			s := accessSections(t)
			s["log"] = fmt.Sprintf("{format: %s, level: debug}", format)
			n := startNode(t, s)
			for _, version := range []byte{3, 4, 5} {
				c := testmqtt.Dial(t, n.MQTT, version)
				_ = c.TrySend(c.ConnectPacket(forged, testmqtt.User(forged, "guess")))
				_, _ = c.Read(patience) // refused, by whatever code
				c = testmqtt.Dial(t, n.MQTT, version)
				_ = c.TrySend(c.ConnectPacket("console"+forged, testmqtt.User("alice", alicePassword)))
				_, _ = c.Read(patience)
				_ = c.TrySend(testmqtt.PublishPacket("devices/"+forged, []byte(forged), 1, 1))
				_, _ = c.Read(patience)
				c.Drop()
			}
			n.Call(http.MethodPost, "/v1/register", "", registration(forged, "wrong", time.Now()))
			n.Call(http.MethodGet, "/v1/clients/%0A%1B%5B2J", "wrong", nil)
			testenv.Eventually(t, patience, "the refusals are logged", func() bool {
				return strings.Contains(n.Log(), "forged")
			})
			checkLogLines(t, format, n.Log())
		})
	}
}

func checkLogLines(t *testing.T, format, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		for _, r := range line {
			require.False(t, unicode.IsControl(r) || r == '\u2028', "control character %U in %q", r, line)
		}
		if format == "text" {
			require.True(t, strings.HasPrefix(line, "time="), line)
			require.NotContains(t, line, "msg=forged level", line)
			continue
		}
		var entry map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
		require.NotEqual(t, "forged", entry["msg"])
	}
	checkSecrets(t, log)
}
