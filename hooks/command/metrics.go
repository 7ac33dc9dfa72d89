package command

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	byState  [numStates]prometheus.Counter
	delivery prometheus.Histogram
	ignored  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, s *Service) (*metrics, error) {
	transitions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_command_transitions_total",
		Help: "Executions of commands that reached a state, by state.",
	}, []string{"state"})
	m := &metrics{
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "penstock_command_delivery_seconds",
			Help:    "Time from the issue of a command to the device's acknowledgement.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400},
		}),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_command_results_ignored_total",
			Help: "Results that changed nothing, by reason.",
		}, []string{"reason"}),
	}
	for i := range m.byState {
		m.byState[i] = transitions.WithLabelValues(State(i).String())
	}
	if r == nil {
		return m, nil
	}
	active := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "penstock_commands_active", Help: "Commands that are not finished.",
	}, func() float64 {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return float64(s.active)
	})
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "penstock_command_queue_depth", Help: "Executions that wait in their devices' queues.",
	}, func() float64 { return float64(s.waiting()) })
	for _, c := range []prometheus.Collector{transitions, m.delivery, m.ignored, active, waiting} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) transitions(s State) prometheus.Counter { return m.byState[s] }

func (s *Service) waiting() (n int) {
	for _, sh := range s.shards {
		sh.mu.Lock()
		n += sh.waiting
		sh.mu.Unlock()
	}
	return n
}
