package topic

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

func BenchmarkMatch(b *testing.B) {
	exact := func(x *Index[int]) {
		for i := range 100_000 {
			x.Add(fmt.Sprintf("devices/%d/commands", i), "", i)
		}
	}
	wild := func(x *Index[int]) {
		for i := range 100_000 {
			x.Add(fmt.Sprintf("devices/%d/#", i), "", i)
		}
		x.Add("devices/+/up/#", "", 0)
		x.Add("#", "g", 0)
	}
	cases := []struct {
		name, topic string
		fill        func(*Index[int])
	}{
		{"exact hit", "devices/4711/commands", exact},
		{"exact miss", "devices/4711/up/temperature", exact},
		{"wildcard", "devices/4711/up/temperature", wild},
		{"both", "devices/4711/commands", func(x *Index[int]) { exact(x); wild(x) }},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			x := NewIndex[int]()
			c.fill(x)
			var m Matches[int]
			x.Match(c.topic, &m)
			b.ReportAllocs()
			for b.Loop() {
				m.Reset()
				x.Match(c.topic, &m)
			}
		})
	}
}

func BenchmarkMatchParallel(b *testing.B) {
	x := NewIndex[int]()
	topics := make([]string, 1024)
	for i := range topics {
		topics[i] = fmt.Sprintf("devices/%d/commands", i)
		x.Add(topics[i], "", i)
	}
	x.Add("devices/+/up/#", "", 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var m Matches[int]
		for i := 0; pb.Next(); i++ {
			m.Reset()
			x.Match(topics[i%1024], &m)
		}
	})
}

// BenchmarkMemory reports what a subscription costs beyond its strings and its subscriber.
func BenchmarkMemory(b *testing.B) {
	for _, form := range []string{"devices/%d/commands", "devices/%d/#", "devices/+/%d", "all", "all/#"} {
		b.Run(strings.ReplaceAll(form, "/", "_"), func(b *testing.B) {
			const count = 200_000
			filters := make([]string, count)
			for i := range filters {
				filters[i] = form
				if strings.Contains(form, "%") {
					filters[i] = fmt.Sprintf(form, i)
				}
			}
			for b.Loop() {
				before := heap()
				x := NewIndex[*int]()
				for _, filter := range filters {
					x.Add(filter, "", nil)
				}
				b.ReportMetric(float64(heap()-before)/count, "B/subscription")
				runtime.KeepAlive(x)
			}
		})
	}
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func BenchmarkAddRemove(b *testing.B) {
	for _, filter := range []string{"devices/4711/commands", "devices/4711/#"} {
		b.Run(strings.ReplaceAll(filter, "/", "_"), func(b *testing.B) {
			x := NewIndex[int]()
			b.ReportAllocs()
			for b.Loop() {
				x.Remove(x.Add(filter, "", 1))
			}
		})
	}
}

func BenchmarkPick(b *testing.B) {
	x := NewIndex[int]()
	for i := range 100 {
		x.Add("a", "g", i)
	}
	var m Matches[int]
	x.Match("a", &m)
	b.ReportAllocs()
	for b.Loop() {
		m.Groups[0].Pick(func(int) bool { return true })
	}
}

// BenchmarkRetainedMemory reports what a topic costs beyond its string.
func BenchmarkRetainedMemory(b *testing.B) {
	const count = 200_000
	topics := make([]string, count)
	for i := range topics {
		topics[i] = fmt.Sprintf("devices/%d/state", i)
	}
	for b.Loop() {
		before := heap()
		r := NewRetained[*int]()
		for _, topic := range topics {
			r.Set(topic, nil)
		}
		b.ReportMetric(float64(heap()-before)/count, "B/topic")
		runtime.KeepAlive(r)
	}
}

func BenchmarkRetained(b *testing.B) {
	r := NewRetained[int]()
	for i := range 100_000 {
		r.Set(fmt.Sprintf("devices/%d/state", i), i)
	}
	b.Run("set", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Set("devices/4711/state", 1)
		}
	})
	for _, filter := range []string{"devices/4711/state", "devices/4711/#", "devices/+/state"} {
		b.Run("match "+filter, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Match(filter, func(string, int) bool { return true })
			}
		})
	}
}
