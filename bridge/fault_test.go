package bridge_test

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockmq/penstock/hooks/uplink"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testkafka"
)

func startFake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(4, "up")}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// answerProduce answers a produce request without storing anything: with code for every partition for which fails.
func answerProduce(kreq kmsg.Request, code func(topic string, partition int32) int16) kmsg.Response {
	req := kreq.(*kmsg.ProduceRequest)
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, rt := range req.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition = rp.Partition
			p.ErrorCode = code(rt.Topic, rp.Partition)
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func always(err *kerr.Error) func(string, int32) int16 {
	return func(string, int32) int16 { return err.Code }
}

func TestRecordsReachTheirPartitionInOrder(t *testing.T) {
	c := startFake(t)
	_, spool := openSpool(t, "", 1<<30)
	u := startUplink(t, kafkaConfig(t, c.ListenAddrs()...), spool)
	testenv.Eventually(t, 5*time.Second, "circuit closes", func() bool { return u.Status().Circuit == "closed" })
	f := newFleet("up", 20)
	for range 100 {
		f.send(u, 10)
	}
	f.awaitAnswers(t, 10*time.Second)
	arrived := testkafka.All(t, c.ListenAddrs(), "up")
	assert.Len(t, arrived, 2000, "each record once")
	f.check(t, arrived)
	assert.Zero(t, u.Status().SpoolMessages)
	assert.Equal(t, "client_id", string(arrived[0].Headers[0].Key))
	assert.Equal(t, arrived[0].Key, arrived[0].Headers[0].Value)
	assert.EqualValues(t, 1700000000000, arrived[0].Timestamp.UnixMilli())
}

// control is what kfake asks for each request: the answer, or to close the connection, and whether it is answered.
type control = func(kmsg.Request) (kmsg.Response, error, bool)

// fault makes a control that counts how often it was asked.
type fault = func(c *kfake.Cluster, hits *atomic.Int32) control

func TestFaultsOfKafka(t *testing.T) {
	cases := map[string]fault{
		"not leader, again and again":      failTimes(12, kerr.NotLeaderForPartition),
		"not enough replicas":              failTimes(3, kerr.NotEnoughReplicas),
		"error that sarama does not retry": failTimes(3, kerr.UnknownServerError),
		"sequence refused":                 failTimes(2, kerr.OutOfOrderSequenceNumber),
		"no authorization for a while":     failTimes(4, kerr.TopicAuthorizationFailed),
		"no answer": func(c *kfake.Cluster, hits *atomic.Int32) control {
			return func(kmsg.Request) (kmsg.Response, error, bool) {
				if hits.Add(1) <= 2 {
					c.KeepControl()
					return nil, nil, true
				}
				return nil, nil, false
			}
		},
		"connection lost after the request": func(c *kfake.Cluster, hits *atomic.Int32) control {
			return func(kmsg.Request) (kmsg.Response, error, bool) {
				if hits.Add(1) <= 8 {
					c.KeepControl()
					return nil, errors.New("close"), true
				}
				return nil, nil, false
			}
		},
	}
	for name, arrange := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startFake(t)
			_, spool := openSpool(t, "", 1<<30)
			u := startUplink(t, kafkaConfig(t, c.ListenAddrs()...), spool)
			f := newFleet("up", 20)
			f.send(u, 10)
			f.awaitAnswers(t, time.Minute)
			var hits atomic.Int32
			c.ControlKey(int16(kmsg.Produce), arrange(c, &hits))
			for range 300 {
				f.send(u, 100)
			}
			f.awaitAnswers(t, time.Minute)
			awaitDrained(t, u, 2*time.Minute)
			assert.Empty(t, f.refused)
			assert.Positive(t, hits.Load())
			f.check(t, testkafka.All(t, c.ListenAddrs(), "up"))
		})
	}
}

func failTimes(n int32, err *kerr.Error) fault {
	return func(c *kfake.Cluster, hits *atomic.Int32) control {
		return func(req kmsg.Request) (kmsg.Response, error, bool) {
			if hits.Add(1) > n {
				return nil, nil, false
			}
			c.KeepControl()
			return answerProduce(req, always(err)), nil, true
		}
	}
}

// TestOrderUnderRandomFaults fails requests at random, in all the ways there are, while records keep coming.
func TestOrderUnderRandomFaults(t *testing.T) {
	c := startFake(t)
	_, spool := openSpool(t, "", 1<<30)
	cfg := kafkaConfig(t, c.ListenAddrs()...)
	cfg.Linger = 0 // many small batches: the most chances to overtake
	u := startUplink(t, cfg, spool)
	testenv.Eventually(t, 5*time.Second, "circuit closes", func() bool { return u.Status().Circuit == "closed" })
	const maxFaults = 25
	random := rand.New(rand.NewPCG(1, 2))
	var faults atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if faults.Load() >= maxFaults || random.IntN(10) > 0 {
			return nil, nil, false
		}
		faults.Add(1)
		switch random.IntN(5) {
		case 0:
			return answerProduce(req, always(kerr.UnknownServerError)), nil, true
		case 1:
			return answerProduce(req, always(kerr.NotLeaderForPartition)), nil, true
		case 2:
			return answerProduce(req, always(kerr.OutOfOrderSequenceNumber)), nil, true
		case 3: // some partitions of a request fail; the others were never told
			return answerProduce(req, func(_ string, p int32) int16 {
				if p%2 == 0 {
					return kerr.UnknownServerError.Code
				}
				return kerr.NotEnoughReplicas.Code
			}), nil, true
		default:
			return nil, errors.New("close"), true
		}
	})
	f := newFleet("up", 10)
	deadline := time.Now().Add(10 * time.Second)
	for faults.Load() < maxFaults && time.Now().Before(deadline) {
		f.send(u, 10)
		time.Sleep(time.Millisecond) // the pace of devices
	}
	f.awaitAnswers(t, time.Minute)
	awaitDrained(t, u, 2*time.Minute)
	assert.Empty(t, f.refused)
	assert.Positive(t, faults.Load())
	f.check(t, testkafka.All(t, c.ListenAddrs(), "up"))
}

