package local

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

const (
	killFolder = "PENSTOCK_TEST_KILL_FOLDER"
	killFrom   = "PENSTOCK_TEST_KILL_FROM"
	killRounds = 12
	killQueues = 5
)

// TestMain lets the test binary be the process that TestKilledProcess kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killFolder); dir != "" {
		if err := writeUntilKilled(dir, os.Getenv(killFrom)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// killTx is transaction n: it appends entry n to every queue, with a message that they share, and removes entry n-3 of
// one of them.
func killTx(n uint64) *broker.Tx {
	shared := &broker.Message{Topic: "t", Payload: []byte(strconv.FormatUint(n, 10))}
	tx := &broker.Tx{Lazy: n%5 == 4}
	for i := range uint64(killQueues) {
		tx.Ops = append(tx.Ops, broker.Op{Kind: broker.OpAppend, Session: fmt.Sprint("q", i),
			Entry: broker.QueueEntry{Seq: n, Message: shared, QoS: 1}})
	}
	if n > 3 {
		tx.Ops = append(tx.Ops, broker.Op{Kind: broker.OpRemove, Session: fmt.Sprint("q", n%killQueues),
			Entry: broker.QueueEntry{Seq: n - 3}})
	}
	return tx
}

// writeUntilKilled applies transactions and prints the number of each that is done and not lazy.
func writeUntilKilled(dir, from string) error {
	first, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return err
	}
	db, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	store := db.BrokerStore()
	window := make(chan struct{}, 64)
	for n := first; ; n++ {
		tx := killTx(n)
		window <- struct{}{}
		store.Apply(tx, func(err error) {
			switch {
			case err != nil:
				fmt.Println("error", err)
			case !tx.Lazy:
				fmt.Println(n)
			}
			<-window
		})
	}
}

// TestKilledProcess kills a process in the midst of its writes, again and again, and expects of the store all that was
// reported as done, whole transactions only, and none after a gap.
func TestKilledProcess(t *testing.T) {
	dir, next := t.TempDir(), uint64(1)
	for range killRounds {
		done := runAndKill(t, dir, next)
		last := checkAfterKill(t, dir)
		require.GreaterOrEqual(t, last, done, "transaction %d was reported as done", done)
		next = last + 1
	}
	t.Logf("%d transactions survived %d kills", next-1, killRounds)
	require.Greater(t, next, uint64(killRounds))
}

// runAndKill returns the last transaction that the child reported as done.
func runAndKill(t *testing.T, dir string, from uint64) (done uint64) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killFolder+"="+dir, fmt.Sprintf("%s=%d", killFrom, from))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the child writes nothing")
	killer := time.AfterFunc(rand.N(60*time.Millisecond), func() { _ = child.Process.Kill() })
	defer killer.Stop()
	for more := true; more; more = lines.Scan() {
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		require.NoError(t, err, lines.Text())
		require.Greater(t, n, done, "done came out of order")
		done = n
	}
	require.Error(t, child.Wait(), "it was killed")
	return done
}

// checkAfterKill returns the last transaction that is in the store.
func checkAfterKill(t *testing.T, dir string) (last uint64) {
	t.Helper()
	db, err := Open(dir, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	store := db.BrokerStore()
	require.NoError(t, store.Sessions(func(broker.StoredSession) error { return nil }))
	present := make([]map[uint64]bool, killQueues)
	for i := range killQueues {
		entries, err := store.Queue(fmt.Sprint("q", i), 0, 1<<30, 1<<40)
		require.NoError(t, err)
		present[i] = make(map[uint64]bool, len(entries))
		before := uint64(0)
		for _, e := range entries {
			if e.Seq <= before || strconv.FormatUint(e.Seq, 10) != string(e.Message.Payload) {
				t.Fatalf("entry %d comes after %d, with payload %q", e.Seq, before, e.Message.Payload)
			}
			before = e.Seq
			present[i][e.Seq] = true
			last = max(last, e.Seq)
		}
	}
	for n := uint64(1); n <= last; n++ {
		for i := range uint64(killQueues) {
			if removed := (n+3)%killQueues == i && n+3 <= last; removed == present[i][n] {
				t.Fatalf("entry %d of queue %d, after %d transactions: there is %v", n, i, last, present[i][n])
			}
		}
	}
	return last
}
