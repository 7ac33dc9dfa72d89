package bridge_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testkafka"
)

// TestKafka runs everything that needs a real Kafka against one, in turn.
func TestKafka(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a Kafka")
	}
	k := testenv.StartKafka(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *testenv.Kafka)
	}{
		{"records arrive complete and in order", recordsArrive},
		{"every compression", everyCompression},
		{"SASL", saslMechanisms},
		{"stopped and started in the middle", stoppedInTheMiddle},
		{"frozen, then alive again", frozen},
		{"spool of a killed process", spoolOfAKilledProcess},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, k) })
	}
}

func recordsArrive(t *testing.T, k *testenv.Kafka) {
	_, spool := openSpool(t, "", 1<<30)
	u := startUplink(t, kafkaConfig(t, k.Brokers...), spool)
	f := newFleet("arrive", 100)
	for range 200 {
		f.send(u, 100)
	}
	f.awaitAnswers(t, 20*time.Second)
	awaitDrained(t, u, 20*time.Second)
	assert.Empty(t, f.refused)
	arrived := testkafka.All(t, k.Brokers, "arrive")
	f.check(t, arrived)
	partitions := map[string]int32{}
	for _, m := range arrived {
		if p, ok := partitions[string(m.Key)]; ok {
			require.Equal(t, p, m.Partition, "one partition for a key")
		}
		partitions[string(m.Key)] = m.Partition
		require.Equal(t, "client_id", string(m.Headers[0].Key))
		require.Equal(t, m.Key, m.Headers[0].Value)
	}
	assert.Len(t, partitions, 100)
}

func everyCompression(t *testing.T, k *testenv.Kafka) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			_, spool := openSpool(t, "", 1<<30)
			cfg := kafkaConfig(t, k.Brokers...)
			cfg.Compression = codec
			u := startUplink(t, cfg, spool)
			f := newFleet("codec-"+codec, 10)
			for range 10 {
				f.send(u, 1000)
			}
			f.awaitAnswers(t, 10*time.Second)
			awaitDrained(t, u, 10*time.Second)
			f.check(t, testkafka.All(t, k.Brokers, "codec-"+codec))
		})
	}
}

func saslMechanisms(t *testing.T, k *testenv.Kafka) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			_, spool := openSpool(t, "", 1<<30)
			cfg := kafkaConfig(t, k.SASLBrokers...)
			cfg.SASL = bridge.SASLConfig{Mechanism: mechanism, Username: testenv.KafkaUser, Password: testenv.KafkaPassword}
			u := startUplink(t, cfg, spool)
			f := newFleet("sasl-"+mechanism, 10)
			f.send(u, 10)
			f.awaitAnswers(t, 10*time.Second)
			awaitDrained(t, u, 10*time.Second)

			cfg.SASL.Password = conf.Secret("wrong")
			_, spool = openSpool(t, "", 1<<30)
			u = startUplink(t, cfg, spool)
			testenv.Eventually(t, 20*time.Second, "a wrong password shows", func() bool { return u.Status().LastError != "" })
			assert.Equal(t, "open", u.Status().Circuit)
			assert.NotContains(t, u.Status().LastError, "wrong")
		})
	}
}

// keepSending sends at the pace of devices until stop is closed.
func keepSending(f *fleet, u *bridge.Uplink, stop chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	wg.Go(func() {
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
				f.send(u, 200)
			}
		}
	})
	return &wg
}

