package systest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

func TestGracefulStop(t *testing.T) {
	t.Parallel()
	n := startNode(t, sections{"node": `{name: n1, data: "$DIR/data", sys_interval: 0s, stop_timeout: 20s}`})
	durable := testmqtt.Dial(t, n.MQTT, 5)
	durable.MustConnect("durable", testmqtt.Durable())
	durable.Subscribe(1, "kept/#")
	three := testmqtt.Dial(t, n.MQTT, 4)
	three.MustConnect("three")
	pub := testmqtt.Dial(t, n.MQTT, 5)
	pub.MustConnect("pub")
	for i := range 10 {
		pub.Publish("kept/x", fmt.Sprint(i), 1, uint16(i+1))
		require.Less(t, pub.Expect(packets.Puback).ReasonCode, byte(0x80))
	}
	require.Equal(t, http.StatusOK, n.Readiness())

	unready := make(chan time.Time, 1)
	go func() {
		for {
			if status := n.Readiness(); status == http.StatusServiceUnavailable {
				unready <- time.Now()
				return
			} else if status == 0 {
				close(unready)
				return
			}
		}
	}()
	began := time.Now()
	n.Signal(syscall.SIGTERM)
	durableEnd := make(chan packets.Packet, 1)
	go func() { durableEnd <- pub.ExpectClosed() }()
	last := next(t, durableEnd)
	told := time.Now()
	require.Equal(t, byte(packets.Disconnect), last.FixedHeader.Type)
	require.EqualValues(t, 0x8B, last.ReasonCode)
	durable.ExpectDisconnect(0x8B)
	three.ExpectClosed()
	at, ok := <-unready
	require.True(t, ok, "readiness never turned 503")
	require.Zero(t, n.Exit())
	t.Logf("503 after %v, clients told after %v, ended after %v", at.Sub(began).Round(time.Millisecond),
		told.Sub(began).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), 20*time.Second)

	n.Start()
	again := testmqtt.Dial(t, n.MQTT, 5)
	require.True(t, again.MustConnect("durable", testmqtt.Durable()).SessionPresent)
	for i := range 10 {
		require.Equal(t, fmt.Sprint(i), string(again.Expect(packets.Publish).Payload))
	}
}

// TestStopWithinItsBudget stops a node whose subscriber does not read and whose Kafka does not exist.
func TestStopWithinItsBudget(t *testing.T) {
	t.Parallel()
	n := startNode(t, sections{
		"node":   `{name: n1, data: "$DIR/data", sys_interval: 0s, stop_timeout: 3s}`,
		"kafka":  fmt.Sprintf("{brokers: [%q]}", testnode.Address()),
		"uplink": `{routes: [{filter: "up/#"}]}`,
	})
	stalled := testmqtt.Dial(t, n.MQTT, 5)
	stalled.MustConnect("stalled")
	stalled.Subscribe(0, "flood")
	pub := testmqtt.Dial(t, n.MQTT, 5)
	pub.MustConnect("pub")
	for range 200 {
		pub.Publish("flood", strings.Repeat("x", 100_000), 0, 0)
	}
	pub.Publish("up/x", "spooled", 1, 1)
	require.Less(t, pub.Expect(packets.Puback).ReasonCode, byte(0x80))
	began := time.Now()
	n.Signal(syscall.SIGTERM)
	require.Zero(t, n.Exit())
	t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), 15*time.Second, "the budget is 3s")
}

// faultyStart starts a node that cannot start, and returns its exit code and its last line.
func faultyStart(t *testing.T, n *node) (code int, message string) {
	t.Helper()
	n.Launch()
	code = n.Exit()
	lines := strings.Split(strings.TrimSpace(n.Log()), "\n")
	for _, l := range lines {
		require.NotContains(t, l, "goroutine ", "a panic")
	}
	return code, lines[len(lines)-1]
}

