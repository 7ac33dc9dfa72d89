package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefusedRequests(t *testing.T) {
	const ok = `"targets":{"devices":["a"]},"payload":1`
	cases := map[string]struct {
		body     string
		status   int
		location string
		message  string
	}{
		"no JSON":             {`hello`, 400, "body", "JSON"},
		"not an object":       {`[]`, 400, "body", "object"},
		"ends too early":      {`{"payload":`, 400, "body", "JSON"},
		"more behind it":      {`{` + ok + `}{}`, 400, "body", "follows"},
		"not UTF-8":           {"{\"lane\":\"\xff\"}", 400, "body", "UTF-8"},
		"unknown field":       {`{` + ok + `,"ttl":3}`, 422, "body.ttl", "known"},
		"unknown target":      {`{"targets":{"device":["a"]},"payload":1}`, 422, "body.targets.device", "known"},
		"field twice":         {`{` + ok + `,"payload":2}`, 422, "body.payload", "twice"},
		"wrong type":          {`{` + ok + `,"ttl_s":"3"}`, 422, "body.ttl_s", "number"},
		"null":                {`{` + ok + `,"lane":null}`, 422, "body.lane", "null"},
		"targets of no type":  {`{"targets":[],"payload":1}`, 422, "body.targets", "object"},
		"no targets":          {`{"payload":1}`, 422, "body.targets", "one of"},
		"two kinds":           {`{"targets":{"devices":["a"],"online":true},"payload":1}`, 422, "body.targets", "only one"},
		"tag":                 {`{"targets":{"tag":"x"},"payload":1}`, 422, "body.targets.tag", "not supported yet"},
		"rollout":             {`{` + ok + `,"rollout":{}}`, 422, "body.rollout", "not supported yet"},
		"no devices":          {`{"targets":{"devices":[]},"payload":1}`, 422, "body.targets.devices", "empty"},
		"device with a slash": {`{"targets":{"devices":["a","b/c"]},"payload":1}`, 422, "body.targets.devices[1]", "b/c"},
		"device with newline": {`{"targets":{"devices":["a\nb"]},"payload":1}`, 422, "body.targets.devices[0]", "control"},
		"empty device":        {`{"targets":{"devices":[""]},"payload":1}`, 422, "body.targets.devices[0]", "empty"},
		"too many devices": {
			`{"targets":{"devices":["a","b","c","d"]},"payload":1}`, 422, "body.targets.devices", "at most 3",
		},
		"no payload":        {`{"targets":{"devices":["a"]}}`, 422, "body.payload", "missing"},
		"two payloads":      {`{` + ok + `,"payload_base64":"YQ=="}`, 422, "body.payload_base64", "together"},
		"bad base64":        {`{"targets":{"devices":["a"]},"payload_base64":"?"}`, 422, "body.payload_base64", "base64"},
		"priority too high": {`{` + ok + `,"priority":10}`, 422, "body.priority", "0 to 9"},
		"priority broken":   {`{` + ok + `,"priority":1.5}`, 422, "body.priority", "whole"},
		"ttl too long":      {`{` + ok + `,"ttl_s":1e12}`, 422, "body.ttl_s", "seconds"},
		"negative timeout":  {`{` + ok + `,"ack_timeout_s":-1}`, 422, "body.ack_timeout_s", "seconds"},
		"id for a topic":    {`{` + ok + `,"id":"a/b"}`, 422, "body.id", "a/b"},
		"reserved id":       {`{` + ok + `,"id":"refused"}`, 422, "body.id", "refused"},
		"long lane":         {`{` + ok + `,"lane":"` + strings.Repeat("x", 65) + `"}`, 422, "body.lane", "longer"},
	}
	cfg := testConfig(t)
	cfg.Targets = 3
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, p := parseRequest([]byte(c.body), &cfg)
			require.NotNil(t, p)
			require.Equal(t, c.status, p.Status)
			require.Equal(t, c.location, p.Fields[0].Location)
			require.Contains(t, p.Fields[0].Message, c.message)
		})
	}
}

func TestAllFaultsAreReportedTogether(t *testing.T) {
	cfg := testConfig(t)
	_, p := parseRequest([]byte(`{"targets":{"devices":["a/b","c+d"]},"priority":11,"lane":"x"}`), &cfg)
	require.Len(t, p.Fields, 4)
	many := strings.TrimSuffix(strings.Repeat(`"#",`, 5000), ",")
	_, p = parseRequest([]byte(`{"targets":{"devices":[`+many+`]},"payload":1}`), &cfg)
	require.Len(t, p.Fields, maxFaults)
}

func TestPayloads(t *testing.T) {
	cfg := testConfig(t)
	for field, want := range map[string]string{
		`"payload":"a \"b\" ü"`:                  `a "b" ü`,
		`"payload":{"a": [1, 2.50]}`:             `{"a":[1,2.50]}`,
		`"payload":""`:                           "",
		`"payload":12345678901234567890`:         "12345678901234567890",
		`"payload":true`:                         "true",
		`"payload_base64":"AP8="`:                "\x00\xff",
		`"payload_base64":""`:                    "",
		`"payload":" spaces stay ", "lane":"x"`:  " spaces stay ",
		`"payload":{ "html":"<b>&" },"lane":"x"`: `{"html":"<b>&"}`,
	} {
		p, fault := parseRequest([]byte(`{"targets":{"devices":["a"]},`+field+`}`), &cfg)
		require.Nil(t, fault, field)
		require.Equal(t, want, string(p.payload), field)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"targets":{"devices":["a","a"]},"payload":{"x":1},"ttl_s":5,"priority":3}`))
	f.Add([]byte(`{"targets":{"online":true},"payload_base64":"AA=="}`))
	f.Add([]byte(`{"id":"x","targets":null,"rollout":[]}`))
	cfg := testConfig(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		p, fault := parseRequest(body, &cfg)
		if (p == nil) == (fault == nil) {
			t.Fatalf("neither taken nor refused: %q", body)
		}
		if fault != nil {
			_ = fault.Error()
			return
		}
		for _, d := range p.Targets.Devices {
			if strings.ContainsAny(d, "/+#\x00") {
				t.Fatalf("device %q", d)
			}
		}
	})
}
