package wire

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
)

// connectBody is a CONNECT with a protocol name that goes with the version.
func connectBody(version, flags int, rest ...any) []byte {
	name := "MQTT"
	if version == 3 {
		name = "MQIsdp"
	}
	return append(body(name, version, flags, uint16(60)), body(rest...)...)
}

func TestDecodeConnect(t *testing.T) {
	runDecodeCases(t, map[string]decodeCase{
		"v3.1":                           {connect, 0, connectBody(3, 2, "c"), 0},
		"v3.1.1":                         {connect, 0, connectBody(4, 2, "c"), 0},
		"v5":                             {connect, 0, connectBody(5, 2, 0, "c"), 0},
		"v3.1.1 no client id, clean":     {connect, 0, connectBody(4, 2, ""), 0},
		"v3.1.1 no client id, not clean": {connect, 0, connectBody(4, 0, ""), 0x85},
		"v3.1 no client id":              {connect, 0, connectBody(3, 2, ""), 0x85},
		"v5 no client id, not clean":     {connect, 0, connectBody(5, 0, 0, ""), 0},
		"client id with NUL":             {connect, 0, connectBody(4, 2, "\x00"), 0x81},
		"client id not UTF-8":            {connect, 0, connectBody(4, 2, "\xFF"), 0x81},
		"client id missing":              {connect, 0, connectBody(4, 2), 0x81},
		"with flags":                     {connect | 1, 0, connectBody(4, 2, "c"), 0x81},
		"trailing":                       {connect, 0, connectBody(4, 2, "c", 0), 0x81},
		"empty":                          {connect, 0, nil, 0x81},
		"keep alive missing":             {connect, 0, body("MQTT", 4, 2, 0), 0x81},
		"flags missing":                  {connect, 0, body("MQTT", 4), 0x81},
		"version missing":                {connect, 0, body("MQTT"), 0x81},
		"MQTT 3":                         {connect, 0, body("MQTT", 3, 2, id, "c"), 0x84},
		"MQTT 6":                         {connect, 0, body("MQTT", 6, 2, id, 0, "c"), 0x84},
		"MQIsdp 4":                       {connect, 0, body("MQIsdp", 4, 2, id, "c"), 0x84},
		"bridge bit":                     {connect, 0, body("MQTT", 0x84, 2, id, "c"), 0x84},
		"another name":                   {connect, 0, body("MQTS", 4, 2, id, "c"), 0x82},
		"empty name":                     {connect, 0, body("", 4, 2, id, "c"), 0x82},
		"name cut off":                   {connect, 0, []byte{0, 4, 'M'}, 0x81},
		"reserved flag":                  {connect, 0, connectBody(4, 3, "c"), 0x81},
		"user name and password":         {connect, 0, connectBody(4, 0xC2, "c", "u", "p"), 0},
		"empty user name and password":   {connect, 0, connectBody(4, 0xC2, "c", "", ""), 0},
		"password alone v3.1.1":          {connect, 0, connectBody(4, 0x42, "c", "p"), 0x81},
		"password alone v5":              {connect, 0, connectBody(5, 0x42, 0, "c", "p"), 0},
		"user name missing":              {connect, 0, connectBody(4, 0x82, "c"), 0x81},
		"password missing":               {connect, 0, connectBody(4, 0xC2, "c", "u"), 0x81},
		"user name missing v3.1":         {connect, 0, connectBody(3, 0xC2, "c"), 0},
		"password missing v3.1":          {connect, 0, connectBody(3, 0xC2, "c", "u"), 0},
		"user name not UTF-8":            {connect, 0, connectBody(4, 0x82, "c", "\xFF"), 0x81},
		"password is binary":             {connect, 0, connectBody(4, 0xC2, "c", "u", "\x00\xFF"), 0},
		"user name without flag":         {connect, 0, connectBody(4, 2, "c", "u"), 0x81},
	})
}

