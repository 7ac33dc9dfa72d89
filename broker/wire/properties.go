// Package wire turns bytes into MQTT packets and back: a guard that checks what a client sent before mochi's decoder sees
// it, and encoders that append to a caller's buffer.
package wire

import "github.com/mochi-mqtt/server/v2/packets"

// Properties are the MQTT 5 PUBLISH properties that the server forwards unaltered (MQTT 5, 3.3.2.3).
type Properties struct {
	PayloadFormat    byte
	HasPayloadFormat bool
	ContentType      string
	ResponseTopic    string
	CorrelationData  []byte
	User             []packets.UserProperty // in the order in which they were sent
}

// UserProperty returns the value of the first user property called key.
func (p *Properties) UserProperty(key string) (string, bool) {
	if p == nil {
		return "", false
	}
	for i := range p.User {
		if p.User[i].Key == key {
			return p.User[i].Val, true
		}
	}
	return "", false
}
