package topic

import "sync/atomic"

// compactSmall is the length up to which a list is compacted at every removal: copying so few costs nothing, and a
// group's turns stay even.
const compactSmall = 32

// Entry is one subscription in an Index. Its exported fields must not be changed.
type Entry[S any] struct {
	Subscriber S
	Filter     string // without $share
	Group      string // empty: not shared
	removed    atomic.Bool
}

// Removed reports whether Remove was called. A Matches that was filled before may still hold the entry.
func (e *Entry[S]) Removed() bool { return e.removed.Load() }

// appendOnly is a list that its readers hold without a lock: what stands before the length of a slice that somebody
// holds is never written again. Removing leaves the entry in its place, marked, until so many are dead that the
// living move to a new array. All methods want the lock of the list's owner.
type appendOnly[S any] struct {
	entries []*Entry[S]
	dead    int
}

func (l *appendOnly[S]) add(e *Entry[S]) {
	l.entries = append(l.entries, e)
}

// removeOne notes that one entry was marked as removed.
func (l *appendOnly[S]) removeOne() {
	l.dead++
	if l.dead*2 <= len(l.entries) && len(l.entries) > compactSmall {
		return
	}
	living := make([]*Entry[S], 0, len(l.entries)-l.dead)
	for _, e := range l.entries {
		if !e.Removed() {
			living = append(living, e)
		}
	}
	l.entries, l.dead = living, 0
}

func (l *appendOnly[S]) empty() bool { return l.dead == len(l.entries) }

// subscribers are all who subscribed to one filter.
type subscribers[S any] struct {
	single appendOnly[S]
	groups []*Group[S] // nearly always nil
}

func (s *subscribers[S]) add(e *Entry[S]) {
	if e.Group == "" {
		s.single.add(e)
		return
	}
	for _, g := range s.groups {
		if g.name == e.Group {
			g.add(e)
			return
		}
	}
	g := &Group[S]{name: e.Group, filter: e.Filter}
	g.add(e)
	s.groups = append(s.groups, g)
}

func (s *subscribers[S]) remove(e *Entry[S]) {
	if e.Group == "" {
		s.single.removeOne()
		return
	}
	for i, g := range s.groups {
		if g.name != e.Group {
			continue
		}
		if g.removeOne(); g.members.empty() {
			last := len(s.groups) - 1
			s.groups[i], s.groups[last] = s.groups[last], nil
			s.groups = s.groups[:last]
		}
		return
	}
}

func (s *subscribers[S]) empty() bool { return s.single.empty() && len(s.groups) == 0 }

func (s *subscribers[S]) collect(into *Matches[S]) {
	if len(s.single.entries) > 0 {
		into.Lists = append(into.Lists, s.single.entries)
	}
	if len(s.groups) > 0 {
		into.Groups = append(into.Groups, s.groups...)
	}
}

// Matches is what Index.Match found. It may be used again and again; the lists in it are immutable.
type Matches[S any] struct {
	Lists  [][]*Entry[S] // subscribers that each get the message; skip an entry that was Removed since
	Groups []*Group[S]   // shared subscriptions: one member of each gets the message
}

// Reset empties m and keeps its memory, but none of what it pointed to.
func (m *Matches[S]) Reset() {
	clear(m.Lists)
	clear(m.Groups)
	m.Lists, m.Groups = m.Lists[:0], m.Groups[:0]
}

// Group is a shared subscription: those who subscribed to one filter under one group name.
type Group[S any] struct {
	name, filter string
	members      appendOnly[S]               // behind the index's lock
	snapshot     atomic.Pointer[[]*Entry[S]] // members.entries, for Pick
	turn         atomic.Uint64
}

// Name returns the group's name.
func (g *Group[S]) Name() string { return g.name }

// Filter returns the topic filter, without $share.
func (g *Group[S]) Filter() string { return g.filter }

func (g *Group[S]) add(e *Entry[S]) {
	g.members.add(e)
	g.publish()
}

func (g *Group[S]) removeOne() {
	g.members.removeOne()
	g.publish()
}

func (g *Group[S]) publish() {
	entries := g.members.entries
	g.snapshot.Store(&entries)
}

// Pick returns the next member in turn that usable accepts, false when there is none. usable runs without locks, once
// for each member that it refuses.
func (g *Group[S]) Pick(usable func(S) bool) (*Entry[S], bool) {
	members := *g.snapshot.Load()
	n := uint64(len(members))
	turn := g.turn.Add(1) - 1
	for i := range n {
		e := members[(turn+i)%n]
		if e.Removed() || !usable(e.Subscriber) {
			continue
		}
		if i > 0 {
			g.turn.Add(i) // or the one behind an unusable member would serve twice as often
		}
		return e, true
	}
	return nil, false
}
