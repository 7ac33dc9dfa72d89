package bridge

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the collectors of one Uplink.
type metrics struct {
	kafkaErrors *prometheus.CounterVec
	ackSeconds  prometheus.Histogram
	setAside    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, u *Uplink) (*metrics, error) {
	m := &metrics{
		kafkaErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_kafka_errors_total",
			Help: "Failures of producing to Kafka, by kind."}, []string{"kind"}),
		ackSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "penstock_kafka_ack_seconds",
			Help:    "Time from giving a record to the producer until Kafka's in-sync replicas have it.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		setAside: prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_spool_set_aside_total",
			Help: "Records that Kafka will never take, kept aside in the spool."}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return m, registerAll(reg, m.kafkaErrors, m.ackSeconds, m.setAside,
		gauge("penstock_spool_messages", "Records on disk that wait for Kafka.",
			func() float64 { return float64(u.spool.Stats().Messages) }),
		gauge("penstock_spool_bytes", "Bytes on disk of records that wait for Kafka.",
			func() float64 { return float64(u.spool.Stats().Bytes) }),
		gauge("penstock_uplink_circuit_state", "The way to Kafka: 0 closed (direct), 1 draining the spool, 2 open.",
			func() float64 { return float64(u.circuit()) }),
		gauge("penstock_uplink_inflight", "Records that were given to the producer and wait for Kafka's answer.",
			func() float64 { return float64(u.inflight()) }))
}

func registerAll(reg prometheus.Registerer, collectors ...prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register bridge metrics: %w", err)
		}
	}
	return nil
}
