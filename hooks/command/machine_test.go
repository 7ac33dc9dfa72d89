package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAllowedTransitions(t *testing.T) {
	all := func(states ...State) map[State]bool {
		m := map[State]bool{}
		for _, s := range states {
			m[s] = true
		}
		return m
	}
	results := []State{Succeeded, Failed, Rejected}
	given := []State{Expired, Canceled, Undeliverable}
	onTheWay := append(append([]State{}, results...), given...)
	table := map[State]map[State]bool{
		Pending:       all(append(onTheWay, Queued, Sent, Delivered, Running)...),
		Queued:        all(append(onTheWay, Sent, Delivered, Running)...),
		Sent:          all(append(onTheWay, Queued, Delivered, Running)...),
		Delivered:     all(append(results, Running, TimedOut)...),
		Running:       all(append(results, TimedOut)...),
		TimedOut:      all(results...),
		Succeeded:     {},
		Failed:        {},
		Rejected:      {},
		Expired:       {},
		Canceled:      {},
		Undeliverable: {},
	}
	for from := range numStates {
		for to := range numStates {
			t.Run(from.String()+" to "+to.String(), func(t *testing.T) {
				x := Execution{State: from, Rev: 7, Attempt: 1}
				before := x
				p := x.advance(to, Pending, 1000)
				require.Equal(t, table[from][to], p.n > 0)
				if p.n == 0 {
					require.Equal(t, before, x, "a refused move changes nothing")
					return
				}
				require.Equal(t, to, x.State)
				require.EqualValues(t, 8, x.Rev)
				if to.rank() <= from.rank() {
					require.Equal(t, []State{Sent, Queued}, []State{from, to}, "the only way back")
				}
			})
		}
	}
}

func TestResultImpliesTheStatesBeforeIt(t *testing.T) {
	cases := map[string]struct {
		from, to, implied State
		want              []State
	}{
		"acknowledged before sent was seen":  {Queued, Delivered, Sent, []State{Queued, Sent, Delivered}},
		"success before the acknowledgement": {Sent, Succeeded, Running, []State{Sent, Delivered, Running, Succeeded}},
		"success before everything": {Pending, Succeeded, Running,
			[]State{Pending, Queued, Sent, Delivered, Running, Succeeded}},
		"running before the acknowledgement": {Sent, Running, Delivered, []State{Sent, Delivered, Running}},
		"rejected without having run":        {Sent, Rejected, Delivered, []State{Sent, Delivered, Rejected}},
		"refused with the acknowledgement":   {Queued, Rejected, Sent, []State{Queued, Sent, Rejected}},
		"late after a timeout":               {TimedOut, Failed, Running, []State{TimedOut, Failed}},
		"expired implies nothing":            {Queued, Expired, Pending, []State{Queued, Expired}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			x := Execution{State: c.from}
			p := x.advance(c.to, c.implied, 5)
			require.Equal(t, c.want, p.states[:p.n])
			require.Equal(t, c.from == TimedOut, x.Late)
			for _, s := range c.want[1:] {
				at := map[State]int64{Queued: x.Queued, Sent: x.Sent, Delivered: x.Delivered, Running: x.Running}
				if v, ok := at[s]; ok {
					require.EqualValues(t, 5, v, s.String())
				}
			}
		})
	}
}

func TestExecutionIDs(t *testing.T) {
	for _, id := range []string{
		"", "-", "-1", "a", "a-", "a-x", "a-01", "a-+1", "a-1.", "a-1.0", "a-1.x", "a-4294967296",
	} {
		_, _, _, ok := parseExecutionID(id)
		require.False(t, ok, id)
	}
	command, index, round, ok := parseExecutionID(executionID("a-1.b-2", 4294967295, 3))
	require.True(t, ok)
	require.Equal(t, "a-1.b-2", command)
	require.EqualValues(t, 4294967295, index)
	require.EqualValues(t, 3, round)
}

func FuzzExecutionID(f *testing.F) {
	f.Add("job-0")
	f.Add("job-1.2")
	f.Fuzz(func(t *testing.T, id string) {
		if command, index, round, ok := parseExecutionID(id); ok && executionID(command, index, round) != id {
			t.Fatalf("%q is read as %q, %d, %d", id, command, index, round)
		}
	})
}

func TestParseAnswer(t *testing.T) {
	cases := map[string]struct {
		payload string
		want    answer
	}{
		"empty":    {"", answer{Succeeded, Outcome{Progress: 100}}},
		"text":     {"all right", answer{Succeeded, Outcome{Progress: 100, Result: []byte("all right")}}},
		"a number": {"42", answer{Succeeded, Outcome{Progress: 100, Result: []byte("42")}}},
		"other JSON": {`{"level":3}`,
			answer{Succeeded, Outcome{Progress: 100, Result: []byte(`{"level":3}`)}}},
		"a state that is none": {`{"state":"open"}`,
			answer{Succeeded, Outcome{Progress: 100, Result: []byte(`{"state":"open"}`)}}},
		"a state that is not the device's": {`{"state":"EXPIRED"}`,
			answer{Succeeded, Outcome{Progress: 100, Result: []byte(`{"state":"EXPIRED"}`)}}},
		"running": {`{"state":"RUNNING","progress":55.5}`, answer{Running, Outcome{Progress: 55}}},
		"failed": {`{"state":"FAILED","code":-2,"reason":"jam","result":[1]}`,
			answer{Failed, Outcome{Code: -2, Reason: "jam", Result: []byte("[1]")}}},
		"wrong types do not make it a success": {`{"state":"REJECTED","code":"x","progress":"y","reason":1}`,
			answer{Rejected, Outcome{}}},
		"progress out of range": {`{"state":"RUNNING","progress":1e9}`, answer{Running, Outcome{Progress: 100}}},
		"longer than is kept": {strings.Repeat("x", 70),
			answer{Succeeded, Outcome{Progress: 100, Result: []byte(strings.Repeat("x", 64)), Truncated: true}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := parseAnswer([]byte(c.payload), 64)
			if len(got.outcome.Result) == 0 {
				got.outcome.Result = nil
			}
			require.Equal(t, c.want, got)
		})
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"state":"RUNNING","progress":1}`))
	f.Add([]byte("\xff\xfe"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		a := parseAnswer(payload, 32)
		if a.state < Running || a.state > Rejected || a.outcome.Progress > 100 || len(a.outcome.Result) > 32 {
			t.Fatalf("%+v", a)
		}
		var view Answer
		view.describe(&a.outcome)
	})
}

func TestTopics(t *testing.T) {
	s := &Service{}
	for topic, want := range map[string]bool{
		"admin/commands": true, "admin/commands/x/events": false, "devices/d/results/x-0": true,
		"devices/d/results/": false, "devices/d/results/x/y": false, "devices//results/x": false,
		"devices/d/commands/x": false, "devices/d/results": false, "": false, "devices/": false,
	} {
		require.Equal(t, want, s.Wants(topic), topic)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { s.Wants("devices/d/results/x-0") }))
}
