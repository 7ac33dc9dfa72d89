package systest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

// TestNodeRunsOnWithoutItsTerminal closes the readers of standard output and of the log before the node writes to them.
func TestNodeRunsOnWithoutItsTerminal(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	cmd := exec.Command(testnode.Program(t), "serve", "--config", n.Config)
	cmd.Stdout, cmd.Stderr = w, w
	n.LaunchAs(cmd)
	require.NoError(t, w.Close())
	n.AwaitReady()
	testmqtt.Dial(t, n.MQTT, 5).MustConnect("x")
}

func TestConnectionLimitIsPolite(t *testing.T) {
	t.Parallel()
	n := startNode(t, sections{"limits": "{connections: 20}"})
	var clients []*testmqtt.Client
	for i := range 20 {
		c := testmqtt.Dial(t, n.MQTT, 5)
		c.MustConnect(fmt.Sprint("in-", i))
		clients = append(clients, c)
	}
	require.EqualValues(t, 0x89, testmqtt.Dial(t, n.MQTT, 5).Connect("out").ReasonCode)
	require.EqualValues(t, 3, testmqtt.Dial(t, n.MQTT, 4).Connect("out").ReasonCode)
	testmqtt.Dial(t, n.MQTT, 5).MustConnect("in-0") // who takes over needs no more room
	clients[0].ExpectDisconnect(0x8E)
	clients[1].Disconnect()
	testenv.Eventually(t, patience, "there is room again", func() bool {
		return testmqtt.Dial(t, n.MQTT, 5).Connect("late").ReasonCode == 0
	})
}

// TestFewFileDescriptors lets a node run out of file descriptors: it stays, and goes on when there are some again.
func TestFewFileDescriptors(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	sh := testenv.Need(t, "sh")
	n.LaunchAs(exec.Command(sh, "-c", `ulimit -n 120; exec "$0" serve --config "$1"`, testnode.Program(t), n.Config))
	n.AwaitReady()
	h := startHealthy(t, n)
	var sockets []net.Conn
	for range 300 {
		nc, err := net.DialTimeout("tcp", n.MQTT, patience) // the kernel accepts what the node cannot
		if err != nil {
			break
		}
		sockets = append(sockets, nc)
	}
	trips := h.trips.Load()
	testenv.Eventually(t, patience, "the healthy client goes on", func() bool { return h.trips.Load() > trips+100 })
	for _, nc := range sockets {
		require.NoError(t, nc.Close())
	}
	h.check()
	testenv.Eventually(t, patience, "new clients come in", func() bool {
		nc, err := net.Dial("tcp", n.MQTT)
		if err != nil {
			return false
		}
		defer nc.Close()
		c := testmqtt.New(t, nc, 5)
		if c.TrySend(c.ConnectPacket("after")) != nil {
			return false
		}
		ack, err := c.Read(time.Second)
		return err == nil && ack.ReasonCode == 0
	})
	select {
	case <-n.Exited():
		t.Fatal("the node ended")
	default:
	}
	require.Less(t, len(n.Log()), 1_000_000, "the log was flooded")
}

func TestSilentClientsAreCut(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	watcher := testmqtt.Dial(t, n.MQTT, 5)
	watcher.MustConnect("watcher")
	watcher.Subscribe(1, "wills")
	silent := testmqtt.Dial(t, n.MQTT, 5)
	began := time.Now()
	silent.MustConnect("silent", testmqtt.KeepAlive(2), testmqtt.Will("wills", "silent is gone", 1, false))
	silent.ExpectDisconnect(0x8D)
	require.GreaterOrEqual(t, time.Since(began), 2500*time.Millisecond, "1.5 times the keep-alive is 3s")
	watcher.ExpectPublish("wills", "silent is gone")
	require.Positive(t, n.metric("penstock_disconnects_total", "keep_alive"))
}

// TestPausedNodeCutsNobody stops the whole process for longer than the keep-alive of its clients, as a machine does
// that is moved to another host. The clients were not silent: their pings wait in the sockets.
func TestPausedNodeCutsNobody(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	var clients []*testmqtt.Client
	stop := make(chan struct{})
	var pinging sync.WaitGroup
	for i := range 20 {
		c := testmqtt.Dial(t, n.MQTT, 5)
		c.MustConnect(fmt.Sprint("pings-", i), testmqtt.KeepAlive(2))
		clients = append(clients, c)
		pinging.Go(func() {
			for c.TrySend(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}) == nil {
				select {
				case <-stop:
					return
				case <-time.After(300 * time.Millisecond):
				}
			}
		})
	}
	n.Signal(syscall.SIGSTOP)
	time.Sleep(5 * time.Second) // is the length of the pause
	n.Signal(syscall.SIGCONT)
	for _, c := range clients {
		for range 16 { // as many as were sent in these seconds
			c.Expect(packets.Pingresp)
		}
	}
	close(stop)
	pinging.Wait()
}