func TestDecodeWill(t *testing.T) {
	will := func(parts ...any) []byte { return connectBody(5, 6, 0, "c", props(parts...), "t", "w") }
	runDecodeCases(t, map[string]decodeCase{
		"v3.1.1":                     {connect, 0, connectBody(4, 0x2E, "c", "t", "w"), 0},
		"empty payload":              {connect, 0, connectBody(4, 6, "c", "t", ""), 0},
		"binary payload":             {connect, 0, connectBody(4, 6, "c", "t", "\x00\xFF"), 0},
		"v5":                         {connect, 0, connectBody(5, 6, 0, "c", 0, "t", "w"), 0},
		"QoS 3":                      {connect, 0, connectBody(4, 0x1E, "c", "t", "w"), 0x81},
		"QoS without will":           {connect, 0, connectBody(4, 0x0A, "c"), 0x81},
		"retain without will":        {connect, 0, connectBody(4, 0x22, "c"), 0x81},
		"empty topic":                {connect, 0, connectBody(4, 6, "c", "", "w"), 0x90},
		"topic with wildcard":        {connect, 0, connectBody(4, 6, "c", "a/#", "w"), 0x90},
		"topic with NUL":             {connect, 0, connectBody(4, 6, "c", "\x00", "w"), 0x81},
		"topic missing":              {connect, 0, connectBody(4, 6, "c"), 0x81},
		"payload missing":            {connect, 0, connectBody(4, 6, "c", "t"), 0x81},
		"properties missing":         {connect, 0, connectBody(5, 6, 0, "c"), 0x81},
		"all properties":             {connect, 0, will(1, 0, 2, id, id, 3, "", 8, "r", 9, "", 24, id, id, 38, "", ""), 0},
		"delay twice":                {connect, 0, will(24, uint32(5), 24, uint32(5)), 0x82},
		"alias":                      {connect, 0, will(35, id), 0x81},
		"session expiry":             {connect, 0, will(17, uint32(5)), 0x81},
		"payload format 2":           {connect, 0, will(1, 2), 0x82},
		"response topic wildcard":    {connect, 0, will(8, "#"), 0x82},
		"properties over the end":    {connect, 0, connectBody(5, 6, 0, "c", 99, "t", "w"), 0x81},
		"payload longer than packet": {connect, 0, connectBody(4, 6, "c", "t", 0, 9, 1), 0x81},
	})
}

func TestDecodeConnectProperties(t *testing.T) {
	with := func(parts ...any) []byte { return connectBody(5, 2, props(parts...), "c") }
	runDecodeCases(t, map[string]decodeCase{
		"all": {connect, 0, with(17, uint32(0), 33, id, 39, uint32(1), 34, id, 25, 1, 23, 0, 38, "k", "v", 38, "k", "v",
			21, "m", 22, "data"), 0},
		"alias maximum 0":             {connect, 0, with(34, uint16(0)), 0},
		"receive maximum 0":           {connect, 0, with(33, uint16(0)), 0x82},
		"receive maximum twice":       {connect, 0, with(33, id, 33, id), 0x82},
		"maximum packet size 0":       {connect, 0, with(39, uint32(0)), 0x82},
		"request problem info 2":      {connect, 0, with(23, 2), 0x82},
		"request response info 2":     {connect, 0, with(25, 2), 0x82},
		"auth data without method":    {connect, 0, with(22, "data"), 0x82},
		"session expiry twice":        {connect, 0, with(17, id, id, 17, id, id), 0x82},
		"will delay outside the will": {connect, 0, with(24, id, id), 0x81},
		"alias":                       {connect, 0, with(35, id), 0x81},
		"cut off":                     {connect, 0, with(17, id), 0x81},
		"missing":                     {connect, 0, body("MQTT", 5, 2, id), 0x81},
	})
}

func TestVersionOfTheAnswerToARefusedConnect(t *testing.T) {
	tests := map[string]struct {
		body []byte
		want byte
	}{
		"MQTT 5":         {connectBody(5, 3, 0, "c"), 5},
		"MQTT 3.1.1":     {connectBody(4, 3, "c"), 4},
		"MQTT 6":         {body("MQTT", 6, 2, id), 5},
		"MQTT 2":         {body("MQTT", 2, 2, id), 4},
		"bridge":         {body("MQTT", 0x84, 2, id), 4},
		"something else": {body("HTTP", 4, 2, id), 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var pk packets.Packet
			require.Error(t, Decode(connect, test.body, 0, &pk))
			require.Equal(t, test.want, pk.ProtocolVersion)
		})
	}
}
