// Package broker is the MQTT broker itself: connections, sessions, subscriptions, publish, delivery, retained messages,
// wills and timers. It knows mochi's codec and hook contract and nothing else of this project.
//
// Its file names follow a message: conn.go reads a socket, handle.go takes a packet, publish.go and route.go hand it
// out, delivery.go queues it for each session, out.go writes it, acks.go acknowledges it.
package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/broker/timer"
	"github.com/penstockmq/penstock/broker/topic"
)

// ErrNotConnected: there is no live connection with this client identifier, or it ended.
var ErrNotConnected = errors.New("client is not connected")

// ErrNotSubscribed: the client is connected but has no subscription that matches the topic.
var ErrNotSubscribed = errors.New("client has no subscription for this topic")

// Broker is one node's broker. New, AddHook, Start, Serve, Shutdown, in this order.
type Broker struct {
	log          *slog.Logger
	limits       Limits
	store        Store
	auth         Authenticator
	responseInfo string
	streamOnly   bool

	server    *mqtt.Server // never served: it makes clients for hooks
	hooks     hooks
	acceptors []Acceptor

	wheel    *timer.Wheel
	poller   *poller // nil where the stream driver serves all connections
	sessions registry
	index    *topic.Index[*subscription]
	retained *topic.Retained[*retained]
	counters counters

	refusalLog *rate.Limiter // refused clients may come in floods: beyond this they are logged at debug level only
	batches    sync.Pool
	loads      chan struct{} // how many sessions' queues are read from the store at once

	flushMu   sync.Mutex
	toFlush   []*conn
	flushWake chan struct{}

	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{} // closed when everything else has ended: the flusher may go
	flushed chan struct{} // closed when it has gone
	wg      sync.WaitGroup

	connsMu   sync.Mutex
	conns     map[*conn]struct{}
	listeners []*listen.Listener
	closing   bool
}

// New makes a broker. It does nothing until Start.
func New(o Options) (*Broker, error) {
	if o.Logger == nil {
		return nil, errors.New("broker needs a logger")
	}
	o.Limits.setDefaults()
	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumClientWritesPending = 1
	capabilities.MaximumPacketSize = uint32(o.Limits.PacketSize)
	capabilities.ReceiveMaximum = uint16(o.Limits.ReceiveMaximum)
	capabilities.TopicAliasMaximum = uint16(o.Limits.TopicAliasMaximum)
	capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
	ctx, cancel := context.WithCancel(context.Background())
	b := &Broker{
		log: o.Logger, limits: o.Limits, store: o.Store, auth: o.Authenticator,
		responseInfo: o.ResponseInformation, streamOnly: o.StreamOnly,
		server: mqtt.New(&mqtt.Options{Capabilities: capabilities, ClientNetReadBufferSize: 16, Logger: discardLog}),
		wheel:  timer.New(50*time.Millisecond, 2048),
		index:  topic.NewIndex[*subscription](), retained: topic.NewRetained[*retained](),
		loads: make(chan struct{}, 8), flushWake: make(chan struct{}, 1),
		ctx: ctx, cancel: cancel, stopped: make(chan struct{}), flushed: make(chan struct{}),
		conns: make(map[*conn]struct{}),
	}
	b.refusalLog = rate.NewLimiter(10, 50)
	b.hooks.b = b
	b.hooks.Log = o.Logger
	b.batches.New = func() any { return &batch{index: make(map[*Session]int)} }
	b.sessions.init(o.Limits.Connections)
	return b, nil
}

// AddHook adds a mochi hook. Hooks run in the order in which they were added. Before Start only.
func (b *Broker) AddHook(h mqtt.Hook, config any) error {
	h.SetOpts(b.log, &mqtt.HookOptions{Capabilities: b.server.Options.Capabilities})
	if err := b.hooks.Add(h, config); err != nil {
		return fmt.Errorf("add hook %s: %w", h.ID(), err)
	}
	if a, ok := h.(Acceptor); ok {
		b.acceptors = append(b.acceptors, a)
	}
	return nil
}

// Start loads what the store holds and starts the timers. It blocks while it loads.
func (b *Broker) Start() error {
	b.hooks.prepare()
	b.wheel.Start()
	err := b.load()
	if err == nil && !b.streamOnly {
		b.poller, err = newPoller(b)
	}
	if err != nil {
		b.wheel.Stop()
		return err
	}
	go b.flushLoop()
	if b.hooks.provides[mqtt.OnStarted] {
		b.hooks.OnStarted()
	}
	return nil
}

// Serve accepts connections from l until l is closed; Shutdown closes it. It returns at once.
func (b *Broker) Serve(name string, l *listen.Listener) {
	b.connsMu.Lock()
	b.listeners = append(b.listeners, l)
	b.connsMu.Unlock()
	b.wg.Add(1)
	go b.acceptLoop(name, l)
}

func (b *Broker) acceptLoop(name string, l *listen.Listener) {
	defer b.wg.Done()
	var pace *rate.Limiter
	if r := b.limits.ConnectRate; r > 0 {
		pace = rate.NewLimiter(rate.Limit(r), max(1, int(r)))
	}
	for {
		if pace != nil && pace.Wait(b.ctx) != nil {
			return
		}
		nc, err := l.Accept()
		if err != nil {
			return // the listener was closed; it deals with everything else itself
		}
		c := b.newConn(nc, name)
		if !b.remember(c) {
			_ = nc.Close()
			return
		}
		go c.serve()
	}
}

