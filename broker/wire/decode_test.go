package wire

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
)

// body joins bytes, numbers of two bytes, and strings with their length, to the body of a packet.
func body(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			b = append(b, byte(v))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case string:
			b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

// props makes properties with their length.
func props(parts ...any) []byte {
	b := body(parts...)
	return append(appendVarint(nil, len(b)), b...)
}

const (
	connect     = 0x10
	publish     = 0x30
	puback      = 0x40
	pubrec      = 0x50
	pubrel      = 0x62
	pubcomp     = 0x70
	subscribe   = 0x82
	unsubscribe = 0xA2
	pingreq     = 0xC0
	disconnect  = 0xE0
	auth        = 0xF0
)

var id = uint16(7)

// decodeCase is one packet and the reason code that it must be refused with; 0: it is to be accepted.
type decodeCase struct {
	first   byte
	version byte
	body    []byte
	want    byte
}

func runDecodeCases(t *testing.T, tests map[string]decodeCase) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var pk packets.Packet
			err := Decode(test.first, test.body, test.version, &pk)
			if test.want == 0 {
				require.NoError(t, err)
				return
			}
			var code packets.Code
			require.IsType(t, code, err, "%v", err)
			require.Equalf(t, test.want, err.(packets.Code).Code, "%#x: %v", err.(packets.Code).Code, err)
		})
	}
}

func TestDecodePublish(t *testing.T) {
	long := strings.Repeat("x", 65_535)
	runDecodeCases(t, map[string]decodeCase{
		"v4":                            {publish, 4, body("a", []byte("payload")), 0},
		"v4 empty payload":              {publish, 4, body("a"), 0},
		"longest topic":                 {publish, 4, body(long), 0},
		"QoS 1":                         {publish | 2, 4, body("a", id), 0},
		"QoS 2, DUP, RETAIN":            {publish | 0xD, 4, body("a", id), 0},
		"v5":                            {publish, 5, body("a", 0, []byte("payload")), 0},
		"not ASCII":                     {publish, 4, body("дом/温度"), 0},
		"QoS 3":                         {publish | 6, 4, body("a", id), 0x81},
		"DUP with QoS 0":                {publish | 8, 4, body("a"), 0x82},
		"packet identifier 0":           {publish | 2, 4, body("a", uint16(0)), 0x82},
		"packet identifier missing":     {publish | 2, 4, body("a", 1), 0x81},
		"empty body":                    {publish, 4, nil, 0x81},
		"topic cut off":                 {publish, 4, []byte{0, 5, 'a'}, 0x81},
		"empty topic v4":                {publish, 4, body(""), 0x82},
		"empty topic v5":                {publish, 5, body("", 0), 0x82},
		"empty topic with alias":        {publish, 5, body("", props(35, id)), 0},
		"topic with plus":               {publish, 4, body("a/+"), 0x90},
		"topic with hash":               {publish, 4, body("a/bcdefghijkl/#"), 0x90},
		"topic with hash, not ASCII":    {publish, 4, body("ä/#"), 0x90},
		"topic with NUL":                {publish, 4, body("a\x00b"), 0x81},
		"topic with surrogate":          {publish, 4, body("\xED\xA0\x80"), 0x81},
		"topic with overlong character": {publish, 4, body("\xC0\xAF"), 0x81},
		"topic not UTF-8":               {publish, 4, body("abcdefgh\xFF"), 0x81},
		"properties missing":            {publish, 5, body("a"), 0x81},
	})
}

