package killtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

// number is what a message carries: who published it, and as which of its messages.
type number struct{ publisher, seq uint32 }

func (n number) payload() []byte {
	b := binary.BigEndian.AppendUint32(nil, n.publisher)
	return binary.BigEndian.AppendUint32(b, n.seq)
}

func numberOf(payload []byte) (n number, err error) {
	if len(payload) != 8 {
		return n, fmt.Errorf("payload of %d bytes", len(payload))
	}
	return number{binary.BigEndian.Uint32(payload), binary.BigEndian.Uint32(payload[4:])}, nil
}

// publisher sends numbered messages with a window, sends again what was not acknowledged, and knows what was.
type publisher struct {
	testnode.Session
	number uint32
	topic  string
	qos    byte

	mu      sync.Mutex
	next    uint32 // the next sequence number; the packet identifier follows from it
	open    []*sent
	acked   uint32 // all below have been acknowledged
	halt    bool
	started bool // there has been a session
}

type sent struct {
	seq  uint32
	rec  bool // QoS 2: PUBREC came
	sent bool // on some connection
}

const window = 20

func packetID(seq uint32) uint16 { return uint16(seq%60_000) + 1 }

func (p *publisher) start() { p.Run(p.serve) }

func (p *publisher) serve(c *testmqtt.Client, present bool) error {
	p.mu.Lock()
	if p.started && !present {
		p.T.Errorf("%s: its session was forgotten", p.ID)
	}
	p.started = true
	for _, m := range p.open {
		if err := p.send(c, m); err != nil {
			p.mu.Unlock()
			return err
		}
	}
	p.mu.Unlock()
	for {
		if done, err := p.fill(c); done || err != nil {
			return err
		}
		pk, err := c.Read(testmqtt.Patience)
		if err != nil {
			return err
		}
		if err := p.answer(c, &pk); err != nil {
			return err
		}
	}
}

// fill sends new messages up to the window; it is done when it was halted and everything is acknowledged.
func (p *publisher) fill(c *testmqtt.Client) (done bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.open) < window && !p.halt {
		m := &sent{seq: p.next}
		p.next++
		p.open = append(p.open, m)
		if err := p.send(c, m); err != nil {
			return false, err
		}
	}
	return p.halt && len(p.open) == 0, nil
}

func (p *publisher) send(c *testmqtt.Client, m *sent) error {
	if m.rec {
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: packetID(m.seq)}
		return c.TrySend(pk)
	}
	pk := testmqtt.PublishPacket(p.topic, number{p.number, m.seq}.payload(), p.qos, packetID(m.seq))
	pk.FixedHeader.Dup = m.sent
	m.sent = true
	return c.TrySend(pk)
}

func (p *publisher) answer(c *testmqtt.Client, pk *packets.Packet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range p.open {
		if packetID(m.seq) != pk.PacketID {
			continue
		}
		if pk.ReasonCode >= 0x80 && pk.ReasonCode != 0x92 {
			return fmt.Errorf("refused with 0x%02X", pk.ReasonCode)
		}
		if pk.FixedHeader.Type == packets.Pubrec {
			m.rec = true
			return p.send(c, m)
		}
		p.open = append(p.open[:i], p.open[i+1:]...)
		p.acked++
		return nil
	}
	return nil // of a message that was sent again and acknowledged twice
}

// finish sends nothing new, waits until everything is acknowledged, and returns how many messages there were.
func (p *publisher) finish() uint32 {
	p.mu.Lock()
	p.halt = true
	p.mu.Unlock()
	<-p.Done()
	return p.next
}

// subscriber has a durable session and notes what it receives, as an application would see it.
type subscriber struct {
	testnode.Session
	filter string
	qos    byte

	mu         sync.Mutex
	subscribed bool
	pending    map[uint16]bool // QoS 2: received, PUBREL has not come
	got        map[uint32][]uint32
	ready      chan struct{}
}

func (s *subscriber) start() {
	s.pending, s.got, s.ready = make(map[uint16]bool), make(map[uint32][]uint32), make(chan struct{})
	s.Run(s.serve)
}

func (s *subscriber) serve(c *testmqtt.Client, present bool) error {
	if s.subscribed && !present {
		s.T.Errorf("%s: its session was forgotten", s.ID)
	}
	if !s.subscribed {
		err := c.TrySend(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
			Filters: packets.Subscriptions{{Filter: s.filter, Qos: s.qos}},
		})
		if err != nil {
			return err
		}
	}
	for {
		pk, err := c.Read(time.Minute)
		if err != nil {
			return err
		}
		if err := s.receive(c, &pk); err != nil {
			return err
		}
	}
}

func (s *subscriber) receive(c *testmqtt.Client, pk *packets.Packet) error {
	answer := packets.Packet{PacketID: pk.PacketID}
	switch pk.FixedHeader.Type {
	case packets.Suback:
		s.subscribed = true
		close(s.ready)
		return nil
	case packets.Publish:
		if err := s.note(pk); err != nil {
			return err
		}
		answer.FixedHeader.Type = packets.Puback
		if pk.FixedHeader.Qos == 2 {
			answer.FixedHeader.Type = packets.Pubrec
		}
	case packets.Pubrel:
		delete(s.pending, pk.PacketID)
		answer.FixedHeader.Type = packets.Pubcomp
	default:
		return errors.New("unexpected packet")
	}
	return c.TrySend(answer)
}

func (s *subscriber) note(pk *packets.Packet) error {
	n, err := numberOf(pk.Payload)
	if err != nil {
		s.T.Error(err)
		return err
	}
	if pk.FixedHeader.Qos == 2 {
		if s.pending[pk.PacketID] {
			return nil
		}
		s.pending[pk.PacketID] = true
	}
	s.mu.Lock()
	s.got[n.publisher] = append(s.got[n.publisher], n.seq)
	s.mu.Unlock()
	return nil
}

// has reports whether every message below n of a publisher has come.
func (s *subscriber) has(publisher, n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[uint32]bool, n)
	for _, seq := range s.got[publisher] {
		seen[seq] = true
	}
	return uint32(len(seen)) >= n
}
