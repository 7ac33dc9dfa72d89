package local

import (
	"encoding/binary"

	"github.com/penstockmq/penstock/broker"
)

// Every value of the broker's begins with valueVersion and the length of its tail: the payload, which is kept at the
// end, so that a reader copies it once and all strings before it together.
const valueVersion = 1

const (
	entryReleased = 1 << iota
	entryRetain
	entryShared // the message is a body of its own, by number
	entryGroup  // it has a $share filter
	entryIdentifiers
	entryQoS = 6 // the shift of the two highest bits
)

const (
	messageRetain = 1 << iota
	messageProperties
	messageQoS = 6
)

const (
	recordAdmin = 1 << iota
	recordWill
)

const (
	subscriptionNoLocal = 1 << iota
	subscriptionRetainAsPublished
)

func appendHead(b []byte, payload []byte) []byte {
	return binary.AppendUvarint(append(b, valueVersion), uint64(len(payload)))
}

// appendField appends what reader.bytes reads.
func appendField[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendMessageValue encodes a message that stands for itself: a body or a retained message.
func appendMessageValue(b []byte, m *broker.Message) []byte {
	b = appendMessage(appendHead(b, m.Payload), m)
	return append(b, m.Payload...)
}

// appendMessage encodes all of a message but its payload.
func appendMessage(b []byte, m *broker.Message) []byte {
	flags := m.QoS << messageQoS
	if m.Retain {
		flags |= messageRetain
	}
	if m.Properties != nil {
		flags |= messageProperties
	}
	b = appendField(append(b, flags), m.Topic)
	b = appendField(b, m.Origin)
	b = appendField(b, m.Username)
	b = appendField(b, m.Traceparent)
	b = binary.AppendVarint(b, m.Received)
	b = binary.AppendVarint(b, m.Expires)
	if m.Properties != nil {
		b = appendProperties(b, m.Properties)
	}
	return b
}

func appendProperties(b []byte, p *broker.Properties) []byte {
	has := byte(0)
	if p.HasPayloadFormat {
		has = 1
	}
	b = appendField(append(b, has, p.PayloadFormat), p.ContentType)
	b = appendField(b, p.ResponseTopic)
	// Absent and empty correlation data are different things to a requester.
	if p.CorrelationData == nil {
		b = append(b, 0)
	} else {
		b = binary.AppendUvarint(b, uint64(len(p.CorrelationData))+1)
		b = append(b, p.CorrelationData...)
	}
	b = binary.AppendUvarint(b, uint64(len(p.User)))
	for i := range p.User {
		b = appendField(b, p.User[i].Key)
		b = appendField(b, p.User[i].Val)
	}
	return b
}

// appendEntry encodes a queue entry. body is the number of its message's body; 0 puts the message into the entry.
func appendEntry(b []byte, e *broker.QueueEntry, body uint64) []byte {
	var payload []byte
	inline := e.Message != nil && body == 0
	if inline {
		payload = e.Message.Payload
	}
	b = appendHead(b, payload)
	b = append(b, entryFlags(e, body))
	size := 0
	if e.Message != nil {
		size = e.Message.Size()
	}
	b = binary.AppendUvarint(b, uint64(size))
	if body != 0 {
		b = binary.AppendUvarint(b, body)
	}
	if e.Share != "" {
		b = appendField(b, e.Share)
	}
	if len(e.Identifiers) > 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Identifiers)))
		for _, id := range e.Identifiers {
			b = binary.AppendUvarint(b, uint64(id))
		}
	}
	if inline {
		b = appendMessage(b, e.Message)
	}
	return append(b, payload...)
}

func entryFlags(e *broker.QueueEntry, body uint64) byte {
	flags := e.QoS << entryQoS
	if e.Released || e.Message == nil {
		flags |= entryReleased
	}
	if e.Retain {
		flags |= entryRetain
	}
	if body != 0 {
		flags |= entryShared
	}
	if e.Share != "" {
		flags |= entryGroup
	}
	if len(e.Identifiers) > 0 {
		flags |= entryIdentifiers
	}
	return flags
}

// appendSessionRecord encodes a session's record but for the client identifier, which is in its key.
func appendSessionRecord(b []byte, r *broker.SessionRecord) []byte {
	var payload []byte
	flags := byte(0)
	if r.Admin {
		flags |= recordAdmin
	}
	if r.Will != nil {
		flags |= recordWill
		payload = r.Will.Message.Payload
	}
	b = append(appendHead(b, payload), flags, r.ProtocolVersion)
	b = appendField(b, r.Identity)
	b = appendField(b, r.Username)
	b = binary.AppendVarint(b, r.Created)
	b = binary.AppendUvarint(b, uint64(r.ExpiryInterval))
	b = binary.AppendVarint(b, r.DisconnectedAt)
	b = binary.AppendUvarint(b, r.SentTo)
	b = binary.AppendUvarint(b, r.NextSeq)
	if w := r.Will; w != nil {
		b = binary.AppendUvarint(b, uint64(w.Delay))
		b = binary.AppendVarint(b, w.DueAt)
		b = binary.AppendUvarint(b, uint64(w.Expiry))
		b = appendMessage(b, &w.Message)
	}
	return append(b, payload...)
}

// appendSubscription encodes a subscription but for the filter, which is in its key.
func appendSubscription(b []byte, s *broker.Subscription) []byte {
	flags := byte(0)
	if s.NoLocal {
		flags |= subscriptionNoLocal
	}
	if s.RetainAsPublished {
		flags |= subscriptionRetainAsPublished
	}
	b = append(appendHead(b, nil), s.QoS, flags, s.RetainHandling)
	return binary.AppendUvarint(b, uint64(s.Identifier))
}
