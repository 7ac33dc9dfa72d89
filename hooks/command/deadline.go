package command

import "container/heap"

// deadlines are the executions of a shard by the time at which they need attention: one entry for each, whatever it
// waits for.
type deadlines []*execution

// Len, Less, Swap, Push and Pop are for container/heap.
func (h deadlines) Len() int           { return len(h) }
func (h deadlines) Less(i, j int) bool { return h[i].deadline < h[j].deadline }
func (h deadlines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = int32(i), int32(j)
}

func (h *deadlines) Push(x any) {
	e := x.(*execution)
	e.heapAt = int32(len(*h))
	*h = append(*h, e)
}

func (h *deadlines) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.heapAt = -1
	return e
}

// set moves, adds or (at 0) removes the deadline of an execution.
func (h *deadlines) set(e *execution, at int64) {
	switch {
	case e.deadline == at:
		return
	case at == 0:
		heap.Remove(h, int(e.heapAt))
		e.deadline = 0
	case e.heapAt < 0:
		e.deadline = at
		heap.Push(h, e)
	default:
		e.deadline = at
		heap.Fix(h, int(e.heapAt))
	}
}

// next is the earliest deadline, or 0.
func (h deadlines) next() int64 {
	if len(h) == 0 {
		return 0
	}
	return h[0].deadline
}
