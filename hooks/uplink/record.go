package uplink

// Record is one message on its way to the business side: what becomes one Kafka record.
//
// A Record given to a Sink belongs to the Sink and is never changed again. Its slices may share memory with the MQTT
// message and with each other.
type Record struct {
	Topic    string // Kafka topic
	Key      []byte // partition key; nil: no key, and no order among such records
	Value    []byte // the MQTT payload as it is
	Headers  []Header
	ClientID string // MQTT client identifier of the publisher; empty when the broker itself published it
	Time     int64  // when the broker received the message, Unix milliseconds
}

// Header is one Kafka record header.
type Header struct {
	Key, Value []byte
}

// Size is what the record counts for against bounds in bytes: all of its content and a fixed overhead.
func (r *Record) Size() int {
	const overhead, perHeader = 64, 12 // not less than what Kafka's record format adds
	n := overhead + len(r.Topic) + len(r.Key) + len(r.Value) + len(r.ClientID)
	for i := range r.Headers {
		n += perHeader + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// Sink takes records to where they are safe.
type Sink interface {
	// Send takes the record and calls done exactly once, from any goroutine, possibly before it returns: with nil once
	// the record is safe (in Kafka on all in-sync replicas, or on disk), or with an error if it is not and never will
	// be; a *broker.Refusal chooses the MQTT reason code. It must not block.
	// Records of one key and topic keep the order in which they were given.
	Send(r *Record, done func(error))
}

// The names of the headers that every record carries. A message's MQTT 5 user properties follow with UserPrefix before
// their names, then the route's own headers.
const (
	HeaderClientID    = "client_id"    // MQTT client identifier of the publisher
	HeaderTopic       = "mqtt_topic"   // MQTT topic
	HeaderQoS         = "qos"          // "0", "1" or "2"
	HeaderReceived    = "received_at"  // when the broker received the message: Unix milliseconds, decimal
	HeaderTraceparent = "traceparent"  // W3C trace context; absent when the message has none
	HeaderContentType = "content_type" // MQTT 5 content type; absent when the message has none
	UserPrefix        = "user."
)
