package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	row := func(name, format string, values ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	version := "MQTT 3.1.1"
	if r.Version == 5 {
		version = "MQTT 5"
	}
	row("target", "%s, %s", r.Target, version)
	row("load", "%s, QoS %d, %d bytes, %s", r.Mode, r.QoS, r.Size, r.pace())
	if r.Interrupted {
		row("", "interrupted: what follows is what there was")
	}
	c := r.Connections
	row("connections", "%d of %d accepted in %.2f s (%.0f/s), %d failed, %d disconnected later",
		c.Accepted, c.Wanted, c.Seconds, c.PerSecond, c.Failed, c.Disconnected)
	rowLatency(row, "  to CONNACK", c.Latency)
	if r.Messages != nil {
		r.messageRows(row)
	}
	rowLatency(row, "  to the last ack", r.AckLatency)
	rowLatency(row, "  to delivery", r.DeliveryLatency)
	rowLatency(row, "  sent too late by", r.SendLag)
	r.usageRows(row)
	for _, reason := range r.reasons() {
		row("error", "%d × %s", r.Errors[reason], reason)
	}
	return t.Flush()
}

// noisy is the share of other programs from which on a report warns.
const noisy = 0.1

type rowFunc func(name, format string, values ...any)

func (r *Report) pace() string {
	if r.Rate > 0 {
		return fmt.Sprintf("%g/s", r.Rate)
	}
	return fmt.Sprintf("window %d", r.Inflight)
}

func (r *Report) messageRows(row rowFunc) {
	m, a := r.Measured, r.Messages
	row("measured", "%.2f s", m.Seconds)
	row("  sent", "%d (%.0f/s)", m.Sent, m.SentPerSecond)
	if r.QoS > 0 {
		row("  acknowledged", "%d (%.0f/s)", m.Acknowledged, m.AckedPerSecond)
	}
	if a.Expected > 0 {
		row("  received", "%d (%.0f/s)", m.Received, m.ReceivedPerSecond)
	}
	row("whole run", "sent %d, acknowledged %d, refused %d, unacknowledged %d, unsent %d",
		a.Sent, a.Acknowledged, a.Refused, a.Unacknowledged, a.Unsent)
	if a.Expected > 0 {
		row("  deliveries", "expected %d, received %d, lost %d, duplicates %d, out of order %d, foreign %d",
			a.Expected, a.Received, a.Lost, a.Duplicates, a.OutOfOrder, a.Foreign)
	}
}

func rowLatency(row rowFunc, name string, l *Latency) {
	if l != nil {
		row(name, "p50 %.3f  p90 %.3f  p99 %.3f  p99.9 %.3f  max %.3f ms", l.P50, l.P90, l.P99, l.P999, l.Max)
	}
}

func (r *Report) usageRows(row rowFunc) {
	for _, p := range r.Broker.Processes {
		row("broker", "pid %d: CPU %.2f s user + %.2f s system; RSS %.1f → %.1f MB",
			p.PID, p.UserSeconds, p.SystemSeconds, float64(p.RSSBefore)/1e6, float64(p.RSS)/1e6)
	}
	if len(r.Broker.Processes) > 0 {
		row("  for each", "%.2f µs CPU a message, %.2f kB a connection",
			r.Broker.CPUPerMessage, r.Broker.BytesPerConnection/1000)
	}
	if r.Others >= noisy {
		row("other programs", "%.0f %% of the machine: rates and latencies are not reliable", r.Others*100)
	}
	row("bench itself", "CPU %.2f s, %.2f µs a message", r.Client.CPUSeconds, r.Client.CPUPerMessage)
}

func (r *Report) reasons() []string {
	var reasons []string
	for reason := range r.Errors {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		if d := r.Errors[b] - r.Errors[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return reasons
}
