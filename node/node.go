// Package node assembles one node of the broker from its configuration. penstock serve and tests start the same one.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/console"
	"github.com/penstockmq/penstock/hooks/acl"
	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/hooks/command"
	"github.com/penstockmq/penstock/hooks/limit"
	"github.com/penstockmq/penstock/hooks/observe"
	"github.com/penstockmq/penstock/hooks/uplink"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/node/demo"
	"github.com/penstockmq/penstock/store/local"
)

// Node is one node: New, Start, Stop.
type Node struct {
	cfg      Config                 // as the node was made
	current  atomic.Pointer[Config] // with what was reloaded since
	log      *slog.Logger
	logLevel *slog.LevelVar
	closers  closers

	registry  registry
	store     *local.DB
	guard     *limit.Guard
	auth      *auth.Service
	acl       *acl.Hook
	sink      sink
	commands  *command.Service
	broker    *broker.Broker
	console   *console.Server
	listeners []listener // MQTT
	http      listener

	adminToken      conf.Secret
	adminTokenFresh bool
	started         time.Time
	phase           atomic.Int32
}

// phases of a node's life; readiness tells them apart.
const (
	phaseNew int32 = iota
	phaseServing
	phaseStopping
)

// sink takes uplink records: Kafka with its spool, or the local log.
type sink interface {
	uplink.Sink
	Start()
	Close(ctx context.Context) error
}

// registry is where metrics are registered and gathered from.
type registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// New makes a node: it opens the data folder and all ports, but lets nobody in yet. Logs go to logs. When it fails
// half-way, everything that it had opened is closed again. Its error names what could not be done, on one line; for a
// faulty configuration it is conf.Faults.
func New(cfg Config, logs io.Writer) (*Node, error) {
	return assemble(cfg, logs, prometheus.NewRegistry())
}

// assemble wires everything, in the order in which the parts need each other.
func assemble(cfg Config, logs io.Writer, metrics registry) (_ *Node, err error) {
	n := &Node{cfg: cfg, logLevel: new(slog.LevelVar), registry: metrics}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.closers.unwind(context.Background()))
		}
	}()
	if err := conf.Check(&n.cfg); err != nil {
		return nil, err
	}
	n.current.Store(&cfg)
	level, err := cfg.Log.level()
	if err != nil {
		return nil, fmt.Errorf("read log level: %w", err)
	}
	n.logLevel.Set(level)
	n.log = newLogger(logs, cfg.Log, n.logLevel).With("node", cfg.Node.Name)

	if err := n.openStore(); err != nil {
		return nil, err
	}
	if n.adminToken, n.adminTokenFresh, err = adminToken(cfg.HTTP.AdminToken, cfg.Node.Data); err != nil {
		return nil, err
	}
	if err := n.openAccess(); err != nil {
		return nil, err
	}
	n.broker, err = broker.New(broker.Options{
		Logger: n.log, Store: n.store.BrokerStore(), Authenticator: n.auth, Limits: cfg.Limits.options(),
		ResponseInformation: "devices/%c/responses/",
	})
	if err != nil {
		return nil, fmt.Errorf("make broker: %w", err)
	}
	n.auth.Bind(n.broker)
	if err := n.broker.AddHook(n.acl, nil); err != nil {
		return nil, err
	}
	if err := n.addUplink(); err != nil {
		return nil, err
	}
	n.commands, err = command.New(command.Options{
		Broker: n.broker, Store: n.store.Commands(), Config: cfg.Commands, Logger: n.log, Registerer: n.registry,
	})
	if err != nil {
		return nil, err
	}
	if err := n.broker.AddHook(n.commands, nil); err != nil {
		return nil, err
	}
	if err := observe.Register(n.registry, n.broker, Version()); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}

	if err := n.openListeners(); err != nil {
		return nil, err
	}
	if err := n.openHTTP(); err != nil {
		return nil, err
	}
	n.console = console.New(n.consoleOptions())
	n.closers.push("close HTTP", n.console.Close)
	// The broker, which Start starts, stops before them: results of devices are stored while it lets its clients go.
	n.closers.push("stop commands", func(context.Context) error { return n.commands.Stop() })
	return n, nil
}

// openStore opens the data folder, or keeps everything in memory where there is none.
func (n *Node) openStore() (err error) {
	dir := n.cfg.Node.Data
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make data folder: %w", err)
		}
		dir = filepath.Join(dir, "store")
	}
	if n.store, err = local.Open(dir, local.Options{Logger: n.log, Metrics: n.registry}); err != nil {
		return err
	}
	n.closers.push("close store", func(context.Context) error { return n.store.Close() })
	return nil
}

