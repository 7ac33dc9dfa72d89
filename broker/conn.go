package broker

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/broker/timer"
	"github.com/penstockmq/penstock/broker/wire"
)

const (
	// roomWait is how long a publisher waits for one subscriber's socket before it goes on without it.
	roomWait = 100 * time.Millisecond
	// slowFor is how long a subscriber that was waited for in vain is not waited for again.
	slowFor = 10 * time.Second
	// lastLook is how long a client that seems silent has until its connection is closed.
	lastLook = 250 * time.Millisecond
	// lingerFor is how long a refused client may take to read why, before its socket is closed.
	lingerFor = 500 * time.Millisecond
)

// conn is one network connection. It outlives neither its socket nor its goroutine; what must, belongs to the Session.
type conn struct {
	b        *Broker
	nc       *listen.Conn
	raw      *rawIO                     // nil when the socket cannot be read and written directly (TLS, WebSocket)
	polled   atomic.Pointer[pollSocket] // set when the poll driver has taken over; nc is closed then
	in       []byte                     // read buffer without raw
	inUsed   int
	listener string
	remote   netip.AddrPort
	traceID  string
	accepted time.Time

	// Set by CONNECT, before the session can see the connection.
	client      *mqtt.Client // what mochi's hooks know of this connection
	session     atomic.Pointer[Session]
	grant       Grant
	version     byte
	cleanStart  bool
	problemInfo bool   // reason strings are welcome (MQTT 5, 3.1.2.11.7)
	maxPacket   uint32 // what the client accepts; 0: no limit
	window      int    // unacknowledged messages the client accepts at once
	keepAlive   uint16

	timer     timer.Timer
	replaying atomic.Int64 // retained messages on their way to it
	suspect   bool         // its silence was noticed once; the timer's own
	held      atomic.Bool  // the broker is holding the client up
	lastRead  atomic.Int64 // of the last bytes, on the wheel's monotonic clock
	expires   int64        // Unix milliseconds when the grant ends; 0: never

	// Used by the reading goroutine only.
	aliases  map[uint16]string
	rate     tokenBucket
	sawFirst bool
	fresh    bool // CONNECT has just been accepted

	acks  ackQueue
	out   outbox
	dirty atomic.Bool // it is on somebody's list of connections to flush

	endMu sync.Mutex
	cause *cause // why it ends; set once
	done  chan struct{}
}

// cause is why a connection ends.
type cause struct {
	reason   string       // for metrics and logs
	code     packets.Code // sent in DISCONNECT to an MQTT 5 client when it is an error
	tell     bool         // send DISCONNECT
	clean    bool         // the client said goodbye: its will is not published
	keepWill bool         // the process ends: its will waits for the next start
	err      error
}

func (c *cause) Error() string {
	if c.err != nil {
		return c.reason + ": " + c.err.Error()
	}
	if c.code.Reason != "" {
		return c.reason + ": " + c.code.Reason
	}
	return c.reason
}

// protocolError ends the connection for what the client sent.
func protocolError(code packets.Code) *cause {
	return &cause{reason: "protocol_error", code: code, tell: true}
}

func (b *Broker) newConn(nc *listen.Conn, listener string) *conn {
	c := &conn{
		b: b, nc: nc, raw: newRawIO(nc.Raw(), b.limits.readAtOnce()), listener: listener, remote: nc.RemoteAddrPort(),
		traceID: newTraceID(), accepted: time.Now(), done: make(chan struct{}), problemInfo: true,
	}
	c.lastRead.Store(b.wheel.Monotonic())
	b.wheel.ScheduleIn(&c.timer, b.limits.ConnectTimeout, c)
	return c
}

// log is made anew each time, which is seldom, so that an idle connection does not hold a logger.
func (c *conn) log() *slog.Logger {
	l := c.b.log.With("trace_id", c.traceID, "remote", c.remote.String(), "listener", c.listener)
	if c.client != nil {
		l = l.With("client_id", clip(c.client.ID))
	}
	return l
}

// debug logs at debug level, and costs nothing where that is not wanted: clients choose how often it is called.
func (c *conn) debug(msg string, args ...any) {
	if c.b.log.Enabled(c.b.ctx, slog.LevelDebug) {
		c.log().Debug(msg, args...)
	}
}

