package systest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// order is a command as a device saw it.
type order struct {
	execution string
	payload   string
	dup       bool
	packet    packets.Packet
}

// device acts on commands: it acknowledges what it gets, connects again when its connection ends, and answers.
type device struct {
	t  testing.TB
	n  *node
	id string
	// react is what the device does with a command: whether it acknowledges, and which results it publishes then.
	react func(o order) (ack bool, results []string)

	stop chan struct{}
	done sync.WaitGroup
	mu   sync.Mutex
	got  []order
	sent map[string]string // execution → last result
}

// obedient acknowledges everything and answers ok.
func obedient(order) (bool, []string) { return true, []string{`{"state":"SUCCEEDED","result":"ok"}`} }

// startDevice starts a device and waits until it is subscribed.
func startDevice(t testing.TB, n *node, id string, react func(order) (bool, []string)) *device {
	t.Helper()
	d := &device{t: t, n: n, id: id, react: react}
	d.start()
	n.awaitSubscribed(id)
	return d
}

func (d *device) start() {
	d.stop, d.sent = make(chan struct{}), make(map[string]string)
	d.done.Go(func() {
		for {
			select {
			case <-d.stop:
				return
			default:
			}
			_ = d.serve()                     // it ends with its connection
			time.Sleep(20 * time.Millisecond) // a device's back-off
		}
	})
	d.t.Cleanup(d.close)
}

func (d *device) close() {
	select {
	case <-d.stop:
	default:
		close(d.stop)
	}
	d.done.Wait()
}

func (d *device) serve() error {
	nc, err := net.Dial("tcp", d.n.mqtt)
	if err != nil {
		return err
	}
	defer nc.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-d.stop:
			_ = nc.Close()
		case <-ended:
		}
	}()
	c := testmqtt.New(d.t, nc, 5)
	if err := c.TrySend(c.ConnectPacket(d.id)); err != nil {
		return err
	}
	if _, err := c.Read(patience); err != nil {
		return err
	}
	err = c.TrySend(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "devices/" + d.id + "/commands/+", Qos: 1}},
	})
	for id := uint16(1); err == nil; {
		var pk packets.Packet
		if pk, err = c.Read(time.Hour); err == nil && pk.FixedHeader.Type == packets.Publish {
			err = d.obey(c, pk, &id)
		}
	}
	return err
}

func (d *device) obey(c *testmqtt.Client, pk packets.Packet, id *uint16) error {
	o := order{pk.TopicName[strings.LastIndexByte(pk.TopicName, '/')+1:], string(pk.Payload), pk.FixedHeader.Dup, pk}
	ack, results := d.react(o)
	d.mu.Lock()
	d.got = append(d.got, o)
	if len(results) > 0 {
		d.sent[o.execution] = results[len(results)-1]
	}
	d.mu.Unlock()
	if !ack {
		return nil
	}
	err := c.TrySend(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
	for _, r := range results {
		*id++
		if err == nil {
			err = c.TrySend(testmqtt.PublishPacket(pk.Properties.ResponseTopic, []byte(r), 1, *id))
		}
	}
	return err
}

// orders are the commands that the device got, each once, in order.
func (d *device) orders() (out []order) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]bool{}
	for _, o := range d.got {
		if !seen[o.execution] {
			out = append(out, o)
		}
		seen[o.execution] = true
	}
	return out
}

func (d *device) payloads() (out []string) {
	for _, o := range d.orders() {
		out = append(out, o.payload)
	}
	return out
}

// commandStatus and execution are what tests look at of a command.
type commandStatus struct {
	ID     string         `json:"id"`
	State  string         `json:"state"`
	Open   int            `json:"open"`
	Counts map[string]int `json:"counts"`
}

