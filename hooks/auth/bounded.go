package auth

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// cache keeps up to about size entries for a time. When half of them are newer than the rest, the rest is forgotten;
// what is used is carried over. It may be used from any goroutine.
type cache[K comparable, V any] struct {
	mu       sync.Mutex
	half     int
	new, old map[K]cached[V]
}

type cached[V any] struct {
	value   V
	expires time.Time
}

func newCache[K comparable, V any](size int) *cache[K, V] {
	return &cache[K, V]{half: max(1, size/2), new: make(map[K]cached[V])}
}

func (c *cache[K, V]) get(key K, now time.Time) (value V, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry, found := c.new[key]
	if !found {
		if entry, found = c.old[key]; !found {
			return value, false
		}
		c.store(key, entry)
	}
	if !now.Before(entry.expires) {
		return value, false
	}
	return entry.value, true
}

func (c *cache[K, V]) put(key K, value V, expires time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(key, cached[V]{value, expires})
}

func (c *cache[K, V]) store(key K, entry cached[V]) {
	if len(c.new) >= c.half {
		c.old, c.new = c.new, make(map[K]cached[V], c.half)
	}
	c.new[key] = entry
}

// Bounds of a throttle. Forgetting a key looks at a few only, so that an attack from many addresses stays cheap.
const (
	maxThrottleKeys = 50_000
	evictionSample  = 16
)

// throttle is a token bucket for each key. It may be used from any goroutine.
type throttle struct {
	mu      sync.Mutex
	rate    rate.Limit // 0: no limit
	burst   int
	buckets map[string]*rate.Limiter
}

func newThrottle(perSecond float64, burst int) *throttle {
	return &throttle{rate: rate.Limit(perSecond), burst: max(1, burst), buckets: make(map[string]*rate.Limiter)}
}

// take takes a token from the key's bucket, if there is one, and reports whether there was.
func (t *throttle) take(key string, now time.Time) bool {
	if t.rate == 0 {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	bucket := t.buckets[key]
	if bucket == nil {
		t.makeRoom(now)
		bucket = rate.NewLimiter(t.rate, t.burst)
		t.buckets[key] = bucket
	}
	return bucket.AllowN(now, 1)
}

// empty reports whether the key's bucket is, without taking anything.
func (t *throttle) empty(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	bucket := t.buckets[key]
	return bucket != nil && bucket.TokensAt(now) < 1
}

// makeRoom forgets the fullest of a few buckets when there are too many. t.mu is held.
func (t *throttle) makeRoom(now time.Time) {
	if len(t.buckets) < maxThrottleKeys {
		return
	}
	victim, most, looked := "", -1.0, 0
	for key, bucket := range t.buckets {
		if tokens := bucket.TokensAt(now); tokens > most {
			victim, most = key, tokens
		}
		if looked++; looked == evictionSample {
			break
		}
	}
	delete(t.buckets, victim)
}
