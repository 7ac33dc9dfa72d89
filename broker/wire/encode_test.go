package wire

import (
	"math"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
)

// fullPublish has everything that a PUBLISH to a client can have.
func fullPublish() *PublishOut {
	return &PublishOut{
		Topic: "a/b", Payload: []byte("payload"), QoS: 2, Retain: true, Dup: true, PacketID: 300, Alias: 9, Expiry: 77,
		HasExpiry: true, Identifiers: []uint32{1, 128, maxVarint}, Properties: &Properties{
			PayloadFormat: 1, HasPayloadFormat: true, ContentType: "text/plain", ResponseTopic: "r/t",
			CorrelationData: []byte{1, 2, 3},
			User:            []packets.UserProperty{{Key: "k", Val: "v"}, {Key: "k", Val: ""}},
		},
	}
}

// decodeServer lets mochi decode what a server sends.
func decodeServer(first byte, body []byte, version byte, pk *packets.Packet) error {
	*pk = packets.Packet{ProtocolVersion: version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return err
	}
	pk.FixedHeader.Remaining = len(body)
	switch pk.FixedHeader.Type {
	case packets.Connack:
		return pk.ConnackDecode(body)
	case packets.Publish:
		return pk.PublishDecode(body)
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return pk.PubackDecode(body)
	case packets.Suback:
		return pk.SubackDecode(body)
	case packets.Unsuback:
		return pk.UnsubackDecode(body)
	case packets.Disconnect:
		return pk.DisconnectDecode(body)
	default:
		return packets.ErrNoValidPacketAvailable
	}
}

// roundTrip decodes one packet with mochi, and checks that its length is as its header says.
func roundTrip(t *testing.T, packet []byte, version byte) *packets.Packet {
	t.Helper()
	first, remaining, n, err := Header(packet)
	require.NoError(t, err)
	require.Equal(t, len(packet), n+remaining)
	var pk packets.Packet
	require.NoError(t, decodeServer(first, packet[n:], version, &pk))
	return &pk
}

func TestAppendPublishFull(t *testing.T) {
	out := fullPublish()
	packet := AppendPublish([]byte("before"), 5, out)
	require.Equal(t, "before", string(packet[:6]))
	require.Equal(t, PublishSize(5, out), len(packet)-6)
	pk := roundTrip(t, packet[6:], 5)
	require.Equal(t, packets.FixedHeader{
		Remaining: pk.FixedHeader.Remaining, Type: packets.Publish, Qos: 2, Dup: true, Retain: true,
	}, pk.FixedHeader)
	require.Equal(t, "a/b", pk.TopicName)
	require.Equal(t, "payload", string(pk.Payload))
	require.EqualValues(t, 300, pk.PacketID)
	require.EqualValues(t, 9, pk.Properties.TopicAlias)
	require.EqualValues(t, 77, pk.Properties.MessageExpiryInterval)
	require.Equal(t, []int{1, 128, maxVarint}, pk.Properties.SubscriptionIdentifier)
	require.Equal(t, out.Properties, FromPacket(pk))
}

