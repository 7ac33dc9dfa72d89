package broker

import (
	"log/slog"
	"time"
)

// Options are what a Broker is made of. The zero value of every limit means its default.
type Options struct {
	Logger *slog.Logger // required

	// Store keeps durable sessions and retained messages. With nil they live in memory and end with the process.
	Store Store
	// Authenticator decides who may connect. With nil, and without a mochi hook that authenticates, nobody may.
	Authenticator Authenticator
	// ResponseInformation is given to MQTT 5 clients that ask for it, with %c replaced by their client identifier; empty:
	// none (MQTT 5, 3.2.2.3.15).
	ResponseInformation string
	// StreamOnly gives every connection a goroutine for good, instead of having plain TCP on Linux served by epoll. It is
	// for mochi hooks that block: a goroutine waits for them, where an epoll loop would hold up its other connections.
	StreamOnly bool

	Limits Limits
}

// Limits bound what clients may cost.
type Limits struct {
	Connections       int           // connections at once; 0: no limit. Beyond it CONNECT gets 0x89 Server busy
	ConnectRate       float64       // sockets accepted per second; the rest wait in the listen backlog; 0: no limit
	PublishRate       float64       // PUBLISH packets per second and client; beyond it its socket is not read; 0: no limit
	PacketSize        int           // bytes of a whole packet, both ways; default 1 MiB
	Queue             int           // messages of QoS 1 and 2 that wait for one session; default 1000
	QueueBytes        int64         // bytes (Message.Size) that wait for one session; default 64 MiB
	RefuseWhenFull    bool          // refuse a publish (0x97) when a queue is full, instead of dropping for that session
	OutBuffer         int           // bytes that wait for one socket; beyond it QoS 0 drops, the rest queues; default 256 KiB
	Inflight          int           // unacknowledged messages sent to a client that names no Receive Maximum; default 100
	ReceiveMaximum    int           // unacknowledged QoS 1 and 2 messages accepted from a client at once; default 1024
	TopicAliasMaximum int           // topic aliases accepted from a client; default 64
	TopicLevels       int           // levels in a topic name or filter; default 128
	Subscriptions     int           // topic filters of one session; default 10000
	SessionExpiry     time.Duration // longest time a session may outlive its connection; default 7 days
	KeepAlive         time.Duration // longest keep-alive; a client that asks for more is told this one; 0: no limit
	ConnectTimeout    time.Duration // from the accepted socket to a complete CONNECT; default 10 s
	WillGrace         time.Duration // after a start, time to reconnect before the last run's wills go out; default 10 s
}

func orDefault[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

func (l *Limits) setDefaults() {
	l.PacketSize = min(orDefault(l.PacketSize, 1<<20), 268_435_460) // MQTT's own limit: 1 + 4 + 268,435,455
	l.Queue = orDefault(l.Queue, 1000)
	l.QueueBytes = orDefault(l.QueueBytes, 64<<20)
	l.OutBuffer = orDefault(l.OutBuffer, 256<<10)
	l.Inflight = min(orDefault(l.Inflight, 100), 65_535)
	l.ReceiveMaximum = min(orDefault(l.ReceiveMaximum, 1024), 65_535)
	l.TopicAliasMaximum = min(orDefault(l.TopicAliasMaximum, 64), 65_535)
	l.TopicLevels = orDefault(l.TopicLevels, 128)
	l.Subscriptions = orDefault(l.Subscriptions, 10_000)
	l.SessionExpiry = orDefault(l.SessionExpiry, 7*24*time.Hour)
	l.ConnectTimeout = orDefault(l.ConnectTimeout, 10*time.Second)
	l.WillGrace = orDefault(l.WillGrace, 10*time.Second)
}

// readAtOnce is how many bytes of one socket are read at once. Where publishes are paced it is little, because what has
// been read is also handled: an eighth of a second's worth of small ones.
func (l *Limits) readAtOnce() int {
	const smallPublish = 16
	if l.PublishRate <= 0 {
		return pollBuffer
	}
	return int(min(max(l.PublishRate/8*smallPublish, 4*smallPublish), pollBuffer))
}

func atMost(buf []byte, n int) []byte { return buf[:min(len(buf), n)] }