func TestDecodePublishProperties(t *testing.T) {
	with := func(parts ...any) []byte { return body("a", props(parts...), []byte("x")) }
	all := with(1, 1, 2, id, id, 3, "t", 8, "r", 9, "c", 35, id, 38, "", "", 38, "", "")
	long := strings.Repeat("x", 65_535)
	runDecodeCases(t, map[string]decodeCase{
		"all":                           {publish, 5, all, 0},
		"long length":                   {publish, 5, with(38, long, long), 0},
		"empty strings":                 {publish, 5, with(3, "", 9, "", 38, "", ""), 0},
		"message expiry 0":              {publish, 5, with(2, uint32(0)), 0},
		"length longer than the packet": {publish, 5, body("a", 3, 1, 1), 0x81},
		"length in five bytes":          {publish, 5, body("a", []byte{0x80, 0x80, 0x80, 0x80, 1}), 0x81},
		"length not minimal":            {publish, 5, body("a", []byte{0x80, 0}), 0x81},
		"length cut off":                {publish, 5, body("a", 0x80), 0x81},
		"value runs over the end":       {publish, 5, body("a", 3, 2, 0, 0, []byte("xxxxxx")), 0x81},
		"string runs over the end":      {publish, 5, body("a", 4, 3, 0, 9, 1, []byte("xxxxxxxxxx")), 0x81},
		"binary runs over the end":      {publish, 5, body("a", 4, 9, 0, 9, 1, []byte("xxxxxxxxxx")), 0x81},
		"pair without value":            {publish, 5, with(38, "k"), 0x81},
		"unknown":                       {publish, 5, with(0x7F, 1), 0x81},
		"property 0":                    {publish, 5, with(0, 1), 0x81},
		"property 43":                   {publish, 5, with(43, 1), 0x81},
		"property in two bytes":         {publish, 5, with(0x81, 1), 0x81},
		"not for PUBLISH":               {publish, 5, with(33, id), 0x81},
		"never from a client":           {publish, 5, with(18, "x"), 0x81},
		"subscription identifier":       {publish, 5, with(11, 1), 0x82},
		"twice payload format":          {publish, 5, with(1, 1, 1, 1), 0x82},
		"twice expiry":                  {publish, 5, with(2, uint32(1), 2, uint32(1)), 0x82},
		"twice content type":            {publish, 5, with(3, "", 3, ""), 0x82},
		"twice response topic":          {publish, 5, with(8, "a", 8, "a"), 0x82},
		"twice correlation data":        {publish, 5, with(9, "", 9, ""), 0x82},
		"twice alias":                   {publish, 5, with(35, id, 35, id), 0x82},
		"payload format 2":              {publish, 5, with(1, 2), 0x82},
		"alias 0":                       {publish, 5, with(35, uint16(0)), 0x94},
		"response topic with hash":      {publish, 5, with(8, "a/#"), 0x82},
		"response topic with plus":      {publish, 5, with(8, "+"), 0x82},
		"response topic empty":          {publish, 5, with(8, ""), 0x82},
		"content type not UTF-8":        {publish, 5, with(3, "\xFF"), 0x81},
		"user property with NUL":        {publish, 5, with(38, "k", "\x00"), 0x81},
		"user property with surrogate":  {publish, 5, with(38, "\xED\xA0\x80", ""), 0x81},
	})
}

func TestDecodeAcks(t *testing.T) {
	runDecodeCases(t, map[string]decodeCase{
		"PUBACK v4":                    {puback, 4, body(id), 0},
		"PUBREC v4":                    {pubrec, 4, body(id), 0},
		"PUBREL v4":                    {pubrel, 4, body(id), 0},
		"PUBCOMP v4":                   {pubcomp, 4, body(id), 0},
		"PUBREL v3.1 again":            {pubrel | 8, 3, body(id), 0},
		"v5 with code":                 {puback, 5, body(id, 0x97), 0},
		"v5 with empty properties":     {puback, 5, body(id, 0x10, 0), 0},
		"v5 with reason":               {pubrec, 5, body(id, 0x80, props(31, "why", 38, "k", "v")), 0},
		"PUBREL v5 not found":          {pubrel, 5, body(id, 0x92), 0},
		"PUBCOMP v5 not found":         {pubcomp, 5, body(id, 0x92), 0},
		"PUBREL v4 again":              {pubrel | 8, 4, body(id), 0x81},
		"PUBREL without flags":         {0x60, 4, body(id), 0x81},
		"PUBACK with flags":            {puback | 2, 4, body(id), 0x81},
		"empty":                        {puback, 4, nil, 0x81},
		"half an identifier":           {puback, 5, body(0), 0x81},
		"identifier 0":                 {puback, 4, body(uint16(0)), 0x82},
		"v4 with code":                 {puback, 4, body(id, 0), 0x81},
		"v4 trailing":                  {pubcomp, 4, body(id, id), 0x81},
		"v5 trailing":                  {puback, 5, body(id, 0, 0, 0), 0x81},
		"v5 properties too long":       {puback, 5, body(id, 0, 5), 0x81},
		"v5 wrong property":            {puback, 5, body(id, 0, props(35, id)), 0x81},
		"v5 reason twice":              {puback, 5, body(id, 0, props(31, "", 31, "")), 0x82},
		"PUBACK with PUBREL's code":    {puback, 5, body(id, 0x92), 0x82},
		"PUBREL with PUBACK's code":    {pubrel, 5, body(id, 0x80), 0x82},
		"PUBCOMP with unknown code":    {pubcomp, 5, body(id, 0x42), 0x82},
		"PUBREC with DISCONNECT's one": {pubrec, 5, body(id, 0x8E), 0x82},
	})
}

