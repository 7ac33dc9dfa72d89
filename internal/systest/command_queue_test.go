package systest

import (
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

func commandOffline(t *testing.T, n *node) {
	id := n.issue(command("later", []string{"off-1"}))
	n.awaitState(id, "QUEUED")
	d := startDevice(t, n, "off-1", obedient)
	n.awaitState(id, "SUCCEEDED")
	require.Equal(t, []string{"later"}, d.payloads())
}

func commandExpiry(t *testing.T, n *node) {
	id := n.issue(command("too late", []string{"exp-1"}, "ttl_s", 1))
	n.awaitState(id, "EXPIRED")
	d := startDevice(t, n, "exp-1", obedient)
	n.awaitState(n.issue(command("in time", []string{"exp-1"})), "SUCCEEDED")
	require.Equal(t, []string{"in time"}, d.payloads())
}

func commandCancel(t *testing.T, n *node) {
	id := n.issue(command("canceled", []string{"can-1"}))
	n.awaitState(id, "QUEUED")
	n.admin(http.MethodPost, "/v1/commands/"+id+"/cancel", nil, 200, nil)
	n.awaitState(id, "CANCELED")
	d := startDevice(t, n, "can-1", obedient)
	n.awaitState(n.issue(command("wanted", []string{"can-1"})), "SUCCEEDED")
	require.Equal(t, []string{"wanted"}, d.payloads())
	n.admin(http.MethodPost, "/v1/commands/nothing/cancel", nil, 404, nil)
}

func commandIdempotency(t *testing.T, n *node) {
	d := startDevice(t, n, "ide-1", obedient)
	body := command("once", []string{"ide-1"})
	var ids []string
	for range 3 {
		a := n.Call(http.MethodPost, "/v1/commands", adminToken, body, "Idempotency-Key", "key 1/ü")
		require.Equal(t, http.StatusAccepted, a.Status, string(a.Body))
		var st commandStatus
		a.Into(t, &st)
		ids = append(ids, st.ID)
	}
	require.Equal(t, []string{ids[0], ids[0], ids[0]}, ids)
	a := n.Call(http.MethodPost, "/v1/commands", adminToken, command("other", []string{"ide-1"}),
		"Idempotency-Key", "key 1/ü")
	require.Equal(t, http.StatusConflict, a.Status, string(a.Body))
	n.awaitState(ids[0], "SUCCEEDED")
	alice := n.mustConnect(t, 5, "console-ide", "alice", alicePassword)
	for range 2 {
		alice.Publish("admin/commands", `{"id":"ide-by-mqtt","targets":{"devices":["ide-1"]},"payload":"twice"}`, 1, 3)
		require.Less(t, alice.Expect(packets.Puback).ReasonCode, byte(0x80))
	}
	n.awaitState("ide-by-mqtt", "SUCCEEDED")
	require.Equal(t, []string{"once", "twice"}, d.payloads())
}

func commandPriorities(t *testing.T, n *node) {
	var ids []string
	for _, p := range []int{1, 9, 5, 5, 0} {
		ids = append(ids, n.issue(command(fmt.Sprintf("%d of %d", len(ids), p), []string{"pri-1"}, "priority", p)))
	}
	d := startDevice(t, n, "pri-1", obedient)
	for _, id := range ids {
		n.awaitState(id, "SUCCEEDED")
	}
	require.Equal(t, []string{"1 of 9", "2 of 5", "3 of 5", "0 of 1", "4 of 0"}, d.payloads())
}

// commandSilent has a device that acknowledges only what comes for the second time.
func commandSilent(t *testing.T, n *node) {
	times := map[string]int{}
	d := startDevice(t, n, "sil-1", func(o order) (bool, []string) {
		times[o.execution]++
		return times[o.execution] > 1, []string{"done"}
	})
	id := n.issue(command("wake up", []string{"sil-1"}, "ack_timeout_s", 1))
	n.awaitState(id, "SENT")
	x := n.awaitState(id, "SUCCEEDED")
	require.Equal(t, 2, x.Attempt)
	require.JSONEq(t, `"done"`, string(x.Result))
	require.Len(t, d.orders(), 1)
	never := n.issue(command("never", []string{"sil-2"}, "ack_timeout_s", 1, "ttl_s", 3))
	startDevice(t, n, "sil-2", func(order) (bool, []string) { return false, nil })
	x = n.awaitState(never, "EXPIRED")
	require.Zero(t, x.DeliveredAt, "it was never acknowledged")
}

func commandRetry(t *testing.T, n *node) {
	id := n.issue(command("again", []string{"ret-1"}, "ttl_s", 1))
	n.awaitState(id, "EXPIRED")
	d := startDevice(t, n, "ret-1", obedient)
	n.admin(http.MethodPost, "/v1/commands/"+id+"/retry", nil, 200, nil)
	n.awaitState(id, "SUCCEEDED")
	require.Equal(t, []string{"again"}, d.payloads())
}

func commandCollapse(t *testing.T, n *node) {
	old := n.issue(command("20 degrees", []string{"col-1"}, "collapse_key", "target"))
	last := n.issue(command("22 degrees", []string{"col-1"}, "collapse_key", "target"))
	d := startDevice(t, n, "col-1", obedient)
	n.awaitState(last, "SUCCEEDED")
	require.Equal(t, []string{"22 degrees"}, d.payloads())
	require.NotContains(t, []string{"SUCCEEDED", "DELIVERED", "SENT", "QUEUED"}, n.executions(old)[0].State)
}

func commandMany(t *testing.T, n *node) {
	const many = 60
	var ids []string
	for i := range many {
		ids = append(ids, fmt.Sprintf("man-%02d", i))
	}
	for _, id := range ids[:many/2] {
		startDevice(t, n, id, obedient)
	}
	id := n.issue(command("all", ids))
	testenv.Eventually(t, patience, "those that are there have succeeded", func() bool {
		var st commandStatus
		n.admin(http.MethodGet, "/v1/commands/"+id, nil, 200, &st)
		return st.Counts["SUCCEEDED"] == many/2 && st.Counts["QUEUED"] == many/2 && st.Counts["total"] == many
	})
	n.admin(http.MethodPost, "/v1/commands/"+id+"/cancel", nil, 200, nil)
	var st commandStatus
	n.admin(http.MethodGet, "/v1/commands/"+id, nil, 200, &st)
	require.Equal(t, many/2, st.Counts["CANCELED"])
	require.Equal(t, many/2, st.Counts["SUCCEEDED"])
}

// commandTenThousand issues a command to as many devices as a command may have, and to one more.
func commandTenThousand(t *testing.T, n *node) {
	ids := make([]string, 10_001)
	for i := range ids {
		ids[i] = fmt.Sprintf("ten-%05d", i)
	}
	for _, id := range ids[:20] {
		startDevice(t, n, id, obedient)
	}
	began := time.Now()
	id := n.issue(command("all of you", ids[:10_000], "ttl_s", 3600))
	testenv.Eventually(t, patience, "those that are there have succeeded", func() bool {
		var st commandStatus
		n.admin(http.MethodGet, "/v1/commands/"+id, nil, 200, &st)
		return st.Counts["SUCCEEDED"] == 20 && st.Counts["QUEUED"] == 9980
	})
	t.Logf("10,000 devices after %v", time.Since(began).Round(time.Millisecond))
	require.Len(t, n.executions(id), 10_000)
	n.admin(http.MethodPost, "/v1/commands/"+id+"/cancel", nil, 200, nil)
	a := n.Call(http.MethodPost, "/v1/commands", adminToken, command("x", ids))
	require.Equal(t, http.StatusUnprocessableEntity, a.Status)
	require.Contains(t, string(a.Body), "body.targets.devices")
}

// commandMQTT3 has a device that speaks 3.1.1 and keeps its session, by mosquitto's clients.
func commandMQTT3(t *testing.T, n *node) {
	m := newMosquitto(t, n, n.MQTT, "-V", "mqttv311")
	keep := []string{"-c", "-q", "1", "-t", "devices/old-1/commands/+", "-F", "%t %p"}
	m.subscribe("old-1", keep...).kill()
	n.awaitOffline("old-1")
	id := n.issue(command("old way", []string{"old-1"}))
	n.awaitState(id, "QUEUED")
	b := startProgram(t, m.sub, slices.Concat(m.flags, []string{"-i", "old-1", "-C", "1"}, keep)...)
	x := n.awaitState(id, "DELIVERED")
	require.Equal(t, "devices/old-1/commands/"+x.ID+" old way\n", b.wait())
	m.mustPublish("-i", "old-1", "-t", "devices/old-1/results/"+x.ID, "-q", "1", "-m", "42")
	require.JSONEq(t, "42", string(n.awaitState(id, "SUCCEEDED").Result))
}

// commandRestart has one node of its own: a command waits over a graceful restart.
func commandRestart(t *testing.T, _ *node) {
	n := startNode(t, commandSections(t))
	id := n.issue(command("survivor", []string{"res-1"}))
	n.awaitState(id, "QUEUED")
	n.Signal(syscall.SIGTERM)
	require.Zero(t, n.Exit())
	n.Start()
	n.awaitState(id, "QUEUED")
	d := startDevice(t, n, "res-1", obedient)
	n.awaitState(id, "SUCCEEDED")
	require.Equal(t, []string{"survivor"}, d.payloads())
}
