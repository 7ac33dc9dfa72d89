package local

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/penstockmq/penstock/hooks/uplink"
)

// recordVersion is the first byte of every stored record. Then follow: time (varint), flags, and, each with its length
// before it, topic, client identifier, key, value; the number of headers, and their names and values.
const recordVersion = 1

// recordHasKey tells a record with an empty key from one without: Kafka does, when it chooses the partition.
const recordHasKey = 1

// recordOverhead is an upper bound of what appendRecord adds to Record.Size for a record with few headers.
const recordOverhead = 16

var errRecordCut = errors.New("stored record ends too early")

// appendRecord appends the record as it is stored.
func appendRecord(b []byte, r *uplink.Record) []byte {
	flags := byte(0)
	if r.Key != nil {
		flags |= recordHasKey
	}
	b = append(b, recordVersion)
	b = binary.AppendVarint(b, r.Time)
	b = append(b, flags)
	b = appendField(b, r.Topic)
	b = appendField(b, r.ClientID)
	b = appendField(b, r.Key)
	b = appendField(b, r.Value)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for i := range r.Headers {
		b = appendField(b, r.Headers[i].Key)
		b = appendField(b, r.Headers[i].Value)
	}
	return b
}

// parseRecord reads what appendRecord wrote; what follows it is ignored. The record keeps b.
func parseRecord(b []byte) (*uplink.Record, error) {
	d := reader{rest: b}
	if version := d.byte(); !d.bad && version != recordVersion {
		return nil, fmt.Errorf("stored record has version %d, which this program does not know", version)
	}
	r := &uplink.Record{Time: d.varint()}
	hasKey := d.byte()&recordHasKey != 0
	r.Topic = string(d.bytes())
	r.ClientID = string(d.bytes())
	if key := d.bytes(); hasKey {
		r.Key = key
	}
	r.Value = d.bytes()
	const leastHeader = 2 // two lengths of zero
	if n := d.count(leastHeader); n > 0 {
		r.Headers = make([]uplink.Header, n)
	}
	for i := range r.Headers {
		r.Headers[i] = uplink.Header{Key: d.bytes(), Value: d.bytes()}
	}
	if d.bad {
		return nil, errRecordCut
	}
	return r, nil
}
