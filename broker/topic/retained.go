package topic

import (
	"strings"
	"sync"
)

// findPause is after how many levels Match lets writers in: a filter like # may visit millions.
const findPause = 256

// Retained holds one value for each topic, and finds them by filter. It is safe for concurrent use.
type Retained[V any] struct {
	mu     sync.RWMutex
	root   level[V]
	length int
}

// level is one level of a topic. Levels that hold nothing any more are cut off.
type level[V any] struct {
	children children[level[V]]
	held     *held[V] // nil when no topic with a value ends here
}

type held[V any] struct {
	topic string
	value V
}

// NewRetained returns an empty store.
func NewRetained[V any]() *Retained[V] { return &Retained[V]{} }

// Set stores the value of a topic, and reports whether there was one before. The topic string is kept.
func (r *Retained[V]) Set(topic string, v V) (replaced bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.root
	for rest, more := topic, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		c := n.children.get(name)
		if c == nil {
			c = &level[V]{}
			n.children.put(name, c)
		}
		n = c
	}
	replaced = n.held != nil
	n.held = &held[V]{topic: topic, value: v}
	if !replaced {
		r.length++
	}
	return replaced
}

// Delete removes the value of a topic, and reports whether there was one.
func (r *Retained[V]) Delete(topic string) bool {
	return r.DeleteIf(topic, func(V) bool { return true })
}

// DeleteIf removes the value of a topic if condition agrees, and reports whether it did. condition runs at most once,
// with the lock held: it must not block or use r.
func (r *Retained[V]) DeleteIf(topic string, condition func(V) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.root.delete(topic, true, condition) {
		return false
	}
	r.length--
	return true
}

func (n *level[V]) delete(rest string, more bool, condition func(V) bool) bool {
	if !more {
		if n.held == nil || !condition(n.held.value) {
			return false
		}
		n.held = nil
		return true
	}
	name, rest, more := strings.Cut(rest, "/")
	c := n.children.get(name)
	if c == nil || !c.delete(rest, more, condition) {
		return false
	}
	if c.held == nil && c.children.empty() {
		n.children.drop(name)
	}
	return true
}

// Get returns the value of a topic.
func (r *Retained[V]) Get(topic string) (v V, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := &r.root
	for rest, more := topic, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if n = n.children.get(name); n == nil {
			return v, false
		}
	}
	if n.held == nil {
		return v, false
	}
	return n.held.value, true
}

// Match calls each for every topic that a valid filter without $share matches, in no order, until each returns false.
// each runs without locks, so it may block and may call Set and Delete. Topics that come or go while Match looks may
// be found or not.
func (r *Retained[V]) Match(filter string, each func(topic string, v V) bool) {
	f := finder[V]{lock: &r.mu}
	f.lock.RLock()
	f.find(&r.root, filter, true, true)
	f.lock.RUnlock()
	for _, h := range f.found {
		if !each(h.topic, h.value) {
			return
		}
	}
}

// finder collects the topics of one Match.
type finder[V any] struct {
	lock    *sync.RWMutex
	visited int
	found   []*held[V]
}

// visit counts the levels, and from time to time lets writers in. What they cut off meanwhile holds nothing.
func (f *finder[V]) visit() {
	if f.visited++; f.visited%findPause == 0 {
		f.lock.RUnlock()
		f.lock.RLock()
	}
}

func (f *finder[V]) take(n *level[V]) {
	if n.held != nil {
		f.found = append(f.found, n.held)
	}
}

// find visits what matches rest below n; more is false behind the last level. top is true at the first level, where no
// wildcard matches a name that begins with $.
func (f *finder[V]) find(n *level[V], rest string, more, top bool) {
	f.visit()
	if !more {
		f.take(n)
		return
	}
	name, rest, more := strings.Cut(rest, "/")
	switch name {
	case "#":
		f.findAll(n, top)
	case "+":
		for childName, c := range n.children.all() {
			if !top || !strings.HasPrefix(childName, "$") {
				f.find(c, rest, more, false)
			}
		}
	default:
		if c := n.children.get(name); c != nil {
			f.find(c, rest, more, false)
		}
	}
}

// findAll takes n, since a/# matches a, and everything below it.
func (f *finder[V]) findAll(n *level[V], top bool) {
	f.visit()
	f.take(n)
	for name, c := range n.children.all() {
		if !top || !strings.HasPrefix(name, "$") {
			f.findAll(c, false)
		}
	}
}

// Len returns the number of topics that have a value.
func (r *Retained[V]) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.length
}
