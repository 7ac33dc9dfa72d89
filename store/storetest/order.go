package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

func doneInOrder(f *fixture) {
	const n = 2000
	order := make(chan int, 2*n)
	for i := range n {
		ops := []broker.Op{appendOp("a", uint64(i+1), message("t", "m"))}
		if i%10 == 3 {
			ops[0].Kind = 200 // refused, but in its place
		}
		f.store.Apply(&broker.Tx{Ops: ops, Lazy: i%3 == 0}, func(err error) {
			if (err != nil) != (i%10 == 3) {
				order <- -1
			}
			order <- i
		})
		if i%7 == 0 {
			f.store.Apply(&broker.Tx{Ops: []broker.Op{seqOp(broker.OpRemove, "a", uint64(i+1))}, Lazy: true}, nil)
		}
	}
	for i := range n {
		select {
		case got := <-order:
			require.Equal(f, i, got)
		case <-time.After(patience):
			f.Fatal("done was not called")
		}
	}
	require.NoError(f, f.try(&broker.Tx{Ops: []broker.Op{putSession("a")}}))
	require.Empty(f, order, "done is called once")
}

func lazyTransactions(f *fixture) {
	ops := []broker.Op{putSession("a"), appendOp("a", 1, message("t", "m"))}
	require.NoError(f, f.try(&broker.Tx{Lazy: true, Ops: ops}))
	require.Equal(f, []uint64{1}, f.seqs("a"), "visible once done was called")
	require.NoError(f, f.try(&broker.Tx{Lazy: true, Ops: []broker.Op{seqOp(broker.OpRemove, "a", 1)}}))
	require.Empty(f, f.seqs("a"))
	f.apply(appendOp("a", 2, message("t", "m")))
	f.stored(func() { require.Equal(f, 1, f.sessions()["a"].QueueLen, "a store that is closed loses nothing") })
}

// manyGoroutines lets each of several writers see its own transactions, while all share messages.
func manyGoroutines(f *fixture) {
	const writers, rounds = 8, 60
	failures := make(chan error, writers)
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() { failures <- f.write(numbered("s", w), rounds) })
	}
	wait.Wait()
	for range writers {
		require.NoError(f, <-failures)
	}
	check := func() {
		for w := range writers {
			require.Len(f, f.queue(numbered("s", w)), rounds/2)
		}
		require.Len(f, f.queue("all"), 0)
	}
	check()
	f.again()
	check()
}

func (f *fixture) write(session string, rounds int) error {
	done := make(chan error, 1)
	for round := range uint64(rounds) {
		m := message("t", fmt.Sprintf("%s %d", session, round))
		f.store.Apply(&broker.Tx{Ops: []broker.Op{appendOp(session, round+1, m), appendOp(session+"'", round+1, m)}},
			func(err error) { done <- err })
		if err := <-done; err != nil {
			return err
		}
		entries, err := f.store.Queue(session, round+1, 1, 1<<20)
		if err != nil {
			return err
		}
		if len(entries) != 1 || string(entries[0].Message.Payload) != string(m.Payload) {
			return fmt.Errorf("%s does not see its entry %d", session, round+1)
		}
		ops := []broker.Op{seqOp(broker.OpRemove, session+"'", round+1)}
		if round%2 == 0 {
			ops = append(ops, seqOp(broker.OpRemove, session, round+1))
		}
		f.store.Apply(&broker.Tx{Ops: ops, Lazy: true}, nil)
	}
	f.store.Apply(&broker.Tx{Ops: []broker.Op{putSession(session)}}, func(err error) { done <- err })
	return <-done
}

// againstModel does random things to the store and to a plain map, and compares them.
func againstModel(f *fixture) {
	seed := uint64(time.Now().UnixNano())
	f.Logf("seed %d", seed)
	m := model{rand: rand.New(rand.NewPCG(seed, 1)), queues: make(map[string][]broker.QueueEntry)}
	for round := range 400 {
		done := make(chan error, 1)
		f.store.Apply(m.tx(), func(err error) { done <- err })
		if m.rand.IntN(3) == 0 {
			continue // the next transaction joins this one's batch
		}
		require.NoError(f, <-done)
		if round%50 == 49 {
			f.apply()
			f.again()
		}
		if m.rand.IntN(8) == 0 {
			f.apply(putSession("barrier"))
			for i := range modelSessions {
				f.equalEntries(m.queues[numbered("s", i)], f.queue(numbered("s", i)))
			}
		}
	}
}

const modelSessions = 6

type model struct {
	rand   *rand.Rand
	seq    uint64
	queues map[string][]broker.QueueEntry
}

func (m *model) tx() *broker.Tx {
	tx := &broker.Tx{Lazy: m.rand.IntN(2) == 0}
	shared := message("t", fmt.Sprint("shared ", m.seq))
	for range 1 + m.rand.IntN(6) {
		session := numbered("s", m.rand.IntN(modelSessions))
		queue := m.queues[session]
		at := 0
		if len(queue) > 0 {
			at = m.rand.IntN(len(queue))
		}
		switch kind := m.rand.IntN(20); {
		case kind < 10 || len(queue) == 0:
			m.seq++
			op := appendOp(session, m.seq, shared)
			if kind%3 == 0 {
				op.Entry.Message = message("t", fmt.Sprint("own ", m.seq))
			}
			tx.Ops = append(tx.Ops, op)
			m.queues[session] = append(queue, op.Entry)
		case kind < 15:
			tx.Ops = append(tx.Ops, seqOp(broker.OpRemove, session, queue[at].Seq))
			m.queues[session] = append(append([]broker.QueueEntry(nil), queue[:at]...), queue[at+1:]...)
		case kind < 18:
			tx.Ops = append(tx.Ops, seqOp(broker.OpRelease, session, queue[at].Seq))
			queue[at].Message, queue[at].Released = nil, true
		case kind < 19:
			tx.Ops = append(tx.Ops, broker.Op{Kind: broker.OpDeleteSession, Session: session})
			delete(m.queues, session)
		default:
			tx.Ops = append(tx.Ops, putSession(session))
		}
	}
	return tx
}
