package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/node"
)

const patience = 10 * time.Second

// aliceHash is made once: argon2id is slow on purpose.
var aliceHash = sync.OnceValue(func() string { return auth.HashPassword("wonderland") })

// config is a node on free ports of the loopback with one user, alice, who is an administrator.
func config(t *testing.T, dir, more string) node.Config {
	t.Helper()
	text := fmt.Sprintf(`
node: {name: t1, data: %q, sys_interval: 1s}
listeners:
  - {type: tcp, address: "127.0.0.1:0"}
  - {type: ws, address: "127.0.0.1:0"}
http: {address: "127.0.0.1:0"}
auth: {users: {alice: %q}, admins: [alice]}
%s`, dir, aliceHash(), more)
	cfg, err := node.LoadConfig(conf.Source{Name: "test.yaml", YAML: []byte(text)})
	require.NoError(t, err)
	return cfg
}

// start runs a node until the test ends or the returned function is called.
func start(t *testing.T, cfg node.Config) (n *node.Node, stop func()) {
	t.Helper()
	n, err := node.New(cfg, io.Discard)
	require.NoError(t, err)
	require.NoError(t, n.Start(t.Context()))
	var once sync.Once
	stop = func() {
		once.Do(func() { assert.NoError(t, n.Stop(context.Background())) })
	}
	t.Cleanup(stop)
	return n, stop
}

// client is alice with an MQTT 3.1.1 client; without an id her session is clean.
func client(n *node.Node, id string) mqtt.Client { return mqtt.NewClient(options(n, id)) }

func options(n *node.Node, id string) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().AddBroker("tcp://" + n.Addresses()["tcp"]).SetClientID(id).
		SetUsername("alice").SetPassword("wonderland").SetCleanSession(id == "").
		SetAutoReconnect(false).SetConnectRetry(false)
}

func connect(t *testing.T, c mqtt.Client) {
	t.Helper()
	token := c.Connect()
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
}

func get(t *testing.T, n *node.Node, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.HTTPURL()+path, nil)
	require.NoError(t, err)
	token, _ := n.AdminToken()
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

func TestANodeServesItsUsersAndNobodyElse(t *testing.T) {
	n, _ := start(t, config(t, t.TempDir(), ""))
	for _, path := range strings.Fields("/healthz /readyz /metrics /openapi.json /v1/clients /v1/config /v1/cluster") {
		status, text := get(t, n, path)
		assert.Equal(t, 200, status, "%s: %s", path, text)
		assert.NotContains(t, text, aliceHash(), path)
	}

	alice := client(n, "")
	connect(t, alice)
	defer alice.Disconnect(0)
	version := make(chan string, 1)
	alice.Subscribe("$SYS/broker/version", 0, func(_ mqtt.Client, m mqtt.Message) { version <- string(m.Payload()) })
	select {
	case v := <-version:
		assert.Equal(t, "penstock version "+node.Version(), v)
	case <-time.After(patience):
		t.Fatal("no $SYS topics")
	}

	stranger := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.Addresses()["tcp"]).SetConnectRetry(false))
	token := stranger.Connect()
	require.True(t, token.WaitTimeout(patience))
	assert.Error(t, token.Error(), "nobody connects without authentication")
}

func TestWhatWasAcknowledgedIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	n, stop := start(t, config(t, dir, ""))
	token, fresh := n.AdminToken()
	assert.True(t, fresh, "the first start makes a token")
	file, err := os.Stat(filepath.Join(dir, "admin-token"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), file.Mode().Perm())

	durable := client(n, "durable")
	connect(t, durable)
	require.True(t, durable.Subscribe("news/#", 1, nil).WaitTimeout(patience))
	durable.Disconnect(0)
	publisher := client(n, "")
	connect(t, publisher)
	require.True(t, publisher.Publish("news/today", 1, false, "queued").WaitTimeout(patience))
	require.True(t, publisher.Publish("kept", 1, true, "retained").WaitTimeout(patience))
	publisher.Disconnect(0)
	stop()

	n, _ = start(t, config(t, dir, ""))
	again, fresh := n.AdminToken()
	assert.False(t, fresh, "the second start knows the token")
	assert.Equal(t, token, again)
	var mu sync.Mutex
	got := map[string]string{}
	durable = mqtt.NewClient(options(n, "durable").
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			mu.Lock()
			defer mu.Unlock()
			got[m.Topic()] = string(m.Payload())
		}))
	connect(t, durable)
	defer durable.Disconnect(0)
	durable.Subscribe("kept", 1, nil)
	testenv.Eventually(t, patience, "both messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got["news/today"] == "queued" && got["kept"] == "retained"
	})
}

