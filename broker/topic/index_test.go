package topic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// subscribersOf returns the subscribers of a topic, sorted, and the groups as "name filter".
func subscribersOf[S int | string](x *Index[S], topic string) (singles []S, groups []string) {
	var m Matches[S]
	x.Match(topic, &m)
	for _, list := range m.Lists {
		for _, e := range list {
			if !e.Removed() {
				singles = append(singles, e.Subscriber)
			}
		}
	}
	for _, g := range m.Groups {
		groups = append(groups, g.Name()+" "+g.Filter())
	}
	slices.Sort(singles)
	slices.Sort(groups)
	return singles, groups
}

func TestIndexMatches(t *testing.T) {
	for _, test := range matchCases {
		t.Run(test.filter+" "+test.topic, func(t *testing.T) {
			x := NewIndex[string]()
			e := x.Add(test.filter, "", "s")
			singles, _ := subscribersOf(x, test.topic)
			require.Equal(t, test.want, len(singles) == 1)
			x.Remove(e)
			singles, _ = subscribersOf(x, test.topic)
			require.Empty(t, singles)
			requireNoGarbage(t, x)
		})
	}
}

// requireNoGarbage checks that an index without entries holds nothing any more.
func requireNoGarbage[S any](t *testing.T, x *Index[S]) {
	t.Helper()
	require.Zero(t, x.Len())
	require.True(t, x.wild.root.empty(), "tree")
	for i := range x.exact {
		require.Empty(t, x.exact[i].filters)
	}
}

func TestIndexAddAndRemove(t *testing.T) {
	x := NewIndex[string]()
	first := x.Add("a/b", "", "first")
	second := x.Add("a/b", "", "second")
	wild := x.Add("a/+", "", "wild")
	shared := x.Add("a/b", "g", "shared")
	require.Equal(t, 4, x.Len())
	singles, groups := subscribersOf(x, "a/b")
	require.Equal(t, []string{"first", "second", "wild"}, singles)
	require.Equal(t, []string{"g a/b"}, groups)

	x.Remove(first)
	x.Remove(first)
	require.True(t, first.Removed())
	require.Equal(t, 3, x.Len())
	singles, _ = subscribersOf(x, "a/b")
	require.Equal(t, []string{"second", "wild"}, singles)

	for _, e := range []*Entry[string]{second, wild, shared, wild} {
		x.Remove(e)
	}
	requireNoGarbage(t, x)
}

// TestRemovedEntryOfAnEarlierFilter: an entry of a filter that was forgotten must not harm the filter that came later.
func TestRemovedEntryOfAnEarlierFilter(t *testing.T) {
	for _, filter := range []string{"a", "a/#", "a/+"} {
		x := NewIndex[string]()
		old := x.Add(filter, "", "old")
		x.Remove(old)
		x.Add(filter, "", "new")
		x.Remove(old)
		require.Equal(t, 1, x.Len())
		singles, _ := subscribersOf(x, "a/b")
		exact, _ := subscribersOf(x, "a")
		require.Contains(t, append(singles, exact...), "new")
	}
}

// TestSnapshotsAreImmutable: what a reader holds stays as it is, whatever happens to the filter.
func TestSnapshotsAreImmutable(t *testing.T) {
	x := NewIndex[int]()
	var entries []*Entry[int]
	for i := range 100 {
		entries = append(entries, x.Add("a", "", i))
	}
	var m Matches[int]
	x.Match("a", &m)
	snapshot := slices.Clone(m.Lists[0])
	for i, e := range entries {
		x.Remove(e)
		x.Add("a", "", 1000+i)
	}
	require.Equal(t, snapshot, m.Lists[0])
	require.True(t, m.Lists[0][7].Removed())
	singles, _ := subscribersOf(x, "a")
	require.Len(t, singles, 100)
	require.Equal(t, 1000, singles[0])

	m.Reset()
	require.Empty(t, m.Lists)
	require.Nil(t, m.Lists[:1][0], "Reset must not keep subscribers alive")
}

func TestGroupTakesTurns(t *testing.T) {
	x := NewIndex[string]()
	members := map[string]*Entry[string]{}
	for _, name := range []string{"a", "b", "c", "d"} {
		members[name] = x.Add("t/+", "g", name)
	}
	group := func() *Group[string] {
		var m Matches[string]
		x.Match("t/1", &m)
		require.Len(t, m.Groups, 1)
		return m.Groups[0]
	}
	pick := func(times int, usable func(string) bool) map[string]int {
		count := map[string]int{}
		for range times {
			if e, ok := group().Pick(usable); ok {
				count[e.Subscriber]++
			}
		}
		return count
	}
	all := func(string) bool { return true }
	require.Equal(t, map[string]int{"a": 10, "b": 10, "c": 10, "d": 10}, pick(40, all))

	notB := func(s string) bool { return s != "b" }
	require.Equal(t, map[string]int{"a": 10, "c": 10, "d": 10}, pick(30, notB), "the turn of b must not go to c alone")

	held := group()
	x.Remove(members["a"])
	require.Equal(t, map[string]int{"b": 10, "c": 10, "d": 10}, pick(30, all))
	require.Empty(t, pick(10, func(string) bool { return false }))

	for _, e := range members {
		x.Remove(e)
	}
	_, ok := held.Pick(all)
	require.False(t, ok)
	requireNoGarbage(t, x)
}

