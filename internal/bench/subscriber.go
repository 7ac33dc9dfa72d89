package bench

// subscriber accounts for what one connection receives.
type subscriber struct {
	first  uint32  // the first publisher that it hears
	tracks []track // one for each of them
}

// deliver accounts for a message. sub is nil on a connection that should get none.
func (e *engine) deliver(sub *subscriber, payload []byte) {
	e.progress = e.now
	s, ok := readStamp(payload)
	if !ok || sub == nil || s.run != e.run || s.publisher < sub.first ||
		int(s.publisher-sub.first) >= len(sub.tracks) || s.seq >= e.publishers[s.publisher].seq {
		e.foreign++
		return
	}
	if !sub.tracks[s.publisher-sub.first].see(s.seq) {
		return
	}
	e.received++
	p := e.publishers[s.publisher]
	p.delivered++
	e.enqueue(p)
	if s.due >= e.from {
		e.deliveries.record(e.now - s.due)
	}
}
