package uplink

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// memorySink keeps records and answers with what answer says.
type memorySink struct {
	mu      sync.Mutex
	records []*Record
	held    []func(error)
	answer  func(r *Record) error
}

func (s *memorySink) Send(r *Record, done func(error)) {
	s.mu.Lock()
	s.records = append(s.records, r)
	if s.answer == nil {
		s.held = append(s.held, done)
		s.mu.Unlock()
		return
	}
	err := s.answer(r)
	s.mu.Unlock()
	done(err)
}

func accept(*Record) error { return nil }

func newHook(t testing.TB, sink Sink, routes ...Route) *Hook {
	t.Helper()
	h, err := New(Config{Routes: routes}, Options{Sink: sink})
	require.NoError(t, err)
	return h
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a", false}, {"a/b", "a/b/c", false}, {"a", "a/b", false},
		{"a/+", "a/b", true}, {"a/+", "a", false}, {"a/+", "a/", true}, {"+", "/a", false}, {"+/+", "/a", true},
		{"a/#", "a", true}, {"a/#", "a/b/c", true}, {"a/+/#", "a", false}, {"a/+/#", "a/b", true},
		{"#", "a/b", true}, {"#", "$SYS/a", false}, {"+/a", "$SYS/a", false}, {"$SYS/#", "$SYS/a", true},
		{"devices/+/up/#", "devices/p1/up/temp", true}, {"devices/+/up/#", "devices/p1/down", false},
		{"a//b", "a//b", true}, {"a/+/b", "a//b", true}, {"a", "", false}, {"#", "", true},
		{"a/", "a", false}, {"a/", "a/", true}, {"a", "a/", false}, {"ab", "a", false}, {"a", "ab", false},
		{"+/#", "a", true},
	} {
		assert.Equal(t, c.want, matches(c.filter, c.topic), "%s against %s", c.filter, c.topic)
	}
}

func TestRecordCarriesKeyValueAndHeaders(t *testing.T) {
	sink := &memorySink{answer: accept}
	h := newHook(t, sink, Route{Filter: "devices/+/up/#", Topic: "up", Key: "{topic[1]}/{username}",
		Headers: map[string]string{"zone": "z-{topic[9]}{{", "a-first": "{qos}@{received} {topic}"}})
	require.True(t, h.Wants("devices/p1/up/temp"))
	require.False(t, h.Wants("devices/p1/down"))

	var got error
	h.Accept(&broker.Message{Topic: "devices/p1/up/temp", Payload: []byte("21.5"), QoS: 1, Origin: "p1", Username: "u",
		Received: 1700000000123, Traceparent: "00-aa-bb-01", Properties: &broker.Properties{ContentType: "text/plain",
			User: []packets.UserProperty{{Key: "k", Val: "v1"}, {Key: "traceparent", Val: "x"}, {Key: "k", Val: "v2"}}}},
		func(err error) { got = err })
	require.NoError(t, got)
	require.Len(t, sink.records, 1)
	r := sink.records[0]
	assert.Equal(t, "up", r.Topic)
	assert.Equal(t, "p1/u", string(r.Key))
	assert.Equal(t, "21.5", string(r.Value))
	assert.Equal(t, "p1", r.ClientID)
	assert.EqualValues(t, 1700000000123, r.Time)
	var headers []string
	for _, hd := range r.Headers {
		headers = append(headers, string(hd.Key)+"="+string(hd.Value))
	}
	assert.Equal(t, []string{"client_id=p1", "mqtt_topic=devices/p1/up/temp", "qos=1", "received_at=1700000000123",
		"traceparent=00-aa-bb-01", "content_type=text/plain", "user.k=v1", "user.k=v2",
		"a-first=1@1700000000123 devices/p1/up/temp", "zone=z-{"}, headers)
}

func TestDefaultsOfARoute(t *testing.T) {
	sink := &memorySink{answer: accept}
	h := newHook(t, sink, Route{Filter: "#"})
	h.Accept(&broker.Message{Topic: "t", Origin: "c"}, func(error) {})
	h.Accept(&broker.Message{Topic: "t"}, func(error) {})
	assert.Equal(t, "penstock.uplink", sink.records[0].Topic)
	assert.Equal(t, "c", string(sink.records[0].Key))
	assert.Nil(t, sink.records[1].Key, "a message that no client published has no key")
}

