package killtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

const adminToken = "kill-test-admin-token"

// penstock builds penstock once for all tests of this package.
var penstock = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "penstock-killtest-")
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
	if path, err := penstock(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// process is a node that is killed and started again on the same data and ports.
type process struct {
	t          testing.TB
	config     string
	mqtt, http string
	log        *os.File
	cmd        *exec.Cmd
}

func startProcess(t testing.TB, extra string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, config: filepath.Join(dir, "penstock.yaml"), mqtt: freePort(t), http: freePort(t)}
	acl := filepath.Join(dir, "acl.yaml")
	require.NoError(t, os.WriteFile(acl, []byte(openACL), 0o600))
	yaml := fmt.Sprintf(`
node: {name: n1, data: %q}
listeners: [{type: tcp, address: %q}]
http: {address: %q, admin_token: %q}
auth: {anonymous: true}
acl: {file: %q}
limits: {queue: 1000000, queue_bytes: 1GiB}
%s`, filepath.Join(dir, "data"), p.mqtt, p.http, adminToken, acl, extra)
	require.NoError(t, os.WriteFile(p.config, []byte(yaml), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	p.log = log
	p.start()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the node's log ends with:\n%s", text[max(0, len(text)-4000):])
		}
		_ = log.Close()
	})
	return p
}

const openACL = `
rules:
  - {allow: all, topics: ["#"]}
`

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (p *process) start() {
	p.t.Helper()
	path, err := penstock()
	require.NoError(p.t, err)
	p.cmd = exec.Command(path, "serve", "--config", p.config)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	require.NoError(p.t, p.cmd.Start())
	testenv.Eventually(p.t, 30*time.Second, "the node accepts connections", func() bool {
		c, err := net.Dial("tcp", p.mqtt)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// kill ends the process as a power failure would, and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
