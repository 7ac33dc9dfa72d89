package bench

import "slices"

// maxGaps bounds the memory of one tracker. Beyond it the older half of the gaps is given up: they stay lost, and a
// message of them that still arrives counts as a duplicate.
const maxGaps = 1 << 16

// gap is a run of sequence numbers [from, to) that have not arrived.
type gap struct{ from, to uint64 }

// track follows the sequence numbers of one publisher as one subscriber sees them. In order, which is nearly always, it
// costs one comparison.
type track struct {
	next       uint64 // one more than the highest seen
	received   uint64 // distinct
	duplicates uint64
	outOfOrder uint64 // arrived after a later one had
	gaps       []gap  // ascending
}

// see takes note of an arrival, and reports whether it is the first of its sequence number.
func (t *track) see(seq uint64) bool {
	switch {
	case seq == t.next:
		t.next++
		t.received++
	case seq > t.next:
		t.open(gap{t.next, seq})
		t.next = seq + 1
		t.received++
	case t.fill(seq):
		t.outOfOrder++
		t.received++
	default:
		t.duplicates++
		return false
	}
	return true
}

func (t *track) open(g gap) {
	if len(t.gaps) >= maxGaps {
		t.gaps = slices.Delete(t.gaps, 0, maxGaps/2)
	}
	t.gaps = append(t.gaps, g)
}

// find returns the gap that holds seq.
func (t *track) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(t.gaps, seq, func(g gap, seq uint64) int {
		switch {
		case g.to <= seq:
			return -1
		case g.from > seq:
			return 1
		}
		return 0
	})
}

// fill takes seq out of the gaps, and reports whether it was missing.
func (t *track) fill(seq uint64) bool {
	i, found := t.find(seq)
	if !found {
		return false
	}
	switch g := &t.gaps[i]; {
	case g.from+1 == g.to:
		t.gaps = slices.Delete(t.gaps, i, i+1)
	case seq == g.from:
		g.from++
	case seq == g.to-1:
		g.to--
	default:
		tail := gap{seq + 1, g.to}
		g.to = seq
		t.gaps = slices.Insert(t.gaps, i+1, tail)
	}
	return true
}

// missing counts the messages of a publisher that never arrived, less those that the broker never promised to deliver.
func (t *track) missing(sent uint64, unowed []uint64) uint64 {
	if sent < t.received {
		return 0
	}
	missing := sent - t.received
	for _, seq := range unowed {
		if seq < sent && missing > 0 && t.lacks(seq) {
			missing--
		}
	}
	return missing
}

func (t *track) lacks(seq uint64) bool {
	if seq >= t.next {
		return true
	}
	_, found := t.find(seq)
	return found
}