func TestStopTellsClientsAndTurnsReadinessOff(t *testing.T) {
	n, stop := start(t, config(t, "", ""))
	lost := make(chan struct{})
	c := mqtt.NewClient(options(n, "").SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) }))
	connect(t, c)
	stop()
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatal("the client was not disconnected")
	}
	_, err := net.Dial("tcp", n.Addresses()["http"])
	assert.Error(t, err, "HTTP is closed too")
	assert.NoError(t, n.Stop(t.Context()), "a second Stop does nothing")
}

func TestStopWaitsForLoadBalancersBeforeItClosesConnections(t *testing.T) {
	cfg := config(t, "", "")
	cfg.Node.DrainDelay, cfg.Node.StopTimeout = 9*time.Minute, 10*time.Minute
	n, _ := start(t, cfg)
	lost := make(chan struct{})
	c := mqtt.NewClient(options(n, "").SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) }))
	connect(t, c)
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	stopped := make(chan error, 1)
	go func() { stopped <- n.Stop(ctx) }()
	testenv.Eventually(t, patience, "not ready", func() bool {
		status, text := get(t, n, "/readyz")
		return status == 503 && strings.Contains(text, "draining")
	})
	publish := c.Publish("still/served", 1, false, "x")
	require.True(t, publish.WaitTimeout(patience))
	require.NoError(t, publish.Error())
	select {
	case <-lost:
		t.Fatal("the connection was closed during the delay")
	default:
	}
	enough()
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatal("the client was not disconnected")
	}
	<-stopped // what was cut short is in its error
}

func TestDrainDelayIsAPartOfTheBudget(t *testing.T) {
	cfg := config(t, "", "")
	cfg.Node.DrainDelay = cfg.Node.StopTimeout
	assert.ErrorContains(t, conf.Check(&cfg), "node.drain_delay: must be shorter than stop_timeout")
	cfg.Node.DrainDelay = 50 * time.Millisecond
	_, stop := start(t, cfg)
	began := time.Now()
	stop()
	assert.GreaterOrEqual(t, time.Since(began), cfg.Node.DrainDelay)
}

func TestANodeThatLetsNobodyInSaysSo(t *testing.T) {
	cfg := config(t, "", "")
	n, err := node.New(cfg, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []string{"1 user with password"}, n.Admits())
	require.NoError(t, n.Stop(t.Context()))
	cfg.Auth.Users, cfg.Auth.Admins = nil, nil
	var logs testenv.Log
	n, err = node.New(cfg, &logs)
	require.NoError(t, err)
	require.NoError(t, n.Start(t.Context()))
	defer func() { assert.NoError(t, n.Stop(context.Background())) }()
	assert.Empty(t, n.Admits())
	assert.Contains(t, logs.String(), "level=WARN")
	assert.Contains(t, logs.String(), "auth.products, auth.users")
}

func TestWhatCannotBeOpenedIsOneClearLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	inUse := t.TempDir()
	start(t, config(t, inUse, ""))
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	garbage := filepath.Join(t.TempDir(), "acl.yaml")
	require.NoError(t, os.WriteFile(garbage, []byte("rules: [{alow: all}]"), 0o600))

	cases := map[string]struct {
		change func(*node.Config)
		names  []string
	}{
		"a listener's port that is taken": {func(c *node.Config) { c.Listeners[0].Address = taken.Addr().String() },
			[]string{"listener tcp", taken.Addr().String(), "address already in use"}},
		"HTTP's port that is taken": {func(c *node.Config) { c.HTTP.Address = taken.Addr().String() },
			[]string{"listener http", taken.Addr().String(), "address already in use"}},
		"a data folder in use":           {func(c *node.Config) { c.Node.Data = inUse }, []string{inUse, "already open"}},
		"a data folder below a file":     {func(c *node.Config) { c.Node.Data = file + "/data" }, []string{file}},
		"a data folder nobody can write": {func(c *node.Config) { c.Node.Data = "/proc/x" }, []string{"/proc/x"}},
		"an ACL file with faults":        {func(c *node.Config) { c.ACL.File = garbage }, []string{garbage, "alow"}},
		"an ACL file that is not there":  {func(c *node.Config) { c.ACL.File = "/nowhere" }, []string{"/nowhere"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, t.TempDir(), "")
			kept := cfg.Node.Data
			c.change(&cfg)
			_, err := node.New(cfg, io.Discard)
			require.Error(t, err)
			for _, want := range c.names {
				assert.ErrorContains(t, err, want)
			}
			if !strings.Contains(name, "ACL") {
				assert.NotContains(t, err.Error(), "\n")
			}
			// What New had opened before is closed again: the same folder can be opened at once.
			n, err := node.New(config(t, kept, ""), io.Discard)
			require.NoError(t, err)
			require.NoError(t, n.Stop(t.Context()))
		})
	}
}

