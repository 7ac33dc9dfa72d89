package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/hooks/auth"
)

// asMain makes the test binary the program itself, so that tests start real processes without building one.
const asMain = "PENSTOCK_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// penstock prepares a process of the program. It inherits no settings of whoever runs the tests.
func penstock(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{asMain + "=1", "HOME=" + cmd.Dir, "PATH=" + os.Getenv("PATH")}
	return cmd
}

// finish runs a process to its end.
func finish(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func write(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "penstock.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestExitCodes(t *testing.T) {
	faulty, err := filepath.Abs("../../testdata/config/invalid.yaml")
	require.NoError(t, err)
	single, err := filepath.Abs("../../testdata/config/single-node.yaml")
	require.NoError(t, err)
	faults := []string{"16 faults", "invalid.yaml:8: http.adress", "invalid.yaml:13: clustr"}
	cases := map[string]struct {
		args   []string
		code   int
		stderr []string
	}{
		"help":                    {[]string{"--help"}, 0, nil},
		"version":                 {[]string{"version"}, 0, nil},
		"unknown subcommand":      {[]string{"srve"}, 2, []string{`unknown command "srve"`}},
		"unknown flag":            {[]string{"serve", "--confg", "x"}, 2, []string{"unknown flag: --confg"}},
		"missing argument":        {[]string{"clients", "show"}, 2, []string{"accepts 1 arg"}},
		"faulty configuration":    {[]string{"config", "check", "-c", faulty}, 2, faults},
		"a good configuration":    {[]string{"config", "check", "-c", single}, 0, nil},
		"serve it nevertheless":   {[]string{"serve", "--config", faulty}, 2, faults},
		"no such file":            {[]string{"serve", "--config", "/nowhere"}, 2, []string{"/nowhere"}},
		"a URL that is none":      {[]string{"nodes", "--server", "127.0.0.1:1"}, 2, []string{"not an http or https URL"}},
		"a node that is not here": {[]string{"nodes", "--server", "http://127.0.0.1:1"}, 1, []string{"Is it running?"}},
		"an empty password":       {[]string{"token", "hash"}, 2, []string{"empty"}},
		"both file and demo":      {[]string{"serve", "--demo", "--config", faulty}, 2, []string{"demo"}},
		"a wrong log level":       {[]string{"serve", "--demo", "--log-level", "loud"}, 2, []string{"log.level"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := finish(t, penstock(t, c.args...))
			assert.Equal(t, c.code, code, stderr)
			for _, want := range c.stderr {
				assert.Contains(t, stderr, want)
			}
		})
	}
}

func TestConfigPrintsWhatItReads(t *testing.T) {
	cmd := penstock(t, "config", "print", "--docs")
	cmd.Env = append(cmd.Env, "PENSTOCK_HTTP_ADMIN_TOKEN=0123456789abcdef", "PENSTOCK_LIMITS_QUEUE=7")
	code, printed, stderr := finish(t, cmd)
	require.Equal(t, 0, code, stderr)
	assert.NotContains(t, printed, "0123456789abcdef")
	assert.Contains(t, printed, "queue: 7")
	code, _, stderr = finish(t, penstock(t, "config", "check", "-c", write(t, printed)))
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "http.admin_token: is hidden here")
	printed = strings.ReplaceAll(printed, "********", "0123456789abcdef")
	code, _, stderr = finish(t, penstock(t, "config", "check", "-c", write(t, printed)))
	assert.Equal(t, 0, code, stderr)
}

func TestConfigReferenceIsInStep(t *testing.T) {
	kept, err := os.ReadFile("../../docs/CONFIG.md")
	require.NoError(t, err)
	code, printed, stderr := finish(t, penstock(t, "config", "docs"))
	require.Equal(t, 0, code, stderr)
	assert.True(t, printed == string(kept), "docs/CONFIG.md is out of step: run make docs")
}

func TestTokenHashMakesAUsersLine(t *testing.T) {
	cmd := penstock(t, "token", "hash")
	cmd.Stdin = strings.NewReader("wonderland\n")
	code, hash, stderr := finish(t, cmd)
	require.Equal(t, 0, code, stderr)
	ok, err := auth.VerifyPHC(strings.TrimSpace(hash), "wonderland")
	require.NoError(t, err)
	assert.True(t, ok)
}

