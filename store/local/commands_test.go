package local

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/command"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
)

func sampleExecutions() map[string]command.Execution {
	return map[string]command.Execution{
		"zero": {},
		"new":  {State: command.Queued, Attempt: 1, Rev: 1, Device: "d", Seq: 7, Created: 1000, Queued: 1000, Expires: 2000},
		"done": {State: command.Succeeded, Attempt: 3, Rev: 9, Round: 2, Late: true, Device: "ü", Seq: math.MaxUint64,
			Created: 1e12, Queued: 1e12, Sent: 1e12 + 1, Delivered: 1e12 + 2, Running: 1e12 + 3, Finished: 1e12 - 5,
			Expires: 2e12, NotBefore: 1, Outcome: &command.Outcome{Progress: 100, Code: -1, Reason: "r",
				Result: []byte{0, 1}, Truncated: true}},
	}
}

func TestExecutionsSurviveEncoding(t *testing.T) {
	for name, x := range sampleExecutions() {
		t.Run(name, func(t *testing.T) {
			stored := appendExecution(nil, &x)
			got, err := decodeExecution(stored)
			require.NoError(t, err)
			require.Equal(t, x, got)
			for n := range stored {
				_, err := decodeExecution(stored[:n])
				require.Error(t, err, "cut after %d bytes", n)
			}
			_, err = decodeExecution(append(stored, 0))
			require.Error(t, err)
		})
	}
}

func FuzzDecodeExecution(f *testing.F) {
	for _, x := range sampleExecutions() {
		f.Add(appendExecution(nil, &x))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeExecution(b)
		if err != nil {
			return
		}
		again, err := decodeExecution(appendExecution(nil, &x))
		if err != nil || !sameExecution(x, again) {
			t.Fatalf("%+v became %+v, %v", x, again, err)
		}
	})
}

// sameExecution lets a time that wrapped around to 0 be "not reached", which only damaged input has.
func sameExecution(a, b command.Execution) bool {
	if a.Outcome != nil && b.Outcome != nil {
		oa, ob := *a.Outcome, *b.Outcome
		if len(oa.Result)+len(ob.Result) == 0 {
			oa.Result, ob.Result = nil, nil
		}
		a.Outcome, b.Outcome = &oa, &ob
	}
	return reflect.DeepEqual(a, b)
}

