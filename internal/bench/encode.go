package bench

import "encoding/binary"

// Packet types, in the high half of the first byte.
const (
	typeConnack    = 0x20
	typePublish    = 0x30
	typePuback     = 0x40
	typePubrec     = 0x50
	typePubrel     = 0x60
	typePubcomp    = 0x70
	typeSuback     = 0x90
	typePingresp   = 0xD0
	typeDisconnect = 0xE0

	firstConnect   = 0x10
	firstPubrel    = 0x62
	firstSubscribe = 0x82
	firstPingreq   = 0xC0
)

// sessionExpiry is asked of an MQTT 5 broker for sessions that outlive their connection, in seconds.
const sessionExpiry = 3600

func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendConnect writes CONNECT. MQTT 3.1.1 allows no password without a user name, so that one is made of the client
// identifier.
func appendConnect(b []byte, c *Config, clientID string) []byte {
	username := c.Username
	if username == "" && c.Password != "" {
		username = clientID
	}
	var flags byte
	body := 10 + 2 + len(clientID)
	if c.Clean {
		flags |= 0x02
	}
	if username != "" {
		flags |= 0x80
		body += 2 + len(username)
	}
	if c.Password != "" {
		flags |= 0x40
		body += 2 + len(c.Password)
	}
	properties := connectProperties(c)
	body += len(properties)

	b = appendVarint(append(b, firstConnect), body)
	b = append(appendString(b, "MQTT"), c.Version, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(c.KeepAlive.Seconds()))
	b = append(b, properties...)
	b = appendString(b, clientID)
	if username != "" {
		b = appendString(b, username)
	}
	if c.Password != "" {
		b = appendString(b, c.Password)
	}
	return b
}

// connectProperties returns the MQTT 5 properties of CONNECT with their length, and nothing for MQTT 3.1.1.
func connectProperties(c *Config) []byte {
	switch {
	case c.Version != 5:
		return nil
	case c.Clean:
		return []byte{0}
	}
	return binary.BigEndian.AppendUint32([]byte{5, propSessionExpiry}, sessionExpiry)
}

// appendSubscribe writes SUBSCRIBE for one filter with packet identifier 1.
func appendSubscribe(b []byte, version byte, filter string, qos int) []byte {
	body := 2 + 2 + len(filter) + 1
	if version == 5 {
		body++
	}
	b = appendVarint(append(b, firstSubscribe), body)
	b = append(b, 0, 1)
	if version == 5 {
		b = append(b, 0)
	}
	return append(appendString(b, filter), byte(qos))
}

// publishHead writes a PUBLISH up to its payload of the given size, and tells where the packet identifier is.
func publishHead(version byte, topic string, qos, size int) (head []byte, idAt int) {
	body := 2 + len(topic) + size
	if qos > 0 {
		body += 2
	}
	if version == 5 {
		body++
	}
	head = appendVarint([]byte{typePublish | byte(qos)<<1}, body)
	head = appendString(head, topic)
	if qos > 0 {
		idAt = len(head)
		head = append(head, 0, 0)
	}
	if version == 5 {
		head = append(head, 0)
	}
	return head, idAt
}

// appendAck writes PUBACK, PUBREC, PUBREL or PUBCOMP with its success code left out.
func appendAck(b []byte, first byte, id uint16) []byte {
	return append(b, first, 2, byte(id>>8), byte(id))
}
