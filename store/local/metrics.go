package local

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's own. All of them count also when no registerer was given.
type metrics struct {
	latency  prometheus.Histogram
	batch    prometheus.Histogram
	errors   prometheus.Counter
	reopened prometheus.Counter
	corrupt  prometheus.Counter

	registerer prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(registerer prometheus.Registerer, db *DB) (*metrics, error) {
	m := &metrics{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "penstock_store_commit_seconds",
			Help:    "Time to write one batch to the store, including the wait for the disk.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "penstock_store_batch_writes",
			Help:    "Number of writes that were committed together.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 9),
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_store_write_errors_total", Help: "Writes that the store refused or failed.",
		}),
		reopened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_store_reopened_total", Help: "Times the store was opened again after its disk failed.",
		}),
		corrupt: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_store_corrupt_total", Help: "Stored values that could not be decoded and were passed over.",
		}),
		registerer: registerer,
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range append([]prometheus.Collector{m.latency, m.batch, m.errors, m.reopened, m.corrupt}, gauges(db)...) {
		if err := registerer.Register(c); err != nil {
			m.unregister()
			return nil, err
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func gauges(db *DB) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("penstock_store_disk_bytes", "Size of the store's files.", func() float64 {
			if m := db.pebble.Metrics(); m != nil {
				return float64(m.DiskSpaceUsage())
			}
			return 0
		}),
		gauge("penstock_store_pending_writes", "Writes that wait for the disk.", func() float64 {
			writes, _ := db.Pending()
			return float64(writes)
		}),
		gauge("penstock_store_pending_seconds", "How long the oldest write has waited for the disk.", func() float64 {
			_, oldest := db.Pending()
			return oldest.Seconds()
		}),
	}
}

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}