func TestGroupsAreApart(t *testing.T) {
	x := NewIndex[string]()
	x.Add("a", "g", "1")
	h := x.Add("a", "h", "2")
	x.Add("a", "i", "3")
	x.Add("+", "g", "4")
	_, groups := subscribersOf(x, "a")
	require.Equal(t, []string{"g +", "g a", "h a", "i a"}, groups)
	x.Remove(h)
	_, groups = subscribersOf(x, "a")
	require.Equal(t, []string{"g +", "g a", "i a"}, groups)
}

// randomFilter makes short filters of few words, so that many match.
func randomFilter(r *rand.Rand, wildcards bool) string {
	words := []string{"a", "b", "", "$s", "cc"}
	var levels []string
	for range 1 + r.IntN(4) {
		word := words[r.IntN(len(words))]
		if wildcards && r.IntN(3) == 0 {
			word = "+"
		}
		levels = append(levels, word)
	}
	if wildcards && r.IntN(4) == 0 {
		levels = append(levels[:len(levels)-1], "#")
	}
	return strings.Join(levels, "/")
}

// TestIndexAgreesWithMatch does thousands of random steps, and compares with the plain definition.
func TestIndexAgreesWithMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	x := NewIndex[int]()
	var living []*Entry[int]
	for step := range 20_000 {
		if len(living) > 200 || len(living) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(living))
			x.Remove(living[i])
			living = slices.Delete(living, i, i+1)
			continue
		}
		filter := randomFilter(r, true)
		if filter == "" {
			continue
		}
		living = append(living, x.Add(filter, "", step))
		if step%10 != 0 {
			continue
		}
		topic := randomFilter(r, false)
		var want []int
		for _, e := range living {
			if Match(e.Filter, topic) {
				want = append(want, e.Subscriber)
			}
		}
		slices.Sort(want)
		got, _ := subscribersOf(x, topic)
		require.Equal(t, want, got, "topic %q", topic)
	}
	for _, e := range living {
		x.Remove(e)
	}
	requireNoGarbage(t, x)
}

func FuzzIndex(f *testing.F) {
	f.Add("a/b\na/+\n#\n+/b\n$s/#", "a/b")
	f.Add("a/#\na\n+/#", "a")
	f.Add("/\n//\n+/+\n/#", "/")
	f.Fuzz(func(t *testing.T, filters, topic string) {
		if CheckName(topic, 0) != nil {
			return
		}
		x, r := NewIndex[string](), NewRetained[int]()
		r.Set(topic, 1)
		var entries []*Entry[string]
		var want []string
		for filter := range strings.SplitSeq(filters, "\n") {
			_, filter = SplitShare(filter)
			if CheckFilter(filter, 0) != nil {
				continue
			}
			entries = append(entries, x.Add(filter, "", filter))
			matches := Match(filter, topic)
			if matches {
				want = append(want, filter)
			}
			require.Equal(t, matches, len(topicsOf(r, filter)) == 1, "retained %q %q", filter, topic)
		}
		slices.Sort(want)
		got, _ := subscribersOf(x, topic)
		require.Equal(t, want, got)
		for _, e := range entries {
			x.Remove(e)
		}
		requireNoGarbage(t, x)
	})
}

// TestMatchWhileSubscribing is for the race detector, and checks that a subscriber who stays is always found.
func TestMatchWhileSubscribing(t *testing.T) {
	x := NewIndex[int]()
	x.Add("a/b", "", -1)
	x.Add("a/#", "", -2)
	x.Add("a/b", "g", -3)
	var work sync.WaitGroup
	for g := range 2 {
		work.Go(func() {
			var mine []*Entry[int]
			for i := range 3000 {
				filter := []string{"a/b", "a/+", "a/#", fmt.Sprintf("a/%d", g)}[i%4]
				mine = append(mine, x.Add(filter, []string{"", "g"}[i/4%2], i))
				if len(mine) > 50 {
					x.Remove(mine[i%50])
					mine = slices.Delete(mine, i%50, i%50+1)
				}
			}
			for _, e := range mine {
				x.Remove(e)
			}
		})
	}
	for range 2 {
		work.Go(func() {
			var m Matches[int]
			for range 3000 {
				m.Reset()
				x.Match("a/b", &m)
				found := 0
				for _, list := range m.Lists {
					for _, e := range list {
						if !e.Removed() && e.Subscriber < 0 {
							found++
						}
					}
				}
				for _, g := range m.Groups {
					if _, ok := g.Pick(func(s int) bool { return s == -3 }); ok {
						found++
					}
				}
				if found != 3 {
					t.Errorf("found %d of the 3 who stay", found)
					return
				}
			}
		})
	}
	work.Wait()
	require.Equal(t, 3, x.Len())
}

// TestManySubscribersOfOneFilter would run for minutes if adding or removing cost as much as there are subscribers.
func TestManySubscribersOfOneFilter(t *testing.T) {
	for _, filter := range []string{"all", "all/#"} {
		x := NewIndex[int]()
		entries := make([]*Entry[int], 100_000)
		for i := range entries {
			entries[i] = x.Add(filter, "", i)
		}
		for _, e := range entries {
			x.Remove(e)
		}
		requireNoGarbage(t, x)
	}
}

// TestManyPluses: matching must not try every path, only those that somebody subscribed to.
func TestManyPluses(t *testing.T) {
	x := NewIndex[int]()
	for i := range 128 {
		levels := slices.Repeat([]string{"+"}, 128)
		levels[i] = "a"
		x.Add(strings.Join(levels, "/"), "", i)
	}
	singles, _ := subscribersOf(x, strings.Join(slices.Repeat([]string{"a"}, 128), "/"))
	require.Len(t, singles, 128)
}
