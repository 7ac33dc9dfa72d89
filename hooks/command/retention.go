package command

import (
	"slices"
	"time"
)

// retainEvery is how often commands are looked at for their age.
const retainEvery = time.Minute

// retain is the goroutine that removes finished commands: those that are too old, and the oldest of too many.
func (s *Service) retain() {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	finished := 0
	for {
		select {
		case <-s.ended.wake:
			finished += len(s.ended.take())
			if slack := s.cfg.KeepMax/10 + 16; finished < s.cfg.KeepMax+slack {
				continue
			}
		case <-tick.C:
		case <-s.stop:
			return
		}
		finished = s.sweep()
	}
}

// sweep removes what need not be kept, and returns how many finished commands are left.
func (s *Service) sweep() int {
	old := nowMillis() - s.cfg.Keep.Milliseconds()
	var finished []Status
	s.mu.RLock()
	for _, c := range s.order {
		if st := c.status(); st.Done() && st.FinishedAt != 0 {
			finished = append(finished, st)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(finished, func(a, b Status) int { return int(a.FinishedAt - b.FinishedAt) })
	left := len(finished)
	for _, st := range finished {
		if left <= s.cfg.KeepMax && st.FinishedAt > old {
			break
		}
		if c, err := s.lookup(st.ID); err == nil && s.remove(c) {
			left--
		}
	}
	return left
}

// remove forgets a finished command, unless it has come to life again.
func (s *Service) remove(c *command) bool {
	if !c.control.TryLock() {
		return false
	}
	defer c.control.Unlock()
	c.mu.Lock()
	gone := c.closed && !c.live && c.unstored.Load() == 0
	if gone {
		c.removed.Store(true)
	}
	c.mu.Unlock()
	if !gone {
		return false
	}
	s.mu.Lock()
	delete(s.commands, c.id)
	if is := s.byKey[c.record.Key]; is != nil && is.cmd == c {
		delete(s.byKey, c.record.Key)
	}
	s.order = slices.DeleteFunc(s.order, func(o *command) bool { return o == c })
	s.mu.Unlock()
	for _, sh := range s.shards { // a write that was begun before is in the store's hands once its shard's mu was free
		sh.mu.Lock()
		delete(sh.hot, c)
		sh.mu.Unlock()
	}
	s.store.Apply(&Tx{Delete: []string{c.id}}, func(err error) {
		if err != nil {
			s.log.Warn("old command not removed", "error", err, "command_id", c.id)
		}
	})
	return true
}
