// Package uplink takes the messages that devices publish to the business side: a hook that matches topics against
// routes, makes a Kafka record of each message, and lets the publisher be acknowledged when a Sink has it.
//
// A message that several routes match goes to each of them and is accepted when all of them have it. If one refuses,
// the publisher is refused and will publish again, so that the others may get the message twice: at least once, as all
// of MQTT's QoS 1.
package uplink

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockmq/penstock/broker"
)

// Options are what the hook needs beside its configuration.
type Options struct {
	Sink       Sink
	Log        *slog.Logger          // nil: the default logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Hook is the uplink as a mochi hook and a broker.Acceptor.
type Hook struct {
	mqtt.HookBase
	routes []route
	sink   Sink
	log    *slog.Logger

	received prometheus.Counter
	acked    prometheus.Counter
	refused  *prometheus.CounterVec
}

var _ broker.Acceptor = (*Hook)(nil)

// New makes the hook. It returns everything that is wrong with the routes, joined.
func New(cfg Config, opts Options) (*Hook, error) {
	h := &Hook{sink: opts.Sink, log: opts.Log}
	if h.log == nil {
		h.log = slog.Default()
	}
	var problems []error
	for i, r := range cfg.Routes {
		h.routes = append(h.routes, compileRoute(r, func(key, problem string) {
			problems = append(problems, fmt.Errorf("routes[%d].%s %s", i, key, problem))
		}))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("read uplink routes: %w", err)
	}
	return h, h.register(opts.Registerer)
}

func (h *Hook) register(reg prometheus.Registerer) error {
	h.received = prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_uplink_received_total",
		Help: "Messages that matched at least one uplink route."})
	h.acked = prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_uplink_acked_total",
		Help: "Uplink messages that Kafka or the disk has for every route they matched."})
	h.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_uplink_refused_total",
		Help: "Uplink messages that were not accepted, by reason."}, []string{"reason"})
	if reg == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{h.received, h.acked, h.refused} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register uplink metrics: %w", err)
		}
	}
	return nil
}

// ID is the hook's name among mochi's hooks.
func (h *Hook) ID() string { return "uplink" }

// Provides reports false for all of mochi's own events: the hook works as an Acceptor alone.
func (h *Hook) Provides(byte) bool { return false }

// Wants reports whether any route matches the topic.
func (h *Hook) Wants(topic string) bool {
	for i := range h.routes {
		if matches(h.routes[i].filter, topic) {
			return true
		}
	}
	return false
}

// Accept sends the message to every route that matches; see broker.Acceptor.
func (h *Hook) Accept(m *broker.Message, done func(error)) {
	h.received.Inc()
	first, count := -1, 0
	for i := range h.routes {
		if matches(h.routes[i].filter, m.Topic) {
			if first < 0 {
				first = i
			}
			count++
		}
	}
	switch count {
	case 0:
		h.finish(m, nil, done)
	case 1:
		h.sink.Send(h.routes[first].record(m), func(err error) { h.finish(m, err, done) })
	default:
		h.acceptAll(m, first, count, done)
	}
}

// acceptAll gives the message to count routes, of which the first is known.
func (h *Hook) acceptAll(m *broker.Message, first, count int, done func(error)) {
	var left atomic.Int32
	var failure atomic.Pointer[error]
	left.Store(int32(count))
	one := func(err error) {
		if err != nil {
			failure.CompareAndSwap(nil, &err)
		}
		if left.Add(-1) > 0 {
			return
		}
		if failed := failure.Load(); failed != nil {
			h.finish(m, *failed, done)
			return
		}
		h.finish(m, nil, done)
	}
	for i := first; i < len(h.routes); i++ {
		if matches(h.routes[i].filter, m.Topic) {
			h.sink.Send(h.routes[i].record(m), one)
		}
	}
}

func (h *Hook) finish(m *broker.Message, err error, done func(error)) {
	if err == nil {
		h.acked.Inc()
		done(nil)
		return
	}
	reason := "error"
	var refusal *broker.Refusal
	if errors.As(err, &refusal) {
		reason = strings.ReplaceAll(refusal.Code.Reason, " ", "_")
	}
	h.refused.WithLabelValues(reason).Inc()
	h.log.Debug("uplink message refused", "client_id", m.Origin, "topic", m.Topic, "reason", reason, "error", err)
	done(err)
}

// Static header names, shared by all records.
var (
	nameClientID    = []byte(HeaderClientID)
	nameTopic       = []byte(HeaderTopic)
	nameQoS         = []byte(HeaderQoS)
	nameReceived    = []byte(HeaderReceived)
	nameTraceparent = []byte(HeaderTraceparent)
	nameContentType = []byte(HeaderContentType)
)

// record makes the Kafka record. Key and header values are cut from one buffer, to allocate once.
func (rt *route) record(m *broker.Message) *Record {
	const numbers = 24 // qos and received_at
	b := builder{
		buf:     make([]byte, 0, 2*len(m.Origin)+len(m.Topic)+len(m.Traceparent)+numbers),
		headers: make([]Header, 0, 6+userCount(m)+len(rt.headers)),
	}
	r := &Record{Topic: rt.topic, Value: m.Payload, ClientID: m.Origin, Time: m.Received}
	b.buf = rt.key.appendTo(b.buf, m)
	if end := len(b.buf); end > 0 {
		r.Key = b.buf[:end:end]
	}
	b.add(nameClientID, m.Origin)
	b.add(nameTopic, m.Topic)
	b.addBytes(nameQoS, func(to []byte) []byte { return append(to, '0'+m.QoS) })
	b.addBytes(nameReceived, func(to []byte) []byte { return strconv.AppendInt(to, m.Received, 10) })
	if m.Traceparent != "" {
		b.add(nameTraceparent, m.Traceparent)
	}
	b.addProperties(m.Properties)
	for i := range rt.headers {
		b.addBytes(rt.headers[i].name, func(to []byte) []byte { return rt.headers[i].value.appendTo(to, m) })
	}
	r.Headers = b.headers
	return r
}

func userCount(m *broker.Message) int {
	if m.Properties == nil {
		return 0
	}
	return len(m.Properties.User)
}

type builder struct {
	buf     []byte
	headers []Header
}

func (b *builder) add(name []byte, value string) {
	start := len(b.buf)
	b.buf = append(b.buf, value...)
	b.headers = append(b.headers, Header{name, b.buf[start:len(b.buf):len(b.buf)]})
}

func (b *builder) addBytes(name []byte, appendTo func([]byte) []byte) {
	start := len(b.buf)
	b.buf = appendTo(b.buf)
	b.headers = append(b.headers, Header{name, b.buf[start:len(b.buf):len(b.buf)]})
}

func (b *builder) addProperties(p *broker.Properties) {
	if p == nil {
		return
	}
	if p.ContentType != "" {
		b.add(nameContentType, p.ContentType)
	}
	for i := range p.User {
		if p.User[i].Key == HeaderTraceparent {
			continue // already there, as Message.Traceparent
		}
		b.add([]byte(UserPrefix+p.User[i].Key), p.User[i].Val)
	}
}
