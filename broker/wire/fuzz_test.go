package wire

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
)

func FuzzHeader(f *testing.F) {
	for _, seed := range [][]byte{nil, {0x30}, {0x30, 0x7F}, {0x30, 0x80, 1}, {1, 0x80, 0}, {1, 255, 255, 255, 127}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		first, remaining, size, err := Header(buf)
		if err != nil {
			require.Equal(t, packets.ErrMalformedVariableByteInteger, err)
		}
		if size == 0 {
			require.True(t, err != nil || len(buf) < 5, "five bytes are always enough")
			return
		}
		require.NoError(t, err)
		require.Equal(t, buf[:size], appendVarint([]byte{first}, remaining), "the only form of this header")
		require.Equal(t, size-1, varintSize(remaining))
	})
}

// FuzzDecode checks that no input panics, that each refusal has a reason code, and that what is accepted survives
// mochi's encoder and a second decoding.
func FuzzDecode(f *testing.F) {
	for _, cases := range packets.TPacketData {
		for _, c := range cases {
			if first, _, n, err := Header(c.RawBytes); err == nil && n > 0 {
				f.Add(first, byte(4), c.RawBytes[n:])
				f.Add(first, byte(5), c.RawBytes[n:])
				f.Add(first, byte(0), c.RawBytes[n:])
			}
		}
	}
	f.Add(byte(subscribe), byte(5), body(id, 0, "a"))
	f.Add(byte(connect), byte(0), connectBody(5, 0xEE, props(17, id, id), "c", props(9, ""), "w", "", "u", "p"))
	f.Add(byte(publish), byte(5), body("a", props(1, 1, 8, "r", 9, "", 38, "k", "v")))
	f.Fuzz(func(t *testing.T, first, version byte, body []byte) {
		if version > 5 {
			return
		}
		var pk packets.Packet
		if err := Decode(first, body, version, &pk); err != nil {
			code, ok := err.(packets.Code)
			require.True(t, ok, "%T", err)
			require.GreaterOrEqual(t, code.Code, byte(0x80))
			return
		}
		FromPacket(&pk)
		FromWill(&pk)
		requireSurvivesEncoding(t, version, &pk)
	})
}

func requireSurvivesEncoding(t *testing.T, version byte, pk *packets.Packet) {
	t.Helper()
	pk.Mods.AllowResponseInfo = true // or mochi's encoder leaves out response topic and correlation data
	before := *pk
	encoded, err := AppendPacket(nil, pk)
	require.NoError(t, err)
	first, remaining, n, err := Header(encoded)
	require.NoError(t, err)
	require.Equal(t, len(encoded), n+remaining)
	var again packets.Packet
	require.NoError(t, Decode(first, encoded[n:], version, &again))
	require.Equal(t, normal(before), normal(again))
}

// normal evens out what mochi's encoders do not write: what is empty or zero, and codes below 0x80 in acknowledgements.
func normal(pk packets.Packet) packets.Packet {
	pk.FixedHeader.Remaining, pk.Expiry, pk.Mods = 0, 0, packets.Mods{}
	if pk.FixedHeader.Type != packets.Disconnect && pk.FixedHeader.Type != packets.Auth && pk.ReasonCode < 0x80 {
		pk.ReasonCode = 0
	}
	for _, b := range []*[]byte{
		&pk.Payload, &pk.Connect.Password, &pk.Connect.Username, &pk.Connect.WillPayload,
		&pk.Properties.CorrelationData, &pk.Properties.AuthenticationData, &pk.Connect.WillProperties.CorrelationData,
	} {
		if len(*b) == 0 {
			*b = nil
		}
	}
	return pk
}
