package wire

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
)

// AppendPacket appends any packet through mochi's encoders, for clients (the benchmark tool, tests). It fills in the
// flags that the packet type demands. The error is packets.ErrNoValidPacketAvailable for a type that does not exist, or
// what mochi says.
func AppendPacket(dst []byte, pk *packets.Packet) ([]byte, error) {
	switch pk.FixedHeader.Type {
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
	}
	var buf bytes.Buffer
	if err := encode(pk, &buf); err != nil {
		return dst, err
	}
	return append(dst, buf.Bytes()...), nil
}

func encode(pk *packets.Packet, buf *bytes.Buffer) error {
	switch pk.FixedHeader.Type {
	case packets.Connect:
		return pk.ConnectEncode(buf)
	case packets.Connack:
		return pk.ConnackEncode(buf)
	case packets.Publish:
		return pk.PublishEncode(buf)
	case packets.Puback:
		return pk.PubackEncode(buf)
	case packets.Pubrec:
		return pk.PubrecEncode(buf)
	case packets.Pubrel:
		return pk.PubrelEncode(buf)
	case packets.Pubcomp:
		return pk.PubcompEncode(buf)
	case packets.Subscribe:
		return pk.SubscribeEncode(buf)
	case packets.Suback:
		return pk.SubackEncode(buf)
	case packets.Unsubscribe:
		return pk.UnsubscribeEncode(buf)
	case packets.Unsuback:
		return pk.UnsubackEncode(buf)
	case packets.Pingreq:
		return pk.PingreqEncode(buf)
	case packets.Pingresp:
		return pk.PingrespEncode(buf)
	case packets.Disconnect:
		return pk.DisconnectEncode(buf)
	case packets.Auth:
		return pk.AuthEncode(buf)
	default:
		return packets.ErrNoValidPacketAvailable
	}
}
