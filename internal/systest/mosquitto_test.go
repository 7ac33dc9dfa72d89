package systest

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testnode"
)

// background is a program that runs while the test goes on.
type background struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	out  testenv.Log
}

func startProgram(t testing.TB, name string, args ...string) *background {
	t.Helper()
	b := &background{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	require.NoError(t, b.cmd.Start())
	go func() { _ = b.cmd.Wait(); close(b.done) }()
	t.Cleanup(b.kill)
	return b
}

func (b *background) kill() {
	_ = b.cmd.Process.Kill()
	<-b.done
}

// awaitText waits until all of these parts were printed.
func (b *background) awaitText(parts ...string) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !containsAll(b.out.String(), parts...) {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s did not print %q; it printed:\n%s", b.cmd.Path, parts, b.out.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// wait returns what the program printed until it ended by itself.
func (b *background) wait() string {
	b.t.Helper()
	select {
	case <-b.done:
	case <-time.After(patience):
		b.t.Fatalf("%s does not end; it printed:\n%s", b.cmd.Path, b.out.String())
	}
	return b.out.String()
}

// mosquitto runs mosquitto's clients against one listener.
type mosquitto struct {
	t        testing.TB
	n        *node
	pub, sub string
	flags    []string
}

func newMosquitto(t testing.TB, n *node, address string, flags ...string) mosquitto {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	return mosquitto{
		t: t, n: n, pub: testenv.Need(t, "mosquitto_pub"), sub: testenv.Need(t, "mosquitto_sub"),
		flags: append([]string{"-h", host, "-p", port}, flags...),
	}
}

func (m mosquitto) publish(args ...string) output {
	m.t.Helper()
	return runProgram(m.t, "", m.pub, slices.Concat(m.flags, args)...)
}

func (m mosquitto) mustPublish(args ...string) {
	m.t.Helper()
	out := m.publish(args...)
	require.Zero(m.t, out.code, "mosquitto_pub %v: %s%s", args, out.stdout, out.stderr)
}

// subscribe starts mosquitto_sub under a client id and waits until its subscription stands.
func (m mosquitto) subscribe(id string, args ...string) *background {
	m.t.Helper()
	b := startProgram(m.t, m.sub, slices.Concat(m.flags, []string{"-i", id}, args)...)
	m.n.awaitSubscribed(id)
	return b
}

// clientInfo is the part of a client's description that tests look at.
type clientInfo struct {
	Identity      string   `json:"identity"`
	Username      string   `json:"username"`
	Connected     bool     `json:"connected"`
	Remote        string   `json:"remote"`
	Listener      string   `json:"listener"`
	Subscriptions []string `json:"subscriptions"`
	QueueLen      int      `json:"queue_len"`
	TokenID       string   `json:"token_id"`
}

func (n *node) client(id string) (info clientInfo, found bool) {
	n.T.Helper()
	a := n.Call(http.MethodGet, "/v1/clients/"+id, adminToken, nil)
	if a.Status == http.StatusNotFound {
		return info, false
	}
	a.Into(n.T, &info)
	return info, true
}

func (n *node) awaitSubscribed(id string) {
	n.T.Helper()
	testenv.Eventually(n.T, patience, id+" has subscribed", func() bool {
		info, found := n.client(id)
		return found && info.Connected && len(info.Subscriptions) > 0
	})
}

func (n *node) awaitOffline(id string) {
	n.T.Helper()
	testenv.Eventually(n.T, patience, id+" is not connected", func() bool {
		info, found := n.client(id)
		return !found || !info.Connected
	})
}

func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		m := newMosquitto(t, n, n.MQTT, "-V", version)
		for qos := range 3 {
			t.Run(fmt.Sprintf("%s QoS %d", version, qos), func(t *testing.T) {
				topic := fmt.Sprintf("round/%s/%d", version, qos)
				sub := m.subscribe(fmt.Sprintf("sub-%s-%d", version, qos), "-t", topic+"/#", "-q", fmt.Sprint(qos),
					"-C", "2", "-F", "%t %q %p")
				m.mustPublish("-t", topic+"/a", "-q", fmt.Sprint(qos), "-m", "first")
				m.mustPublish("-t", topic+"/b", "-q", fmt.Sprint(qos), "-m", "second")
				require.Equal(t, fmt.Sprintf("%[1]s/a %[2]d first\n%[1]s/b %[2]d second\n", topic, qos), sub.wait())
			})
		}
		t.Run(version+" retained", func(t *testing.T) { mosquittoRetained(t, n, m, "kept/"+version) })
		t.Run(version+" will", func(t *testing.T) { mosquittoWill(t, n, m, version) })
		t.Run(version+" persistent session", func(t *testing.T) { mosquittoSession(t, n, m, version) })
	}
}