func TestAppendPublishForms(t *testing.T) {
	tests := map[string]struct {
		version byte
		out     PublishOut
		want    []byte
	}{
		"v4 QoS 0":            {4, PublishOut{Topic: "a", Payload: []byte("x")}, []byte{0x30, 4, 0, 1, 'a', 'x'}},
		"v4 QoS 1":            {4, PublishOut{Topic: "a", QoS: 1, PacketID: 258}, []byte{0x32, 5, 0, 1, 'a', 1, 2}},
		"v4 ignores all of 5": {4, *fullPublish(), append([]byte{0x3D, 14, 0, 3, 'a', '/', 'b', 1, 44}, "payload"...)},
		"v5 bare":             {5, PublishOut{Topic: "a"}, []byte{0x30, 4, 0, 1, 'a', 0}},
		"alias and topic":     {5, PublishOut{Topic: "a", Alias: 2}, []byte{0x30, 7, 0, 1, 'a', 3, 35, 0, 2}},
		"alias alone":         {5, PublishOut{Topic: "a", Alias: 2, OmitTopic: true}, body(0x30, 6, "", 3, 35, 0, 2)},
		"omit needs an alias": {5, PublishOut{Topic: "a", OmitTopic: true}, []byte{0x30, 4, 0, 1, 'a', 0}},
		"omit needs MQTT 5":   {4, PublishOut{Topic: "a", Alias: 2, OmitTopic: true}, []byte{0x30, 3, 0, 1, 'a'}},
		"expiry 0":            {5, PublishOut{Topic: "a", HasExpiry: true}, body(0x30, 9, "a", 5, 2, uint32(0))},
		"empty correlation data is kept": {5,
			PublishOut{Topic: "a", Properties: &Properties{CorrelationData: []byte{}}},
			[]byte{0x30, 7, 0, 1, 'a', 3, 9, 0, 0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, AppendPublish(nil, test.version, &test.out))
			require.Equal(t, len(test.want), PublishSize(test.version, &test.out))
		})
	}
}

func TestPublishSizeAtLengthBoundaries(t *testing.T) {
	for _, size := range []int{120, 127, 128, 16_370, 16_383, 16_384, 2_097_140, 2_097_152} {
		for _, version := range []byte{4, 5} {
			out := &PublishOut{Topic: "a", Payload: make([]byte, size), QoS: 1, PacketID: 1}
			packet := AppendPublish(nil, version, out)
			require.Equal(t, len(packet), PublishSize(version, out))
			require.Len(t, roundTrip(t, packet, version).Payload, size)
		}
	}
}

func TestLongStringsAreCutBetweenCharacters(t *testing.T) {
	long := strings.Repeat("ä", 40_000)
	out := &PublishOut{Topic: long, Properties: &Properties{
		CorrelationData: make([]byte, 70_000), ContentType: "x" + long,
		User: []packets.UserProperty{{Key: long, Val: long}},
	}}
	packet := AppendPublish(nil, 5, out)
	require.Equal(t, len(packet), PublishSize(5, out))
	pk := roundTrip(t, packet, 5)
	require.Len(t, pk.TopicName, math.MaxUint16-1)
	require.Len(t, pk.Properties.ContentType, math.MaxUint16)
	require.Len(t, pk.Properties.CorrelationData, math.MaxUint16)
}

func TestAppendAck(t *testing.T) {
	tests := map[string]struct {
		kind, version byte
		code          byte
		reason        string
		want          []byte
	}{
		"v4 has no code":  {packets.Puback, 4, 0x87, "no", []byte{0x40, 2, 1, 2}},
		"v5 success":      {packets.Puback, 5, 0, "", []byte{0x40, 2, 1, 2}},
		"v5 code":         {packets.Pubrec, 5, 0x97, "", []byte{0x50, 3, 1, 2, 0x97}},
		"v5 reason":       {packets.Puback, 5, 0x97, "no", []byte{0x40, 9, 1, 2, 0x97, 5, 31, 0, 2, 'n', 'o'}},
		"pubrel flags":    {packets.Pubrel, 4, 0, "", []byte{0x62, 2, 1, 2}},
		"pubrel v5 code":  {packets.Pubrel, 5, 0x92, "", []byte{0x62, 3, 1, 2, 0x92}},
		"pubcomp":         {packets.Pubcomp, 5, 0x92, "", []byte{0x70, 3, 1, 2, 0x92}},
		"success, reason": {packets.Puback, 5, 0, "ok", []byte{0x40, 9, 1, 2, 0, 5, 31, 0, 2, 'o', 'k'}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			packet := AppendAck(nil, test.kind, test.version, 258, test.code, test.reason)
			require.Equal(t, test.want, packet)
			pk := roundTrip(t, packet, test.version)
			require.EqualValues(t, 258, pk.PacketID)
		})
	}
}

