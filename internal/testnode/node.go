package testnode

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

const (
	// AdminToken is the admin token of every node, unless its configuration says otherwise.
	AdminToken = "test-node-admin-token"
	// Patience is for what must happen, however slow the machine is.
	Patience = 30 * time.Second
)

// Sections are the sections of a configuration by name, each as YAML. What a test does not name is as New says.
type Sections map[string]string

const openACL = `
rules:
  - {allow: all, topics: ["#"]}
`

// Node is a penstock process with its folder and its ports, which stay the same over restarts. Its methods fail the
// test T, whose goroutine must call them.
type Node struct {
	T          testing.TB
	Dir, Data  string   // folders
	Config     string   // file
	LogFile    string   // standard error of all starts
	MQTT, HTTP string   // host:port
	Env        []string // added to the environment at the next start

	cmd    *exec.Cmd
	exited chan struct{}
}

// New writes the configuration of a node and starts nothing. Without other sections, everybody may do everything. The
// process is killed when the test ends.
func New(t testing.TB, s Sections) *Node {
	t.Helper()
	dir := t.TempDir()
	n := &Node{
		T: t, Dir: dir, Data: filepath.Join(dir, "data"), Config: filepath.Join(dir, "penstock.yaml"),
		LogFile: filepath.Join(dir, "log"), MQTT: Address(), HTTP: Address(),
	}
	n.Configure(s)
	t.Cleanup(func() {
		n.Kill()
		if t.Failed() {
			text := n.Log()
			t.Logf("the log of the node ends with:\n%s", text[max(0, len(text)-4000):])
		}
	})
	return n
}

// Start is New, and the node's Start.
func Start(t testing.TB, s Sections) *Node {
	t.Helper()
	n := New(t, s)
	n.Start()
	return n
}

// Configure writes the configuration file anew. $DIR and $MQTT stand for the node's folder and MQTT address.
func (n *Node) Configure(s Sections) {
	n.T.Helper()
	acl := n.File("open-acl.yaml", openACL)
	all := Sections{
		"node":      fmt.Sprintf("{name: n1, data: %q, sys_interval: 0s}", n.Data),
		"listeners": "[{type: tcp, address: \"$MQTT\"}]",
		"http":      fmt.Sprintf("{address: %q, admin_token: %q}", n.HTTP, AdminToken),
		"auth":      "{anonymous: true}",
		"acl":       fmt.Sprintf("{file: %q}", acl),
		"log":       "{format: json}",
	}
	maps.Copy(all, s)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s: %s\n", name, all[name])
	}
	n.File("penstock.yaml", strings.NewReplacer("$DIR", n.Dir, "$MQTT", n.MQTT).Replace(text.String()))
}

// File writes a file into the node's folder and returns its path.
func (n *Node) File(name, text string) string {
	n.T.Helper()
	path := filepath.Join(n.Dir, name)
	require.NoError(n.T, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// nextPort counts through ports below those that the kernel gives to outgoing connections.
var nextPort atomic.Int32

func init() { nextPort.Store(int32(os.Getpid()%500) * 20) }

// Address returns a loopback address whose port is free and given to nobody else.
func Address() string {
	for {
		a := fmt.Sprintf("127.0.0.1:%d", 20_000+nextPort.Add(1)%12_000)
		if l, err := net.Listen("tcp", a); err == nil {
			_ = l.Close()
			return a
		}
	}
}

// Start starts the process and waits until it is ready.
func (n *Node) Start() {
	n.T.Helper()
	n.Launch()
	n.AwaitReady()
}

// Launch starts the process and does not wait.
func (n *Node) Launch() {
	n.T.Helper()
	n.LaunchAs(exec.Command(Program(n.T), "serve", "--config", n.Config))
}

// LaunchAs starts the process by a command of the test's own. Its standard error goes to the log unless it is set.
func (n *Node) LaunchAs(cmd *exec.Cmd) {
	n.T.Helper()
	cmd.Env = append(os.Environ(), n.Env...)
	if cmd.Stderr == nil {
		log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(n.T, err)
		defer log.Close()
		cmd.Stderr = log
	}
	require.NoError(n.T, cmd.Start())
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // its outcome is in ProcessState
		close(exited)
	}()
}

// AwaitReady waits until /readyz says so.
func (n *Node) AwaitReady() {
	n.T.Helper()
	testenv.Eventually(n.T, Patience, "the node is ready", func() bool {
		select {
		case <-n.exited:
			n.T.Fatalf("the node ended while it was starting (%v):\n%s", n.cmd.ProcessState, n.Log())
		default:
		}
		return n.Readiness() == http.StatusOK
	})
}

// Kill ends the process as a power failure would, and waits for it. It may have ended before.
func (n *Node) Kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.exited
}

// Signal sends a signal and does not wait for what it does.
func (n *Node) Signal(s syscall.Signal) {
	n.T.Helper()
	require.NoError(n.T, n.cmd.Process.Signal(s))
}

// PID is the number of the process that was started last.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Exited is closed when the process that was started last has ended.
func (n *Node) Exited() <-chan struct{} { return n.exited }

// Exit waits for the end of the process and returns its exit code.
func (n *Node) Exit() int {
	n.T.Helper()
	select {
	case <-n.exited:
	case <-time.After(Patience):
		n.T.Fatal("the process does not end")
	}
	return n.cmd.ProcessState.ExitCode()
}

// Log is what the process has logged in all its starts.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
