package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/conf"
)

// memStore is a Store in memory with a committer of its own, as the real one has. What it holds is what a crash leaves.
type memStore struct {
	writes chan func()
	ended  chan struct{}

	mu         sync.Mutex
	fail       error
	crashed    bool
	records    map[string]Record
	payloads   map[string][]byte
	executions map[string]map[uint32]Execution
	onWrite    func(old *Execution, u *Update)
}

func newMemStore() *memStore {
	m := &memStore{
		writes: make(chan func(), 1<<16), ended: make(chan struct{}), records: map[string]Record{},
		payloads: map[string][]byte{}, executions: map[string]map[uint32]Execution{},
	}
	go func() {
		defer close(m.ended)
		for f := range m.writes {
			f()
		}
	}()
	return m
}

func (m *memStore) close() {
	close(m.writes)
	<-m.ended
}

// crash returns a store with what is on this one's disk; this one takes nothing more.
func (m *memStore) crash() *memStore {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
	after := newMemStore()
	after.records, after.payloads = maps.Clone(m.records), maps.Clone(m.payloads)
	for id, group := range m.executions {
		after.executions[id] = maps.Clone(group)
	}
	return after
}

func (m *memStore) failWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memStore) Apply(tx *Tx, done func(error)) {
	m.writes <- func() {
		err := m.apply(tx)
		if done != nil {
			done(err)
		}
	}
}

func (m *memStore) apply(tx *Tx) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil || m.crashed {
		return errors.Join(m.fail, errors.New("not written"))
	}
	for _, id := range tx.Delete {
		delete(m.records, id)
		delete(m.payloads, id)
		delete(m.executions, id)
	}
	for _, r := range tx.Commands {
		m.records[r.ID] = *r
	}
	if tx.PutPayload {
		m.payloads[tx.Commands[0].ID] = tx.Payload
	}
	for i := range tx.Executions {
		m.put(&tx.Executions[i])
	}
	return nil
}

func (m *memStore) put(u *Update) {
	group := m.executions[u.Command]
	if group == nil {
		group = map[uint32]Execution{}
		m.executions[u.Command] = group
	}
	if m.onWrite != nil {
		old, ok := group[u.Execution.Index]
		if ok {
			m.onWrite(&old, u)
		}
	}
	group[u.Execution.Index] = u.Execution
}

func (m *memStore) Commands(yield func(*Record) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if err := yield(&r); err != nil {
			return err
		}
	}
	return nil
}

func (m *memStore) Payload(id string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.payloads[id]
	if !ok {
		return nil, ErrNotFound
	}
	return p, nil
}

func (m *memStore) Execution(id string, index uint32) (Execution, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x, ok := m.executions[id][index]
	if !ok {
		return x, ErrNotFound
	}
	return x, nil
}

func (m *memStore) Executions(id string, from uint32, yield func(*Execution) bool) error {
	m.mu.Lock()
	group := maps.Clone(m.executions[id])
	m.mu.Unlock()
	for _, index := range slices.Sorted(maps.Keys(group)) {
		x := group[index]
		if index >= from && !yield(&x) {
			return nil
		}
	}
	return nil
}

// sent is one message that the fake broker was given for a device.
type sent struct {
	device string
	m      *broker.Message
	h      broker.SendHandler
}

func (s sent) execution() string { return string(s.m.Properties.CorrelationData) }

// fakeBroker stands for the broker: devices connect, and what is sent to them waits until the test answers.
type fakeBroker struct {
	mu         sync.Mutex
	online     map[string]bool
	deaf       map[string]bool // connected, without a subscription
	open       []sent          // unanswered
	all        []sent
	events     []*broker.Message
	beforeSent func(sent) // replaces the call of Sent
}

func newFakeBroker() *fakeBroker {
	return &fakeBroker{online: map[string]bool{}, deaf: map[string]bool{}}
}

func (b *fakeBroker) Send(device string, m *broker.Message, h broker.SendHandler) error {
	b.mu.Lock()
	if !b.online[device] {
		b.mu.Unlock()
		return broker.ErrNotConnected
	}
	if b.deaf[device] {
		b.mu.Unlock()
		return broker.ErrNotSubscribed
	}
	s := sent{device, m, h}
	b.open = append(b.open, s)
	b.all = append(b.all, s)
	before := b.beforeSent
	b.mu.Unlock()
	if before != nil {
		before(s)
	} else {
		h.Sent()
	}
	return nil
}

func (b *fakeBroker) Publish(m *broker.Message, done func(error)) {
	b.mu.Lock()
	b.events = append(b.events, m)
	b.mu.Unlock()
	if done != nil {
		done(nil)
	}
}

func (b *fakeBroker) Clients(cursor string, limit int) (page []broker.ClientInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(b.online)) {
		if id > cursor && len(page) < limit {
			page = append(page, broker.ClientInfo{ClientID: id, Connected: b.online[id]})
		}
	}
	return page
}

// take removes the oldest unanswered message to the device.
func (b *fakeBroker) take(device string) (sent, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range b.open {
		if s.device == device {
			b.open = slices.Delete(b.open, i, i+1)
			return s, true
		}
	}
	return sent{}, false
}

