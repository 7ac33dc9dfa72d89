package killtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

const rounds = 20

// TestKilledUnderLoadLosesNothingAcknowledged kills a node again and again while clients publish with QoS 1 and 2 to
// connected and offline durable sessions and to an uplink route. Whatever was acknowledged must have arrived at the
// end, in the order in which it was published; with QoS 2 all the way, once.
func TestKilledUnderLoadLosesNothingAcknowledged(t *testing.T) {
	p := startProcess(t, `uplink: {routes: [{filter: "load/#", topic: kill}]}`)
	subscribers := []*subscriber{
		{session: session{t: t, addr: p.mqtt, id: "sub-1", version: 4}, filter: "load/#", qos: 1},
		{session: session{t: t, addr: p.mqtt, id: "sub-2", version: 5}, filter: "load/#", qos: 2},
		{session: session{t: t, addr: p.mqtt, id: "offline", version: 5}, filter: "load/#", qos: 2},
	}
	for _, s := range subscribers {
		s.start()
		<-s.ready
	}
	offline := subscribers[2]
	offline.close()

	var publishers []*publisher
	for i := range uint32(4) {
		pub := &publisher{
			session: session{t: t, addr: p.mqtt, id: fmt.Sprintf("pub-%d", i), version: 4 + byte(i%2)},
			number:  i, topic: fmt.Sprintf("load/%d", i), qos: 1 + byte(i/2),
		}
		pub.start()
		publishers = append(publishers, pub)
	}
	for round := range rounds {
		time.Sleep(time.Duration(100+37*round%300) * time.Millisecond) // under load, at another moment each time
		p.kill()
		p.start()
	}
	published := make([]uint32, len(publishers))
	for i, pub := range publishers {
		published[i] = pub.finish()
	}
	offline.start()
	for i, n := range published {
		for _, s := range subscribers {
			testenv.Eventually(t, time.Minute, fmt.Sprintf("%s has all %d of publisher %d", s.id, n, i), func() bool {
				return s.has(uint32(i), n)
			})
		}
	}
	for _, s := range subscribers {
		s.close()
		for i, n := range published {
			checkReceived(t, s, uint32(i), n, publishers[i].qos == 2 && s.qos == 2)
		}
	}
	checkUplink(t, p, published)
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
			t.Fatalf("%s: message %d of publisher %d came before %d", s.id, seq, publisher, next)
		default:
			duplicates++
		}
	}
	require.Equal(t, n, next)
	if exactlyOnce {
		require.Zero(t, duplicates, "%s: publisher %d with QoS 2", s.id, publisher)
	}
	t.Logf("%s, publisher %d: %d messages, %d duplicates", s.id, publisher, n, duplicates)
}

// checkUplink reads the local uplink log over HTTP: it must hold every message, in order for each publisher.
func checkUplink(t *testing.T, p *process, published []uint32) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.http+"/v1/uplink/tail?from=1", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+adminToken)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	next := make([]uint32, len(published))
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var record struct {
			Value []byte `json:"value"`
		}
		if len(lines.Bytes()) == 0 {
			continue
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &record), lines.Text())
		n, err := numberOf(record.Value)
		require.NoError(t, err, lines.Text())
		if n.seq == next[n.publisher] {
			next[n.publisher]++
		} else {
			require.Less(t, n.seq, next[n.publisher], "uplink of publisher %d is out of order", n.publisher)
		}
	}
	require.NoError(t, lines.Err())
	require.Equal(t, published, next, "messages in the uplink log")
}
