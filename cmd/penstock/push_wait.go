package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/penstockmq/penstock/internal/client"
)

// commandStates are the states of executions in the order in which people read them.
var commandStates = []string{"PENDING", "QUEUED", "SENT", "DELIVERED", "RUNNING", "SUCCEEDED", "FAILED", "REJECTED",
	"EXPIRED", "CANCELED", "UNDELIVERABLE", "TIMED_OUT"}

func describeCounts(c client.Counts) string {
	var parts []string
	for _, s := range commandStates {
		if n := c[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", s, n))
		}
	}
	if len(parts) == 0 {
		return "no devices"
	}
	return strings.Join(parts, "  ")
}

// pushOutcome sums up how far a command is, as --wait sees it.
type pushOutcome struct{ good, bad, total int64 }

func (f *pushFlags) outcome(c client.Counts) pushOutcome {
	o := pushOutcome{
		good: c.Of("SUCCEEDED"), total: c.Total(),
		bad: c.Of("FAILED", "REJECTED", "EXPIRED", "CANCELED", "UNDELIVERABLE", "TIMED_OUT"),
	}
	if f.wait == waitDelivered { // what came after the acknowledgement says that there was one
		o.good = c.Of("DELIVERED", "RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT")
		o.bad = c.Of("REJECTED", "EXPIRED", "CANCELED", "UNDELIVERABLE")
	}
	return o
}

func (o pushOutcome) done() bool { return o.good+o.bad >= o.total }

// follow shows progress until every device has an outcome, and turns the outcome into the exit code.
func (f *pushFlags) follow(ctx context.Context, cmd *cobra.Command, c *client.Client, st client.Status) error {
	show := f.progress(cmd.ErrOrStderr(), st)
	last, err := f.watch(ctx, c, st, show.update)
	show.end()
	if f.json || err == nil {
		if err := f.report(cmd, last); err != nil {
			return err
		}
	}
	o := f.outcome(last.Counts)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("after %v %d of %d devices have no outcome; command %s goes on", f.timeout,
			o.total-o.good-o.bad, o.total, st.ID)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted; command %s goes on", st.ID)
	case err != nil:
		return pushFailure(err)
	case o.good < o.total:
		f.showFailures(ctx, cmd.ErrOrStderr(), c, st.ID)
		return &exitError{exitFailed, fmt.Errorf("%d of %d devices have not %s", o.total-o.good, o.total, f.verb())}
	}
	return nil
}

func (f *pushFlags) verb() string {
	if f.wait == waitDelivered {
		return "acknowledged"
	}
	return "succeeded"
}

// watch follows the command; when the stream of events ends, it begins another, a few times in a row at most.
func (f *pushFlags) watch(ctx context.Context, c *client.Client, st client.Status, update func(client.Status)) (
	client.Status, error) {
	const tries, pause = 5, time.Second
	enough, stop := context.WithCancel(ctx)
	defer stop()
	for failures := 0; ; failures++ {
		err := c.Watch(enough, st.ID, func(now client.Status) {
			st, failures = now, 0
			update(now)
			if f.outcome(now.Counts).done() {
				stop()
			}
		})
		switch {
		case err == nil || f.outcome(st.Counts).done():
			return st, nil
		case ctx.Err() != nil:
			return st, ctx.Err()
		case !errors.Is(err, client.ErrUnreachable) || failures == tries:
			return st, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// showFailures names the first devices that went wrong, and why.
func (f *pushFlags) showFailures(ctx context.Context, out io.Writer, c *client.Client, id string) {
	const most = 10
	shown := 0
	states := commandStates[6:] // from FAILED on
	for _, state := range states {
		page, err := c.Executions(ctx, id, state, "", most)
		if err != nil { // the outcome is known; only the details are not
			fmt.Fprintln(out, "penstock: details:", err)
			return
		}
		for _, x := range page.Executions {
			if shown++; shown > most {
				fmt.Fprintf(out, "  … see /v1/commands/%s/executions\n", id)
				return
			}
			fmt.Fprintf(out, "  %s  %s  %s\n", printable(x.Device), state, printable(x.Reason))
		}
	}
}

// progress shows how far a command is: a bar on a terminal, a line for each change otherwise.
type progress struct {
	update func(client.Status)
	end    func()
}

func (f *pushFlags) progress(out io.Writer, st client.Status) progress {
	if f.json {
		return progress{func(client.Status) {}, func() {}}
	}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return f.bar(file, st)
	}
	last := ""
	return progress{func(now client.Status) {
		if line := describeCounts(now.Counts); line != last {
			fmt.Fprintf(out, "%s  %s\n", now.ID, line)
			last = line
		}
	}, func() {}}
}

func (f *pushFlags) bar(out *os.File, st client.Status) progress {
	texts := make(chan string, 1) // the latest counts, for mpb's goroutine
	texts <- describeCounts(st.Counts)
	text := ""
	p := mpb.New(mpb.WithOutput(out), mpb.WithWidth(40))
	bar := p.AddBar(st.Counts.Total(),
		mpb.PrependDecorators(decor.Name(st.ID+" "), decor.CountersNoUnit("%d/%d ")),
		mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO), decor.Any(func(decor.Statistics) string {
			select {
			case text = <-texts:
			default:
			}
			return "  " + text
		})),
	)
	return progress{
		update: func(now client.Status) {
			select {
			case <-texts:
			default:
			}
			texts <- describeCounts(now.Counts)
			o := f.outcome(now.Counts)
			bar.SetCurrent(o.good + o.bad)
		},
		end: func() {
			bar.Abort(false) // does nothing when it is complete
			p.Wait()
		},
	}
}
