package systest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

// suggestions are the commands that a start-up ends with.
func suggestions(greeting string) (lines []string) {
	_, rest, _ := strings.Cut(greeting, "What to type next, in another terminal:\n")
	for line := range strings.Lines(rest) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestDemoDoesWhatItSays starts the demo and types what it says should be typed.
func TestDemoDoesWhatItSays(t *testing.T) {
	t.Parallel()
	sh := testenv.Need(t, "sh")
	testenv.Need(t, "curl")
	testenv.Need(t, "mosquitto_sub")
	demo := startProgram(t, "env", fmt.Sprintf(`PENSTOCK_LISTENERS=[{type: tcp, address: "%s"}]`, testnode.Address()),
		"PENSTOCK_HTTP_ADDRESS="+testnode.Address(), testnode.Program(t), "serve", "--demo")
	demo.awaitText("What to type next", "clients list")
	typed := suggestions(demo.out.String())
	require.GreaterOrEqual(t, len(typed), 4, demo.out.String())
	for _, line := range typed {
		t.Run(strings.Fields(line)[0], func(t *testing.T) {
			if strings.HasPrefix(line, "mosquitto_sub") {
				startProgram(t, sh, "-c", "exec "+line).awaitText("devices/pump-", "/up/")
				return
			}
			out := runProgram(t, "", sh, "-c", line)
			require.Zero(t, out.code, "%s: %s%s", line, out.stdout, out.stderr)
			switch {
			case strings.HasPrefix(line, "curl"):
				var st commandStatus
				require.NoError(t, json.Unmarshal([]byte(out.stdout), &st), "%s: %s", line, out.stdout)
				require.NotEmpty(t, st.ID, "%s: %s", line, out.stdout)
			case strings.Contains(line, "clients list"):
				require.Contains(t, out.stdout, "pump-1")
			}
		})
	}
	require.NoError(t, demo.cmd.Process.Signal(os.Interrupt))
	demo.wait()
	require.Zero(t, demo.cmd.ProcessState.ExitCode())
}

// TestGreetingOfAConfiguredNode types what a node says that has an admin token of its own, which the operator has in
// the environment.
func TestGreetingOfAConfiguredNode(t *testing.T) {
	t.Parallel()
	sh := testenv.Need(t, "sh")
	testenv.Need(t, "curl")
	n := newNode(t, nil)
	b := startProgram(t, testnode.Program(t), "serve", "--config", n.Config)
	b.awaitText("What to type next", "clients list")
	for _, line := range suggestions(b.out.String()) {
		if strings.HasPrefix(line, "mosquitto_") {
			continue // has placeholders
		}
		out := runProgram(t, "", sh, "-c", "export PENSTOCK_ADMIN_TOKEN="+adminToken+"; "+line)
		require.Zero(t, out.code, "%s: %s%s", line, out.stdout, out.stderr)
		require.NotContains(t, out.stdout, "Unauthorized", line)
	}
	checkSecrets(t, b.out.String())
}

func TestOperatorLooksAtANode(t *testing.T) {
	t.Parallel()
	s := accessSections(t)
	s["node"] = `{name: n1, data: "$DIR/data", sys_interval: 1s}`
	s["uplink"] = `{routes: [{filter: "devices/+/up/#"}]}`
	n := startNode(t, s)
	token := n.register("pump-1").Token
	c := n.mustConnect(t, 5, "pump-1", "", token)
	c.Subscribe(1, "devices/pump-1/commands/+")
	for i := range 3 {
		c.Publish("devices/pump-1/up/level", fmt.Sprint("level ", i), 1, uint16(i+1))
		require.Less(t, c.Expect(4).ReasonCode, byte(0x80))
	}

	out := n.penstock("", "uplink", "tail")
	require.Zero(t, out.code, out.stderr)
	require.Regexp(t, `(?s)devices/pump-1/up/level level 0\n.*level 1\n.*level 2\n$`, out.stdout)
	out = n.penstock("", "clients", "list")
	require.Regexp(t, `pump-1\s+device:pump-1\s+for \d+s\s+127\.0\.0\.1:\d+\s+5\s+1\s+0`, out.stdout)
	out = n.penstock("", "clients", "show", "pump-1")
	require.Contains(t, out.stdout, "devices/pump-1/commands/+")
	checkSecrets(t, out.stdout, token)
	out = n.penstock("", "nodes")
	require.Contains(t, out.stdout, "mqtt://"+n.MQTT)
	out = n.penstock("", "clients", "kick", "pump-1")
	require.Zero(t, out.code, out.stderr)
	c.ExpectDisconnect(0x98)
	require.NotZero(t, n.penstock("", "clients", "show", "nobody").code)

	out = n.penstock("", "token", "issue", "pump-2", "--product", "pump", "--ttl", "1h")
	require.Zero(t, out.code, out.stderr)
	issued := regexp.MustCompile(`eyJ\S+`).FindString(out.stdout)
	n.mustConnect(t, 5, "pump-2", "", issued)
	require.NotZero(t, n.penstock("", "token", "issue", "pump/2").code)

	config := n.Call(http.MethodGet, "/v1/config", adminToken, nil)
	require.Equal(t, http.StatusOK, config.Status)
	checkSecrets(t, string(config.Body), "$argon2id$")
	printed := runProgram(t, "", testnode.Program(t), "config", "print", "--config", n.Config)
	require.Zero(t, printed.code, printed.stderr)
	checkSecrets(t, printed.stdout, "$argon2id$")

	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodGet, "/debug/pprof/", "", nil).Status)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodGet, "/debug/pprof/", token, nil).Status)
	require.Equal(t, http.StatusOK, n.Call(http.MethodGet, "/debug/pprof/goroutine?debug=1", adminToken, nil).Status)
	require.Equal(t, http.StatusOK, n.Call(http.MethodGet, "/healthz", "", nil).Status)
	openapi := n.Call(http.MethodGet, "/openapi.json", "", nil)
	require.True(t, json.Valid(openapi.Body))
	for _, path := range []string{"/v1/register", "/v1/commands", "/v1/clients/{id}", "/v1/token/refresh", "/v1/nodes"} {
		require.Contains(t, string(openapi.Body), path)
	}
	for _, path := range []string{"/v1/clients", "/v1/config", "/v1/cluster", "/v1/bans", "/v1/commands",
		"/v1/devices/pump-1", "/v1/uplink/tail"} {
		require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodGet, path, "", nil).Status, path)
	}

	m := newMosquitto(t, n, n.MQTT, "-u", "alice", "-P", alicePassword)
	sys := m.subscribe("dashboard", "-t", "$SYS/broker/#", "-v")
	sys.awaitText("$SYS/broker/version penstock", "$SYS/broker/clients/connected", "$SYS/broker/uptime",
		"$SYS/broker/load/bytes/received/1min")
	checkSecrets(t, n.Log(), token)
}

