package node

import (
	"strconv"
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
		opts.Uplink = s
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
