package bench

import "time"

// Workload is one load of a comparison and what is read from its report.
type Workload struct {
	Name    string
	Config  Config // the target and its processes are filled in for each broker
	Metrics []Metric
}

// Metric is one figure of a report.
type Metric struct {
	Name string
	Unit string
	Of   func(*Report) float64
}

var (
	cpuPerMessage = Metric{"broker CPU a message", "µs", func(r *Report) float64 { return r.Broker.CPUPerMessage }}
	ackedRate     = Metric{"acknowledged", "/s", func(r *Report) float64 { return r.Measured.AckedPerSecond }}
	receivedRate  = Metric{"delivered", "/s", func(r *Report) float64 { return r.Measured.ReceivedPerSecond }}
	deliveryP50   = Metric{"delivery, p50", "ms", func(r *Report) float64 { return of(r.DeliveryLatency).P50 }}
	deliveryP99   = Metric{"delivery, p99", "ms", func(r *Report) float64 { return of(r.DeliveryLatency).P99 }}
	memory        = Metric{"memory a connection", "kB", memoryPerConnection}
	connectRate   = Metric{"connected", "/s", func(r *Report) float64 { return r.Connections.PerSecond }}
	connectP99    = Metric{"CONNACK, p99", "ms", func(r *Report) float64 { return of(r.Connections.Latency).P99 }}
	connectCPU    = Metric{"broker CPU a connection", "µs", func(r *Report) float64 { return r.Broker.CPUPerMessage }}
)

// memoryPerConnection is in kB.
func memoryPerConnection(r *Report) float64 { return r.Broker.BytesPerConnection / 1e3 }

// of takes the zero summary for a distribution that is empty.
func of(l *Latency) Latency {
	if l == nil {
		return Latency{}
	}
	return *l
}

// Sizing scales the workloads of a comparison.
type Sizing struct {
	Duration time.Duration // of each measured interval
	Idle     int           // connections
	Rate     float64       // messages a second where latency is measured
}

// Workloads are what the README's figures come from.
func Workloads(s Sizing) []Workload {
	load := func(mode Mode, qos int) Config {
		cfg := NewConfig(mode, "")
		cfg.QoS, cfg.Duration = qos, s.Duration
		return cfg
	}
	paced := load(ModeDeviceToDevice, 1)
	paced.Rate = s.Rate
	single := load(ModeFanIn, 1)
	single.Publishers, single.Inflight = 1000, 1
	idle := load(ModeIdle, 0)
	idle.Clients, idle.Settle, idle.Duration = s.Idle, 2*time.Second, 0
	connecting := load(ModeConnect, 0)
	connecting.Clients = s.Idle
	return []Workload{
		{"QoS 1 in, no subscriber", load(ModeFanIn, 1), []Metric{cpuPerMessage, ackedRate}},
		// With one message under way for each device there is nothing that a broker could batch.
		{"QoS 1 in, 1000 devices one by one", single, []Metric{cpuPerMessage, ackedRate}},
		{"QoS 1 device to device", load(ModeDeviceToDevice, 1), []Metric{cpuPerMessage, receivedRate}},
		{"QoS 0 fan-out to 500", load(ModeFanOut, 0), []Metric{cpuPerMessage, receivedRate}},
		{"QoS 0 fan-in of 50", load(ModeFanIn, 0), []Metric{cpuPerMessage, receivedRate}},
		{"QoS 1 device to device, paced", paced, []Metric{deliveryP50, deliveryP99, cpuPerMessage}},
		{"connect", connecting, []Metric{connectRate, connectP99, connectCPU}},
		{"idle, one subscription each", idle, []Metric{memory}},
	}
}