func TestDecodeSubscribe(t *testing.T) {
	runDecodeCases(t, map[string]decodeCase{
		"v4":                           {subscribe, 4, body(id, "a", 0, "b/#", 2), 0},
		"v3.1 again":                   {subscribe | 8, 3, body(id, "a", 1), 0},
		"v5":                           {subscribe, 5, body(id, 0, "a", 0x2E, "$share/g/b", 0x1A), 0},
		"v5 identifier":                {subscribe, 5, body(id, props(11, 0xFF, 0xFF, 0xFF, 0x7F, 38, "", ""), "a", 0), 0},
		"wrong flags":                  {0x80, 4, body(id, "a", 0), 0x81},
		"v4 again":                     {subscribe | 8, 4, body(id, "a", 0), 0x81},
		"identifier 0":                 {subscribe, 4, body(uint16(0), "a", 0), 0x82},
		"no filter v4":                 {subscribe, 4, body(id), 0x82},
		"no filter v5":                 {subscribe, 5, body(id, 0), 0x82},
		"empty":                        {subscribe, 5, nil, 0x81},
		"v4 without QoS":               {subscribe, 4, body(id, "a"), 0x81},
		"v5 without options":           {subscribe, 5, body(id, 0, "a"), 0x81},
		"v5 second without options":    {subscribe, 5, body(id, 0, "a", 0, "b"), 0x81},
		"v4 QoS 3":                     {subscribe, 4, body(id, "a", 3), 0x81},
		"v4 reserved bits":             {subscribe, 4, body(id, "a", 4), 0x81},
		"v5 QoS 3":                     {subscribe, 5, body(id, 0, "a", 3), 0x82},
		"v5 retain handling 3":         {subscribe, 5, body(id, 0, "a", 0x30), 0x82},
		"v5 reserved bit 6":            {subscribe, 5, body(id, 0, "a", 0x40), 0x81},
		"v5 reserved bit 7":            {subscribe, 5, body(id, 0, "a", 0x80), 0x81},
		"v5 shared and no local":       {subscribe, 5, body(id, 0, "$share/g/a", 4), 0x82},
		"empty filter":                 {subscribe, 4, body(id, "", 0), 0x8F},
		"filter with NUL":              {subscribe, 4, body(id, "\x00", 0), 0x81},
		"filter not UTF-8":             {subscribe, 4, body(id, "\xFF", 0), 0x81},
		"filter cut off":               {subscribe, 4, body(id, 0, 9, 1), 0x81},
		"identifier property 0":        {subscribe, 5, body(id, props(11, 0), "a", 0), 0x82},
		"identifier property twice":    {subscribe, 5, body(id, props(11, 1, 11, 2), "a", 0), 0x82},
		"identifier property too long": {subscribe, 5, body(id, props(11, 0x80, 0x80, 0x80, 0x80, 1), "a", 0), 0x81},
		"identifier property cut off":  {subscribe, 5, body(id, props(11, 0x80), "a", 0), 0x81},
		"wrong property":               {subscribe, 5, body(id, props(31, ""), "a", 0), 0x81},
	})
}