func TestRecordThatKafkaNeverTakesIsSetAside(t *testing.T) {
	c := startFake(t)
	_, spool := openSpool(t, "", 1<<30)
	u := startUplink(t, kafkaConfig(t, c.ListenAddrs()...), spool)
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, topic := range kreq.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				if contains(p.Records, "POISON") {
					return answerProduce(kreq, always(kerr.InvalidRecord)), nil, true
				}
			}
		}
		return nil, nil, false
	})
	f := newFleet("up", 5)
	f.send(u, 10)
	poisoned := make(chan error, 1)
	u.Send(&uplink.Record{Topic: "up", Key: []byte("x"), Value: []byte("POISON")}, func(err error) { poisoned <- err })
	for range 20 {
		f.send(u, 10)
	}
	require.NoError(t, <-poisoned, "it is safe, on disk")
	f.awaitAnswers(t, 10*time.Second)
	testenv.Eventually(t, 20*time.Second, "the record is set aside", func() bool { return u.Status().SetAside == 1 })
	awaitDrained(t, u, 20*time.Second)
	f.check(t, testkafka.All(t, c.ListenAddrs(), "up"))
	assert.Empty(t, f.refused)
}

func contains(b []byte, s string) bool {
	for i := 0; i+len(s) <= len(b); i++ {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func TestFullSpoolRefuses(t *testing.T) {
	_, spool := openSpool(t, "", 64<<10)
	u := startUplink(t, kafkaConfig(t, "127.0.0.1:1"), spool)
	f := newFleet("up", 10)
	for range 20 {
		f.send(u, 1000)
	}
	f.awaitAnswers(t, 10*time.Second)
	assert.NotEmpty(t, f.refused)
	f.assertRefusals(t, packets.ErrQuotaExceeded.Code)
	assert.EqualValues(t, len(f.acked), spool.Stats().Messages)
	assert.Equal(t, "open", u.Status().Circuit)
	testenv.Eventually(t, 10*time.Second, "the error shows", func() bool { return u.Status().LastError != "" })
}

func TestTooLargeIsRefused(t *testing.T) {
	_, spool := openSpool(t, "", 64<<20)
	u := startUplink(t, kafkaConfig(t, "127.0.0.1:1"), spool)
	f := newFleet("up", 1)
	f.send(u, 1<<20)
	require.Len(t, f.refused, 1)
	f.assertRefusals(t, packets.ErrImplementationSpecificError.Code)
}

func TestCloseKeepsWhatKafkaDoesNotHave(t *testing.T) {
	c := startFake(t)
	_, spool := openSpool(t, "", 1<<30)
	u := startUplink(t, kafkaConfig(t, c.ListenAddrs()...), spool)
	testenv.Eventually(t, 5*time.Second, "circuit closes", func() bool { return u.Status().Circuit == "closed" })
	f := newFleet("up", 10)
	f.send(u, 10)
	closeUplink(t, u)
	assert.Zero(t, f.unanswered(), "Close waits for Kafka")
	assert.Zero(t, spool.Stats().Messages)
	f.send(u, 10)
	assert.Len(t, f.refused, 10, "closed is closed")

	u = startUplink(t, kafkaConfig(t, "127.0.0.1:1"), spool)
	f.send(u, 10)
	closeUplink(t, u)
	assert.Zero(t, f.unanswered())
	assert.EqualValues(t, 10, spool.Stats().Messages)

	u = startUplink(t, kafkaConfig(t, c.ListenAddrs()...), spool)
	awaitDrained(t, u, 10*time.Second)
	arrived := testkafka.All(t, c.ListenAddrs(), "up")
	assert.Len(t, arrived, 20)
	f.check(t, arrived)
}

// TestSlowKafkaSpillsInOrder gives more than max_inflight at once.
func TestSlowKafkaSpillsInOrder(t *testing.T) {
	c := startFake(t)
	_, spool := openSpool(t, "", 1<<30)
	cfg := kafkaConfig(t, c.ListenAddrs()...)
	cfg.MaxInflight = 1 << 20
	u := startUplink(t, cfg, spool)
	testenv.Eventually(t, 5*time.Second, "circuit closes", func() bool { return u.Status().Circuit == "closed" })
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { time.Sleep(20 * time.Millisecond) })
		return nil, nil, false
	})
	f := newFleet("up", 20)
	spilled := false
	for range 300 {
		f.send(u, 1000)
		spilled = spilled || u.Status().SpoolMessages > 0
		testenv.Eventually(t, 5*time.Second, "the disk keeps up", func() bool { return f.unanswered() < 1500 })
	}
	f.awaitAnswers(t, time.Minute)
	assert.True(t, spilled)
	assert.Empty(t, f.refused)
	awaitDrained(t, u, 2*time.Minute)
	f.check(t, testkafka.All(t, c.ListenAddrs(), "up"))
}
