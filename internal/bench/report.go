package bench

import (
	"runtime"
	"time"
)

// ProcessSample is what a process had used at one moment. Sizes are in bytes; PSS is 0 where it may not be read.
type ProcessSample struct {
	PID    int
	User   time.Duration
	System time.Duration
	RSS    int64
	PSS    int64
}

// Report is the outcome of a run.
type Report struct {
	Target      string  `json:"target"`
	Mode        Mode    `json:"mode"`
	Version     byte    `json:"version"`
	QoS         int     `json:"qos"`
	Size        int     `json:"size"`
	Rate        float64 `json:"rate"`
	Inflight    int     `json:"inflight"`
	Interrupted bool    `json:"interrupted,omitempty"`

	Connections Connections `json:"connections"`
	Messages    *Messages   `json:"messages,omitempty"` // absent in the modes without any
	Measured    *Measured   `json:"measured,omitempty"`
	// AckLatency is from when a publish was due to its last acknowledgement, DeliveryLatency to its arrival. SendLag
	// is how late the bench itself wrote it; where it is large, the bench or its window was the limit.
	AckLatency      *Latency `json:"ack_latency,omitempty"`
	DeliveryLatency *Latency `json:"delivery_latency,omitempty"`
	SendLag         *Latency `json:"send_lag,omitempty"`

	Broker Broker `json:"broker"`
	Client Client `json:"client"`
	// Others is the part of the machine's CPU time, 0 to 1, that neither the broker nor the bench used in the measured
	// interval. It is told only where PIDs name the broker. Much of it spoils rates and latencies, less so CPU times.
	Others float64        `json:"others_cpu_share"`
	Errors map[string]int `json:"errors,omitempty"`
}

// Connections tells how connecting went.
type Connections struct {
	Wanted       int     `json:"wanted"`
	Accepted     int     `json:"accepted"`     // CONNACK 0
	Refused      int     `json:"refused"`      // any other CONNACK
	Failed       int     `json:"failed"`       // did not get to the end of connecting and subscribing, refused included
	Disconnected int64   `json:"disconnected"` // ended by the broker afterwards
	Seconds      float64 `json:"seconds"`
	PerSecond    float64 `json:"per_second"`
	// Latency is from the start of the TCP connection (with a rate: from when that was due) to CONNACK.
	Latency *Latency `json:"latency,omitempty"`
}

// Messages accounts for the whole run, warm-up included.
type Messages struct {
	Sent           int64 `json:"sent"`
	Acknowledged   int64 `json:"acknowledged"`
	Refused        int64 `json:"refused"`        // acknowledged with a failure code (MQTT 5)
	Unacknowledged int64 `json:"unacknowledged"` // at QoS 1 and 2
	Unsent         int64 `json:"unsent"`         // due, with a rate, but the window or the socket did not let them out
	Expected       int64 `json:"expected"`       // deliveries: sent × subscribers that hear the publisher
	Received       int64 `json:"received"`       // deliveries, each once
	Duplicates     int64 `json:"duplicates"`
	OutOfOrder     int64 `json:"out_of_order"`
	// Lost counts deliveries that never came of messages that the broker had to deliver: all at QoS 0, the acknowledged
	// ones at QoS 1 and 2.
	Lost         int64 `json:"lost"`
	Foreign      int64 `json:"foreign"`       // deliveries of somebody else's messages, or to the wrong client
	StrayReplies int64 `json:"stray_replies"` // acknowledgements of nothing
}

// Measured tells of the interval after the warm-up.
type Measured struct {
	Seconds           float64 `json:"seconds"`
	Sent              int64   `json:"sent"`
	Acknowledged      int64   `json:"acknowledged"`
	Received          int64   `json:"received"`
	SentPerSecond     float64 `json:"sent_per_second"`
	AckedPerSecond    float64 `json:"acknowledged_per_second"`
	ReceivedPerSecond float64 `json:"received_per_second"`
}

// Broker tells what the processes named by PIDs used. A message is a delivery where there are subscribers, else an
// acknowledgement, else a publish; in ModeConnect it is a connection.
type Broker struct {
	Processes []Process `json:"processes,omitempty"`
	// CPUSeconds is over the measured interval.
	CPUSeconds    float64 `json:"cpu_seconds"`
	CPUPerMessage float64 `json:"cpu_us_per_message"`
	// BytesPerConnection is the growth of the resident memory from before the first connection until after settling.
	BytesPerConnection float64 `json:"bytes_per_connection"`
}

// Process is one of the broker's. Sizes are in bytes, before the first connection and at the end.
type Process struct {
	PID           int     `json:"pid"`
	UserSeconds   float64 `json:"user_seconds"`
	SystemSeconds float64 `json:"system_seconds"`
	RSSBefore     int64   `json:"rss_before"`
	RSS           int64   `json:"rss"`
	PSSBefore     int64   `json:"pss_before,omitempty"`
	PSS           int64   `json:"pss,omitempty"`
}

// Client tells what the bench itself used in the measured interval.
type Client struct {
	CPUSeconds    float64 `json:"cpu_seconds"`
	CPUPerMessage float64 `json:"cpu_us_per_message"`
}

// Complete says that every connection stood to the end, and every message that had to be acknowledged or delivered was.
func (r *Report) Complete() bool {
	c := r.Connections
	if c.Accepted != c.Wanted || c.Failed != 0 || c.Disconnected != 0 {
		return false
	}
	return r.Messages == nil || r.Messages.Lost == 0 && r.Messages.Unacknowledged == 0 && r.Messages.Refused == 0
}