type execution struct {
	ID          string          `json:"id"`
	Device      string          `json:"device"`
	State       string          `json:"state"`
	Attempt     int             `json:"attempt"`
	Late        bool            `json:"late"`
	DeliveredAt int64           `json:"delivered_at"`
	Code        int             `json:"code"`
	Reason      string          `json:"reason"`
	Progress    int             `json:"progress"`
	Result      json.RawMessage `json:"result"`
}

// command is a request for some devices, with further fields in pairs.
func command(payload string, devices []string, fields ...any) map[string]any {
	c := map[string]any{"targets": map[string]any{"devices": devices}, "payload": payload}
	for i := 0; i+1 < len(fields); i += 2 {
		c[fields[i].(string)] = fields[i+1]
	}
	return c
}

func (n *node) issue(c map[string]any) string {
	n.t.Helper()
	var st commandStatus
	n.admin(http.MethodPost, "/v1/commands", c, http.StatusAccepted, &st)
	require.NotEmpty(n.t, st.ID)
	return st.ID
}

func (n *node) executions(command string) (all []execution) {
	n.t.Helper()
	var page struct {
		Executions []execution `json:"executions"`
		Next       string      `json:"next"`
	}
	for cursor := ""; ; cursor = page.Next {
		page.Next = ""
		n.admin(http.MethodGet, "/v1/commands/"+command+"/executions?cursor="+cursor, nil, 200, &page)
		all = append(all, page.Executions...)
		if page.Next == "" {
			return all
		}
	}
}

// await waits until the only execution of a command is in a state.
func (n *node) awaitState(command, state string) execution {
	n.t.Helper()
	var x execution
	testenv.Eventually(n.t, patience, fmt.Sprintf("command %s is %s", command, state), func() bool {
		time.Sleep(10 * time.Millisecond)
		all := n.executions(command)
		if len(all) != 1 {
			return false
		}
		x = all[0]
		return x.State == state
	})
	return x
}