func TestFaultyStartsSayWhy(t *testing.T) {
	t.Parallel()
	t.Run("MQTT port is taken", func(t *testing.T) {
		n := newNode(t, nil)
		l, err := net.Listen("tcp", n.MQTT)
		require.NoError(t, err)
		defer l.Close()
		code, message := faultyStart(t, n)
		require.Equal(t, 1, code)
		require.Contains(t, message, n.MQTT)
		require.Contains(t, message, "address already in use")
	})
	t.Run("HTTP port is taken", func(t *testing.T) {
		n := newNode(t, nil)
		l, err := net.Listen("tcp", n.HTTP)
		require.NoError(t, err)
		defer l.Close()
		code, message := faultyStart(t, n)
		require.Equal(t, 1, code)
		require.Contains(t, message, n.HTTP)
	})
	t.Run("data folder is in use", func(t *testing.T) {
		first := startNode(t, nil)
		second := newNode(t, sections{"node": fmt.Sprintf("{data: %q}", first.Data)})
		code, message := faultyStart(t, second)
		require.Equal(t, 1, code)
		require.Contains(t, message, first.Data)
		require.Contains(t, message, "use")
		require.Equal(t, http.StatusOK, first.Readiness())
	})
	t.Run("data folder is a file", func(t *testing.T) {
		n := newNode(t, nil)
		n.File("data", "not a folder")
		code, message := faultyStart(t, n)
		require.Equal(t, 1, code)
		require.Contains(t, message, n.Data)
	})
	t.Run("data folder is not writable", func(t *testing.T) {
		n := newNode(t, nil)
		n.Configure(sections{"node": `{data: "/proc/penstock"}`}) // where even root may not write
		code, message := faultyStart(t, n)
		require.Equal(t, 1, code)
		require.Contains(t, message, "/proc/penstock")
	})
	t.Run("ACL file with faults", func(t *testing.T) {
		n := newNode(t, sections{"acl": `{file: "$DIR/acl.yaml"}`})
		n.File("acl.yaml", `rules: [{alow: all, topics: ["#"]}]`)
		code, message := faultyStart(t, n)
		require.NotZero(t, code)
		require.Contains(t, n.Log(), "alow")
		require.NotEmpty(t, message)
	})
}

func TestBadConfigurationIsReportedWhole(t *testing.T) {
	t.Parallel()
	n := newNode(t, sections{
		"node":      `{name: "n 1", data: "$DIR/data", colour: red}`,
		"listeners": `[{type: tcp, address: "nowhere"}, {type: tls, address: ":0"}]`,
		"limits":    `{packet_size: 1TiB, inflight: 0}`,
		"log":       `{level: loud}`,
		"auth":      `{users: {alice: secret-in-plain-text}}`,
		"uplink":    `{routes: [{filter: "a/#/b"}]}`,
	})
	for _, args := range [][]string{{"serve", "--config"}, {"config", "check", "--config"}} {
		out := runProgram(t, "", testnode.Program(t), append(args, n.Config)...)
		require.Equal(t, 2, out.code, out.stderr)
		for _, key := range []string{"node.name", "node.colour", "listeners[0].address", "listeners[1]", "limits.packet_size",
			"limits.inflight", "log.level", "auth.users", "uplink.routes[0].filter"} {
			require.Contains(t, out.stderr, key)
		}
		require.NotContains(t, out.stderr, "secret-in-plain-text")
		require.NotContains(t, out.stderr, "goroutine ")
	}
	require.NoDirExists(t, n.Data)
	out := runProgram(t, "", testnode.Program(t), "serve", "--config", filepath.Join(n.Dir, "missing.yaml"))
	require.Equal(t, 2, out.code, out.stderr)
	require.Contains(t, out.stderr, "missing.yaml")
}

// tinyDisk mounts a file system of a few bytes, and skips the test where that is not permitted.
func tinyDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fillDisk takes all room that is left, but for what is given back by removing the file.
func fillDisk(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "ballast")
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	block := make([]byte, 64<<10)
	for size := len(block); size > 0; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	return file
}

