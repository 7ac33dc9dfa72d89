package node

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/console"
	"github.com/penstockmq/penstock/internal/conf"
)

// stuckStore is how long the oldest write may wait for the disk before the node says that it is not ready.
const stuckStore = 10 * time.Second

// consoleOptions says what HTTP shows of the node.
func (n *Node) consoleOptions() console.Options {
	opts := console.Options{
		Logger: n.log, AdminToken: n.adminToken, Version: Version(), Clients: n.broker,
		Node: n.info, Config: n.shownConfig, Metrics: n.registry,
		Registrar: n.auth, Nodes: n, Devices: n.auth, Bans: n.guard, Commands: n.commands,
		Parts: []console.Part{{Name: "node", Ready: n.nodeReady}, {Name: "store", Ready: n.storeReady}},
	}
	switch s := n.sink.(type) {
	case *bridge.Uplink:
		opts.Parts = append(opts.Parts, console.Part{Name: "uplink", Ready: func() (bool, string) {
			// With Kafka down the node still accepts, into the spool: it stays ready.
			return true, "circuit " + s.Status().Circuit
		}})
	case *bridge.Log:
		opts.Streams = map[string]http.Handler{"GET /v1/uplink/tail": uplinkTail(s)}
	}
	return opts
}

func (n *Node) nodeReady() (bool, string) {
	switch n.phase.Load() {
	case phaseServing:
		return true, ""
	case phaseStopping:
		return false, "draining"
	default:
		return false, "starting"
	}
}

func (n *Node) storeReady() (bool, string) {
	if writes, oldest := n.store.Pending(); oldest > stuckStore {
		return false, strconv.Itoa(writes) + " writes wait for the disk since " + oldest.Truncate(time.Second).String()
	}
	return true, ""
}

func (n *Node) info() console.NodeInfo {
	stats := n.broker.Stats()
	return console.NodeInfo{
		Name: n.cfg.Node.Name, Zone: n.cfg.Node.Zone, Version: Version(), URLs: n.URLs(),
		Connections: stats.Connections, Sessions: stats.Sessions, Started: n.started,
		Draining: n.phase.Load() == phaseStopping,
	}
}

func (n *Node) shownConfig() any {
	tree, err := conf.Tree(n.current.Load())
	if err != nil {
		n.log.Error("configuration cannot be shown", "error", err)
	}
	return tree
}

// Nodes says where a device may connect: to this node.
func (n *Node) Nodes(string) []console.NodeAddress {
	return []console.NodeAddress{{Name: n.cfg.Node.Name, URLs: n.URLs()}}
}

// tailedRecord is one line of GET /v1/uplink/tail.
type tailedRecord struct {
	Seq      uint64            `json:"seq"`
	Time     time.Time         `json:"time"`
	Topic    string            `json:"topic"` // Kafka's
	Key      string            `json:"key"`
	ClientID string            `json:"client_id"`
	Headers  map[string]string `json:"headers"`
	Value    []byte            `json:"value"` // base64
}

// uplinkTail streams the local uplink log as lines of JSON: ?from= is the first sequence number (default: new records
// only with follow, the oldest without), ?follow=true waits for more until the caller goes away.
func uplinkTail(log *bridge.Log) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		follow := query.Get("follow") == "true"
		from, err := strconv.ParseUint(query.Get("from"), 10, 64)
		if err != nil && follow {
			from = log.Stats().Last + 1
		}
		control := http.NewResponseController(w)
		// A stream may stay open for days; each line gets a deadline of its own.
		if err := control.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := json.NewEncoder(w)
		if err := control.Flush(); err != nil {
			return
		}
		// Every error means that the caller has gone or the node stops; either ends the stream.
		_ = log.Tail(r.Context(), from, follow, func(e bridge.Entry) error {
			if err := control.SetWriteDeadline(time.Now().Add(tailDeadline)); err != nil {
				return err
			}
			if err := out.Encode(tailed(e)); err != nil {
				return err
			}
			return control.Flush()
		})
	})
}

const tailDeadline = 30 * time.Second

func tailed(e bridge.Entry) tailedRecord {
	t := tailedRecord{
		Seq: e.Seq, Time: time.UnixMilli(e.Record.Time).UTC(), Topic: e.Record.Topic, Key: string(e.Record.Key),
		ClientID: e.Record.ClientID, Headers: make(map[string]string, len(e.Record.Headers)), Value: e.Record.Value,
	}
	for _, h := range e.Record.Headers {
		t.Headers[strings.ToValidUTF8(string(h.Key), "?")] = string(h.Value)
	}
	return t
}