func TestDecodeUnsubscribe(t *testing.T) {
	runDecodeCases(t, map[string]decodeCase{
		"v4":                      {unsubscribe, 4, body(id, "a", "b/#"), 0},
		"v5":                      {unsubscribe, 5, body(id, props(38, "k", "v"), "a"), 0},
		"v3.1 again":              {unsubscribe | 8, 3, body(id, "a"), 0},
		"wrong flags":             {0xA0, 4, body(id, "a"), 0x81},
		"identifier 0":            {unsubscribe, 4, body(uint16(0), "a"), 0x82},
		"no filter":               {unsubscribe, 4, body(id), 0x82},
		"no filter v5":            {unsubscribe, 5, body(id, 0), 0x82},
		"empty filter":            {unsubscribe, 4, body(id, "a", ""), 0x8F},
		"half a length":           {unsubscribe, 4, body(id, "a", 0), 0x81},
		"filter not UTF-8":        {unsubscribe, 4, body(id, "\xC3"), 0x81},
		"subscription identifier": {unsubscribe, 5, body(id, props(11, 1), "a"), 0x81},
		"properties over the end": {unsubscribe, 5, body(id, 9, "a"), 0x81},
	})
}

func TestDecodeOthers(t *testing.T) {
	runDecodeCases(t, map[string]decodeCase{
		"PINGREQ":                     {pingreq, 4, nil, 0},
		"PINGREQ with flags":          {pingreq | 1, 4, nil, 0x81},
		"PINGREQ with a body":         {pingreq, 4, body(0), 0x81},
		"DISCONNECT v4":               {disconnect, 4, nil, 0},
		"DISCONNECT v4 with code":     {disconnect, 4, body(0), 0x81},
		"DISCONNECT v5":               {disconnect, 5, nil, 0},
		"DISCONNECT v5 with will":     {disconnect, 5, body(4), 0},
		"DISCONNECT v5 no properties": {disconnect, 5, body(0, 0), 0},
		"DISCONNECT v5 full":          {disconnect, 5, body(0x81, props(17, uint32(1), 31, "why", 38, "k", "v")), 0},
		"DISCONNECT with flags":       {disconnect | 2, 5, nil, 0x81},
		"DISCONNECT server's code":    {disconnect, 5, body(0x8E), 0x82},
		"DISCONNECT server reference": {disconnect, 5, body(0, props(28, "n2")), 0x82},
		"DISCONNECT expiry twice":     {disconnect, 5, body(0, props(17, uint32(1), 17, uint32(1))), 0x82},
		"DISCONNECT trailing":         {disconnect, 5, body(0, 0, 0), 0x81},
		"AUTH":                        {auth, 5, body(0x18, props(21, "m", 22, "data", 31, "", 38, "", "")), 0},
		"AUTH again":                  {auth, 5, body(0x19, props(21, "m")), 0},
		"AUTH v4":                     {auth, 4, nil, 0x82},
		"AUTH empty":                  {auth, 5, nil, 0x81},
		"AUTH success from client":    {auth, 5, body(0, props(21, "m")), 0x82},
		"AUTH without method":         {auth, 5, body(0x18, 0), 0x82},
		"AUTH code alone":             {auth, 5, body(0x18), 0x82},
		"AUTH data without method":    {auth, 5, body(0x18, props(22, "data")), 0x82},
		"AUTH empty method":           {auth, 5, body(0x18, props(21, "")), 0x8C},
		"AUTH trailing":               {auth, 5, body(0x18, props(21, "m"), 0), 0x81},
		"reserved type":               {0x00, 4, nil, 0x81},
		"CONNACK":                     {0x20, 4, body(0, 0), 0x82},
		"SUBACK":                      {0x90, 4, body(id, 0), 0x82},
		"UNSUBACK":                    {0xB0, 4, body(id), 0x82},
		"PINGRESP":                    {0xD0, 4, nil, 0x82},
		"second CONNECT":              {connect, 4, connectBody(4, 2, "c"), 0x82},
		"PUBLISH before CONNECT":      {publish, 0, body("a"), 0x82},
		"an HTTP request":             {'G', 0, []byte("T / HTTP/1.1\r\n"), 0x82},
		"a TLS handshake":             {0x16, 0, []byte{1, 0, 1, 252}, 0x81},
	})
}

