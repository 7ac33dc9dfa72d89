package command

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// TestAnythingInAnyOrder does random things to commands and checks, with every version that the store gets, that no
// state goes back but from SENT to QUEUED, that what has ended stays so within its round, and at every rest that the
// counts are those of the stored executions.
func TestAnythingInAnyOrder(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { playModel(t, rand.New(rand.NewPCG(seed, 1)), 150) })
	}
}

func FuzzAnythingInAnyOrder(f *testing.F) {
	f.Add(uint64(1), uint8(50))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) { playModel(t, rand.New(rand.NewPCG(seed, 2)), int(steps)) })
}

func playModel(t *testing.T, dice *rand.Rand, steps int) {
	change := func(c *Config) {
		c.Window, c.Queue, c.Attempts = 1+dice.IntN(2), 3+dice.IntN(3), dice.IntN(2)*4
		c.RunningTimeout, c.EventDetail = time.Minute, dice.IntN(2)*10
	}
	inBubble(t, change, func(r *rig) {
		m := &model{rig: r, dice: dice, devices: []string{"a", "b", "c"}, told: map[string]map[string]ExecutionView{}}
		for range steps {
			m.step()
			m.check()
		}
	})
}

type model struct {
	*rig
	dice    *rand.Rand
	devices []string
	ids     []string
	told    map[string]map[string]ExecutionView // what callers were told: command, then device
}

func (m *model) device() string { return m.devices[m.dice.IntN(len(m.devices))] }

func (m *model) step() {
	device := m.device()
	m.store.mu.Lock() // crash makes a new one
	m.store.onWrite = func(old *Execution, u *Update) { checkStep(m.T, old, &u.Execution) }
	m.store.mu.Unlock()
	switch m.dice.IntN(14) {
	case 0, 1:
		more := ""
		if m.dice.IntN(2) == 0 {
			more += `,"result_timeout_s":5`
		}
		if m.dice.IntN(3) == 0 {
			more += `,"collapse_key":"k"`
		}
		st := m.issue(`{"targets":{"devices":["a","b","c"]},"payload":1,"ttl_s":%d,"ack_timeout_s":2,"priority":%d%s}`,
			1+m.dice.IntN(20), m.dice.IntN(3), more)
		m.ids = append(m.ids, st.ID)
	case 2, 3:
		m.connect(device)
	case 4:
		m.disconnect(device)
	case 5, 6, 7:
		m.answer(device, func(s sent) { s.h.Acked(0) })
	case 8:
		m.answer(device, func(s sent) { s.h.Acked(0x83) })
	case 9:
		m.answer(device, func(s sent) { s.h.Lost(broker.ErrNotConnected) })
	case 10:
		m.anyResult(device)
	case 11:
		m.control()
	case 12:
		m.sleep(time.Duration(m.dice.IntN(4000)) * time.Millisecond)
	case 13:
		if m.dice.IntN(4) == 0 {
			m.crash()
		}
	}
	synctest.Wait()
}

func (m *model) answer(device string, f func(sent)) {
	if s, ok := m.b.take(device); ok {
		f(s)
	}
}

func (m *model) anyID() (string, bool) {
	if len(m.ids) == 0 {
		return "", false
	}
	return m.ids[m.dice.IntN(len(m.ids))], true
}

func (m *model) anyResult(device string) {
	id, ok := m.anyID()
	if !ok {
		return
	}
	payloads := []string{"ok", `{"state":"RUNNING","progress":1}`, `{"state":"FAILED"}`, `{"state":"REJECTED"}`}
	payload := payloads[m.dice.IntN(len(payloads))]
	execution := executionID(id, uint32(m.dice.IntN(3)), uint32(m.dice.IntN(2)))
	require.NoError(m, m.result(device, execution, payload))
}

func (m *model) control() {
	id, ok := m.anyID()
	if !ok {
		return
	}
	f := []func(context.Context, string) (Status, error){m.s.Cancel, m.s.Pause, m.s.Resume, m.s.Retry}[m.dice.IntN(4)]
	_, err := f(context.Background(), id)
	require.NoError(m, err)
}

func (m *model) check() {
	open := 0
	for _, id := range m.ids {
		st, counts := m.status(id), Counts{}
		told := m.told[id]
		if told == nil {
			told = map[string]ExecutionView{}
			m.told[id] = told
		}
		for _, x := range m.executions(id) {
			counts.Total++
			*counts.Of(x.State)++
			if old, seen := told[x.Device]; seen {
				checkTold(m.T, old, x)
			}
			told[x.Device] = x
		}
		require.Equal(m, counts, st.Counts, "counts of %s", id)
		require.EqualValues(m, len(m.devices), counts.Total)
		if !st.Done() {
			open++
		}
	}
	require.Equal(m, open, m.s.active)
	m.checkShards()
}

// checkShards compares what the queues believe with what is in them.
func (m *model) checkShards() {
	for _, sh := range m.s.shards {
		sh.mu.Lock()
		waits := 0
		for id, d := range sh.devices {
			n, slots := 0, 0
			for _, l := range d.lanes {
				n += len(l.queue)
				slots += l.slots
				require.LessOrEqual(m, l.slots, m.cfg.Window, "window of %s", id)
			}
			require.Equal(m, n, d.waiting)
			require.Equal(m, slots, d.slots)
			require.False(m, d.idle(), "%s has nothing to do", id)
			waits += n
		}
		require.Equal(m, waits, sh.waiting)
		for i, e := range sh.deadlines {
			require.EqualValues(m, i, e.heapAt)
			require.NotZero(m, e.deadline)
		}
		sh.mu.Unlock()
	}
}

func checkStep(t *testing.T, old, now *Execution) {
	if now.Rev <= old.Rev {
		t.Errorf("revision %d after %d", now.Rev, old.Rev)
	}
	if now.Round == old.Round {
		checkStates(t, old.State, now.State, now.Attempt > old.Attempt)
	} else if now.Round < old.Round || !old.retryable() {
		t.Errorf("round %d of %v after round %d of %v", now.Round, now.State, old.Round, old.State)
	}
}

func checkTold(t *testing.T, old, now ExecutionView) {
	if now.Retries == old.Retries {
		checkStates(t, old.State, now.State, now.Attempt > old.Attempt)
	}
}

func checkStates(t *testing.T, old, now State, again bool) {
	switch {
	case old == now:
	case old == Sent && now == Queued && again:
	case old.final():
		t.Errorf("%v became %v", old, now)
	case now.rank() < old.rank():
		t.Errorf("%v went back to %v", old, now)
	}
}
