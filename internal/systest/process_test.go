package systest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

const (
	adminToken = "system-test-admin-token"
	patience   = 30 * time.Second // for what must happen, however slow the machine is
)

// built is the binary under test: PENSTOCK_TEST_BINARY, or else one that is built once for all tests.
var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("PENSTOCK_TEST_BINARY"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "penstock-systest-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "penstock")
	out, err := exec.Command("go", "build", "-o", path, "github.com/penstockmq/penstock/cmd/penstock").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build penstock: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil && path != os.Getenv("PENSTOCK_TEST_BINARY") {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func program(t testing.TB) string {
	t.Helper()
	path, err := built()
	require.NoError(t, err)
	return path
}

// sections are the sections of a configuration by name, each as YAML. What a test does not name is as newNode says.
type sections map[string]string

const openACL = `
rules:
  - {allow: all, topics: ["#"]}
`

// node is a penstock process with its folder and its ports, which stay the same over restarts.
type node struct {
	t          testing.TB
	dir, data  string
	config     string // file
	logFile    string // standard error of all starts
	mqtt, http string // host:port
	env        []string

	cmd    *exec.Cmd
	exited chan struct{}
}

// newNode writes the configuration of a node and starts nothing. Without other sections, everybody may do everything.
func newNode(t testing.TB, s sections) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{
		t: t, dir: dir, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "penstock.yaml"),
		logFile: filepath.Join(dir, "log"), mqtt: address(), http: address(),
	}
	n.configure(s)
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			text := n.log()
			t.Logf("the log of the node ends with:\n%s", text[max(0, len(text)-3000):])
		}
	})
	return n
}

// startNode is newNode and start.
func startNode(t testing.TB, s sections) *node {
	t.Helper()
	n := newNode(t, s)
	n.start()
	return n
}

// configure writes the configuration file anew. $DIR and $MQTT stand for the node's folder and MQTT address.
func (n *node) configure(s sections) {
	n.t.Helper()
	acl := n.file("open-acl.yaml", openACL)
	all := sections{
		"node":      fmt.Sprintf("{name: n1, data: %q, sys_interval: 0s}", n.data),
		"listeners": "[{type: tcp, address: \"$MQTT\"}]",
		"http":      fmt.Sprintf("{address: %q, admin_token: %q}", n.http, adminToken),
		"auth":      "{anonymous: true}",
		"acl":       fmt.Sprintf("{file: %q}", acl),
		"log":       "{format: json}",
	}
	maps.Copy(all, s)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s: %s\n", name, all[name])
	}
	n.file("penstock.yaml", strings.NewReplacer("$DIR", n.dir, "$MQTT", n.mqtt).Replace(text.String()))
}

// file writes a file into the node's folder and returns its path.
func (n *node) file(name, text string) string {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	require.NoError(n.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// nextPort counts through ports below those that the kernel gives to outgoing connections.
var nextPort atomic.Int32

func init() { nextPort.Store(20_000 + int32(os.Getpid()%500)*20) }

// address returns a loopback address whose port is free and given to nobody else.
func address() string {
	for {
		a := fmt.Sprintf("127.0.0.1:%d", 20_000+nextPort.Add(1)%12_000)
		if l, err := net.Listen("tcp", a); err == nil {
			_ = l.Close()
			return a
		}
	}
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// start starts the process and waits until it is ready.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	testenv.Eventually(n.t, patience, "the node is ready", func() bool {
		select {
		case <-n.exited:
			n.t.Fatalf("the node ended while it was starting:\n%s", n.log())
		default:
		}
		return n.readiness() == http.StatusOK
	})
}

// launch starts the process and does not wait.
func (n *node) launch() {
	n.t.Helper()
	n.cmd = exec.Command(program(n.t), "serve", "--config", n.config)
	n.cmd.Env = append(os.Environ(), n.env...)
	log, err := os.OpenFile(n.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(n.t, err)
	defer log.Close()
	n.cmd.Stderr = log
	require.NoError(n.t, n.cmd.Start())
	n.exited = make(chan struct{})
	go func(c *exec.Cmd, exited chan struct{}) {
		_ = c.Wait() // its outcome is in ProcessState
		close(exited)
	}(n.cmd, n.exited)
}

// kill ends the process as a power failure would, and waits for it. It may have ended before.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.exited
}

func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	require.NoError(n.t, n.cmd.Process.Signal(s))
}

// exit waits for the end of the process and returns its exit code.
func (n *node) exit() int {
	n.t.Helper()
	select {
	case <-n.exited:
	case <-time.After(patience):
		n.t.Fatal("the process does not end")
	}
	return n.cmd.ProcessState.ExitCode()
}

func (n *node) log() string {
	text, err := os.ReadFile(n.logFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// readiness is the status of /readyz, or 0 when nobody answers.
func (n *node) readiness() int {
	resp, err := http.Get("http://" + n.http + "/readyz")
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// answer is what an HTTP call got.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// into reads the answer's JSON.
func (a answer) into(t testing.TB, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, v), string(a.body))
}

// call makes an HTTP call with a bearer token; body is sent as JSON unless it is nil. Headers come in pairs.
func (n *node) call(method, path, bearer string, body any, headers ...string) answer {
	n.t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(body)
		require.NoError(n.t, err)
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(n.t.Context(), method, "http://"+n.http+path, content)
	require.NoError(n.t, err)
	request.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(n.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(n.t, err)
	return answer{response.StatusCode, response.Header, text}
}

// admin makes an admin call that must be answered with status, and reads the answer into out unless that is nil.
func (n *node) admin(method, path string, body any, status int, out any) {
	n.t.Helper()
	a := n.call(method, path, adminToken, body)
	require.Equal(n.t, status, a.status, "%s %s: %s", method, path, a.body)
	if out != nil {
		a.into(n.t, out)
	}
}

// metric sums the series of a metric whose labels contain all of the given texts. What is not there counts as 0.
func (n *node) metric(name string, labels ...string) float64 {
	n.t.Helper()
	return sumMetric(n.t, string(n.call(http.MethodGet, "/metrics", "", nil).body), name, labels...)
}

func sumMetric(t testing.TB, text, name string, labels ...string) (sum float64) {
	t.Helper()
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		if slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		require.NoError(t, err, line)
		sum += v
	}
	return sum
}

// output is what a program printed, and its exit code.
type output struct {
	code           int
	stdout, stderr string
}

// runProgram runs a program to its end.
func runProgram(t testing.TB, stdin, name string, args ...string) output {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return output{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// penstock runs a subcommand of the binary under test against the node.
func (n *node) penstock(stdin string, args ...string) output {
	n.t.Helper()
	return runProgram(n.t, stdin, program(n.t), append(args, "--server", "http://"+n.http, "--token", adminToken)...)
}

// containsAll reports whether a text has all of these parts.
func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(text, p) })
}
