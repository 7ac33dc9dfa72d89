package wire

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The bits of the connect flags (MQTT 5, 3.1.2.3).
const (
	reservedFlag = 0x01
	cleanFlag    = 0x02
	willFlag     = 0x04
	willQoS      = 0x18
	willRetain   = 0x20
	passwordFlag = 0x40
	usernameFlag = 0x80
)

// decodeConnect does without mochi's ConnectValidate, which refuses empty passwords and empty will messages.
func decodeConnect(body []byte, pk *packets.Packet) error {
	r := reader{body}
	version, err := r.protocol(pk)
	if err != nil {
		return err
	}
	flagsAt := len(body) - len(r.buf)
	flags, err := r.byte()
	if err != nil {
		return packets.ErrMalformedFlags
	}
	if err := checkConnectFlags(flags, version); err != nil {
		return err
	}
	if _, err := r.uint16(); err != nil {
		return packets.ErrMalformedKeepalive
	}
	if version == 5 {
		if _, _, err := r.properties(inConnect); err != nil {
			return err
		}
	}
	if err := r.clientID(flags, version); err != nil {
		return err
	}
	hasExpiry, err := r.will(flags, version)
	if err != nil {
		return err
	}
	present, err := r.credentials(flags, version)
	if err != nil {
		return err
	}
	if len(r.buf) != 0 {
		return packets.ErrMalformedPacket
	}
	if present != flags { // MQTT 3.1 without the credentials that it announced
		body = bytes.Clone(body)
		body[flagsAt] = present
	}
	if hasExpiry {
		pk.Expiry = expiryPresent
	}
	return codeOf(pk.ConnectDecode(body))
}

// protocol reads protocol name and version, and sets pk.ProtocolVersion to the version of the answer.
func (r *reader) protocol(pk *packets.Packet) (version byte, err error) {
	name, err := r.binary()
	if err != nil {
		return 0, packets.ErrMalformedProtocolName
	}
	if version, err = r.byte(); err != nil {
		return 0, packets.ErrMalformedProtocolVersion
	}
	switch known := string(name); {
	case known != "MQTT" && known != "MQIsdp":
		return 0, packets.ErrProtocolViolationProtocolName // [MQTT-3.1.2-1]
	case known == "MQTT" && (version == 4 || version == 5), known == "MQIsdp" && version == 3:
		pk.ProtocolVersion = version
		return version, nil
	case version > 5 && version < 0x80: // with 0x80 a mosquitto bridge says that it is one
		pk.ProtocolVersion = 5
	default:
		pk.ProtocolVersion = 4
	}
	return 0, packets.ErrUnsupportedProtocolVersion // [MQTT-3.1.2-2]
}

func checkConnectFlags(flags, version byte) error {
	switch {
	case flags&reservedFlag != 0:
		return packets.ErrMalformedFlags // [MQTT-3.1.2-3]
	case flags&willQoS == willQoS:
		return packets.ErrMalformedQos // [MQTT-3.1.2-12]
	case flags&willFlag == 0 && flags&(willQoS|willRetain) != 0:
		return packets.ErrMalformedFlags // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
	case version != 5 && flags&passwordFlag != 0 && flags&usernameFlag == 0:
		return packets.ErrMalformedFlags // [MQTT-3.1.2-22] of 3.1.1
	}
	return nil
}

// clientID checks the client identifier. MQTT 3.1 wants one, 3.1.1 for a session that is kept.
func (r *reader) clientID(flags, version byte) error {
	id, err := r.text()
	if err != nil {
		return err
	}
	if len(id) == 0 && (version == 3 || version == 4 && flags&cleanFlag == 0) {
		return packets.ErrClientIdentifierNotValid // [MQTT-3.1.3-8] of 3.1.1
	}
	return nil
}

// will checks the will, if there is one.
func (r *reader) will(flags, version byte) (hasExpiry bool, err error) {
	if flags&willFlag == 0 {
		return false, nil
	}
	if version == 5 {
		_, found, err := r.properties(inWill)
		if err != nil {
			return false, err
		}
		hasExpiry = found.has(packets.PropMessageExpiryInterval)
	}
	topic, err := r.topicName()
	if err != nil {
		return false, err
	}
	if len(topic) == 0 {
		return false, packets.ErrTopicNameInvalid // [MQTT-4.7.3-1]
	}
	if _, err := r.binary(); err != nil {
		return false, packets.ErrMalformedWillPayload
	}
	return hasExpiry, nil
}

// credentials checks user name and password, and returns the flags without those that are missing: in MQTT 3.1 (3.1,
// user name flag) the remaining length counts more than the flags.
func (r *reader) credentials(flags, version byte) (present byte, err error) {
	if flags&usernameFlag != 0 {
		if version == 3 && len(r.buf) == 0 {
			return flags &^ (usernameFlag | passwordFlag), nil
		}
		if _, err := r.text(); err != nil {
			return 0, packets.ErrMalformedUsername
		}
	}
	if flags&passwordFlag != 0 {
		if version == 3 && len(r.buf) == 0 {
			return flags &^ passwordFlag, nil
		}
		if _, err := r.binary(); err != nil {
			return 0, packets.ErrMalformedPassword
		}
	}
	return flags, nil
}
