package wire

import "github.com/mochi-mqtt/server/v2/packets"

// Decode is being written; it decodes what is needed to compile against it.
func Decode(first byte, body []byte, version byte, pk *packets.Packet) error {
	return packets.ErrMalformedPacket
}
