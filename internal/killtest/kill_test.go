package killtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

func TestMain(m *testing.M) { testnode.Main(m) }

const rounds = 20

// TestKilledUnderLoadLosesNothingAcknowledged kills a node again and again while clients publish with QoS 1 and 2 to
// connected and offline durable sessions and to an uplink route. Whatever was acknowledged must have arrived at the
// end, in the order in which it was published; with QoS 2 all the way, once.
func TestKilledUnderLoadLosesNothingAcknowledged(t *testing.T) {
	node := testnode.Start(t, testnode.Sections{
		"uplink": `{routes: [{filter: "load/#", topic: kill}]}`,
		"limits": "{queue: 1000000, queue_bytes: 1GiB}",
	})
	client := func(id string, version byte) testnode.Session {
		return testnode.Session{
			T: t, Address: node.MQTT, ID: id, Version: version, Options: []testmqtt.Option{testmqtt.Durable()},
		}
	}
	subscribers := []*subscriber{
		{Session: client("sub-1", 4), filter: "load/#", qos: 1},
		{Session: client("sub-2", 5), filter: "load/#", qos: 2},
		{Session: client("offline", 5), filter: "load/#", qos: 2},
	}
	for _, s := range subscribers {
		s.start()
		<-s.ready
	}
	offline := subscribers[2]
	offline.Close()

	var publishers []*publisher
	for i := range uint32(4) {
		pub := &publisher{
			Session: client(fmt.Sprintf("pub-%d", i), 4+byte(i%2)),
			number:  i, topic: fmt.Sprintf("load/%d", i), qos: 1 + byte(i/2),
		}
		pub.start()
		publishers = append(publishers, pub)
	}
	for round := range rounds {
		time.Sleep(time.Duration(100+37*round%300) * time.Millisecond) // under load, at another moment each time
		node.Kill()
		node.Start()
	}
	published := make([]uint32, len(publishers))
	for i, pub := range publishers {
		published[i] = pub.finish()
	}
	offline.start()
	for i, n := range published {
		for _, s := range subscribers {
			testenv.Eventually(t, time.Minute, fmt.Sprintf("%s has all %d of publisher %d", s.ID, n, i), func() bool {
				return s.has(uint32(i), n)
			})
		}
	}
	for _, s := range subscribers {
		s.Close()
		for i, n := range published {
			checkReceived(t, s, uint32(i), n, publishers[i].qos == 2 && s.qos == 2)
		}
	}
	checkUplink(t, node, published)
	t.Logf("published and acknowledged: %v", published)
}

// checkReceived checks that the first occurrence of every message came in order, and, where it must be so, no other.
func checkReceived(t *testing.T, s *subscriber, publisher, n uint32, exactlyOnce bool) {
	t.Helper()
	var next uint32
	duplicates := 0
	for _, seq := range s.got[publisher] {
		switch {
		case seq == next:
			next++
		case seq > next:
			t.Fatalf("%s: message %d of publisher %d came before %d", s.ID, seq, publisher, next)
		default:
			duplicates++
		}
	}
	require.Equal(t, n, next)
	if exactlyOnce {
		require.Zero(t, duplicates, "%s: publisher %d with QoS 2", s.ID, publisher)
	}
	t.Logf("%s, publisher %d: %d messages, %d duplicates", s.ID, publisher, n, duplicates)
}

// checkUplink reads the local uplink log over HTTP: it must hold every message, in order for each publisher.
func checkUplink(t *testing.T, node *testnode.Node, published []uint32) {
	t.Helper()
	answer := node.Call(http.MethodGet, "/v1/uplink/tail?from=1", testnode.AdminToken, nil)
	require.Equal(t, http.StatusOK, answer.Status)
	next := make([]uint32, len(published))
	for line := range bytes.Lines(answer.Body) {
		var record struct {
			Value []byte `json:"value"`
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		require.NoError(t, json.Unmarshal(line, &record), string(line))
		n, err := numberOf(record.Value)
		require.NoError(t, err, string(line))
		if n.seq == next[n.publisher] {
			next[n.publisher]++
		} else {
			require.Less(t, n.seq, next[n.publisher], "uplink of publisher %d is out of order", n.publisher)
		}
	}
	require.Equal(t, published, next, "messages in the uplink log")
}