func stoppedInTheMiddle(t *testing.T, k *testenv.Kafka) {
	_, spool := openSpool(t, t.TempDir(), 1<<30)
	u := startUplink(t, kafkaConfig(t, k.Brokers...), spool)
	f := newFleet("middle", 20)
	f.send(u, 10)
	f.awaitAnswers(t, 10*time.Second)
	awaitDrained(t, u, 20*time.Second)
	stop := make(chan struct{})
	sending := keepSending(f, u, stop)
	k.Kill9()
	testenv.Eventually(t, 20*time.Second, "the circuit opens", func() bool { return u.Status().Circuit == "open" })
	before := u.Status().SpoolMessages
	testenv.Eventually(t, 20*time.Second, "devices are answered from the spool", func() bool {
		return u.Status().SpoolMessages > before+200
	})
	k.Start()
	testenv.Eventually(t, 2*time.Minute, "Kafka is used again", func() bool { return u.Status().Circuit == "closed" })
	close(stop)
	sending.Wait()
	f.awaitAnswers(t, 20*time.Second)
	awaitDrained(t, u, 2*time.Minute)
	assert.Empty(t, f.refused)
	f.check(t, testkafka.All(t, k.Brokers, "middle"))
}

func frozen(t *testing.T, k *testenv.Kafka) {
	_, spool := openSpool(t, t.TempDir(), 1<<30)
	u := startUplink(t, kafkaConfig(t, k.Brokers...), spool)
	f := newFleet("frozen", 50)
	f.send(u, 10)
	f.awaitAnswers(t, 10*time.Second)
	awaitDrained(t, u, 20*time.Second)
	k.Pause()
	began := time.Now()
	for range 20 {
		f.send(u, 100)
	}
	f.awaitAnswers(t, 20*time.Second)
	t.Logf("answered from the spool after %v, with ack_timeout = 1s", time.Since(began))
	assert.Equal(t, "open", u.Status().Circuit)
	assert.Empty(t, f.refused)
	k.Resume()
	awaitDrained(t, u, 2*time.Minute)
	f.check(t, testkafka.All(t, k.Brokers, "frozen"))
}

const childFolder = "PENSTOCK_TEST_SPOOL_CHILD"

// TestSpoolChild is no test: it is the process that spoolOfAKilledProcess kills. It sends to a Kafka that is not there
// and prints what was acknowledged.
func TestSpoolChild(t *testing.T) {
	dir := os.Getenv(childFolder)
	if dir == "" {
		t.Skip("runs as a child process only")
	}
	_, spool := openSpool(t, dir, 1<<30)
	u := startUplink(t, kafkaConfig(t, "127.0.0.1:1"), spool)
	for n := 0; ; n++ {
		f := newFleet("killed", 20)
		for d := range f.next {
			f.next[d] = n
		}
		f.send(u, 100)
		f.awaitAnswers(t, 10*time.Second)
		for id := range f.acked {
			fmt.Println("acked", id)
		}
	}
}

func spoolOfAKilledProcess(t *testing.T, k *testenv.Kafka) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestSpoolChild$", "-test.v")
	child.Env = append(os.Environ(), childFolder+"="+dir)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	f := newFleet("killed", 20)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
			f.acked[id] = true
		}
		if len(f.acked) == 2000 {
			require.NoError(t, child.Process.Kill())
		}
	}
	_ = child.Wait()
	require.GreaterOrEqual(t, len(f.acked), 2000)

	_, spool := openSpool(t, dir, 1<<30)
	assert.GreaterOrEqual(t, spool.Stats().Messages, int64(len(f.acked)))
	u := startUplink(t, kafkaConfig(t, k.Brokers...), spool)
	for d := range f.next {
		f.next[d] = 1000000 // new records must come behind the old ones
	}
	f.send(u, 10)
	f.awaitAnswers(t, 10*time.Second)
	awaitDrained(t, u, 2*time.Minute)
	f.check(t, testkafka.All(t, k.Brokers, "killed"))
}

func TestPartitionOfAKeyIsItsFNV1aHash(t *testing.T) {
	p := sarama.NewHashPartitioner("t")
	got, err := p.Partition(&sarama.ProducerMessage{Key: sarama.StringEncoder("pump-7")}, 12)
	require.NoError(t, err)
	h := uint32(2166136261)
	for _, c := range []byte("pump-7") {
		h = (h ^ uint32(c)) * 16777619
	}
	want := int32(h) % 12
	assert.Equal(t, max(want, -want), got)
}