func commandSections(t testing.TB) sections {
	return sections{
		"auth": fmt.Sprintf(`{anonymous: true, users: {alice: %q, bob: %q}, admins: [alice]}`,
			hashPassword(t, alicePassword), hashPassword(t, bobPassword)),
		"commands": "{backoff_min: 50ms, backoff_max: 500ms}",
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	n := startNode(t, commandSections(t))
	for name, test := range map[string]func(*testing.T, *node){
		"by mosquitto_pub":      commandByMosquitto,
		"by HTTP":               commandByHTTP,
		"by penstock push":      commandByPush,
		"response topic":        commandResponseTopic,
		"faulty":                commandFaulty,
		"offline device":        commandOffline,
		"expiry":                commandExpiry,
		"cancel":                commandCancel,
		"idempotency":           commandIdempotency,
		"priorities":            commandPriorities,
		"silent device":         commandSilent,
		"outcomes":              commandOutcomes,
		"late result":           commandLate,
		"result of a stranger":  commandStranger,
		"retry":                 commandRetry,
		"collapse key":          commandCollapse,
		"many devices":          commandMany,
		"ten thousand devices":  commandTenThousand,
		"MQTT 3 and offline":    commandMQTT3,
		"survives good restart": commandRestart,
	} {
		t.Run(name, func(t *testing.T) { test(t, n) })
	}
}

func commandByMosquitto(t *testing.T, n *node) {
	d := startDevice(t, n, "mos-1", obedient)
	for _, version := range []string{"mqttv311", "mqttv5"} {
		m := newMosquitto(t, n, n.mqtt, "-V", version, "-u", "alice", "-P", alicePassword)
		id := "from-" + version
		events := m.subscribe("events-"+version, "-t", "admin/commands/"+id+"/events", "-q", "1", "-F", "%p")
		m.mustPublish("-t", "admin/commands", "-q", "1", "-m", `{"id":"`+id+`","targets":{"devices":["mos-1"]},"payload":"open"}`)
		x := n.awaitState(id, "SUCCEEDED")
		require.JSONEq(t, `"ok"`, string(x.Result))
		events.awaitText(`"type":"finished"`, `"SUCCEEDED":1`)
	}
	require.Equal(t, []string{"open", "open"}, d.payloads())
	bob := newMosquitto(t, n, n.mqtt, "-V", "mqttv311", "-u", "bob", "-P", bobPassword)
	before := n.metric("penstock_acl_denied_total")
	bob.publish("-t", "admin/commands", "-q", "1", "-m", `{"targets":{"devices":["mos-1"]},"payload":"steal"}`)
	require.Greater(t, n.metric("penstock_acl_denied_total"), before)
	require.Equal(t, []string{"open", "open"}, d.payloads())
}

func commandByHTTP(t *testing.T, n *node) {
	d := startDevice(t, n, "htt-1", obedient)
	trace := "4bf92f3577b34da6a3ce929d0e0e4736"
	body := command("close", []string{"htt-1"}, "ttl_s", 600)
	a := n.call(http.MethodPost, "/v1/commands", adminToken, body, "traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	require.Equal(t, http.StatusAccepted, a.status, string(a.body))
	var st commandStatus
	a.into(t, &st)
	x := n.awaitState(st.ID, "SUCCEEDED")
	o := d.orders()[0]
	require.Equal(t, "close", o.payload)
	require.Equal(t, x.ID, o.execution)
	p := o.packet.Properties
	require.Equal(t, x.ID, string(p.CorrelationData))
	require.Equal(t, "devices/htt-1/results/"+x.ID, p.ResponseTopic)
	require.InDelta(t, 600, p.MessageExpiryInterval, 60)
	user := map[string]string{}
	for _, u := range p.User {
		user[u.Key] = u.Val
	}
	require.Equal(t, "1", user["attempt"])
	require.NotEmpty(t, user["seq"])
	require.Contains(t, user["traceparent"], trace)
	require.Equal(t, http.StatusUnauthorized, n.call(http.MethodPost, "/v1/commands", "", body).status)
	require.Equal(t, http.StatusUnauthorized, n.call(http.MethodPost, "/v1/commands", "guess", body).status)
	require.Equal(t, http.StatusNotFound, n.call(http.MethodGet, "/v1/commands/nothing", adminToken, nil).status)
}

func commandByPush(t *testing.T, n *node) {
	startDevice(t, n, "psh-1", obedient)
	startDevice(t, n, "psh-2", func(order) (bool, []string) { return true, []string{`{"state":"FAILED","reason":"jammed"}`} })
	push := func(args ...string) output {
		return n.penstock("", append([]string{"push", "--payload", "x"}, args...)...)
	}
	out := push("--devices", "psh-1", "--wait")
	require.Zero(t, out.code, out.stderr)
	require.Contains(t, out.stdout, "SUCCEEDED 1")
	out = push("--devices", "psh-1,psh-2", "--wait")
	require.Equal(t, 1, out.code, out.stderr)
	require.Contains(t, out.stderr, "jammed")
	out = push("--devices", "psh-1,psh-2", "--wait=delivered")
	require.Zero(t, out.code, out.stderr)
	out = push("--devices", "psh-away", "--ttl", "1s", "--wait")
	require.Equal(t, 1, out.code, out.stderr)
	require.Contains(t, out.stdout+out.stderr, "EXPIRED")
	out = push("--devices", "psh-away", "--wait", "--timeout", "300ms")
	require.Equal(t, 1, out.code, out.stderr)
	out = push("--devices", "psh-1", "--json")
	var st commandStatus
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &st), out.stdout)
	require.Equal(t, 2, push().code, "no device")
	require.Equal(t, 2, push("--devices", "psh-1", "--nonsense").code)
	wrong := runProgram(t, "", program(t), "push", "--devices", "psh-1", "--payload", "x", "--server", "http://"+n.http, "--token", "no")
	require.Equal(t, 1, wrong.code, wrong.stderr)
	nobody := runProgram(t, "", program(t), "push", "--devices", "psh-1", "--payload", "x", "--server", "http://"+address(),
		"--token", adminToken)
	require.Equal(t, 3, nobody.code, nobody.stderr)
}