func mosquittoRetained(t *testing.T, n *node, m mosquitto, topic string) {
	m.mustPublish("-t", topic, "-q", "1", "-r", "-m", "stays")
	out := runProgram(t, "", m.sub, append(m.flags, "-t", topic, "-C", "1", "-F", "%r %p", "-W", "30")...)
	require.Equal(t, "1 stays\n", out.stdout, out.stderr)
	m.mustPublish("-t", topic, "-q", "1", "-r", "-n")
	// What came first would be the retained message, if there still was one.
	id := "after-" + strings.ReplaceAll(topic, "/", "-")
	sub := m.subscribe(id, "-t", topic, "-C", "1", "-F", "%r %p")
	m.mustPublish("-t", topic, "-q", "1", "-m", "passes")
	require.Equal(t, "0 passes\n", sub.wait())
	n.awaitOffline(id)
}

func mosquittoWill(t *testing.T, n *node, m mosquitto, version string) {
	topic := "wills/" + version
	mourner := m.subscribe("mourner-"+version, "-t", topic, "-C", "1", "-F", "%q %p", "-q", "1")
	mortal := m.subscribe("mortal-"+version, "-t", "nothing", "--will-topic", topic, "--will-payload", "gone",
		"--will-qos", "1", "--will-retain")
	mortal.kill()
	require.Equal(t, "1 gone\n", mourner.wait())
	out := runProgram(t, "", m.sub, append(m.flags, "-t", topic, "-C", "1", "-F", "%r %p", "-W", "30")...)
	require.Equal(t, "1 gone\n", out.stdout, "the will was to be retained: %s", out.stderr)
}

func mosquittoSession(t *testing.T, n *node, m mosquitto, version string) {
	id, topic := "keeper-"+version, "later/"+version
	durable := []string{"-c", "-q", "2", "-t", topic, "-F", "%q %p"}
	if version == "mqttv5" {
		durable = append(durable, "-x", "3600")
	}
	m.subscribe(id, durable...).kill()
	n.awaitOffline(id)
	for i := range 3 {
		m.mustPublish("-t", topic, "-q", fmt.Sprint(i), "-m", fmt.Sprint("at QoS ", i))
	}
	out := runProgram(t, "", m.sub, slices.Concat(m.flags, []string{"-i", id, "-C", "2", "-W", "30"}, durable)...)
	require.Equal(t, "1 at QoS 1\n2 at QoS 2\n", out.stdout, out.stderr)
}

func TestMosquittoOverTLS(t *testing.T) {
	t.Parallel()
	ca, dir := testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	clientCert, clientKey := ca.ClientFiles(t, dir, "pump-7")
	plain, mutual := testnode.Address(), testnode.Address()
	n := startNode(t, sections{
		"listeners": fmt.Sprintf(`[{type: tcp, address: "$MQTT"}, {type: tls, address: %q, cert: %q, key: %q},
  {type: tls, name: mtls, address: %q, cert: %q, key: %q, client_ca: %q}]`,
			plain, cert, key, mutual, cert, key, ca.File),
	})
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for name, m := range map[string]mosquitto{
			"TLS":  newMosquitto(t, n, plain, "-V", version, "--cafile", ca.File),
			"mTLS": newMosquitto(t, n, mutual, "-V", version, "--cafile", ca.File, "--cert", clientCert, "--key", clientKey),
		} {
			t.Run(name+" "+version, func(t *testing.T) {
				id := "tls-" + name + version
				sub := m.subscribe(id, "-t", id, "-q", "2", "-C", "1", "-F", "%q %p")
				if info, _ := n.client(id); name == "mTLS" {
					require.Equal(t, "pump-7", info.Username, "the certificate's name")
					require.Equal(t, "mtls", info.Listener)
				}
				m.mustPublish("-t", id, "-q", "2", "-m", "sealed")
				require.Equal(t, "2 sealed\n", sub.wait())
			})
		}
	}
	t.Run("mTLS without a certificate", func(t *testing.T) {
		out := newMosquitto(t, n, mutual, "--cafile", ca.File).publish("-t", "x", "-m", "y", "-q", "1")
		require.NotZero(t, out.code)
	})
	t.Run("plain text to TLS", func(t *testing.T) {
		out := newMosquitto(t, n, plain).publish("-t", "x", "-m", "y", "-q", "1")
		require.NotZero(t, out.code)
	})
}