func TestAppendSmallPackets(t *testing.T) {
	codes := []byte{0, 1, 2, 0x80, 0x87, 0x8F}
	tests := map[string]struct{ got, want []byte }{
		"pingresp":         {AppendPingresp(nil), []byte{0xD0, 0}},
		"suback v4":        {AppendSuback(nil, 4, 258, codes), []byte{0x90, 8, 1, 2, 0, 1, 2, 0x80, 0x80, 0x80}},
		"suback v5":        {AppendSuback(nil, 5, 258, codes), []byte{0x90, 9, 1, 2, 0, 0, 1, 2, 0x80, 0x87, 0x8F}},
		"unsuback v4":      {AppendUnsuback(nil, 4, 258, []byte{0, 0x11}), []byte{0xB0, 2, 1, 2}},
		"unsuback v5":      {AppendUnsuback(nil, 5, 258, []byte{0, 0x11}), []byte{0xB0, 5, 1, 2, 0, 0, 0x11}},
		"disconnect":       {AppendDisconnect(nil, 0x8E, "", ""), []byte{0xE0, 1, 0x8E}},
		"disconnect moved": {AppendDisconnect(nil, 0x9D, "", "n2"), []byte{0xE0, 7, 0x9D, 5, 28, 0, 2, 'n', '2'}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, test.got) })
	}
	pk := roundTrip(t, AppendDisconnect(nil, 0x9C, "why", "n2:1883"), 5)
	require.EqualValues(t, 0x9C, pk.ReasonCode)
	require.Equal(t, "why", pk.Properties.ReasonString)
	require.Equal(t, "n2:1883", pk.Properties.ServerReference)
}

func TestAppendSubackOfManyFilters(t *testing.T) {
	codes := make([]byte, 200)
	pk := roundTrip(t, AppendSuback(nil, 5, 1, codes), 5)
	require.Equal(t, codes, pk.ReasonCodes)
}

func TestAppendConnackFull(t *testing.T) {
	c := &Connack{
		SessionPresent: true, SessionExpiryInterval: 0, HasSessionExpiryInterval: true, ReceiveMaximum: 32,
		MaximumQoS: 1, HasMaximumQoS: true, RetainUnavailable: true, MaximumPacketSize: 1 << 20,
		AssignedClientID:  "auto-1",
		TopicAliasMaximum: 16, ReasonString: "welcome", ServerKeepAlive: 60, HasServerKeepAlive: true,
		ResponseInformation: "r/", ServerReference: "n2", AuthenticationMethod: "SCRAM", AuthenticationData: []byte{1},
		User: []packets.UserProperty{{Key: "trace_id", Val: "ab"}},
	}
	pk := roundTrip(t, AppendConnack(nil, 5, c), 5)
	require.True(t, pk.SessionPresent)
	require.Equal(t, packets.Properties{
		SessionExpiryIntervalFlag: true, ReceiveMaximum: 32, MaximumQos: 1, MaximumQosFlag: true,
		RetainAvailableFlag: true, MaximumPacketSize: 1 << 20, AssignedClientID: "auto-1", TopicAliasMaximum: 16,
		ReasonString: "welcome", ServerKeepAlive: 60, ServerKeepAliveFlag: true, ResponseInfo: "r/",
		ServerReference: "n2", AuthenticationMethod: "SCRAM", AuthenticationData: []byte{1}, User: c.User,
	}, pk.Properties)
}

