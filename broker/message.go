package broker

import (
	"strings"
	"unsafe"

	"github.com/penstockmq/penstock/broker/wire"
)

// Message is one application message on its way from a publisher to whoever wants it.
//
// A Message handed to a Store, an Acceptor or Publish is never changed again by anyone: it is shared between all of
// its receivers. Payload and the strings may be kept; they do not alias a read buffer.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // 0, 1 or 2: the QoS it was published with
	Retain  bool // the RETAIN flag it was published with

	// Properties are the MQTT 5 properties that travel with the message; nil when there are none.
	Properties *Properties

	Origin   string // client identifier of the publisher; empty when the broker itself published it
	Username string // the publisher's verified user name; may be empty
	Received int64  // when the broker received it, Unix milliseconds
	Expires  int64  // when it expires, Unix milliseconds; 0: never

	// Traceparent is the W3C trace context of the message. The broker fills it in for every message that an Acceptor
	// takes: the publisher's own "traceparent" user property, or else one that continues the connection's trace id.
	Traceparent string
}

// Properties are the MQTT 5 PUBLISH properties that the server forwards unaltered (MQTT 5, 3.3.2.3).
type Properties = wire.Properties

func (m *Message) expiredAt(millis int64) bool { return m.Expires != 0 && millis >= m.Expires }

// clone copies everything out of the buffers that m may alias, in one allocation for topic and payload.
func (m *Message) clone() *Message {
	buf := make([]byte, len(m.Topic)+len(m.Payload))
	copy(buf, m.Topic)
	copy(buf[len(m.Topic):], m.Payload)
	held := *m
	held.Topic = unsafe.String(unsafe.SliceData(buf), len(m.Topic))
	held.Payload = buf[len(m.Topic):]
	return &held
}

// Size is what the message counts for against bounds in bytes: payload, topic, properties, and a fixed overhead.
func (m *Message) Size() int {
	const overhead = 96
	n := overhead + len(m.Topic) + len(m.Payload)
	if p := m.Properties; p != nil {
		n += len(p.ContentType) + len(p.ResponseTopic) + len(p.CorrelationData)
		for i := range p.User {
			n += 4 + len(p.User[i].Key) + len(p.User[i].Val)
		}
	}
	return n
}

// IsSys reports whether topic is one of the server's own topics, which clients may not publish to.
func IsSys(topic string) bool { return strings.HasPrefix(topic, "$") }
