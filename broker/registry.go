package broker

import (
	"container/heap"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

const registryShards = 256

// registry finds sessions by client identifier. Sharded, so that connecting clients do not wait for one lock.
type registry struct {
	seed   maphash.Seed
	size   atomic.Int64
	shards [registryShards]registryShard
}

type registryShard struct {
	mu       sync.RWMutex
	sessions map[string]*Session
	claims   map[string]*claim
}

// claim serialises everything that makes, takes over or ends the session of one client identifier.
type claim struct {
	mu   sync.Mutex
	refs int
}

func (r *registry) init(expected int) {
	r.seed = maphash.MakeSeed()
	for i := range r.shards {
		r.shards[i].sessions = make(map[string]*Session, expected/registryShards)
		r.shards[i].claims = make(map[string]*claim)
	}
}

func (r *registry) shard(id string) *registryShard {
	return &r.shards[maphash.String(r.seed, id)%registryShards]
}

func (r *registry) len() int { return int(r.size.Load()) }

func (r *registry) get(id string) *Session {
	sh := r.shard(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.sessions[id]
}

func (r *registry) put(s *Session) {
	sh := r.shard(s.id)
	sh.mu.Lock()
	if _, replaced := sh.sessions[s.id]; !replaced {
		r.size.Add(1)
	}
	sh.sessions[s.id] = s
	sh.mu.Unlock()
}

// remove removes s, unless another session has taken its place.
func (r *registry) remove(s *Session) {
	sh := r.shard(s.id)
	sh.mu.Lock()
	if sh.sessions[s.id] == s {
		delete(sh.sessions, s.id)
		r.size.Add(-1)
	}
	sh.mu.Unlock()
}

// claim blocks until nobody else makes, takes over or ends the session of id, and returns what lets go of it.
func (r *registry) claim(id string) (release func()) {
	sh := r.shard(id)
	sh.mu.Lock()
	cl := sh.claims[id]
	if cl == nil {
		cl = new(claim)
		sh.claims[id] = cl
	}
	cl.refs++
	sh.mu.Unlock()
	cl.mu.Lock()
	return func() {
		cl.mu.Unlock()
		sh.mu.Lock()
		if cl.refs--; cl.refs == 0 {
			delete(sh.claims, id)
		}
		sh.mu.Unlock()
	}
}

// after returns the first limit sessions, in order of client identifier, that come after cursor.
func (r *registry) after(cursor string, limit int) []*Session {
	var page largest
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.RLock()
		for id, s := range sh.sessions {
			switch {
			case id <= cursor && cursor != "":
			case len(page) < limit:
				heap.Push(&page, s)
			case limit > 0 && id < page[0].id:
				page[0] = s
				heap.Fix(&page, 0)
			}
		}
		sh.mu.RUnlock()
	}
	slices.SortFunc(page, func(a, b *Session) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return page
}

// largest is a heap with the largest client identifier on top.
type largest []*Session

func (h largest) Len() int           { return len(h) }
func (h largest) Less(i, j int) bool { return h[i].id > h[j].id }
func (h largest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *largest) Push(x any)        { *h = append(*h, x.(*Session)) }
func (h *largest) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
