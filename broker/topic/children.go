package topic

import "iter"

// children are the nodes below a node, by the name of their level. Nearly all nodes have one child or very many, and a
// map costs a quarter of a kilobyte, so the first child does without.
type children[N any] struct {
	name string
	only *N            // the only child, called name
	many map[string]*N // or all of them
}

// get returns nil when there is no such child.
func (c *children[N]) get(name string) *N {
	if c.only != nil && c.name == name {
		return c.only
	}
	return c.many[name] // nil when there is an only child
}

// put adds a child that is not there yet.
func (c *children[N]) put(name string, child *N) {
	switch {
	case c.many != nil:
		c.many[name] = child
	case c.only == nil:
		c.name, c.only = name, child
	default:
		c.many = map[string]*N{c.name: c.only, name: child}
		c.name, c.only = "", nil
	}
}

// drop removes a child if it is there.
func (c *children[N]) drop(name string) {
	if c.only != nil && c.name == name {
		c.name, c.only = "", nil
		return
	}
	if delete(c.many, name); len(c.many) == 0 {
		c.many = nil
	}
}

func (c *children[N]) empty() bool { return c.only == nil && c.many == nil }

// all goes through the children. Children may come and go meanwhile, like in any map.
func (c *children[N]) all() iter.Seq2[string, *N] {
	return func(yield func(string, *N) bool) {
		if c.only != nil {
			yield(c.name, c.only)
			return
		}
		for name, child := range c.many {
			if !yield(name, child) {
				return
			}
		}
	}
}
