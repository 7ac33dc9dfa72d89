package bench

import "github.com/HdrHistogram/hdrhistogram-go"

// longestLatency is the highest that is told apart, in microseconds.
const longestLatency = 120_000_000

// histogram collects latencies. It keeps three digits of each.
type histogram struct{ h *hdrhistogram.Histogram }

func newHistogram() histogram { return histogram{hdrhistogram.New(1, longestLatency, 3)} }

func (h histogram) record(nanoseconds int64) {
	// Within the bounds there is no error.
	_ = h.h.RecordValue(min(max(nanoseconds/1000, 1), longestLatency))
}

// Latency sums a distribution up, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	Min   float64 `json:"min_ms"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// summary is nil where nothing was recorded.
func (h histogram) summary() *Latency {
	if h.h.TotalCount() == 0 {
		return nil
	}
	at := func(percentile float64) float64 { return float64(h.h.ValueAtQuantile(percentile)) / 1000 }
	return &Latency{
		Count: h.h.TotalCount(), Min: float64(h.h.Min()) / 1000, Mean: h.h.Mean() / 1000,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.h.Max()) / 1000,
	}
}
