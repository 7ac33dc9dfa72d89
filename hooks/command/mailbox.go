package command

import "sync"

// mailbox hands values from many goroutines to one, in order, without blocking the givers.
type mailbox[T any] struct {
	wake  chan struct{} // holds one token: there is something in it
	bound int           // 0: its givers are bounded themselves

	mu    sync.Mutex
	items []T
}

func newMailbox[T any](bound int) *mailbox[T] {
	return &mailbox[T]{wake: make(chan struct{}, 1), bound: bound}
}

// put reports false when the mailbox is full.
func (m *mailbox[T]) put(v T) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bound > 0 && len(m.items) >= m.bound {
		return false
	}
	m.items = append(m.items, v)
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// take empties the mailbox.
func (m *mailbox[T]) take() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	items := m.items
	m.items = nil
	return items
}

// each calls f for everything that is put, until stop is closed; what is left then is given to f as well.
func (m *mailbox[T]) each(stop <-chan struct{}, f func(T)) {
	for {
		select {
		case <-m.wake:
		case <-stop:
			for _, v := range m.take() {
				f(v)
			}
			return
		}
		for _, v := range m.take() {
			f(v)
		}
	}
}
