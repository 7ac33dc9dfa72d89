package testenv

import (
	"testing"
	"time"
)

func TestKafkaStopsAndStartsOnTheSamePort(t *testing.T) {
	k := StartKafka(t)
	k.Pause()
	if kafkaAnswers(k.Brokers[0]) {
		t.Error("a frozen Kafka answers")
	}
	k.Resume()
	Eventually(t, 10*time.Second, "Kafka answers again", func() bool { return kafkaAnswers(k.Brokers[0]) })
	k.Stop()
	if kafkaAnswers(k.Brokers[0]) {
		t.Error("a stopped Kafka answers")
	}
	k.Start()
}
