package topic

import (
	"strings"
	"sync"
	"sync/atomic"
)

// tree holds the filters with wildcards, a node for each level.
type tree[S any] struct {
	locks  treeLock
	root   node[S]
	length atomic.Int64 // entries; a broker without wildcard filters does not even take the lock
}

// treeLock is a lock that readers on different cores do not fight for: each reader takes one of its parts, a writer
// takes them all.
type treeLock [8]struct {
	sync.RWMutex
	_ [40]byte // keeps neighbours on different cache lines
}

func (l *treeLock) lock() {
	for i := range l {
		l[i].Lock()
	}
}

func (l *treeLock) unlock() {
	for i := range l {
		l[i].Unlock()
	}
}

// part returns the lock for one reader; any number will do.
func (l *treeLock) part(n uint64) *sync.RWMutex { return &l[n%uint64(len(l))].RWMutex }

// node is one level. Nodes that hold nothing any more are cut off.
type node[S any] struct {
	children children[node[S]] // literal levels
	plus     *node[S]          // the level +
	here     *subscribers[S]   // filters that end at this level
	hash     *subscribers[S]   // filters that end with # below this level
}

func (n *node[S]) empty() bool {
	return n.children.empty() && n.plus == nil && n.here == nil && n.hash == nil
}

func (t *tree[S]) add(e *Entry[S]) {
	t.locks.lock()
	defer t.locks.unlock()
	n := &t.root
	for rest, more := e.Filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == "#" {
			addTo(&n.hash, e)
			t.length.Add(1)
			return
		}
		n = n.child(level)
	}
	addTo(&n.here, e)
	t.length.Add(1)
}

func addTo[S any](at **subscribers[S], e *Entry[S]) {
	if *at == nil {
		*at = &subscribers[S]{}
	}
	(*at).add(e)
}

// child returns the node of a level below n, which it makes if need be.
func (n *node[S]) child(level string) *node[S] {
	if level == "+" {
		if n.plus == nil {
			n.plus = &node[S]{}
		}
		return n.plus
	}
	c := n.children.get(level)
	if c == nil {
		c = &node[S]{}
		n.children.put(level, c)
	}
	return c
}

func (t *tree[S]) remove(e *Entry[S]) bool {
	t.locks.lock()
	defer t.locks.unlock()
	if e.removed.Swap(true) {
		return false
	}
	t.root.remove(e, e.Filter, true)
	t.length.Add(-1)
	return true
}

// remove removes e at rest below n, and cuts off the nodes that it leaves empty. more is false behind the last level.
func (n *node[S]) remove(e *Entry[S], rest string, more bool) {
	if !more {
		removeFrom(&n.here, e)
		return
	}
	level, rest, more := strings.Cut(rest, "/")
	switch level {
	case "#":
		removeFrom(&n.hash, e)
	case "+":
		if n.plus == nil {
			return
		}
		if n.plus.remove(e, rest, more); n.plus.empty() {
			n.plus = nil
		}
	default:
		c := n.children.get(level)
		if c == nil {
			return
		}
		if c.remove(e, rest, more); c.empty() {
			n.children.drop(level)
		}
	}
}

func removeFrom[S any](at **subscribers[S], e *Entry[S]) {
	if *at == nil {
		return
	}
	if (*at).remove(e); (*at).empty() {
		*at = nil
	}
}

// match spreads the readers over the locks by hash.
func (t *tree[S]) match(topic string, hash uint64, into *Matches[S]) {
	if t.length.Load() == 0 {
		return
	}
	lock := t.locks.part(hash)
	lock.RLock()
	defer lock.RUnlock()
	if topic != "" && topic[0] == '$' { // [MQTT-4.7.2-1]: no wildcard matches the first level
		level, rest, more := strings.Cut(topic, "/")
		if c := t.root.children.get(level); c != nil {
			c.match(rest, more, into)
		}
		return
	}
	t.root.match(topic, true, into)
}

// match visits each node that matches a prefix of the topic once, and goes no deeper than the tree.
func (n *node[S]) match(rest string, more bool, into *Matches[S]) {
	if n.hash != nil { // also when nothing is left: a/# matches a
		n.hash.collect(into)
	}
	if !more {
		if n.here != nil {
			n.here.collect(into)
		}
		return
	}
	if n.plus == nil && n.children.empty() {
		return
	}
	level, rest, more := strings.Cut(rest, "/")
	if n.plus != nil {
		n.plus.match(rest, more, into)
	}
	if c := n.children.get(level); c != nil {
		c.match(rest, more, into)
	}
}
