package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// errCorrupt is what every decoder gives for bytes that no encoder made.
var errCorrupt = errors.New("stored value is corrupt")

// decoder reads a value of the broker's. After the first fault it yields zeros, and end tells.
type decoder struct {
	reader        // of what is before the payload
	all    []byte // what is before the payload
	text   string // a copy of all, which the strings share; made when the first is read
	tail   []byte // the payload
}

func newDecoder(value []byte) decoder {
	if len(value) == 0 || value[0] != valueVersion {
		return decoder{reader: reader{bad: true}}
	}
	tail, n := binary.Uvarint(value[1:])
	if n <= 0 || tail > uint64(len(value)-1-n) {
		return decoder{reader: reader{bad: true}}
	}
	cut := len(value) - int(tail)
	head := value[1+n : cut]
	return decoder{reader: reader{rest: head}, all: head, tail: value[cut:]}
}

// end reports the value as corrupt if it was shorter, or longer, than what was read of it.
func (d *decoder) end() error {
	if d.bad || len(d.rest) != 0 {
		return errCorrupt
	}
	return nil
}

func (d *decoder) string() string {
	size := d.uvarint()
	at := len(d.all) - len(d.rest)
	if len(d.take(size)) == 0 {
		return ""
	}
	if d.text == "" {
		d.text = string(d.all)
	}
	return d.text[at : at+int(size)]
}

func (d *decoder) payload() []byte {
	if len(d.tail) == 0 {
		return nil
	}
	return bytes.Clone(d.tail)
}

func (d *decoder) message(m *broker.Message) {
	flags := d.byte()
	m.QoS = flags >> messageQoS
	m.Retain = flags&messageRetain != 0
	m.Topic = d.string()
	m.Origin = d.string()
	m.Username = d.string()
	m.Traceparent = d.string()
	m.Received = d.varint()
	m.Expires = d.varint()
	if flags&messageProperties != 0 {
		m.Properties = d.properties()
	}
	if !d.bad {
		m.Payload = d.payload()
	}
}

func (d *decoder) properties() *broker.Properties {
	p := &broker.Properties{HasPayloadFormat: d.byte() != 0, PayloadFormat: d.byte()}
	p.ContentType = d.string()
	p.ResponseTopic = d.string()
	if size := d.uvarint(); size > 0 {
		p.CorrelationData = append([]byte{}, d.take(size-1)...)
	}
	if n := d.count(2); n > 0 {
		p.User = make([]packets.UserProperty, n)
		for i := range p.User {
			p.User[i] = packets.UserProperty{Key: d.string(), Val: d.string()}
		}
	}
	return p
}

func decodeMessage(value []byte) (*broker.Message, error) {
	d, m := newDecoder(value), new(broker.Message)
	d.message(m)
	return m, d.end()
}

// entryHead is what can be told of an entry without decoding its message.
type entryHead struct {
	flags byte
	size  int    // Message.Size, 0 when released
	body  uint64 // number of the message's body; 0: it is in the entry, if anywhere
}

func (h entryHead) released() bool { return h.flags&entryReleased != 0 }

func (d *decoder) entryHead() entryHead {
	h := entryHead{flags: d.byte()}
	size := d.uvarint()
	if size > math.MaxInt32 {
		d.fail()
	}
	h.size = int(size)
	if h.flags&entryShared != 0 {
		if h.body = d.uvarint(); h.body == 0 {
			d.fail()
		}
	}
	return h
}

func decodeEntryHead(value []byte) (entryHead, error) {
	d := newDecoder(value)
	h := d.entryHead()
	if d.bad {
		return entryHead{}, errCorrupt
	}
	return h, nil
}

// decodeEntry decodes all but the sequence number, which is in the key, and a message that is a body of its own.
func decodeEntry(value []byte) (broker.QueueEntry, entryHead, error) {
	d := newDecoder(value)
	h := d.entryHead()
	e := broker.QueueEntry{QoS: h.flags >> entryQoS, Retain: h.flags&entryRetain != 0, Released: h.released()}
	if h.flags&entryGroup != 0 {
		e.Share = d.string()
	}
	if h.flags&entryIdentifiers != 0 {
		e.Identifiers = make([]uint32, d.count(1))
		for i := range e.Identifiers {
			e.Identifiers[i] = d.uint32()
		}
	}
	if !e.Released && h.body == 0 {
		e.Message = new(broker.Message)
		d.message(e.Message)
	}
	if err := d.end(); err != nil {
		return broker.QueueEntry{}, entryHead{}, err
	}
	return e, h, nil
}

func decodeSessionRecord(value []byte) (broker.SessionRecord, error) {
	d := newDecoder(value)
	flags := d.byte()
	r := broker.SessionRecord{Admin: flags&recordAdmin != 0, ProtocolVersion: d.byte()}
	r.Identity = d.string()
	r.Username = d.string()
	r.Created = d.varint()
	r.ExpiryInterval = d.uint32()
	r.DisconnectedAt = d.varint()
	r.SentTo = d.uvarint()
	r.NextSeq = d.uvarint()
	if flags&recordWill != 0 {
		r.Will = &broker.Will{Delay: d.uint32(), DueAt: d.varint(), Expiry: d.uint32()}
		d.message(&r.Will.Message)
	}
	return r, d.end()
}

func decodeSubscription(value []byte) (broker.Subscription, error) {
	d := newDecoder(value)
	s := broker.Subscription{QoS: d.byte()}
	flags := d.byte()
	s.NoLocal = flags&subscriptionNoLocal != 0
	s.RetainAsPublished = flags&subscriptionRetainAsPublished != 0
	s.RetainHandling = d.byte()
	s.Identifier = d.uint32()
	return s, d.end()
}
