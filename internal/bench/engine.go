package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	readBuffer = 256 << 10
	// slack is what a packet may hold beside its payload: topic and properties.
	slack = 128 << 10
	// longestWait bounds a sleep of the loop, so that an interrupt or a deadline is never far.
	longestWait = 100 * time.Millisecond
	never       = math.MaxInt64
	// maxReasons bounds how many different errors are told apart.
	maxReasons = 20
)

// engine holds a run. One goroutine owns it: the one that calls spin.
type engine struct {
	cfg    Config
	ctx    context.Context
	run    uint32
	clock  time.Time // time 0 of the run
	now    int64     // nanoseconds since clock, as of the last tick
	poller poller
	buffer []byte // what is read goes here first
	limit  int    // the longest packet that is believed
	filler []byte // payload behind the stamp

	conns      []*conn
	publishers []*publisher
	fanOut     int64 // subscribers of each publisher

	ready  []*publisher // that may have something to send
	turn   []*publisher // ready, of the turn under way
	dirty  []*conn      // with something to write
	unread []*conn      // with more to read
	again  []*conn      // unread, of the step under way
	dialer dialer
	pings  pings

	schedule schedule
	sending  bool
	budget   int64 // messages that may still be made; negative: any number
	from     int64 // latencies of messages due since then are recorded
	progress int64 // when the last acknowledgement or delivery came

	accepted, refused, alive        int
	sent, acked, received           int64
	stray, foreign, disconnected    int64
	reasons                         map[string]int
	connects, acks, deliveries, lag histogram
}

// newEngine prepares the clients of a complete and valid configuration, and connects none.
func newEngine(ctx context.Context, cfg Config) (*engine, error) {
	target, err := resolve(ctx, cfg.Target)
	if err != nil {
		return nil, err
	}
	p, err := newPoller(target)
	if err != nil {
		return nil, err
	}
	return assemble(ctx, cfg, p), nil
}

func assemble(ctx context.Context, cfg Config, p poller) *engine {
	e := &engine{
		cfg: cfg, ctx: ctx, run: newRun(), clock: time.Now(), poller: p, reasons: map[string]int{},
		limit: cfg.Size + slack, filler: make([]byte, cfg.Size-StampSize), budget: -1, from: never,
		connects: newHistogram(), acks: newHistogram(), deliveries: newHistogram(), lag: newHistogram(),
	}
	e.buffer = make([]byte, max(readBuffer, 2*e.limit))
	if e.cfg.ClientID == "" {
		e.cfg.ClientID = "bench-" + e.name() + "-"
	}
	e.populate()
	return e
}

func resolve(ctx context.Context, target string) (netip.AddrPort, error) {
	host, portName, err := net.SplitHostPort(target)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target: %w", err)
	}
	port, err := strconv.ParseUint(portName, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target %q: no port number", target)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target: %w", err)
	}
	if len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("target %q: no address", target)
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}

func newRun() uint32 {
	var b [4]byte
	// It never fails (crypto/rand).
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])
}

func (e *engine) name() string { return strconv.FormatUint(uint64(e.run), 36) }

// populate makes the clients: subscribers first, so that they are there before anything is published.
func (e *engine) populate() {
	cfg := &e.cfg
	switch cfg.Mode {
	case ModeIdle, ModeConnect:
		for i := range cfg.Clients {
			c := e.client("c", i)
			if cfg.Mode == ModeIdle {
				c.filter = e.topic(cfg.Filter, i, c.id, "")
			}
		}
		return
	}
	for i := range cfg.Subscribers {
		c := e.client("s", i)
		c.filter = e.topic(cfg.Filter, i, c.id, "")
		c.sub = &subscriber{tracks: make([]track, cfg.Publishers)}
		if cfg.Mode == ModeDeviceToDevice {
			c.sub = &subscriber{first: uint32(i), tracks: make([]track, 1)}
		}
	}
	e.fanOut = int64(cfg.Subscribers)
	if cfg.Mode == ModeDeviceToDevice {
		e.fanOut = 1
	}
	for i := range cfg.Publishers {
		c := e.client("p", i)
		topic := e.topic(cfg.Topic, i, c.id, cfg.ClientID+"s"+strconv.Itoa(i))
		head, idAt := publishHead(cfg.Version, topic, cfg.QoS, cfg.Size)
		c.pub = &publisher{index: i, conn: c, head: head, idAt: idAt}
		e.publishers = append(e.publishers, c.pub)
	}
}

func (e *engine) client(kind string, i int) *conn {
	c := &conn{index: len(e.conns), id: e.cfg.ClientID + kind + strconv.Itoa(i)}
	e.conns = append(e.conns, c)
	return c
}

func (e *engine) topic(pattern string, i int, id, peer string) string {
	return strings.NewReplacer("{run}", e.name(), "{i}", strconv.Itoa(i), "{id}", id, "{peer}", peer).Replace(pattern)
}

func (e *engine) tick() { e.now = int64(time.Since(e.clock)) }

// enqueue has a publisher look whether it may send.
func (e *engine) enqueue(p *publisher) {
	if !p.queued && e.sending {
		p.queued = true
		e.ready = append(e.ready, p)
	}
}

// touch has a connection written at the end of the step.
func (e *engine) touch(c *conn) {
	if !c.queued && !c.blocked {
		c.queued = true
		e.dirty = append(e.dirty, c)
	}
}

func (e *engine) up(c *conn) {
	c.state = stateUp
	e.alive++
	e.dialer.handshakes--
}

// drop closes a connection for good and remembers why.
func (e *engine) drop(c *conn, reason error) {
	switch c.state {
	case stateClosed:
		return
	case stateUp:
		e.alive--
		e.disconnected++
	default:
		e.dialer.handshakes--
		e.dialer.failed++
	}
	e.shut(c)
	e.blame(reason)
}

func (e *engine) blame(reason error) {
	text := reason.Error()
	if _, known := e.reasons[text]; !known && len(e.reasons) >= maxReasons {
		text = "other"
	}
	e.reasons[text]++
}

func (e *engine) shut(c *conn) {
	c.state = stateClosed
	c.out, c.partial = nil, nil
	if c.sock != nil {
		c.sock.close()
	}
}

// close says DISCONNECT where it can and closes everything.
func (e *engine) close() {
	goodbye := []byte{typeDisconnect, 0}
	for _, c := range e.conns {
		if c.state == stateUp && len(c.out) == c.sent {
			// The connection ends whether or not the broker hears it.
			_, _ = c.sock.write(goodbye)
		}
		if c.state != stateNew && c.state != stateClosed {
			e.shut(c)
		}
	}
	e.poller.close()
}

// errNone is returned when there is nobody to work with.
var errNone = errors.New("no connection could be made")
