package topic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func topicsOf[V any](r *Retained[V], filter string) []string {
	var topics []string
	r.Match(filter, func(topic string, _ V) bool {
		topics = append(topics, topic)
		return true
	})
	slices.Sort(topics)
	return topics
}

func TestRetainedMatches(t *testing.T) {
	for _, test := range matchCases {
		t.Run(test.filter+" "+test.topic, func(t *testing.T) {
			r := NewRetained[int]()
			r.Set(test.topic, 1)
			require.Equal(t, test.want, len(topicsOf(r, test.filter)) == 1)
		})
	}
}

func TestRetainedSetGetDelete(t *testing.T) {
	r := NewRetained[string]()
	require.False(t, r.Set("a/b", "one"))
	require.True(t, r.Set("a/b", "two"))
	require.False(t, r.Set("a", "parent"))
	require.Equal(t, 2, r.Len())
	v, ok := r.Get("a/b")
	require.True(t, ok)
	require.Equal(t, "two", v)
	for _, missing := range []string{"", "b", "a/", "a/b/c", "a/c"} {
		_, ok = r.Get(missing)
		require.False(t, ok, missing)
		require.False(t, r.Delete(missing), missing)
	}
	is := func(want string) func(string) bool { return func(v string) bool { return v == want } }
	require.False(t, r.DeleteIf("a", is("another")))
	require.False(t, r.DeleteIf("missing", is("")))
	require.True(t, r.DeleteIf("a", is("parent")))
	require.False(t, r.Delete("a"))
	_, ok = r.Get("a")
	require.False(t, ok)
	require.True(t, r.Delete("a/b"))
	require.Zero(t, r.Len())
	require.True(t, r.root.children.empty(), "empty levels are cut off")
}

func TestRetainedMatchStopsAndMayWrite(t *testing.T) {
	r := NewRetained[int]()
	for i := range 10 {
		r.Set(fmt.Sprintf("a/%d", i), i)
	}
	calls := 0
	r.Match("a/#", func(topic string, _ int) bool {
		calls++
		return r.Delete(topic) && calls < 3
	})
	require.Equal(t, 3, calls)
	require.Equal(t, 7, r.Len())
}

func TestRetainedAgreesWithMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	store, model := NewRetained[int](), map[string]int{}
	for step := range 10_000 {
		topic := randomFilter(r, false)
		if r.IntN(3) == 0 {
			_, had := model[topic]
			require.Equal(t, had, store.Delete(topic))
			delete(model, topic)
		} else {
			_, had := model[topic]
			require.Equal(t, had, store.Set(topic, step))
			model[topic] = step
		}
		require.Equal(t, len(model), store.Len())
		if step%8 != 0 {
			continue
		}
		filter := randomFilter(r, true)
		var want []string
		for topic := range model {
			if Match(filter, topic) {
				want = append(want, topic)
			}
		}
		slices.Sort(want)
		require.Equal(t, want, topicsOf(store, filter), "filter %q", filter)
	}
}

// TestRetainedMatchLetsWritersIn: Match must find what is there all the time, although others change while it looks.
func TestRetainedMatchLetsWritersIn(t *testing.T) {
	r := NewRetained[int]()
	const stay = 1000
	for i := range stay {
		r.Set(fmt.Sprintf("stay/%d/x", i), i)
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				r.Set(fmt.Sprintf("stay/%d/y", i%stay), i)
				r.Set(fmt.Sprintf("stay/go%d/x", i%1000), i)
				r.Delete(fmt.Sprintf("stay/go%d/x", (i+500)%1000))
			}
		}
	})
	for _, filter := range []string{"stay/+/x", "stay/#", "#"} {
		found := map[string]bool{}
		for _, topic := range topicsOf(r, filter) {
			require.False(t, found[topic], "found twice: %s", topic)
			found[topic] = true
		}
		for i := range stay {
			require.True(t, found[fmt.Sprintf("stay/%d/x", i)], "%s %d", filter, i)
		}
	}
	close(stop)
	work.Wait()
}

func TestRetainedConcurrentUse(t *testing.T) {
	r := NewRetained[int]()
	var work sync.WaitGroup
	for range 3 {
		work.Go(func() {
			for i := range 2000 {
				topic := fmt.Sprintf("a/%d", i%50)
				r.Set(topic, i)
				topicsOf(r, "a/+")
				if i%2 == 0 {
					r.Delete(topic)
				}
			}
		})
	}
	work.Wait()
}