func TestDecodeFillsThePacket(t *testing.T) {
	var pk packets.Packet
	require.NoError(t, Decode(connect, connectBody(5, 0xEE, props(17, uint32(9), 33, id), "client",
		props(2, uint32(0), 24, uint32(5)), "will/topic", "bye", "user", "secret"), 0, &pk))
	require.EqualValues(t, 5, pk.ProtocolVersion)
	require.Equal(t, "client", pk.Connect.ClientIdentifier)
	require.Equal(t, "will/topic", pk.Connect.WillTopic)
	require.Equal(t, "bye", string(pk.Connect.WillPayload))
	require.Equal(t, "user", string(pk.Connect.Username))
	require.Equal(t, "secret", string(pk.Connect.Password))
	require.True(t, pk.Connect.Clean && pk.Connect.WillFlag && pk.Connect.WillRetain)
	require.EqualValues(t, 1, pk.Connect.WillQos)
	require.EqualValues(t, 60, pk.Connect.Keepalive)
	require.EqualValues(t, 9, pk.Properties.SessionExpiryInterval)
	require.EqualValues(t, 7, pk.Properties.ReceiveMaximum)
	require.EqualValues(t, 5, pk.Connect.WillProperties.WillDelayInterval)
	expiry, ok := MessageExpiry(&pk)
	require.True(t, ok, "an expiry of 0 is not the same as none")
	require.Zero(t, expiry)
	require.Nil(t, FromWill(&pk))

	require.NoError(t, Decode(subscribe, body(id, props(11, 200, 1), "a", 0x2E), 5, &pk))
	require.Empty(t, pk.Connect)
	require.Equal(t, packets.Subscriptions{{
		Filter: "a", Identifier: 200, Qos: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2,
	}}, pk.Filters)

	require.NoError(t, Decode(publish|3, body("t", id, props(1, 1, 3, "ct"), []byte("payload")), 5, &pk))
	require.Equal(t, "t", pk.TopicName)
	require.EqualValues(t, 7, pk.PacketID)
	require.Equal(t, "payload", string(pk.Payload))
	require.Equal(t, &Properties{PayloadFormat: 1, HasPayloadFormat: true, ContentType: "ct"}, FromPacket(&pk))
	require.True(t, pk.FixedHeader.Retain)
	_, ok = MessageExpiry(&pk)
	require.False(t, ok)

	require.NoError(t, Decode(disconnect, body(4), 5, &pk))
	require.EqualValues(t, 4, pk.ReasonCode, "a reason code that stands alone")
}

// spoil does to a packet what a hook might do.
func spoil(pk *packets.Packet) {
	pk.ProtocolVersion, pk.FixedHeader.Type = 4, packets.Publish
	pk.Properties.User = append(pk.Properties.User, packets.UserProperty{Key: "hook", Val: "was here"})
	pk.Origin, pk.Created, pk.Ignore, pk.SessionPresent, pk.ReservedBit = "x", 1, true, true, 1
	pk.Mods.MaxSize, pk.ReasonCodes = 9, []byte{1}
}

// TestDecodeForgetsTheLastPacket: a packet that is used again must come out as if it were new.
func TestDecodeForgetsTheLastPacket(t *testing.T) {
	type input struct {
		first, version byte
		body           []byte
	}
	inputs := []input{
		{connect, 0, connectBody(5, 0xEE, props(17, uint32(9)), "client", props(2, uint32(3)), "w", "bye", "u", "p")},
		{publish | 2, 5, body("t", id, props(2, uint32(5), 35, id, 38, "k", "v"), []byte("x"))},
		{publish, 4, body("t")},
		{subscribe, 5, body(id, props(11, 1), "a", 0)},
		{unsubscribe, 4, body(id, "a")},
		{puback, 5, body(id, 0x80, props(31, "why"))},
		{puback, 4, body(id)},
		{disconnect, 5, body(0x81, props(31, "why", 17, uint32(1)))},
		{auth, 5, body(0x18, props(21, "m", 22, "d"))},
		{pingreq, 4, nil},
		{publish, 5, body("", 0)}, // refused
		{connect, 0, connectBody(4, 2, "")},
	}
	for _, before := range inputs {
		for _, after := range inputs {
			var used, fresh packets.Packet
			_ = Decode(before.first, before.body, before.version, &used)
			spoil(&used)
			usedErr := Decode(after.first, after.body, after.version, &used)
			freshErr := Decode(after.first, after.body, after.version, &fresh)
			require.Equal(t, freshErr, usedErr)
			require.Equal(t, fresh, used, "%#x after %#x", after.first, before.first)
		}
	}
}
