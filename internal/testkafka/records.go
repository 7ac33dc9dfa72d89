// Package testkafka reads what a Kafka holds, for tests.
package testkafka

import (
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
)

// patience is for a record that must be there; it only passes when a test fails.
const patience = 30 * time.Second

// Each calls each with every record that a topic holds now, in order within each partition.
func Each(t testing.TB, brokers []string, topic string, each func(*sarama.ConsumerMessage)) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Consumer.Fetch.Default = 8 << 20
	cfg.Consumer.MaxWaitTime = 100 * time.Millisecond
	client, err := sarama.NewClient(brokers, cfg)
	require.NoError(t, err)
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	require.NoError(t, err)
	defer consumer.Close()
	partitions, err := client.Partitions(topic)
	require.NoError(t, err)
	for _, p := range partitions {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		require.NoError(t, err)
		if end == 0 {
			continue
		}
		pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		require.NoError(t, err)
		for last := int64(-1); last+1 < end; {
			select {
			case m := <-pc.Messages():
				last = m.Offset
				each(m)
			case <-time.After(patience):
				t.Fatalf("topic %s, partition %d: no record came after offset %d of %d", topic, p, last, end-1)
			}
		}
		require.NoError(t, pc.Close())
	}
}

// All returns every record that a topic holds now, in order within each partition.
func All(t testing.TB, brokers []string, topic string) (records []*sarama.ConsumerMessage) {
	t.Helper()
	Each(t, brokers, topic, func(m *sarama.ConsumerMessage) { records = append(records, m) })
	return records
}
