package systest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
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
	testnode.Session
	// react is what the device does with a command: whether it acknowledges, and which results it publishes then.
	react func(o order) (ack bool, results []string)

	mu   sync.Mutex
	got  []order
	sent map[string]string // execution → last result
}

// obedient acknowledges everything and answers ok.
func obedient(order) (bool, []string) { return true, []string{`{"state":"SUCCEEDED","result":"ok"}`} }

// startDevice starts a device and waits until it is subscribed.
func startDevice(t testing.TB, n *node, id string, react func(order) (bool, []string)) *device {
	t.Helper()
	d := &device{
		Session: testnode.Session{T: t, Address: n.MQTT, ID: id, Version: 5},
		react:   react, sent: make(map[string]string),
	}
	d.Run(d.serve)
	n.awaitSubscribed(id)
	return d
}

func (d *device) serve(c *testmqtt.Client, _ bool) error {
	err := c.TrySend(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "devices/" + d.ID + "/commands/+", Qos: 1}},
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
	n.T.Helper()
	var st commandStatus
	n.admin(http.MethodPost, "/v1/commands", c, http.StatusAccepted, &st)
	require.NotEmpty(n.T, st.ID)
	return st.ID
}

func (n *node) executions(command string) (all []execution) {
	n.T.Helper()
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
	n.T.Helper()
	var x execution
	testenv.Eventually(n.T, patience, fmt.Sprintf("command %s is %s", command, state), func() bool {
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
