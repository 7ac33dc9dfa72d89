package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// Comparison is the same work done by several brokers.
type Comparison struct {
	Brokers     []string     `json:"brokers"` // ratios are to the first
	Repetitions int          `json:"repetitions"`
	Interrupted bool         `json:"interrupted,omitempty"`
	Figures     []Figure     `json:"figures"`
	Faults      []string     `json:"faults,omitempty"` // runs that failed or lost something
	Runs        []Repetition `json:"runs"`
}

// Figure is one metric of one workload: the median of the repetitions for each broker, and its ratio to the first
// broker's. What could not be measured, or divided, is nil.
type Figure struct {
	Workload string     `json:"workload"`
	Metric   string     `json:"metric"`
	Unit     string     `json:"unit"`
	Values   []*float64 `json:"values"`
	Ratios   []*float64 `json:"ratios"`
}

// Repetition is one run of a comparison.
type Repetition struct {
	Workload string  `json:"workload"`
	Broker   string  `json:"broker"`
	Report   *Report `json:"report"`
}

// Compare runs every workload on every broker in turn, several times, each on a fresh process. It tells progress a line
// for each run. It goes on after a run that fails; when ctx ends, the comparison holds what was measured until then.
func Compare(
	ctx context.Context, contenders []Contender, workloads []Workload, repetitions int, progress io.Writer,
) *Comparison {
	c := &Comparison{Repetitions: repetitions}
	for _, contender := range contenders {
		c.Brokers = append(c.Brokers, contender.Name)
	}
	for _, w := range workloads {
		for range repetitions {
			for _, contender := range contenders {
				if ctx.Err() != nil {
					break
				}
				c.add(w, contender.Name, progress)(once(ctx, contender, w.Config))
			}
		}
		c.summarise(w)
	}
	c.Interrupted = ctx.Err() != nil
	return c
}

// once runs a workload on a fresh broker.
func once(ctx context.Context, contender Contender, cfg Config) (*Report, error) {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	broker, err := contender.Start(ctx, dir)
	if err != nil {
		return nil, err
	}
	if broker.Stop != nil {
		defer broker.Stop()
	}
	cfg.Target, cfg.PIDs = broker.Address, broker.PIDs
	return Run(ctx, cfg)
}

// add takes the outcome of one run.
func (c *Comparison) add(w Workload, broker string, progress io.Writer) func(*Report, error) {
	return func(r *Report, err error) {
		switch {
		case err != nil:
			c.fault("%s, %s: %v", w.Name, broker, err)
			fmt.Fprintf(progress, "%s: %s: failed\n", w.Name, broker)
			return
		case r.Interrupted:
			return
		case !r.Complete():
			c.fault("%s, %s: %s", w.Name, broker, r.deficit())
		}
		c.Runs = append(c.Runs, Repetition{w.Name, broker, r})
		fmt.Fprintf(progress, "%s: %s:", w.Name, broker)
		for i, m := range w.Metrics {
			if i > 0 {
				fmt.Fprint(progress, ",")
			}
			fmt.Fprintf(progress, " %s %s %s", m.Name, figure(m.Of(r)), m.Unit)
		}
		fmt.Fprintf(progress, "; the bench itself %s µs CPU\n", figure(r.Client.CPUPerMessage))
	}
}

func (c *Comparison) fault(format string, args ...any) {
	c.Faults = append(c.Faults, fmt.Sprintf(format, args...))
}

// deficit says what a run that is not complete lacks.
func (r *Report) deficit() string {
	text := fmt.Sprintf("%d of %d connections failed, %d were disconnected", r.Connections.Failed,
		r.Connections.Wanted, r.Connections.Disconnected)
	if m := r.Messages; m != nil {
		text += fmt.Sprintf("; of %d deliveries %d lost, of %d messages %d unacknowledged and %d refused",
			m.Expected, m.Lost, m.Sent, m.Unacknowledged, m.Refused)
	}
	for _, reason := range r.reasons() {
		text += fmt.Sprintf("; %d × %s", r.Errors[reason], reason)
	}
	return text
}

// summarise adds the figures of a workload, if it was run at all.
func (c *Comparison) summarise(w Workload) {
	ran := slices.ContainsFunc(c.Runs, func(r Repetition) bool { return r.Workload == w.Name })
	if !ran {
		return
	}
	for _, m := range w.Metrics {
		f := Figure{Workload: w.Name, Metric: m.Name, Unit: m.Unit}
		for _, broker := range c.Brokers {
			value := median(c.values(w.Name, broker, m))
			f.Values = append(f.Values, value)
			f.Ratios = append(f.Ratios, ratio(value, f.Values[0]))
		}
		c.Figures = append(c.Figures, f)
	}
}

func ratio(value, to *float64) *float64 {
	if value == nil || to == nil || *to == 0 {
		return nil
	}
	r := *value / *to
	return &r
}

func (c *Comparison) values(workload, broker string, m Metric) []float64 {
	var values []float64
	for _, run := range c.Runs {
		if run.Workload == workload && run.Broker == broker {
			values = append(values, m.Of(run.Report))
		}
	}
	return values
}

// median is nil of nothing.
func median(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	// The same value twice where their number is odd.
	m := (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	return &m
}

// WriteTable prints the comparison for people.
func (c *Comparison) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprint(t, "work\tfigure")
	for i, broker := range c.Brokers {
		fmt.Fprintf(t, "\t%s", broker)
		if i > 0 {
			fmt.Fprint(t, "\tratio")
		}
	}
	fmt.Fprintln(t)
	last := ""
	for _, f := range c.Figures {
		name := f.Workload
		if name == last {
			name = ""
		}
		last = f.Workload
		fmt.Fprintf(t, "%s\t%s, %s", name, f.Metric, f.Unit)
		for i, value := range f.Values {
			fmt.Fprintf(t, "\t%s", orDash(value, figure))
			if i > 0 {
				fmt.Fprintf(t, "\t%s", orDash(f.Ratios[i], func(r float64) string { return fmt.Sprintf("%.2f", r) }))
			}
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return c.writeVerdict(w)
}

func (c *Comparison) writeVerdict(w io.Writer) error {
	text := fmt.Sprintf("\nMedians of %d runs each; ratios to %s. ", c.Repetitions, c.Brokers[0])
	switch {
	case c.Interrupted:
		text += "Interrupted before the end.\n"
	case len(c.Faults) == 0:
		text += "No message and no connection was lost.\n"
	default:
		text += "Not everything went well:\n"
	}
	for _, fault := range c.Faults {
		text += "  " + fault + "\n"
	}
	if share := c.noise(); share >= noisy {
		text += fmt.Sprintf("Other programs took up to %.0f %% of the machine: rates and latencies are not reliable.\n",
			share*100)
	}
	_, err := io.WriteString(w, text)
	return err
}

// noise is the largest share that other programs had in any run.
func (c *Comparison) noise() float64 {
	share := 0.0
	for _, run := range c.Runs {
		share = max(share, run.Report.Others)
	}
	return share
}

func orDash(value *float64, format func(float64) string) string {
	if value == nil {
		return "-"
	}
	return format(*value)
}

// figure prints a number with three significant digits, and a whole number from 100 on.
func figure(value float64) string {
	switch {
	case value >= 100 || value <= -100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10 || value <= -10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}