func commandResponseTopic(t *testing.T, n *node) {
	startDevice(t, n, "rsp-1", obedient)
	alice := n.mustConnect(t, 5, "console-rsp", "alice", alicePassword)
	alice.Subscribe(1, "answers/alice")
	for name, test := range map[string]struct {
		body string
		code byte
		want string
	}{
		"accepted": {`{"targets":{"devices":["rsp-1"]},"payload":{"a":1}}`, 0, `"counts"`},
		"refused":  {`{"targets":{"devices":["rsp-1"]},"payload":"x","prio":1}`, 0x99, "prio"},
	} {
		pk := testmqtt.PublishPacket("admin/commands", []byte(test.body), 1, 9)
		pk.Properties.ResponseTopic, pk.Properties.CorrelationData = "answers/alice", []byte(name)
		pk.Mods.AllowResponseInfo = true // else mochi's encoder leaves both out
		alice.Send(pk)
		var acked, answered bool
		for !acked || !answered {
			got, err := alice.Read(patience)
			require.NoError(t, err)
			switch got.FixedHeader.Type {
			case packets.Puback:
				acked = true
				if test.code != 0 || got.ReasonCode != packets.CodeNoMatchingSubscribers.Code { // nobody listens to admin/commands
					require.Equal(t, test.code, got.ReasonCode, name)
				}
			case packets.Publish:
				answered = true
				require.Equal(t, name, string(got.Properties.CorrelationData))
				require.Contains(t, string(got.Payload), test.want)
				alice.Ack(packets.Puback, got.PacketID)
			}
		}
	}
}

func commandFaulty(t *testing.T, n *node) {
	for name, test := range map[string]struct {
		body   string
		status int
		field  string
	}{
		"no JSON":           {"{", 422, ""},
		"an array":          {"[]", 422, ""},
		"unknown field":     {`{"targets":{"devices":["x"]},"payload":"x","prio":1}`, 422, "body.prio"},
		"wrong type":        {`{"targets":{"devices":"x"},"payload":"x"}`, 422, "body.targets.devices"},
		"no target":         {`{"payload":"x"}`, 422, "body.targets"},
		"no payload":        {`{"targets":{"devices":["x"]}}`, 422, "body.payload"},
		"two payloads":      {`{"targets":{"devices":["x"]},"payload":"x","payload_base64":"eA=="}`, 422, "payload_base64"},
		"wildcard device":   {`{"targets":{"devices":["+"]},"payload":"x"}`, 422, "body.targets.devices[0]"},
		"priority of 10":    {`{"targets":{"devices":["x"]},"payload":"x","priority":10}`, 422, "body.priority"},
		"negative ttl":      {`{"targets":{"devices":["x"]},"payload":"x","ttl_s":-1}`, 422, "body.ttl_s"},
		"field twice":       {`{"targets":{"devices":["x"]},"payload":"x","payload":"y"}`, 422, "body.payload"},
		"too large payload": {`{"targets":{"devices":["x"]},"payload":"` + strings.Repeat("x", 300_000) + `"}`, 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := n.call(http.MethodPost, "/v1/commands", adminToken, test.body)
			if test.status == 422 && test.field == "" {
				require.Contains(t, []int{400, 422}, a.status, string(a.body))
			} else {
				require.Equal(t, test.status, a.status, string(a.body))
			}
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
			require.Contains(t, string(a.body), test.field)
		})
	}
}

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
		a := n.call(http.MethodPost, "/v1/commands", adminToken, body, "Idempotency-Key", "key 1/ü")
		require.Equal(t, http.StatusAccepted, a.status, string(a.body))
		var st commandStatus
		a.into(t, &st)
		ids = append(ids, st.ID)
	}
	require.Equal(t, []string{ids[0], ids[0], ids[0]}, ids)
	a := n.call(http.MethodPost, "/v1/commands", adminToken, command("other", []string{"ide-1"}), "Idempotency-Key", "key 1/ü")
	require.Equal(t, http.StatusConflict, a.status, string(a.body))
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