func TestAppendConnackForms(t *testing.T) {
	tests := map[string]struct {
		version byte
		c       Connack
		want    []byte
	}{
		"v5 bare":                        {5, Connack{}, []byte{0x20, 3, 0, 0, 0}},
		"v5 present":                     {5, Connack{SessionPresent: true}, []byte{0x20, 3, 1, 0, 0}},
		"v5 refused is never present":    {5, Connack{SessionPresent: true, Code: 0x87}, []byte{0x20, 3, 0, 0x87, 0}},
		"v4 present":                     {4, Connack{SessionPresent: true}, []byte{0x20, 2, 1, 0}},
		"v4 refused is never present":    {4, Connack{SessionPresent: true, Code: 0x87}, []byte{0x20, 2, 0, 5}},
		"v3 knows no session present":    {3, Connack{SessionPresent: true}, []byte{0x20, 2, 0, 0}},
		"v4 has no properties":           {4, Connack{AssignedClientID: "x"}, []byte{0x20, 2, 0, 0}},
		"v4 unsupported version":         {4, Connack{Code: 0x84}, []byte{0x20, 2, 0, 1}},
		"v4 client identifier":           {4, Connack{Code: 0x85}, []byte{0x20, 2, 0, 2}},
		"v4 server unavailable":          {4, Connack{Code: 0x88}, []byte{0x20, 2, 0, 3}},
		"v4 bad user name or password":   {4, Connack{Code: 0x86}, []byte{0x20, 2, 0, 4}},
		"v4 not authorized":              {4, Connack{Code: 0x87}, []byte{0x20, 2, 0, 5}},
		"v4 use another server":          {4, Connack{Code: 0x9C}, []byte{0x20, 2, 0, 3}},
		"v4 knows no word for malformed": {4, Connack{Code: 0x81}, []byte{0x20, 2, 0, 3}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, AppendConnack(nil, test.version, &test.c))
		})
	}
}

func TestFromPacket(t *testing.T) {
	require.Nil(t, FromPacket(&packets.Packet{}))
	require.Nil(t, FromPacket(&packets.Packet{Properties: packets.Properties{MessageExpiryInterval: 5, TopicAlias: 1}}))

	packet := AppendPublish(nil, 5, fullPublish())
	pk := roundTrip(t, packet, 5)
	got := FromPacket(pk)
	clear(packet)
	require.Equal(t, fullPublish().Properties, got, "what is kept must not alias the read buffer")
	value, ok := got.UserProperty("k")
	require.True(t, ok)
	require.Equal(t, "v", value)
	_, ok = got.UserProperty("missing")
	require.False(t, ok)
	_, ok = (*Properties)(nil).UserProperty("k")
	require.False(t, ok)
}

func FuzzAppendPublish(f *testing.F) {
	f.Add("a/b", []byte("payload"), byte(1), uint16(1), uint16(0), uint32(0), uint32(1), "ct", "r", []byte{1}, "k", "v")
	f.Add("", []byte{}, byte(0), uint16(0), uint16(3), uint32(1), uint32(0), "", "", []byte{}, "", "")
	f.Fuzz(func(t *testing.T, topic string, payload []byte, qos byte, id, alias uint16, expiry, sub uint32,
		contentType, response string, correlation []byte, key, value string) {
		out := &PublishOut{
			Topic: clean(topic), Payload: payload, QoS: qos % 3, PacketID: id, Alias: alias, OmitTopic: qos > 128,
			Expiry: expiry, HasExpiry: expiry != 0, Properties: &Properties{
				ContentType: clean(contentType), ResponseTopic: clean(response), CorrelationData: correlation,
				User: []packets.UserProperty{{Key: clean(key), Val: clean(value)}},
			},
		}
		if sub %= maxVarint + 1; sub != 0 {
			out.Identifiers = []uint32{sub}
		}
		for _, version := range []byte{3, 4, 5} {
			packet := AppendPublish(nil, version, out)
			require.Equal(t, len(packet), PublishSize(version, out))
			pk := roundTrip(t, packet, version)
			require.Equal(t, out.topicFor(version), pk.TopicName)
			require.Equal(t, string(payload), string(pk.Payload))
			if version == 5 {
				require.Equal(t, out.Properties, FromPacket(pk))
				require.Equal(t, expiry, pk.Properties.MessageExpiryInterval)
				require.Equal(t, alias, pk.Properties.TopicAlias)
			}
		}
	})
}

// clean makes a string that may stand in a packet.
func clean(s string) string {
	return clip(strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", ""))
}