// Fire is the connection's timer: the CONNECT deadline, then keep-alive and the end of the grant.
func (c *conn) Fire(now int64) {
	s := c.session.Load()
	if s == nil {
		c.stop(cause{reason: "connect_timeout"})
		return
	}
	if c.expires != 0 && now >= c.expires {
		c.stop(cause{reason: "grant_expired", code: codeMaximumConnectTime, tell: true})
		return
	}
	if left, has := c.patience(); has && left <= 0 {
		if !c.suspect {
			// What it sent may wait to be read, above all when this process was stopped for a while: look again.
			c.suspect = true
			c.b.wheel.ScheduleIn(&c.timer, lastLook, c)
			return
		}
		c.stop(cause{reason: "keep_alive_timeout", code: packets.ErrKeepAliveTimeout, tell: true})
		return
	}
	c.suspect = false
	c.scheduleTimer()
}

// patience is how long the client may still be silent: one and a half times its keep-alive [MQTT-3.1.2-22]. While the
// broker holds it up, its silence does not count.
func (c *conn) patience() (left time.Duration, has bool) {
	if c.keepAlive == 0 {
		return 0, false
	}
	if c.held.Load() {
		return time.Duration(c.keepAlive) * 1500 * time.Millisecond, true
	}
	silent := time.Duration(c.b.wheel.Monotonic()-c.lastRead.Load()) * time.Millisecond
	return time.Duration(c.keepAlive)*1500*time.Millisecond - silent, true
}

// scheduleTimer does nothing once the connection ends: the timer may be in use for its lingering by then.
func (c *conn) scheduleTimer() {
	c.endMu.Lock()
	defer c.endMu.Unlock()
	if c.cause != nil {
		return
	}
	left, has := c.patience()
	if c.expires != 0 {
		if until := time.Duration(c.expires-c.b.wheel.Now()) * time.Millisecond; !has || until < left {
			left, has = until, true
		}
	}
	if has {
		c.b.wheel.ScheduleIn(&c.timer, left, c)
	}
}

// stop ends the connection from any goroutine; the first cause counts. The driver does the rest.
func (c *conn) stop(why cause) {
	c.endMu.Lock()
	first := c.cause == nil
	if first {
		c.cause = &why
	}
	c.endMu.Unlock()
	if !first {
		return
	}
	close(c.done)
	c.sayGoodbye(&why)
	c.wake()
}