// TestKeysComeFromTheEnvironmentToo starts a node whose data folder, name and admin token are in the environment.
func TestKeysComeFromTheEnvironmentToo(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.Configure(sections{"http": fmt.Sprintf("{address: %q}", n.HTTP)})
	n.Env = []string{"PENSTOCK_NODE_NAME=from-env", "PENSTOCK_HTTP_ADMIN_TOKEN=" + adminToken,
		"PENSTOCK_AUTH_ANONYMOUS=false"}
	n.Start()
	a := n.Call(http.MethodGet, "/v1/cluster", adminToken, nil)
	require.Equal(t, http.StatusOK, a.Status, string(a.Body))
	require.Contains(t, string(a.Body), `"from-env"`)
	require.NotZero(t, testmqtt.Dial(t, n.MQTT, 5).Connect("anyone").ReasonCode)
}

// TestGeneratedAdminToken starts a node without an admin token: it makes one, and keeps it where only its owner reads.
func TestGeneratedAdminToken(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.Configure(sections{"http": fmt.Sprintf("{address: %q}", n.HTTP)})
	n.Start()
	file := n.Data + "/admin-token"
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	token := strings.TrimSpace(string(text))
	require.Equal(t, http.StatusOK, n.Call(http.MethodGet, "/v1/cluster", token, nil).Status)
	require.NotContains(t, n.Log(), token)
	n.Kill()
	n.Start()
	require.Equal(t, http.StatusOK, n.Call(http.MethodGet, "/v1/cluster", token, nil).Status, "it stays the same")
}