func commandOutcomes(t *testing.T, n *node) {
	answers := map[string][]string{
		"ok":      {`{"state":"SUCCEEDED","code":0,"result":{"rpm":3}}`},
		"raw":     {"rpm 3"},
		"failed":  {`{"state":"RUNNING","progress":50}`, `{"state":"FAILED","code":7,"reason":"jam"}`},
		"refused": {`{"state":"REJECTED","reason":"not now"}`},
		"running": {`{"state":"RUNNING","progress":30}`},
		"none":    nil,
	}
	startDevice(t, n, "out-1", func(o order) (bool, []string) { return true, answers[o.payload] })
	for payload, want := range map[string]execution{
		"ok":      {State: "SUCCEEDED", Result: json.RawMessage(`{"rpm":3}`)},
		"raw":     {State: "SUCCEEDED", Result: json.RawMessage(`"rpm 3"`)},
		"failed":  {State: "FAILED", Code: 7, Reason: "jam"},
		"refused": {State: "REJECTED", Reason: "not now"},
		"running": {State: "RUNNING", Progress: 30},
		"none":    {State: "DELIVERED"},
	} {
		x := n.awaitState(n.issue(command(payload, []string{"out-1"})), want.State)
		require.Equal(t, want.Code, x.Code, payload)
		require.Equal(t, want.Reason, x.Reason, payload)
		if want.Result != nil {
			require.JSONEq(t, string(want.Result), string(x.Result), payload)
		}
		if payload == "running" {
			require.Equal(t, 30, x.Progress)
		}
	}
}

func commandLate(t *testing.T, n *node) {
	d := startDevice(t, n, "lat-1", func(order) (bool, []string) { return true, nil })
	id := n.issue(command("slow", []string{"lat-1"}, "result_timeout_s", 1))
	x := n.awaitState(id, "TIMED_OUT")
	d.close()
	n.awaitOffline("lat-1")
	late := testmqtt.Dial(t, n.mqtt, 5)
	late.MustConnect("lat-1")
	late.Publish("devices/lat-1/results/"+x.ID, `{"state":"SUCCEEDED"}`, 1, 1)
	require.Less(t, late.Expect(packets.Puback).ReasonCode, byte(0x80))
	require.True(t, n.awaitState(id, "SUCCEEDED").Late)
}

// commandStranger publishes a result in the name of another device; the rules of this node would let it.
func commandStranger(t *testing.T, n *node) {
	startDevice(t, n, "str-1", func(order) (bool, []string) { return true, nil })
	id := n.issue(command("x", []string{"str-1"}))
	x := n.awaitState(id, "DELIVERED")
	thief := testmqtt.Dial(t, n.mqtt, 5)
	thief.MustConnect("str-2")
	thief.Publish("devices/str-2/results/"+x.ID, `{"state":"SUCCEEDED"}`, 1, 1)
	thief.Expect(packets.Puback)
	thief.Publish("devices/str-1/results/"+"unknown", `{"state":"SUCCEEDED"}`, 1, 2)
	thief.Expect(packets.Puback)
	require.Equal(t, "DELIVERED", n.executions(id)[0].State)
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
	a := n.call(http.MethodPost, "/v1/commands", adminToken, command("x", ids))
	require.Equal(t, http.StatusUnprocessableEntity, a.status)
	require.Contains(t, string(a.body), "body.targets.devices")
}

