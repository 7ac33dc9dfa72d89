// Package observe shows what the broker does: as Prometheus metrics, and as the $SYS topics that MQTT dashboards
// expect.
package observe

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/penstockmq/penstock/broker"
)

// StatsSource is the broker as the collector sees it. Stats must be cheap: it is called for every scrape.
type StatsSource interface {
	Stats() broker.Stats
}

// Register adds the broker's metrics, those of the process and of the Go runtime, and the build's version.
func Register(to prometheus.Registerer, source StatsSource, version string) error {
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "penstock_build_info", Help: "Always 1; the labels say what is running.",
	}, []string{"version", "go_version"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	for _, c := range []prometheus.Collector{
		&collector{source}, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := to.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// collector turns one snapshot of the broker's counters into metrics at each scrape, so that counting costs the data
// plane nothing but its own atomic counters.
type collector struct{ source StatsSource }

type single struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*broker.Stats) int64
}

type byQoS struct {
	desc  *prometheus.Desc
	value func(*broker.Stats) [3]int64
}

type byReason struct {
	desc  *prometheus.Desc
	value func(*broker.Stats) map[string]int64
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("penstock_"+name, help, labels, nil)
}

func gauge(name, help string, value func(*broker.Stats) int64) single {
	return single{desc(name, help), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(*broker.Stats) int64) single {
	return single{desc(name, help), prometheus.CounterValue, value}
}

var singles = []single{
	gauge("connections", "Clients connected now.", func(s *broker.Stats) int64 { return s.Connections }),
	gauge("connections_max", "Most clients connected at once since the start.",
		func(s *broker.Stats) int64 { return s.ConnectionsMax }),
	gauge("sessions", "Sessions known now, connected or not.", func(s *broker.Stats) int64 { return s.Sessions }),
	gauge("subscriptions", "Subscriptions of all sessions now.",
		func(s *broker.Stats) int64 { return s.Subscriptions }),
	gauge("retained_messages", "Retained messages now.", func(s *broker.Stats) int64 { return s.Retained }),
	gauge("queued_messages", "Messages waiting in the queues of sessions now.",
		func(s *broker.Stats) int64 { return s.QueuedMessages }),
	gauge("queued_bytes", "Bytes waiting in the queues of sessions now.",
		func(s *broker.Stats) int64 { return s.QueuedBytes }),
	counter("received_bytes_total", "Bytes received from clients.",
		func(s *broker.Stats) int64 { return s.BytesReceived }),
	counter("sent_bytes_total", "Bytes sent to clients.", func(s *broker.Stats) int64 { return s.BytesSent }),
	counter("packets_received_total", "MQTT packets received.",
		func(s *broker.Stats) int64 { return s.PacketsReceived }),
	counter("packets_sent_total", "MQTT packets sent.", func(s *broker.Stats) int64 { return s.PacketsSent }),
	counter("publish_acked_total", "Publishes acknowledged to their senders with success (PUBACK, PUBREC).",
		func(s *broker.Stats) int64 { return s.PublishAcked }),
	counter("delivery_acked_total", "Deliveries acknowledged by their receivers (PUBACK, PUBCOMP).",
		func(s *broker.Stats) int64 { return s.DeliveryAcked }),
	counter("connect_accepted_total", "CONNECT packets answered with success.",
		func(s *broker.Stats) int64 { return s.ConnectAccepted }),
}

var qosCounters = []byQoS{
	{desc("publish_received_total", "PUBLISH packets received from clients.", "qos"),
		func(s *broker.Stats) [3]int64 { return s.PublishReceived }},
	{desc("delivered_total", "PUBLISH packets handed to connections.", "qos"),
		func(s *broker.Stats) [3]int64 { return s.Delivered }},
}

var reasonCounters = []byReason{
	{desc("publish_refused_total", "Publishes that were not acknowledged with success.", "reason"),
		func(s *broker.Stats) map[string]int64 { return s.PublishRefused }},
	{desc("dropped_total", "Messages dropped on their way to one receiver.", "reason"),
		func(s *broker.Stats) map[string]int64 { return s.Dropped }},
	{desc("connections_refused_total", "Sockets and CONNECT packets refused.", "reason"),
		func(s *broker.Stats) map[string]int64 { return s.ConnectRefused }},
	{desc("disconnects_total", "Connections that ended.", "reason"),
		func(s *broker.Stats) map[string]int64 { return s.Disconnects }},
}

var qosLabels = [3]string{"0", "1", "2"}

func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for i := range singles {
		out <- singles[i].desc
	}
	for i := range qosCounters {
		out <- qosCounters[i].desc
	}
	for i := range reasonCounters {
		out <- reasonCounters[i].desc
	}
}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	stats := c.source.Stats()
	for i := range singles {
		m := &singles[i]
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(&stats)))
	}
	for i := range qosCounters {
		for qos, n := range qosCounters[i].value(&stats) {
			out <- prometheus.MustNewConstMetric(qosCounters[i].desc, prometheus.CounterValue, float64(n), qosLabels[qos])
		}
	}
	for i := range reasonCounters {
		for reason, n := range reasonCounters[i].value(&stats) {
			out <- prometheus.MustNewConstMetric(reasonCounters[i].desc, prometheus.CounterValue, float64(n), reason)
		}
	}
}