func (b *Broker) remember(c *conn) bool {
	b.connsMu.Lock()
	defer b.connsMu.Unlock()
	if b.closing {
		b.wheel.Cancel(&c.timer)
		return false
	}
	b.conns[c] = struct{}{}
	b.wg.Add(1)
	return true
}

// spawn runs f on a goroutine that Shutdown waits for, unless it has begun; it reports whether it did.
func (b *Broker) spawn(f func()) bool {
	b.connsMu.Lock()
	defer b.connsMu.Unlock()
	if b.closing {
		return false
	}
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		f()
	}()
	return true
}

func (b *Broker) forget(c *conn) {
	b.connsMu.Lock()
	delete(b.conns, c)
	b.connsMu.Unlock()
}

// Shutdown closes the listeners, tells MQTT 5 clients that the server is shutting down, and waits until everything
// accepted has been answered for or ctx ends. Durable sessions are left as if their clients had lost the connection.
// Wills wait for the next start.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.connsMu.Lock()
	if b.closing {
		b.connsMu.Unlock()
		return nil
	}
	b.closing = true
	open := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		open = append(open, c)
	}
	listeners := b.listeners
	b.connsMu.Unlock()
	b.cancel()
	for _, l := range listeners {
		_ = l.Close()
	}
	for _, c := range open {
		c.stop(cause{reason: "server_shutdown", code: packets.ErrServerShuttingDown, tell: true, keepWill: true})
	}
	err := b.waitFor(ctx)
	close(b.stopped)
	<-b.flushed
	b.poller.stop()
	b.wheel.Stop()
	if b.hooks.provides[mqtt.OnStopped] {
		b.hooks.OnStopped()
	}
	b.hooks.Stop()
	return err
}

func (b *Broker) waitFor(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		b.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	b.connsMu.Lock()
	left := len(b.conns)
	for c := range b.conns {
		_ = c.nc.Close()
	}
	b.connsMu.Unlock()
	<-done
	return fmt.Errorf("close %d connections that took too long: %w", left, ctx.Err())
}

// Send delivers m to one connected client, in order after what already waits for it, outside of its durable queue: when
// the connection ends before the acknowledgement, it is Lost and the caller decides. m.QoS must be 1 or 2.
// It returns ErrNotConnected or ErrNotSubscribed (no filter of the client matches m.Topic with QoS 1 or 2); h is then
// never called.
func (b *Broker) Send(clientID string, m *Message, h SendHandler) error {
	s := b.sessions.get(clientID)
	if s == nil || !s.online() {
		return ErrNotConnected
	}
	sub := s.matching(m.Topic)
	if sub == nil || sub.QoS == 0 {
		return ErrNotSubscribed
	}
	bt := b.getBatch()
	defer b.putBatch(bt)
	d := delivery{msg: m, qos: min(m.QoS, sub.QoS), ids: sub.ids(), handler: h}
	if _, _, refused := s.enqueue(bt, d, nil); refused != nil {
		return ErrNotConnected
	}
	return nil
}

// matching returns the session's subscription with the highest QoS that matches topic, or nil. Shared ones do not
// count.
func (s *Session) matching(name string) (best *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for filter, e := range s.subs {
		o := e.Subscriber.options.Load()
		if e.Group == "" && (best == nil || o.QoS > best.QoS) && topic.Match(filter, name) {
			best = o
		}
	}
	return best
}

// Disconnect closes the client's connection with an MQTT 5 reason code; it reports whether there was one.
// The session stays.
func (b *Broker) Disconnect(clientID string, code packets.Code) bool {
	s := b.sessions.get(clientID)
	if s == nil {
		return false
	}
	c := s.conn.Load()
	if c == nil {
		return false
	}
	c.stop(cause{reason: "disconnected_by_server", code: code, tell: true})
	return true
}

// Kick closes the client's connection on an operator's behalf (MQTT 5, 3.14.2.1: 0x98 Administrative action); it
// reports whether there was one. The session stays.
func (b *Broker) Kick(clientID string) bool {
	return b.Disconnect(clientID, packets.ErrAdministrativeAction)
}

// Connected reports whether the client has a live connection here.
func (b *Broker) Connected(clientID string) bool {
	s := b.sessions.get(clientID)
	return s != nil && s.online()
}

// Client describes one session.
func (b *Broker) Client(clientID string) (ClientInfo, bool) {
	s := b.sessions.get(clientID)
	if s == nil {
		return ClientInfo{}, false
	}
	return s.info(), true
}

// Clients describes up to limit sessions with client identifiers after cursor, in ascending order.
func (b *Broker) Clients(cursor string, limit int) []ClientInfo {
	page := b.sessions.after(cursor, limit)
	infos := make([]ClientInfo, len(page))
	for i, s := range page {
		infos[i] = s.info()
	}
	return infos
}

// newClientID assigns an identifier to a client that brought none [MQTT-3.1.3-6].
func (b *Broker) newClientID() string {
	var r [10]byte
	putRandom(r[:8])
	putRandom(r[8:])
	return "auto-" + hex.EncodeToString(r[:])
}