func TestAConfigurationMadeByCodeIsCheckedToo(t *testing.T) {
	cfg := config(t, "", "")
	cfg.Limits.PacketSize, cfg.Node.Name = 0, "no spaces allowed"
	_, err := node.New(cfg, io.Discard)
	var faults conf.Faults
	require.True(t, errors.As(err, &faults), err)
	assert.Len(t, faults, 2)
}

func TestReloadTakesOverWhatCanChangeLive(t *testing.T) {
	var logs testenv.Log
	cfg := config(t, "", "")
	n, err := node.New(cfg, &logs)
	require.NoError(t, err)
	require.NoError(t, n.Start(t.Context()))
	defer func() { assert.NoError(t, n.Stop(context.Background())) }()
	c := client(n, "")
	connect(t, c)
	defer c.Disconnect(0)

	next := config(t, "", `
access: {deny: ["127.0.0.0/8"]}
log: {level: debug}
limits: {queue: 5}
`)
	require.NoError(t, n.Reload(next))
	assert.Contains(t, logs.String(), `msg="changed keys need a restart"`)
	assert.Contains(t, logs.String(), "keys=limits.queue")
	assert.True(t, c.IsConnected(), "connections that are open stay")
	token := client(n, "").Connect()
	require.True(t, token.WaitTimeout(patience))
	assert.Error(t, token.Error(), "the address is denied now")
	_, text := get(t, n, "/v1/config")
	assert.Contains(t, text, `"deny":["127.0.0.0/8"]`)
	assert.Contains(t, text, `"queue":1000`, "what needs a restart is shown as it is in force")
	assert.Contains(t, logs.String(), "level=DEBUG", "requests are logged at debug level from now on")
}

func TestUplinkIsKeptAndShownWithoutKafka(t *testing.T) {
	n, _ := start(t, config(t, "", `uplink: {routes: [{filter: "devices/+/up/#"}]}`))
	c := client(n, "")
	connect(t, c)
	defer c.Disconnect(0)
	for i := range 3 {
		require.True(t, c.Publish("devices/d1/up/x", 1, false, fmt.Sprint("m", i)).WaitTimeout(patience))
	}
	status, text := get(t, n, "/v1/uplink/tail")
	assert.Equal(t, 200, status)
	assert.Equal(t, 3, strings.Count(text, "\n"), text)
	assert.Contains(t, text, `"mqtt_topic":"devices/d1/up/x"`)
	assert.Contains(t, text, `"traceparent":"00-`)
	_, text = get(t, n, "/v1/uplink/tail?from=3")
	assert.Equal(t, 1, strings.Count(text, "\n"), text)
}

func TestTheDemoWorksByItself(t *testing.T) {
	cfg, err := node.DemoConfig()
	require.NoError(t, err)
	for i := range cfg.Listeners {
		cfg.Listeners[i].Address = "127.0.0.1:0"
	}
	cfg.HTTP.Address = "127.0.0.1:0"
	n, _ := start(t, cfg)
	testenv.Eventually(t, patience, "ten pumps", func() bool {
		_, text := get(t, n, "/metrics")
		return strings.Contains(text, "\npenstock_connections 10\n")
	})
	operator := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.Addresses()["tcp"]))
	connect(t, operator)
	defer operator.Disconnect(0)
	finished := make(chan string, 1)
	operator.Subscribe("admin/commands/+/events", 1, func(_ mqtt.Client, m mqtt.Message) {
		if strings.Contains(string(m.Payload()), `"SUCCEEDED":1`) {
			select {
			case finished <- string(m.Payload()):
			default:
			}
		}
	}).WaitTimeout(patience)
	operator.Publish("admin/commands", 1, false, `{"targets":{"devices":["pump-1"]},"payload":"open"}`)
	select {
	case <-finished:
	case <-time.After(2 * patience):
		t.Fatal("the pump did not answer")
	}
}