func TestCommandsAreKeptAndRemoved(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(dir, Options{})
	require.NoError(t, err)
	s := db.Commands()
	apply := func(tx *command.Tx) {
		done := make(chan error, 1)
		s.Apply(tx, func(err error) { done <- err })
		require.NoError(t, <-done)
	}
	const many = scanChunk + 5
	for _, id := range []string{"a", "a-1", "b"} {
		tx := &command.Tx{Commands: []*command.Record{{ID: id, Seq: 3}}, Payload: []byte("p" + id), PutPayload: true}
		for i := range uint32(many) {
			x := command.Execution{Index: i, Device: id}
			tx.Executions = append(tx.Executions, command.Update{Command: id, Execution: x})
		}
		apply(tx)
	}
	apply(&command.Tx{Delete: []string{"a"}})
	require.NoError(t, db.Close())
	db, err = Open(dir, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	s = db.Commands()

	var ids []string
	require.NoError(t, s.Commands(func(r *command.Record) error { ids = append(ids, r.ID); return nil }))
	require.Equal(t, []string{"a-1", "b"}, ids)
	stop := errors.New("enough")
	require.ErrorIs(t, s.Commands(func(*command.Record) error { return stop }), stop)
	_, err = s.Payload("a")
	require.ErrorIs(t, err, command.ErrNotFound)
	_, err = s.Execution("a", 0)
	require.ErrorIs(t, err, command.ErrNotFound)
	payload, err := s.Payload("b")
	require.NoError(t, err)
	require.Equal(t, "pb", string(payload))
	x, err := s.Execution("a-1", 9)
	require.NoError(t, err)
	require.Equal(t, command.Execution{Index: 9, Device: "a-1"}, x)

	count := func(id string, from uint32, most int) (n int) {
		require.NoError(t, s.Executions(id, from, func(x *command.Execution) bool {
			require.Equal(t, from+uint32(n), x.Index)
			require.Equal(t, id, x.Device)
			n++
			return n < most
		}))
		return n
	}
	require.Zero(t, count("a", 0, many))
	require.Equal(t, many, count("b", 0, many+1))
	require.Equal(t, 5, count("b", scanChunk, many))
	require.Equal(t, 3, count("a-1", 2, 3))
}

// commandDevices stands for the broker with its devices.
type commandDevices struct {
	mu     sync.Mutex
	online bool
	echo   bool // acknowledges at once
	open   map[string]broker.SendHandler
	sent   map[string]int
}

func (d *commandDevices) Send(id string, _ *broker.Message, h broker.SendHandler) error {
	d.mu.Lock()
	online, echo := d.online, d.echo
	if online && !echo {
		d.open[id] = h
		d.sent[id]++
	}
	d.mu.Unlock()
	if !online {
		return broker.ErrNotConnected
	}
	h.Sent()
	if echo {
		h.Acked(0)
	}
	return nil
}

func (d *commandDevices) Publish(_ *broker.Message, done func(error))    { done(nil) }
func (d *commandDevices) Clients(string, int) (none []broker.ClientInfo) { return none }

func (d *commandDevices) handler(id string) broker.SendHandler {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[id]
}

func startCommands(t testing.TB, db *DB, d *commandDevices, change func(*command.Config)) *command.Service {
	t.Helper()
	var cfg command.Config
	require.NoError(t, conf.SetDefaults(&cfg))
	if change != nil {
		change(&cfg)
	}
	s, err := command.New(command.Options{Broker: d, Store: db.Commands(), Config: cfg})
	require.NoError(t, err)
	require.NoError(t, s.Start(context.Background()))
	return s
}

func TestCommandsGoOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(dir, Options{})
	require.NoError(t, err)
	devices := &commandDevices{online: true, open: map[string]broker.SendHandler{}, sent: map[string]int{}}
	s := startCommands(t, db, devices, nil)
	st, err := s.Issue(context.Background(), command.Input{Key: "k",
		Body: []byte(`{"targets":{"devices":["acked","sent"]},"payload":"x","result_timeout_s":60}`)})
	require.NoError(t, err)
	reach := func(what string, want func(command.Counts) bool) {
		testenv.Eventually(t, 10*time.Second, what, func() bool {
			st, err := s.Status(st.ID)
			return err == nil && want(st.Counts)
		})
	}
	reach("both are sent", func(c command.Counts) bool { return c.Sent == 2 })
	devices.handler("acked").Acked(0)
	reach("one is acknowledged", func(c command.Counts) bool { return c.Delivered == 1 })
	require.NoError(t, s.Stop())
	require.NoError(t, db.Close())

	db, err = Open(dir, Options{})
	require.NoError(t, err)
	s = startCommands(t, db, devices, nil)
	defer func() {
		require.NoError(t, s.Stop())
		require.NoError(t, db.Close())
	}()
	testenv.Eventually(t, 10*time.Second, "it is sent again", func() bool {
		page, err := s.Executions(st.ID, "SENT", "", 10)
		return err == nil && len(page.Executions) == 1 && page.Executions[0].Attempt == 2
	})
	reach("both count", func(c command.Counts) bool { return c.Sent == 1 && c.Delivered == 1 })
	devices.mu.Lock()
	require.Equal(t, map[string]int{"acked": 1, "sent": 2}, devices.sent)
	devices.mu.Unlock()
	done := make(chan error, 1)
	s.Accept(&broker.Message{Topic: "devices/acked/results/" + st.ID + "-0", Payload: []byte("ok")},
		func(err error) { done <- err })
	require.NoError(t, <-done)
	reach("the result has come", func(c command.Counts) bool { return c.Succeeded == 1 })
	again, err := s.Issue(context.Background(), command.Input{Key: "k",
		Body: []byte(`{"targets":{"devices":["acked","sent"]},"payload":"x","result_timeout_s":60}`)})
	require.NoError(t, err)
	require.Equal(t, st.ID, again.ID)
}

// BenchmarkCommand10000 takes a command for 10,000 devices from its JSON to the last acknowledgement, on disk.
func BenchmarkCommand10000(b *testing.B) {
	const devices = 10_000
	db, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	s := startCommands(b, db, &commandDevices{online: true, echo: true}, func(c *command.Config) { c.KeepMax = 1 })
	defer func() {
		require.NoError(b, s.Stop())
		require.NoError(b, db.Close())
	}()
	list := make([]string, devices)
	for i := range list {
		list[i] = fmt.Sprintf(`"device-%05d"`, i)
	}
	body := []byte(`{"targets":{"devices":[` + strings.Join(list, ",") + `]},"payload":{"open":true}}`)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		st, err := s.Issue(context.Background(), command.Input{Body: body})
		require.NoError(b, err)
		testenv.Eventually(b, time.Minute, "the command is finished", func() bool {
			st, err = s.Status(st.ID)
			return err == nil && st.Done()
		})
		require.EqualValues(b, devices, st.Counts.Delivered)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*devices), "µs/execution")
}