// serving starts `penstock serve` on free ports and returns once it has said what to type next.
func serving(t *testing.T, data string) (cmd *exec.Cmd, url, token string) {
	t.Helper()
	file := write(t, fmt.Sprintf(`
node: {data: %q}
listeners: [{type: tcp, address: "127.0.0.1:0"}]
http: {address: "127.0.0.1:0"}
uplink: {routes: [{filter: "up/#"}]}
auth: {anonymous: true}
`, data))
	cmd = penstock(t, "serve", "--config", file)
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var said strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "clients list") {
		said.WriteString(lines.Text() + "\n")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	found := regexp.MustCompile(`HTTP +(\S+)`).FindStringSubmatch(said.String())
	require.NotNil(t, found, said.String())
	if m := regexp.MustCompile(`admin token (\S+)`).FindStringSubmatch(said.String()); m != nil {
		token = m[1]
	}
	return cmd, found[1], token
}

func TestServeUntilSIGTERM(t *testing.T) {
	data := t.TempDir()
	cmd, url, token := serving(t, data)
	require.NotEmpty(t, token, "the first start shows the admin token")

	code, out, stderr := finish(t, penstock(t, "nodes", "--server", url, "--token", token))
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, out, "mqtt://127.0.0.1:")
	code, out, _ = finish(t, penstock(t, "clients", "list", "--server", url, "--token", token))
	assert.Equal(t, 0, code)
	assert.Contains(t, out, "CLIENT")
	code, _, stderr = finish(t, penstock(t, "clients", "list", "--server", url))
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "admin token")
	issue := penstock(t, "token", "issue", "pump-1", "--ttl", "1h", "--server", url, "--token", token)
	code, out, stderr = finish(t, issue)
	assert.Equal(t, 0, code, stderr)
	assert.Regexp(t, `^eyJ\S+\n$`, out, "a token and nothing else, for scripts")
	code, _, stderr = finish(t, penstock(t, "uplink", "tail", "--server", url, "--token", token))
	assert.Equal(t, 0, code, stderr)

	second := write(t, fmt.Sprintf("node: {data: %q}\nlisteners: [{type: tcp, address: \"127.0.0.1:0\"}]\n"+
		"http: {address: \"127.0.0.1:0\"}\n", data))
	code, _, stderr = finish(t, penstock(t, "serve", "--config", second))
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "in use")
	assert.Equal(t, 1, strings.Count(stderr, "\n"), stderr)

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		assert.NoError(t, err, "a graceful stop has exit code 0")
	case <-time.After(30 * time.Second):
		t.Fatal("it does not stop")
	}

	_, _, token = serving(t, data)
	assert.Empty(t, token, "later starts do not show it again")
}

func TestServeRunsOnWhenNobodyReadsItsOutput(t *testing.T) {
	cmd := penstock(t, "serve", "--config", write(t, `
node: {data: ""}
listeners: [{type: tcp, address: "127.0.0.1:0"}]
http: {address: "127.0.0.1:0"}
`))
	unread, out, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, unread.Close())
	cmd.Stdout = out
	logs, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, out.Close())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	url := ""
	for lines := bufio.NewScanner(logs); url == "" && lines.Scan(); {
		if m := regexp.MustCompile(`msg="node started".* http=(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			url = m[1]
		}
	}
	require.NotEmpty(t, url)
	require.NoError(t, logs.Close())
	for range 2 { // each reload is logged
		require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
		resp, err := http.Get(url + "/healthz")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, cmd.Wait(), "a graceful stop has exit code 0")
}

func TestTextOfClientsCannotDrawOnTheTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"pump-1": "pump-1", `{"a":1}`: `{"a":1}`, "käse": "käse",
		"\x1b[2J": `"\x1b[2J"`, "a\nb": `"a\nb"`, "\xff": `"\xff"`,
	} {
		assert.Equal(t, want, printable(text))
	}
}