// TestFullDisk fills the disk under a running node: what cannot be kept is refused, the node stays, and all goes on
// when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := tinyDisk(t, "64m")
	n := newNode(t, nil)
	n.Configure(sections{
		"node":   fmt.Sprintf("{data: %q, sys_interval: 0s}", filepath.Join(disk, "data")),
		"uplink": `{routes: [{filter: "up/#"}]}`,
		"spool":  `{max_bytes: 1MiB}`,
		"limits": `{queue: 1000000, queue_bytes: 1GiB}`,
		"auth":   fmt.Sprintf(`{anonymous: true, products: [{key: pump, secret: %q}]}`, productSecret),
	})
	n.Start()
	keeper := testmqtt.Dial(t, n.MQTT, 5)
	keeper.MustConnect("keeper", testmqtt.Durable())
	keeper.Subscribe(1, "kept/#")
	keeper.Disconnect()
	n.awaitOffline("keeper")
	pub := testmqtt.Dial(t, n.MQTT, 5)
	pub.MustConnect("pub")
	live := testmqtt.Dial(t, n.MQTT, 5)
	live.MustConnect("live")
	live.Subscribe(0, "live")

	var accepted []string
	sent := 0
	publish := func(topic string) (code byte) {
		sent++
		payload := fmt.Sprintf("%06d", sent)
		pub.Publish(topic, payload+strings.Repeat("x", 1000), 1, uint16(sent%60_000+1))
		code = pub.Expect(packets.Puback).ReasonCode
		if code < 0x80 && strings.HasPrefix(topic, "kept/") {
			accepted = append(accepted, payload)
		}
		return code
	}
	for range 20 {
		require.Less(t, publish("kept/x"), byte(0x80))
		require.Less(t, publish("up/x"), byte(0x80))
	}
	ballast := fillDisk(t, disk)
	for _, topic := range []string{"kept/x", "up/x"} {
		var code byte
		for range 100_000 { // until what the store has reserved is used up
			if code = publish(topic); code >= 0x80 {
				break
			}
		}
		t.Logf("%s is refused with 0x%02X", topic, code)
		require.Contains(t, []byte{0x97, 0x88, 0x83, 0x80}, code, topic)
	}
	commands, devices := fullDiskHTTP(n)
	// What needs no disk goes on.
	pub.Publish("live", "still", 0, 0)
	live.ExpectPublish("live", "still")
	require.NotZero(t, n.Readiness())
	select {
	case <-n.Exited():
		t.Fatal("the process ended")
	default:
	}

	require.NoError(t, os.Remove(ballast))
	for _, topic := range []string{"kept/x", "up/x"} {
		testenv.Eventually(t, patience, topic+" is accepted again", func() bool {
			time.Sleep(20 * time.Millisecond)
			return publish(topic) < 0x80
		})
	}
	checkKept(t, n, accepted)
	n.Kill()
	n.Start()
	checkKept(t, n, accepted)
	for _, path := range append(commands, devices...) {
		require.Equal(t, http.StatusOK, n.Call(http.MethodGet, path, adminToken, nil).Status,
			"%s was accepted and is lost", path)
	}
	n.issue(command("x", []string{"y"}))
	n.register("room-again")
	n.Kill() // before its disk goes
}

// fullDiskHTTP issues commands and registers devices on a full disk. It returns the paths of what was accepted; the
// rest must have been refused with 503.
func fullDiskHTTP(n *node) (commands, devices []string) {
	n.T.Helper()
	for i := range 20 {
		id := fmt.Sprintf("full-%d", i)
		a := n.Call(http.MethodPost, "/v1/commands", adminToken, command("x", []string{"y"}, "id", id))
		if a.Status == http.StatusAccepted {
			commands = append(commands, "/v1/commands/"+id)
		} else {
			require.Equal(n.T, http.StatusServiceUnavailable, a.Status, string(a.Body))
		}
		a = n.Call(http.MethodPost, "/v1/register", "", registration(id, productSecret, time.Now()))
		if a.Status == http.StatusOK {
			devices = append(devices, "/v1/devices/"+id)
		} else {
			require.Equal(n.T, http.StatusServiceUnavailable, a.Status, string(a.Body))
		}
	}
	n.T.Logf("on the full disk, %d commands and %d registrations were accepted, of 20 each", len(commands), len(devices))
	return commands, devices
}

// checkKept reads what waits for the session of keeper, without acknowledging it: everything that was accepted must be
// there, in order; refused messages may be there as well.
func checkKept(t *testing.T, n *node, accepted []string) {
	t.Helper()
	keeper := testmqtt.Dial(t, n.MQTT, 5)
	connect := keeper.ConnectPacket("keeper", testmqtt.Durable())
	connect.Properties.ReceiveMaximum = 65_535
	keeper.Send(connect)
	require.True(t, keeper.Expect(packets.Connack).SessionPresent)
	for i := 0; i < len(accepted); {
		got := string(keeper.Expect(packets.Publish).Payload[:6])
		if got == accepted[i] {
			i++
		} else {
			require.Less(t, got, accepted[i], "message %s was accepted and is lost", accepted[i])
		}
	}
	keeper.Drop()
	n.awaitOffline("keeper")
}