func TestMessageOfTwoRoutesIsAcceptedWhenBothHaveIt(t *testing.T) {
	sink := &memorySink{}
	h := newHook(t, sink, Route{Filter: "a/#", Topic: "one"}, Route{Filter: "b"}, Route{Filter: "+/x", Topic: "two"})
	calls, last := 0, error(nil)
	done := func(err error) { calls++; last = err }

	h.Accept(&broker.Message{Topic: "a/x"}, done)
	require.Len(t, sink.held, 2)
	assert.Equal(t, "one", sink.records[0].Topic)
	assert.Equal(t, "two", sink.records[1].Topic)
	sink.held[1](nil)
	assert.Zero(t, calls)
	sink.held[0](nil)
	assert.Equal(t, 1, calls)
	assert.NoError(t, last)

	full := broker.Refuse(packets.ErrQuotaExceeded, "full")
	h.Accept(&broker.Message{Topic: "a/x"}, done)
	sink.held[2](full)
	assert.Equal(t, 1, calls, "the answer waits for every route")
	sink.held[3](nil)
	assert.Equal(t, 2, calls)
	assert.Equal(t, error(full), last)
}

func TestCounters(t *testing.T) {
	answers := []error{nil, broker.Refuse(packets.ErrQuotaExceeded, "full"), errors.New("disk")}
	sink := &memorySink{answer: func(*Record) error { a := answers[0]; answers = answers[1:]; return a }}
	reg := prometheus.NewRegistry()
	h, err := New(Config{Routes: []Route{{Filter: "#"}}}, Options{Sink: sink, Registerer: reg})
	require.NoError(t, err)
	for range 3 {
		h.Accept(&broker.Message{Topic: "t"}, func(error) {})
	}
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP penstock_uplink_acked_total Uplink messages that Kafka or the disk has for every route they matched.
# TYPE penstock_uplink_acked_total counter
penstock_uplink_acked_total 1
# HELP penstock_uplink_received_total Messages that matched at least one uplink route.
# TYPE penstock_uplink_received_total counter
penstock_uplink_received_total 3
# HELP penstock_uplink_refused_total Uplink messages that were not accepted, by reason.
# TYPE penstock_uplink_refused_total counter
penstock_uplink_refused_total{reason="error"} 1
penstock_uplink_refused_total{reason="quota_exceeded"} 1
`)))
}

func TestConfigurationFaultsAreReportedByKey(t *testing.T) {
	cfg := Config{Routes: []Route{
		{Filter: "a/#"},
		{Filter: "", Topic: "no spaces", Key: "{nobody}", Headers: map[string]string{"x": "{topic[a]}"}},
		{Filter: "a#", Topic: ".."}, {Filter: "#/a", Key: "{open"}, {Filter: "$share/g/a"},
	}}
	got := map[string]string{}
	cfg.Validate(func(key, problem string) { got[key] = problem })
	for _, key := range []string{"routes[1].filter", "routes[1].topic", "routes[1].key", "routes[1].headers.x",
		"routes[2].filter", "routes[2].topic", "routes[3].filter", "routes[3].key", "routes[4].filter"} {
		assert.Contains(t, got, key)
	}
	assert.Len(t, got, 9)
	_, err := New(cfg, Options{})
	assert.ErrorContains(t, err, "routes[1].key {nobody} is unknown")
}

func TestWantsAllocatesNothing(t *testing.T) {
	h := newHook(t, &memorySink{answer: accept}, Route{Filter: "devices/+/up/#"}, Route{Filter: "x/y"})
	assert.Zero(t, testing.AllocsPerRun(100, func() { h.Wants("devices/p1/other/temperature") }))
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "{client_id}", "a{{b}", "{topic[3]}{qos}", "{topic[}", "{", "{received}{topic}"} {
		f.Add(s)
	}
	m := &broker.Message{Topic: "a/b/c", Origin: "c", Username: "u", QoS: 1, Received: 5}
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := parseTemplate(s)
		if err != nil {
			return
		}
		out := string(parsed.appendTo(nil, m))
		if !strings.Contains(s, "{") && out != s {
			t.Fatalf("%q became %q", s, out)
		}
	})
}

func BenchmarkAccept(b *testing.B) {
	h := newHook(b, &memorySink{}, Route{Filter: "devices/+/up/#"})
	h.sink = discard{}
	m := &broker.Message{Topic: "devices/pump-000001/up/temperature", Payload: make([]byte, 1024), QoS: 1,
		Origin: "pump-000001", Received: 1700000000123,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	done := func(error) {}
	b.ReportAllocs()
	for b.Loop() {
		if h.Wants(m.Topic) {
			h.Accept(m, done)
		}
	}
}

type discard struct{}

func (discard) Send(_ *Record, done func(error)) { done(nil) }