// report puts together what the marks and counters say.
func (e *engine) report(m marks) *Report {
	r := &Report{
		Target: e.cfg.Target, Mode: e.cfg.Mode, Version: e.cfg.Version, QoS: e.cfg.QoS, Size: e.cfg.Size,
		Rate: e.cfg.Rate, Inflight: e.cfg.Inflight, Interrupted: e.ctx.Err() != nil,
		Connections: e.reportConnections(m), Errors: e.reasons,
	}
	counted, from := int64(0), m.start
	if len(e.publishers) > 0 {
		r.Messages = e.reportMessages()
		r.Measured = e.reportMeasured(m)
		r.AckLatency, r.DeliveryLatency, r.SendLag = e.acks.summary(), e.deliveries.summary(), e.lag.summary()
		counted = r.Measured.messages(e.cfg.QoS, e.fanOut)
	}
	if e.cfg.Mode == ModeConnect {
		counted, from, m.end = int64(e.accepted), m.empty, m.connected
	}
	r.Broker = reportBroker(m.empty, from, m.end)
	r.Client.CPUSeconds = (m.end.client - from.client).Seconds()
	if counted > 0 {
		r.Broker.CPUPerMessage = r.Broker.CPUSeconds * 1e6 / float64(counted)
		r.Client.CPUPerMessage = r.Client.CPUSeconds * 1e6 / float64(counted)
	}
	r.Others = r.others(from, m.end)
	if e.accepted > 0 {
		r.Broker.BytesPerConnection = float64(grown(m.empty, m.start)) / float64(e.accepted)
	}
	return r
}

// others is the share of the machine that was used by nobody who takes part.
func (r *Report) others(from, to mark) float64 {
	available := time.Duration(to.at-from.at).Seconds() * float64(runtime.NumCPU())
	used := (to.machine - from.machine).Seconds() - r.Broker.CPUSeconds - r.Client.CPUSeconds
	// Shorter intervals say nothing at the resolution of the kernel's counters.
	if len(r.Broker.Processes) == 0 || available < 0.5 || used < 0 {
		return 0
	}
	return min(used/available, 1)
}

func (e *engine) reportConnections(m marks) Connections {
	took := time.Duration(m.connected.at - m.empty.at)
	unfinished := e.dialer.handshakes + len(e.conns) - e.dialer.opened
	return Connections{
		Wanted: len(e.conns), Accepted: e.accepted, Refused: e.refused, Failed: e.dialer.failed + unfinished,
		Disconnected: e.disconnected, Seconds: took.Seconds(), PerSecond: perSecond(int64(e.accepted), took),
		Latency: e.connects.summary(),
	}
}

func (e *engine) reportMessages() *Messages {
	r := &Messages{
		Sent: e.sent, Acknowledged: e.acked, Expected: e.sent * e.fanOut, Foreign: e.foreign, StrayReplies: e.stray,
	}
	unowed := make([][]uint64, len(e.publishers))
	for i, p := range e.publishers {
		unowed[i] = p.unowed()
		r.Refused += int64(p.refused)
		r.Unacknowledged += int64(p.unacknowledged())
		r.Unsent += int64(max(p.due, p.seq) - p.seq)
	}
	for _, c := range e.conns {
		if c.sub == nil {
			continue
		}
		for i := range c.sub.tracks {
			t, publisher := &c.sub.tracks[i], int(c.sub.first)+i
			r.Received += int64(t.received)
			r.Duplicates += int64(t.duplicates)
			r.OutOfOrder += int64(t.outOfOrder)
			r.Lost += int64(t.missing(e.publishers[publisher].seq, unowed[publisher]))
		}
	}
	return r
}

// reportMeasured counts time up to the last acknowledgement or delivery: waiting in vain for more is no slowness.
func (e *engine) reportMeasured(m marks) *Measured {
	took := time.Duration(m.end.at - m.start.at)
	if e.fanOut > 0 || e.cfg.QoS > 0 {
		took = time.Duration(max(e.progress, m.start.at) - m.start.at)
	}
	sent, acked, received := m.end.sent-m.start.sent, m.end.acked-m.start.acked, m.end.received-m.start.received
	return &Measured{
		Seconds: took.Seconds(), Sent: sent, Acknowledged: acked, Received: received,
		SentPerSecond: perSecond(sent, took), AckedPerSecond: perSecond(acked, took),
		ReceivedPerSecond: perSecond(received, took),
	}
}

// messages is the count that CPU time is divided by.
func (m *Measured) messages(qos int, fanOut int64) int64 {
	switch {
	case fanOut > 0:
		return m.Received
	case qos > 0:
		return m.Acknowledged
	}
	return m.Sent
}

func reportBroker(empty, from, to mark) Broker {
	var b Broker
	for i, after := range to.broker {
		before := from.broker[i]
		p := Process{
			PID: after.PID, UserSeconds: (after.User - before.User).Seconds(),
			SystemSeconds: (after.System - before.System).Seconds(),
			RSSBefore:     empty.broker[i].RSS, RSS: after.RSS, PSSBefore: empty.broker[i].PSS, PSS: after.PSS,
		}
		b.Processes = append(b.Processes, p)
		b.CPUSeconds += p.UserSeconds + p.SystemSeconds
	}
	return b
}

// grown is by how many bytes the resident memory of all processes grew.
func grown(from, to mark) int64 {
	var bytes int64
	for i, sample := range to.broker {
		bytes += sample.RSS - from.broker[i].RSS
	}
	return bytes
}
