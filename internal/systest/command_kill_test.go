package systest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

// TestCommandsTellTheTruthAfterKill kills the node while commands are under way, some to devices that answer, some to
// devices that only acknowledge, that stay silent, or that are away. In the end every state must be true.
func TestCommandsTellTheTruthAfterKill(t *testing.T) {
	t.Parallel()
	n := startNode(t, commandSections(t))
	kinds := map[string]func(order) (bool, []string){
		"answers": obedient,
		"acks":    func(order) (bool, []string) { return true, nil },
		"silent":  func(order) (bool, []string) { return false, nil },
	}
	devices := map[string]*device{}
	all := []string{"away-0", "away-1"}
	for kind, react := range kinds {
		for i := range 5 {
			id := fmt.Sprintf("%s-%d", kind, i)
			devices[id] = startDevice(t, n, id, react)
			all = append(all, id)
		}
	}
	issued := map[string]bool{}
	var mu sync.Mutex
	var issuers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 3 {
		issuers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("kill-%d-%d", i, k)
				if n.tryIssue(key, command(key, all, "id", key, "ttl_s", 12, "ack_timeout_s", 1)) {
					mu.Lock()
					issued[key] = true
					mu.Unlock()
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for round := range 4 {
		time.Sleep(time.Duration(150+70*round) * time.Millisecond) // at another moment each time
		n.Kill()
		n.Start()
	}
	close(stop)
	issuers.Wait()
	require.NotEmpty(t, issued)
	t.Logf("%d commands to %d devices each, 4 kills", len(issued), len(all))
	for _, id := range slices.Sorted(maps.Keys(issued)) {
		testenv.Eventually(t, 2*time.Minute, "command "+id+" has ended", func() bool {
			time.Sleep(10 * time.Millisecond)
			a := n.Call(http.MethodGet, "/v1/commands/"+id, adminToken, nil)
			require.Equal(t, 200, a.Status, "command %s was accepted and is forgotten: %s", id, a.Body)
			var st commandStatus
			a.Into(t, &st)
			return st.Open == 0
		})
		for _, x := range n.executions(id) {
			checkTruth(t, x, devices[x.Device])
		}
	}
}

// tryIssue issues a command to a node that may be down, and reports whether it was accepted.
func (n *node) tryIssue(key string, body map[string]any) bool {
	text, err := json.Marshal(body)
	if err != nil {
		n.T.Error(err)
		return false
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+n.HTTP+"/v1/commands", strings.NewReader(string(text)))
	if err != nil {
		n.T.Error(err)
		return false
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	request.Header.Set("Idempotency-Key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusAccepted
}

// checkTruth compares the state of an execution with what its device saw and did; nil is a device that was away.
func checkTruth(t *testing.T, x execution, d *device) {
	t.Helper()
	if d == nil {
		require.Equal(t, "EXPIRED", x.State, "%+v", x)
		require.Zero(t, x.DeliveredAt)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	saw := slices.ContainsFunc(d.got, func(o order) bool { return o.execution == x.ID })
	switch {
	case strings.HasPrefix(x.Device, "answers"):
		require.Equal(t, "SUCCEEDED", x.State, "%+v", x)
		require.True(t, saw, "%+v: the device never got it", x)
	case strings.HasPrefix(x.Device, "acks"):
		require.Equal(t, "DELIVERED", x.State, "%+v", x)
		require.True(t, saw, "%+v: the device never got it", x)
	default:
		require.Equal(t, "EXPIRED", x.State, "%+v", x)
		require.Zero(t, x.DeliveredAt, "%+v: the device never acknowledged", x)
	}
}
