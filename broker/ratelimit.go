package broker

import "time"

// tokenBucket paces one client's publishes. It holds one second's worth at most.
type tokenBucket struct {
	tokens float64
	last   time.Time
}

// take spends n tokens and returns how long the client must pause before it is in credit again.
func (t *tokenBucket) take(rate float64, n int) time.Duration {
	if rate <= 0 || n == 0 {
		return 0
	}
	now := time.Now()
	if t.last.IsZero() {
		t.tokens = rate
	} else {
		t.tokens = min(rate, t.tokens+rate*now.Sub(t.last).Seconds())
	}
	t.last = now
	if t.tokens -= float64(n); t.tokens >= 0 {
		return 0
	}
	return time.Duration(-t.tokens / rate * float64(time.Second))
}