func (b *fakeBroker) published(topic string) (payloads []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.events {
		if m.Topic == topic {
			payloads = append(payloads, string(m.Payload))
		}
	}
	return payloads
}

// rig is a service with a fake broker and a store in memory, inside a bubble with a clock of its own.
type rig struct {
	*testing.T
	s        *Service
	b        *fakeBroker
	store    *memStore
	registry *prometheus.Registry
	cfg      Config
}

// inBubble runs a test of the service with time that passes only when everything waits.
func inBubble(t *testing.T, change func(*Config), f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, b: newFakeBroker(), store: newMemStore(), cfg: testConfig(t)}
		if change != nil {
			change(&r.cfg)
		}
		r.start()
		defer func() {
			require.NoError(t, r.s.Stop())
			r.store.close()
		}()
		f(r)
	})
}

func testConfig(t testing.TB) Config {
	var cfg Config
	require.NoError(t, conf.SetDefaults(&cfg))
	return cfg
}

func (r *rig) start() {
	r.registry = prometheus.NewRegistry()
	s, err := New(Options{Broker: r.b, Store: r.store, Config: r.cfg, Registerer: r.registry})
	require.NoError(r, err)
	require.NoError(r, s.Start(context.Background()))
	r.s = s
	synctest.Wait()
}

// crash ends the service as kill -9 does, and starts another on what was stored.
func (r *rig) crash() {
	r.b.mu.Lock()
	r.b.online, r.b.open = map[string]bool{}, nil
	r.b.mu.Unlock()
	after := r.store.crash()
	require.NoError(r, r.s.Stop())
	r.store.close()
	r.store = after
	r.start()
}

func (r *rig) connect(devices ...string) {
	for _, d := range devices {
		r.b.mu.Lock()
		r.b.online[d] = true
		r.b.mu.Unlock()
		r.s.shard(d).wakeUp(d)
	}
	synctest.Wait()
}

// disconnect loses what was not acknowledged, as the broker does.
func (r *rig) disconnect(device string) {
	r.b.mu.Lock()
	delete(r.b.online, device)
	r.b.mu.Unlock()
	for s, ok := r.b.take(device); ok; s, ok = r.b.take(device) {
		s.h.Lost(broker.ErrNotConnected)
	}
	synctest.Wait()
}

func (r *rig) issue(format string, args ...any) Status {
	r.Helper()
	st, err := r.s.Issue(context.Background(), Input{Body: fmt.Appendf(nil, format, args...)})
	require.NoError(r, err)
	synctest.Wait()
	return st
}

// one issues a command for one device.
func (r *rig) one(device, more string) Status {
	r.Helper()
	return r.issue(`{"targets":{"devices":[%q]},"payload":"go"%s}`, device, more)
}

// ack answers the oldest message to the device, and returns it.
func (r *rig) ack(device string, code byte) sent {
	r.Helper()
	s, ok := r.b.take(device)
	require.True(r, ok, "nothing was sent to %s", device)
	s.h.Acked(code)
	synctest.Wait()
	return s
}

func (r *rig) result(device, execution, payload string) error {
	r.Helper()
	answered := make(chan error, 1)
	r.s.Accept(&broker.Message{Topic: "devices/" + device + "/results/" + execution, Payload: []byte(payload)},
		func(err error) { answered <- err })
	synctest.Wait()
	select {
	case err := <-answered:
		return err
	default:
		r.Fatal("the result was not acknowledged")
		return nil
	}
}

func (r *rig) status(id string) Status {
	r.Helper()
	st, err := r.s.Status(id)
	require.NoError(r, err)
	return st
}

func (r *rig) executions(id string) []ExecutionView {
	r.Helper()
	page, err := r.s.Executions(id, "", "", 0)
	require.NoError(r, err)
	return page.Executions
}

// state requires a command with one execution to be in a state, by its counts and by its execution.
func (r *rig) state(id string, want State) ExecutionView {
	r.Helper()
	x := r.executions(id)[0]
	require.Equal(r, want.String(), x.State.String())
	counts := r.status(id).Counts
	require.EqualValues(r, 1, *counts.Of(want), "counts: %+v", counts)
	return x
}

func (r *rig) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// sentTo lists the payloads of everything that was sent to the device.
func (r *rig) sentTo(device string) (payloads []string) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	for _, s := range r.b.all {
		if s.device == device {
			payloads = append(payloads, string(s.m.Payload))
		}
	}
	return payloads
}

// transitions reads the states that events told of an execution, in order.
func (r *rig) transitions(command, execution string) (states []string) {
	for _, text := range r.b.published("admin/commands/" + command + "/events") {
		var ev Event
		require.NoError(r, json.Unmarshal([]byte(text), &ev))
		for _, x := range ev.Executions {
			if x.Execution == execution {
				states = append(states, x.State.String())
			}
		}
	}
	return states
}

func commaList(devices []string) string {
	quoted := make([]string, len(devices))
	for i, d := range devices {
		quoted[i] = fmt.Sprintf("%q", d)
	}
	return strings.Join(quoted, ",")
}
