package topic

import (
	"strings"
	"sync"
)

// Retained holds one value for each topic, and finds them by filter. It is safe for concurrent use.
type Retained[V any] struct {
	mu     sync.RWMutex
	root   level[V]
	length int
}

// level is one level of a topic. Levels that hold nothing any more are cut off.
type level[V any] struct {
	children map[string]*level[V]
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
		c, ok := n.children[name]
		if !ok {
			if n.children == nil {
				n.children = make(map[string]*level[V], 1)
			}
			c = &level[V]{}
			n.children[name] = c
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
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.root.delete(topic, true) {
		return false
	}
	r.length--
	return true
}

func (n *level[V]) delete(rest string, more bool) bool {
	if !more {
		had := n.held != nil
		n.held = nil
		return had
	}
	name, rest, more := strings.Cut(rest, "/")
	c, ok := n.children[name]
	if !ok || !c.delete(rest, more) {
		return false
	}
	if c.held == nil && len(c.children) == 0 {
		delete(n.children, name)
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
		if n, ok = n.children[name]; !ok {
			return v, false
		}
	}
	if n.held == nil {
		return v, false
	}
	return n.held.value, true
}

// Match calls each for every topic that a valid filter without $share matches, in no order, until each returns false.
// each runs without locks on a snapshot, so it may block and may call Set and Delete.
func (r *Retained[V]) Match(filter string, each func(topic string, v V) bool) {
	for _, h := range r.find(filter) {
		if !each(h.topic, h.value) {
			return
		}
	}
}

func (r *Retained[V]) find(filter string) []*held[V] {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var found []*held[V]
	r.root.find(filter, true, true, &found)
	return found
}

// find visits what matches; top is true at the first level, where no wildcard matches a name that begins with $.
func (n *level[V]) find(rest string, more, top bool, found *[]*held[V]) {
	if !more {
		if n.held != nil {
			*found = append(*found, n.held)
		}
		return
	}
	name, rest, more := strings.Cut(rest, "/")
	switch name {
	case "#":
		n.findAll(top, found)
	case "+":
		for childName, c := range n.children {
			if !top || !strings.HasPrefix(childName, "$") {
				c.find(rest, more, false, found)
			}
		}
	default:
		if c, ok := n.children[name]; ok {
			c.find(rest, more, false, found)
		}
	}
}

// findAll takes n, since a/# matches a, and everything below it.
func (n *level[V]) findAll(top bool, found *[]*held[V]) {
	if n.held != nil {
		*found = append(*found, n.held)
	}
	for name, c := range n.children {
		if !top || !strings.HasPrefix(name, "$") {
			c.findAll(false, found)
		}
	}
}

// Len returns the number of topics that have a value.
func (r *Retained[V]) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.length
}
