package systest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

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
		m := newMosquitto(t, n, n.MQTT, "-V", version, "-u", "alice", "-P", alicePassword)
		id := "from-" + version
		events := m.subscribe("events-"+version, "-t", "admin/commands/"+id+"/events", "-q", "1", "-F", "%p")
		m.mustPublish("-t", "admin/commands", "-q", "1", "-m",
			`{"id":"`+id+`","targets":{"devices":["mos-1"]},"payload":"open"}`)
		x := n.awaitState(id, "SUCCEEDED")
		require.JSONEq(t, `"ok"`, string(x.Result))
		events.awaitText(`"type":"finished"`, `"SUCCEEDED":1`)
	}
	require.Equal(t, []string{"open", "open"}, d.payloads())
	bob := newMosquitto(t, n, n.MQTT, "-V", "mqttv311", "-u", "bob", "-P", bobPassword)
	before := n.metric("penstock_acl_denied_total")
	bob.publish("-t", "admin/commands", "-q", "1", "-m", `{"targets":{"devices":["mos-1"]},"payload":"steal"}`)
	require.Greater(t, n.metric("penstock_acl_denied_total"), before)
	require.Equal(t, []string{"open", "open"}, d.payloads())
}

func commandByHTTP(t *testing.T, n *node) {
	d := startDevice(t, n, "htt-1", obedient)
	trace := "4bf92f3577b34da6a3ce929d0e0e4736"
	body := command("close", []string{"htt-1"}, "ttl_s", 600)
	a := n.Call(http.MethodPost, "/v1/commands", adminToken, body, "traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	require.Equal(t, http.StatusAccepted, a.Status, string(a.Body))
	var st commandStatus
	a.Into(t, &st)
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
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodPost, "/v1/commands", "", body).Status)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodPost, "/v1/commands", "guess", body).Status)
	require.Equal(t, http.StatusNotFound, n.Call(http.MethodGet, "/v1/commands/nothing", adminToken, nil).Status)
}

func commandByPush(t *testing.T, n *node) {
	startDevice(t, n, "psh-1", obedient)
	startDevice(t, n, "psh-2", func(order) (bool, []string) {
		return true, []string{`{"state":"FAILED","reason":"jammed"}`}
	})
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
	wrong := runProgram(t, "", testnode.Program(t), "push", "--devices", "psh-1", "--payload", "x",
		"--server", "http://"+n.HTTP, "--token", "no")
	require.Equal(t, 1, wrong.code, wrong.stderr)
	nobody := runProgram(t, "", testnode.Program(t), "push", "--devices", "psh-1", "--payload", "x",
		"--server", "http://"+testnode.Address(), "--token", adminToken)
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
			a := n.Call(http.MethodPost, "/v1/commands", adminToken, test.body)
			if test.status == 422 && test.field == "" {
				require.Contains(t, []int{400, 422}, a.Status, string(a.Body))
			} else {
				require.Equal(t, test.status, a.Status, string(a.Body))
			}
			require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
			require.Contains(t, string(a.Body), test.field)
		})
	}
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
	d.Close()
	n.awaitOffline("lat-1")
	late := testmqtt.Dial(t, n.MQTT, 5)
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
	thief := testmqtt.Dial(t, n.MQTT, 5)
	thief.MustConnect("str-2")
	thief.Publish("devices/str-2/results/"+x.ID, `{"state":"SUCCEEDED"}`, 1, 1)
	thief.Expect(packets.Puback)
	thief.Publish("devices/str-1/results/"+"unknown", `{"state":"SUCCEEDED"}`, 1, 2)
	thief.Expect(packets.Puback)
	require.Equal(t, "DELIVERED", n.executions(id)[0].State)
}