func TestSharedSubscriptionsOfRealClients(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	const members, messages = 3, 90
	var subs []*background
	for i := range members {
		m := newMosquitto(t, n, n.MQTT, "-V", []string{"mqttv311", "mqttv5"}[i%2])
		subs = append(subs, m.subscribe(fmt.Sprint("worker-", i), "-t", "$share/workers/jobs/#", "-q", "1", "-F", "%p"))
	}
	pub := testmqtt.Dial(t, n.MQTT, 5)
	pub.MustConnect("boss")
	for i := range messages {
		pub.Publish("jobs/x", fmt.Sprintf("job-%03d", i), 1, uint16(i+1))
		require.Zero(t, pub.Expect(packets.Puback).ReasonCode)
	}
	testenv.Eventually(t, patience, "every job came once", func() bool {
		all := ""
		for _, s := range subs {
			all += s.out.String()
		}
		return strings.Count(all, "job-") == messages
	})
	for _, s := range subs {
		require.Equal(t, messages/members, strings.Count(s.out.String(), "job-"), "round robin")
	}
}

// TestBadInputOnOtherListeners attacks TLS, WebSocket and HTTP.
func TestBadInputOnOtherListeners(t *testing.T) {
	t.Parallel()
	ca, dir := testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	ws, secure, wss := testnode.Address(), testnode.Address(), testnode.Address()
	n := startNode(t, sections{
		"listeners": fmt.Sprintf(`[{type: tcp, address: "$MQTT"}, {type: ws, address: %q, handshake_timeout: 2s},
  {type: tls, address: %q, cert: %[4]q, key: %[5]q, handshake_timeout: 2s},
  {type: wss, address: %[3]q, cert: %[4]q, key: %[5]q, handshake_timeout: 2s}]`, ws, secure, wss, cert, key),
		"limits": "{connect_timeout: 2s}",
	})
	upgrade := "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	// A frame with a mask of zeros.
	frame := func(opcode byte, payload string) string {
		return string([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
	}
	var all sync.WaitGroup
	huge := "\x82\xff\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00"
	for name, test := range map[string]struct {
		address string
		tls     bool
		say     string
	}{
		"half a ClientHello":          {secure, false, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc"},
		"silence to TLS":              {secure, false, ""},
		"MQTT to TLS":                 {secure, false, "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"},
		"silence after TLS":           {secure, true, ""},
		"half a CONNECT over TLS":     {secure, true, "\x10\x0d\x00\x04MQTT"},
		"silence to WebSocket":        {ws, false, ""},
		"half an upgrade":             {ws, false, upgrade[:60]},
		"endless header":              {ws, false, "GET /mqtt HTTP/1.1\r\nX: " + strings.Repeat("x", 2_000_000)},
		"wrong path":                  {ws, false, strings.Replace(upgrade, "/mqtt", "/other", 1)},
		"no upgrade":                  {ws, false, "GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n"},
		"MQTT to WebSocket":           {ws, false, "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"},
		"silence after upgrade":       {ws, false, upgrade},
		"text frame":                  {ws, false, upgrade + frame(1, "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")},
		"unmasked frame":              {ws, false, upgrade + "\x82\x02\xc0\x00"},
		"frame of 256 MB":             {ws, false, upgrade + huge},
		"frame of a negative size":    {ws, false, upgrade + "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"},
		"flood of pings":              {ws, false, upgrade + strings.Repeat(frame(9, "ping"), 50_000)},
		"garbage frames":              {ws, false, upgrade + string(garbage(1, 5000))},
		"half a CONNECT in frames":    {ws, false, upgrade + frame(2, "\x10\x0d\x00\x04") + frame(2, "MQTT")},
		"silence to secure WebSocket": {wss, true, ""},
		"half an upgrade over TLS":    {wss, true, upgrade[:60]},
		"silence to HTTP":             {n.HTTP, false, ""},
		"half a request to HTTP":      {n.HTTP, false, "GET /readyz HTTP/1.1\r\nX: "},
	} {
		all.Go(func() {
			if err := sendAndAwaitClose(test.address, test.tls, ca, test.say); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	require.NotContains(t, n.Log(), "panic")
	require.Equal(t, http.StatusOK, n.Readiness())
}

// sendAndAwaitClose sends something and returns nil when the node closes the connection.
func sendAndAwaitClose(address string, secure bool, ca *testcert.CA, say string) error {
	var nc net.Conn
	var err error
	if secure {
		nc, err = tls.Dial("tcp", address, &tls.Config{RootCAs: ca.Pool()})
	} else {
		nc, err = net.Dial("tcp", address)
	}
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	go func() { _, _ = nc.Write([]byte(say)) }() // the node may close before it has read all
	var answer bytes.Buffer
	if _, err = answer.ReadFrom(nc); isTimeout(err) {
		return fmt.Errorf("the node did not close the connection; it said %.100q", answer.String())
	}
	return nil
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestPublishRateSlowsOnlyItsClient lets one client flood a node that allows 50 messages a second.
func TestPublishRateSlowsOnlyItsClient(t *testing.T) {
	t.Parallel()
	n := startNode(t, sections{"limits": "{publish_rate: 50}"})
	h := startHealthy(t, n) // is slowed as well, and loses nothing
	flooder := testmqtt.Dial(t, n.MQTT, 5)
	flooder.MustConnect("flooder")
	payload := make([]byte, 1000) // some dozens of them fill what is read at once
	began := time.Now()
	go func() {
		for i := range 1000 {
			if flooder.TrySend(testmqtt.PublishPacket("x", payload, 1, uint16(i+1))) != nil {
				return
			}
		}
	}()
	for range 200 {
		flooder.Expect(packets.Puback)
	}
	require.Greater(t, time.Since(began), 1500*time.Millisecond, "200 messages at 50 a second, with a burst at first")
	h.check()
	n.Signal(syscall.SIGTERM)
	require.Zero(t, n.Exit())
}