// commandMQTT3 has a device that speaks 3.1.1 and keeps its session, by mosquitto's clients.
func commandMQTT3(t *testing.T, n *node) {
	m := newMosquitto(t, n, n.mqtt, "-V", "mqttv311")
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
	n.signal(syscall.SIGTERM)
	require.Zero(t, n.exit())
	n.start()
	n.awaitState(id, "QUEUED")
	d := startDevice(t, n, "res-1", obedient)
	n.awaitState(id, "SUCCEEDED")
	require.Equal(t, []string{"survivor"}, d.payloads())
}

// TestCommandsTellTheTruthAfterKill kills the node while commands are under way, some to devices that answer, some to
// devices that only acknowledge, that stay silent, or that are away. In the end every state must be true.
func TestCommandsTellTheTruthAfterKill(t *testing.T) {
	t.Parallel()
	n := startNode(t, commandSections(t))
	kinds := map[string]func(order) (bool, []string){
		"answers": obedient,
		"acks":    func(order) (bool, []string) { return true, nil },
		"silent":  func(order) (bool, []string) { return false, nil },
	}
	devices := map[string]*device{}
	all := []string{"away-0", "away-1"}
	for kind, react := range kinds {
		for i := range 5 {
			id := fmt.Sprintf("%s-%d", kind, i)
			devices[id] = startDevice(t, n, id, react)
			all = append(all, id)
		}
	}
	issued := map[string]bool{}
	var mu sync.Mutex
	var issuers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 3 {
		issuers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("kill-%d-%d", i, k)
				if n.tryIssue(key, command(key, all, "id", key, "ttl_s", 12, "ack_timeout_s", 1)) {
					mu.Lock()
					issued[key] = true
					mu.Unlock()
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for round := range 4 {
		time.Sleep(time.Duration(150+70*round) * time.Millisecond) // at another moment each time
		n.kill()
		n.start()
	}
	close(stop)
	issuers.Wait()
	require.NotEmpty(t, issued)
	t.Logf("%d commands to %d devices each, 4 kills", len(issued), len(all))
	for _, id := range slices.Sorted(maps.Keys(issued)) {
		testenv.Eventually(t, 2*time.Minute, "command "+id+" has ended", func() bool {
			time.Sleep(10 * time.Millisecond)
			a := n.call(http.MethodGet, "/v1/commands/"+id, adminToken, nil)
			require.Equal(t, 200, a.status, "command %s was accepted and is forgotten: %s", id, a.body)
			var st commandStatus
			a.into(t, &st)
			return st.Open == 0
		})
		for _, x := range n.executions(id) {
			checkTruth(t, x, devices[x.Device])
		}
	}
}

// tryIssue issues a command to a node that may be down, and reports whether it was accepted.
func (n *node) tryIssue(key string, body map[string]any) bool {
	text, err := json.Marshal(body)
	if err != nil {
		n.t.Error(err)
		return false
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+n.http+"/v1/commands", strings.NewReader(string(text)))
	if err != nil {
		n.t.Error(err)
		return false
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	request.Header.Set("Idempotency-Key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusAccepted
}

// checkTruth compares the state of an execution with what its device saw and did; nil is a device that was away.
func checkTruth(t *testing.T, x execution, d *device) {
	t.Helper()
	if d == nil {
		require.Equal(t, "EXPIRED", x.State, "%+v", x)
		require.Zero(t, x.DeliveredAt)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	saw := slices.ContainsFunc(d.got, func(o order) bool { return o.execution == x.ID })
	switch {
	case strings.HasPrefix(x.Device, "answers"):
		require.Equal(t, "SUCCEEDED", x.State, "%+v", x)
		require.True(t, saw, "%+v: the device never got it", x)
	case strings.HasPrefix(x.Device, "acks"):
		require.Equal(t, "DELIVERED", x.State, "%+v", x)
		require.True(t, saw, "%+v: the device never got it", x)
	default:
		require.Equal(t, "EXPIRED", x.State, "%+v", x)
		require.Zero(t, x.DeliveredAt, "%+v: the device never acknowledged", x)
	}
}
