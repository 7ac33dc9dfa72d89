package topic

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// indexShards is how many locks share the exact filters; a power of two.
const indexShards = 64

// Index maps topic filters to subscribers of any type. It is safe for concurrent use. Filters without wildcards, as
// nearly all devices have, are found by hashing; the others in a tree of levels.
type Index[S any] struct {
	seed   maphash.Seed
	exact  [indexShards]shard[S]
	wild   tree[S]
	length atomic.Int64
}

// shard holds some of the exact filters.
type shard[S any] struct {
	mu      sync.RWMutex
	filters map[string]*subscribers[S]
	_       [32]byte // keeps the locks of neighbours on different cache lines
}

// NewIndex returns an empty index.
func NewIndex[S any]() *Index[S] {
	x := &Index[S]{seed: maphash.MakeSeed()}
	for i := range x.exact {
		x.exact[i].filters = make(map[string]*subscribers[S])
	}
	return x
}

func (x *Index[S]) shard(filter string) *shard[S] {
	return &x.exact[maphash.String(x.seed, filter)%indexShards]
}

// Add adds a subscription to a valid filter without $share; group is empty when it is not shared. The strings are kept.
// Adding the same twice gives two entries. The cost does not depend on how many subscribers the filter has.
func (x *Index[S]) Add(filter, group string, subscriber S) *Entry[S] {
	e := &Entry[S]{Subscriber: subscriber, Filter: filter, Group: group}
	if HasWildcard(filter) {
		x.wild.add(e)
	} else {
		x.shard(filter).add(e)
	}
	x.length.Add(1)
	return e
}

// Remove removes an entry of this index; removing it again does nothing. The cost does not depend on how many
// subscribers the filter has.
func (x *Index[S]) Remove(e *Entry[S]) {
	var removed bool
	if HasWildcard(e.Filter) {
		removed = x.wild.remove(e)
	} else {
		removed = x.shard(e.Filter).remove(e)
	}
	if removed {
		x.length.Add(-1)
	}
}

// Match appends to into who subscribed to a filter that matches topic. One subscriber appears once for each of its
// matching filters. It does not allocate once into has grown.
func (x *Index[S]) Match(topic string, into *Matches[S]) {
	hash := maphash.String(x.seed, topic)
	s := &x.exact[hash%indexShards]
	s.mu.RLock()
	if found, ok := s.filters[topic]; ok {
		found.collect(into)
	}
	s.mu.RUnlock()
	x.wild.match(topic, hash/indexShards, into)
}

// Len returns the number of entries.
func (x *Index[S]) Len() int { return int(x.length.Load()) }

func (s *shard[S]) add(e *Entry[S]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs, ok := s.filters[e.Filter]
	if !ok {
		subs = &subscribers[S]{}
		s.filters[e.Filter] = subs
	}
	subs.add(e)
}

func (s *shard[S]) remove(e *Entry[S]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs, ok := s.filters[e.Filter]
	if !ok || e.removed.Swap(true) {
		return false
	}
	if subs.remove(e); subs.empty() {
		delete(s.filters, e.Filter)
	}
	return true
}