func (c *conn) isStopped() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wake makes the driver notice that the connection was stopped.
func (c *conn) wake() {
	if p := c.polled.Load(); p != nil {
		p.loop.post(c)
		return
	}
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

func (c *conn) sayGoodbye(why *cause) {
	if why.tell && c.session.Load() != nil && c.version >= 5 {
		c.append(func(dst []byte) []byte {
			return wire.AppendDisconnect(dst, why.code.Code, c.explain(why.code.Reason), "")
		})
	}
	c.flush()
}

// feed handles the complete packets at the start of data and returns how many bytes they took. It is the seam between
// a driver and the protocol: a driver owes it the bytes in order, and afterwards a flush and the wait that mustHold
// asks for. A panic ends this connection and nothing else.
func (c *conn) feed(bt *batch, data []byte) (consumed int, err error) {
	defer func() {
		c.b.counters.bytesIn.Add(int64(consumed))
		if r := recover(); r != nil {
			c.log().Error("a packet made the broker panic; its connection is closed", "error", r, "stack", stack())
			err = &cause{reason: "internal_error", code: packets.ErrImplementationSpecificError, tell: true}
		}
	}()
	c.lastRead.Store(c.b.wheel.Monotonic())
	for len(data) > consumed {
		first, remaining, headerLen, err := wire.Header(data[consumed:])
		if err != nil {
			return consumed, malformed(err)
		}
		if headerLen == 0 {
			break
		}
		if headerLen+remaining > c.packetLimit() {
			return consumed, &cause{reason: "packet_too_large", code: packets.ErrPacketTooLarge, tell: true}
		}
		end := consumed + headerLen + remaining
		if end > len(data) {
			break
		}
		bt.packets++
		if err := c.handle(bt, first, data[consumed+headerLen:end]); err != nil {
			return end, err
		}
		consumed = end
	}
	return consumed, nil
}

// packetLimit is the largest packet that is accepted. Before CONNECT has been checked it is small, so that a stranger
// cannot make the broker hold much.
func (c *conn) packetLimit() int {
	if c.sawFirst {
		return c.b.limits.PacketSize
	}
	return min(c.b.limits.PacketSize, 256<<10)
}

// mustHold reports whether this client has to be held up before its socket is read again, and for how long at least:
// because it reads less than it causes, because too many of its publishes wait for acceptance, because a subscriber
// that it publishes to has no room, or because it publishes faster than it may.
func (c *conn) mustHold(room []*conn, published int) (pause time.Duration, must bool) {
	pause = c.rate.take(c.b.limits.PublishRate, published)
	return pause, pause > 0 || len(room) > 0 || c.awaitRoom() != nil || c.acks.full(c.b.limits.ReceiveMaximum)
}

// hold blocks until the client may go on; a subscriber without room is waited for a bounded time. It fails when the
// connection has been stopped.
func (c *conn) hold(room []*conn, pause time.Duration) error {
	for own := c.awaitRoom(); own != nil; own = c.awaitRoom() {
		if !c.wait(own, 0) {
			return errStopped
		}
	}
	c.held.Store(true) // from here on it is not the client's own doing
	defer c.release()
	c.awaitSubscribers(room)
	if err := c.acks.awaitRoom(c); err != nil {
		return err
	}
	if pause > 0 && !c.wait(nil, pause) {
		return errStopped
	}
	return nil
}

func (c *conn) release() {
	c.lastRead.Store(c.b.wheel.Monotonic())
	c.held.Store(false)
}

// awaitSubscribers waits until each of them has room again; one that has none in time is marked slow.
func (c *conn) awaitSubscribers(full []*conn) {
	if len(full) == 0 {
		return
	}
	limit := time.NewTimer(roomWait)
	defer limit.Stop()
	late := false
	for _, sub := range full {
		for !late {
			room := sub.awaitRoom()
			if room == nil {
				break
			}
			select {
			case <-room:
			case <-limit.C:
				late = true
			case <-c.done:
				return
			}
		}
		if late && sub.awaitRoom() != nil {
			sub.markSlow()
		}
	}
}

// wait blocks until ch is closed or the pause is over (0: no limit); it reports false when the connection has ended.
func (c *conn) wait(ch <-chan struct{}, pause time.Duration) bool {
	var over <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-ch:
		return true
	case <-over:
		return true
	case <-c.done:
		return false
	}
}

var errStopped = errors.New("connection was stopped")

func malformed(err error) *cause {
	var code packets.Code
	if !errors.As(err, &code) {
		code = packets.ErrMalformedPacket
	}
	return protocolError(code)
}

// goOffline takes the connection out of its session and tells the client why it ends, where it may still listen. The
// driver has stopped reading, and closes the socket afterwards. It may block for the store. linger reports that the
// client should get some time to read the last packet.
func (c *conn) goOffline(err error) (linger bool) {
	why := causeOf(err)
	c.endMu.Lock()
	first := c.cause == nil
	if first {
		c.cause = &why
	}
	why = *c.cause
	c.endMu.Unlock()
	if first {
		close(c.done)
		c.sayGoodbye(&why)
	}
	c.b.wheel.Cancel(&c.timer)
	c.disconnected(&why)
	return why.tell || c.session.Load() == nil
}

// closed is the last that happens to a connection; its socket is closed already.
func (c *conn) closed() {
	if c.session.Load() != nil {
		c.client.Stop(c.cause)
	}
	c.b.forget(c)
	c.b.wg.Done()
}

func causeOf(err error) cause {
	var why *cause
	switch {
	case errors.As(err, &why):
		return *why
	case errors.Is(err, io.EOF):
		return cause{reason: "closed_by_client"}
	case errors.Is(err, os.ErrDeadlineExceeded), isClosed(err):
		return cause{reason: "connection_lost", err: err}
	default:
		return cause{reason: "read_error", err: err}
	}
}