// openAccess makes those who decide who may connect and what clients may do.
func (n *Node) openAccess() (err error) {
	n.guard = limit.New(limit.Options{Config: n.cfg.Access, Logger: n.log, Registerer: n.registry})
	n.auth, err = auth.New(context.Background(), auth.Options{
		Config: n.cfg.Auth, Store: n.store.Devices(), Failures: n.guard, Logger: n.log, Registerer: n.registry,
	})
	if err != nil {
		return fmt.Errorf("start access control: %w", err)
	}
	n.closers.push("stop access control", func(context.Context) error { n.auth.Close(); return nil })
	n.acl, err = acl.New(acl.Options{
		Config: n.cfg.ACL, IsAdmin: n.auth.IsAdmin, AllowAll: n.cfg.Demo, Logger: n.log, Registerer: n.registry,
	})
	if err != nil {
		return fmt.Errorf("read access rules: %w", err)
	}
	return nil
}

// addUplink makes the sink of uplink messages and the hook that feeds it.
func (n *Node) addUplink() (err error) {
	if n.sink, err = n.openSink(); err != nil {
		return err
	}
	n.closers.push("flush uplink", n.sink.Close)
	hook, err := uplink.New(n.cfg.Uplink, uplink.Options{Sink: n.sink, Log: n.log, Registerer: n.registry})
	if err != nil {
		return fmt.Errorf("make uplink: %w", err)
	}
	return n.broker.AddHook(hook, nil)
}

// openSink makes what takes uplink records: Kafka with its spool, or the local log.
func (n *Node) openSink() (sink, error) {
	noKafka, open := len(n.cfg.Kafka.Brokers) == 0, n.store.OpenSpool
	if noKafka {
		open = n.store.OpenUplinkLog
	}
	spool, err := open(int64(n.cfg.Spool.MaxBytes))
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	opts := bridge.Options{Spool: spool, Log: n.log, Registerer: n.registry}
	if noKafka {
		return bridge.NewLog(n.cfg.Spool, opts)
	}
	return bridge.NewUplink(n.cfg.Kafka, opts)
}

// Start loads what the store holds and lets clients in. It blocks while it loads. When it fails, the node is stopped.
func (n *Node) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, n.closers.unwind(context.WithoutCancel(ctx)))
		}
	}()
	n.started = time.Now()
	n.sink.Start()
	if err := n.broker.Start(); err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	n.closers.push("stop broker", n.broker.Shutdown)
	if err := n.commands.Start(ctx); err != nil {
		return err
	}
	n.console.Serve(n.http)
	for _, l := range n.listeners {
		n.broker.Serve(l.name, l.Listener)
	}
	if every := n.cfg.Node.SysInterval; every > 0 {
		sys := observe.StartSys(observe.SysOptions{
			Broker: n.broker, Logger: n.log, Version: Version(), Interval: every,
		})
		n.closers.push("stop $SYS", func(context.Context) error { sys.Stop(); return nil })
	}
	if n.cfg.Demo {
		fleet, err := demo.Start(demo.Options{
			URL: n.urlOf("tcp"), Count: demoPumps, Every: demoEvery, Work: demoWork, Logger: n.log,
		})
		if err != nil {
			return err
		}
		n.closers.push("stop simulated devices", func(context.Context) error { fleet.Stop(); return nil })
	}
	n.phase.Store(phaseServing)
	if len(n.Admits()) == 0 {
		n.log.Warn("nobody can log in but devices with an issued token: no way to log in is configured",
			"keys", "auth.products, auth.users, auth.jwt, auth.webhook, auth.anonymous, listeners[].client_ca")
	}
	n.log.Info("node started", "version", Version(), "http", n.HTTPURL(), "urls", n.URLs())
	return nil
}

// Stop ends the node in good order: readiness off, node.drain_delay for load balancers to see it, clients told, queues
// flushed, store closed. What takes longer than node.stop_timeout, or than ctx lets it, is cut; nothing that was
// acknowledged is lost by that.
func (n *Node) Stop(ctx context.Context) error {
	served := n.phase.Swap(phaseStopping) == phaseServing
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Node.StopTimeout)
	defer cancel()
	n.log.Info("node stops", "budget_ms", n.cfg.Node.StopTimeout.Milliseconds())
	if served {
		wait(ctx, n.cfg.Node.DrainDelay)
	}
	err := n.closers.unwind(ctx)
	n.log.Info("node stopped", "took_ms", time.Since(began).Milliseconds())
	return err
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// AdminToken returns the token of admin calls; fresh says that it was made by this start, so that the operator has not
// seen it yet.
func (n *Node) AdminToken() (token conf.Secret, fresh bool) { return n.adminToken, n.adminTokenFresh }

// AdminTokenFile is where the token of admin calls is kept; "" where it was configured, or nothing is kept on disk.
func (n *Node) AdminTokenFile() string {
	if n.cfg.HTTP.AdminToken != "" || n.cfg.Node.Data == "" {
		return ""
	}
	return filepath.Join(n.cfg.Node.Data, adminTokenFile)
}

// Name is the node's name.
func (n *Node) Name() string { return cmp.Or(n.cfg.Node.Name, "n1") }

// Logger is the node's log, in the format that it was configured with.
func (n *Node) Logger() *slog.Logger { return n.log }
