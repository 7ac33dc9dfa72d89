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
	b = appendString(b, r.Topic)
	b = appendString(b, r.ClientID)
	b = appendString(b, r.Key)
	b = appendString(b, r.Value)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for i := range r.Headers {
		b = appendString(b, r.Headers[i].Key)
		b = appendString(b, r.Headers[i].Value)
	}
	return b
}

func appendString[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// parseRecord reads what appendRecord wrote; what follows it is ignored. The record keeps b.
func parseRecord(b []byte) (*uplink.Record, error) {
	d := recordReader{rest: b}
	if version := d.byte(); d.err == nil && version != recordVersion {
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
	n := d.uvarint()
	if n > uint64(len(d.rest))/leastHeader {
		return nil, errRecordCut
	}
	if n > 0 {
		r.Headers = make([]uplink.Header, n)
	}
	for i := range r.Headers {
		r.Headers[i] = uplink.Header{Key: d.bytes(), Value: d.bytes()}
	}
	return r, d.err
}

// recordReader reads until its first error, and then only zeroes.
type recordReader struct {
	rest []byte
	err  error
}

func (d *recordReader) fail() { d.rest, d.err = nil, errRecordCut }

func (d *recordReader) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	v := d.rest[0]
	d.rest = d.rest[1:]
	return v
}

func (d *recordReader) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// bytes returns a part of the input; never nil unless there was an error.
func (d *recordReader) bytes() []byte {
	n := d.uvarint()
	if d.err != nil || n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}
