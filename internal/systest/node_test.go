package systest

import (
	"bytes"
	"errors"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testnode"
)

const (
	adminToken = testnode.AdminToken
	patience   = testnode.Patience
)

func TestMain(m *testing.M) { testnode.Main(m) }

type sections = testnode.Sections

// node is a node with what tests ask of it.
type node struct{ *testnode.Node }

// startNode starts a node. Without other sections, everybody may do everything.
func startNode(t testing.TB, s sections) *node {
	t.Helper()
	return &node{testnode.Start(t, s)}
}

// newNode is startNode that only writes the configuration.
func newNode(t testing.TB, s sections) *node {
	t.Helper()
	return &node{testnode.New(t, s)}
}

// admin makes an admin call that must be answered with status, and reads the answer into out unless that is nil.
func (n *node) admin(method, path string, body any, status int, out any) {
	n.T.Helper()
	a := n.Call(method, path, adminToken, body)
	require.Equal(n.T, status, a.Status, "%s %s: %s", method, path, a.Body)
	if out != nil {
		a.Into(n.T, out)
	}
}

// metric sums the series of a metric whose labels contain all of the given texts. What is not there counts as 0.
func (n *node) metric(name string, labels ...string) float64 {
	n.T.Helper()
	return sumMetric(n.T, string(n.Call(http.MethodGet, "/metrics", "", nil).Body), name, labels...)
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
	n.T.Helper()
	args = append(args, "--server", "http://"+n.HTTP, "--token", adminToken)
	return runProgram(n.T, stdin, testnode.Program(n.T), args...)
}

// containsAll reports whether a text has all of these parts.
func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(text, p) })
}
