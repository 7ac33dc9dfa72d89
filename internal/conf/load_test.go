package conf

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type sampleItem struct {
	Key   string   `yaml:"key"`
	Every int      `yaml:"every" default:"7"`
	Tags  []string `yaml:"tags"`
}

func (s *sampleItem) Validate(report func(key, problem string)) {
	if s.Key == "" {
		report("key", "must be set")
	}
}

type sampleInner struct {
	Secret Secret        `yaml:"secret" doc:"A secret."`
	TTL    time.Duration `yaml:"ttl" default:"24h" doc:"How long | it lasts."`
}

type sample struct {
	Auth struct {
		Anonymous bool              `yaml:"anonymous"`
		Token     sampleInner       `yaml:"token"`
		Users     map[string]Secret `yaml:"users"`
		Items     []sampleItem      `yaml:"items"`
		Admins    []string          `yaml:"admins" default:"root,ops"`
	} `yaml:"auth" doc:"Who may connect."`
	Limits struct {
		Size  ByteSize       `yaml:"packet_size" default:"1MiB"`
		Queue uint16         `yaml:"queue" default:"1000"`
		Rate  float64        `yaml:"rate"`
		Allow []netip.Prefix `yaml:"allow"`
	} `yaml:"limits"`
}

func TestLoadReadsDefaultsThenFileThenEnvironment(t *testing.T) {
	var s sample
	err := Load(Source{
		Name: "x.yaml",
		YAML: []byte(`
auth:
  token: {ttl: 90m}
  users:
    alice: "$argon2id$v=19$x"
    0123: plain
  items:
    - key: a
    - {key: b, every: 3, tags: [x, "y,z"]}
limits:
  packet_size: 64KiB
`),
		Env: []string{"PENSTOCK_AUTH_TOKEN_SECRET=s3cret", "PENSTOCK_LIMITS_ALLOW=10.0.0.0/8, ::1/128",
			"PENSTOCK_LIMITS_QUEUE=12", "PENSTOCK_TEST_REQUIRE=1", "PENSTOCK_LIMITS_PORT_1883_TCP_ADDR=1.2.3.4", "HOME=/x"},
	}, &s)
	require.NoError(t, err)
	assert.Equal(t, 90*time.Minute, s.Auth.Token.TTL)
	assert.Equal(t, Secret("s3cret"), s.Auth.Token.Secret)
	assert.Equal(t, map[string]Secret{"alice": "$argon2id$v=19$x", "0123": "plain"}, s.Auth.Users)
	assert.Equal(t, []sampleItem{{Key: "a", Every: 7}, {Key: "b", Every: 3, Tags: []string{"x", "y,z"}}}, s.Auth.Items)
	assert.Equal(t, []string{"root", "ops"}, s.Auth.Admins)
	assert.Equal(t, ByteSize(64<<10), s.Limits.Size)
	assert.Equal(t, uint16(12), s.Limits.Queue)
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}, s.Limits.Allow)
}

func TestLoadReportsEveryFaultByKey(t *testing.T) {
	cases := map[string]struct {
		yaml string
		env  []string
		want []string
	}{
		"all at once, in the order of the file": {
			yaml: "auth:\n  anonymos: true\n  token: {ttl: 24}\nlimits:\n  queue: many\n  packet_size: 1MB5\nlistners: []\n",
			want: []string{
				"x.yaml:2: auth.anonymos: unknown key (did you mean anonymous?)",
				"x.yaml:3: auth.token.ttl: must be a duration with its unit, for example 500ms, 30s, 24h",
				"x.yaml:5: limits.queue: must be a whole number of at least 0",
				`x.yaml:6: limits.packet_size: must be a valid size: "1MB5" is not a size in bytes: ` +
					`write for example 512, 64KiB or 1MiB`,
				"x.yaml:7: listners: unknown key (known here: auth, limits)",
			},
		},
		"wrong kinds": {
			yaml: "auth:\n  anonymous: \"true\"\n  users: [a]\n  items: {}\nlimits: 3\n",
			want: []string{
				"x.yaml:2: auth.anonymous: must be true or false, not text",
				"x.yaml:3: auth.users: must be a map of secrets, not a list",
				"x.yaml:4: auth.items: must be a list of sections, not a section",
				"x.yaml:5: limits: must be a section of keys, not a number",
			},
		},
		"out of range": {
			yaml: "limits: {queue: 70000}\n",
			want: []string{"x.yaml:1: limits.queue: is out of range"},
		},
		"an element's own check": {
			yaml: "auth:\n  items:\n    - key: a\n    - every: 2\n",
			want: []string{"x.yaml:4: auth.items[1].key: must be set"},
		},
		"what cannot be read is not checked as well": {
			yaml: "auth:\n  items:\n    - {key: [x]}\n",
			want: []string{"x.yaml:3: auth.items[0].key: must be a text, not a list"},
		},
		"an unknown key of an element": {
			yaml: "auth:\n  items:\n    - {key: a, evry: 2}\n",
			want: []string{"x.yaml:3: auth.items[0].evry: unknown key (did you mean every?)"},
		},
		"the environment": {
			env: []string{"PENSTOCK_AUTH_TOKN_SECRET=x", "PENSTOCK_AUTH_TOKEN_TTL=soon", "PENSTOCK_AUTH_ITEMS=[{every: 1}]"},
			want: []string{
				"PENSTOCK_AUTH_TOKEN_TTL: auth.token.ttl: must be a duration with its unit, for example 500ms, 30s, 24h",
				"PENSTOCK_AUTH_TOKN_SECRET: no key has this variable (did you mean PENSTOCK_AUTH_TOKEN_SECRET?)",
				"PENSTOCK_AUTH_ITEMS: auth.items[0].key: must be set",
			},
		},
		"a tab where YAML wants spaces": {
			yaml: "auth:\n\tanonymous: true\n",
			want: []string{"x.yaml:2: not valid YAML: found character '\t' that cannot start any token"},
		},
		"the same key twice": {
			yaml: "limits:\n  queue: 1\n  queue: 2\n",
			want: []string{`x.yaml:3: not valid YAML: mapping key "queue" already defined at [2:3]`},
		},
		"an alias": {
			yaml: "auth:\n  token: {secret: *x}\n",
			want: []string{"x.yaml:2: auth.token.secret: YAML anchors, aliases, merges and tags are not supported: " +
				"write the value out"},
		},
		"two documents": {
			yaml: "auth: {}\n---\nlimits: {}\n",
			want: []string{"x.yaml: holds more than one YAML document"},
		},
		"nesting without end": {
			yaml: strings.Repeat("[", 5000),
			want: []string{"x.yaml: nested too deeply"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var faults Faults
			require.True(t, errors.As(Load(Source{Name: "x.yaml", YAML: []byte(c.yaml), Env: c.env}, &sample{}), &faults))
			var got []string
			for _, f := range faults {
				got = append(got, f.String())
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestEmptySectionsKeepDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "auth:\nlimits:\n", "---\n"} {
		var s sample
		require.NoError(t, Load(Source{YAML: []byte(text)}, &s), text)
		assert.Equal(t, 24*time.Hour, s.Auth.Token.TTL, text)
	}
}

func TestPrintHidesSecretsAndReadsBack(t *testing.T) {
	var s sample
	require.NoError(t, Load(Source{YAML: []byte(`
auth:
  token: {secret: hush}
  users: {"we: ird": "x"}
  items: [{key: "a # b", tags: ["- x", "true", ""]}]
limits: {allow: ["10.0.0.0/8"]}
`)}, &s))
	var out bytes.Buffer
	require.NoError(t, Print(&out, &s, true))
	assert.NotContains(t, out.String(), "hush")
	assert.Contains(t, out.String(), "# Who may connect.")

	var back sample
	require.ErrorContains(t, Load(Source{YAML: out.Bytes()}, &back), "auth.token.secret: is hidden here")
	revealed := bytes.ReplaceAll(out.Bytes(), []byte(hidden), []byte("hush"))
	require.NoError(t, Load(Source{YAML: revealed}, &back), out.String())
	s.Auth.Users["we: ird"] = "hush"
	assert.Equal(t, s, back)
}

func TestMarkdownListsEveryKeyWithItsVariable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Markdown(&out, &sample{}))
	for _, want := range []string{
		"| `auth.token.ttl`<br>`PENSTOCK_AUTH_TOKEN_TTL` | duration | `24h` | How long \\| it lasts. |",
		"| `auth.items[].every` | whole number | `7` |",
		"| `limits.allow`<br>`PENSTOCK_LIMITS_ALLOW` | list of address ranges | – |",
	} {
		assert.Contains(t, out.String(), want)
	}
}

func TestChangedNamesTheKeysThatDiffer(t *testing.T) {
	var a, b sample
	require.NoError(t, SetDefaults(&a))
	changes := []byte("auth: {token: {ttl: 1h}, items: [{key: a}]}\nlimits: {rate: 1.5}\n")
	require.NoError(t, Load(Source{YAML: changes}, &b))
	keys, err := Changed(&a, &b)
	require.NoError(t, err)
	assert.Equal(t, []string{"auth.token.ttl", "auth.items", "limits.rate"}, keys)
	_, err = Changed(&a, &sampleItem{})
	assert.Error(t, err)
}

func TestTreeHidesSecrets(t *testing.T) {
	var s sample
	require.NoError(t, Load(Source{YAML: []byte("auth: {token: {secret: hush}}\n")}, &s))
	tree, err := Tree(&s)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"secret": hidden, "ttl": "24h"}, tree["auth"].(map[string]any)["token"])
}

func TestSuggest(t *testing.T) {
	known := []string{"brokers", "address", "publish_rate"}
	for wrong, want := range map[string]string{"broker": "brokers", "adress": "address", "publish-rate": "publish_rate",
		"PUBLISH_RATE": "publish_rate", "zzz": "", strings.Repeat("b", 1000): ""} {
		assert.Equal(t, want, suggest(wrong, known), wrong)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	s := Secret("hush")
	assert.Equal(t, hidden, s.String())
	assert.Equal(t, hidden, s.LogValue().String())
	assert.Equal(t, "hush", s.Reveal())
	assert.Empty(t, Secret("").String())
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]ByteSize{"512": 512, "64KiB": 64 << 10, "1 MiB": 1 << 20, "2GB": 2e9, "7B": 7} {
		got, err := ParseByteSize(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "-1", "1.5MiB", "9999999999999TiB", "MiB"} {
		_, err := ParseByteSize(text)
		assert.Error(t, err, text)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("auth:\n  token: {ttl: 90m}\n  items:\n    - key: a\n"), "PENSTOCK_AUTH_ADMINS=a,b")
	f.Add([]byte("limits: {packet_size: 1MiB, allow: [10.0.0.0/8]}\n"), "PENSTOCK_AUTH_ITEMS=[{key: x}]")
	f.Add([]byte("? - ? - : x\n&a *b !!int |\n  x\n"), "PENSTOCK_AUTH_USERS={a: b}")
	f.Fuzz(func(t *testing.T, text []byte, env string) {
		var s sample
		if err := Load(Source{Name: "fuzz", YAML: text, Env: []string{env}}, &s); err != nil {
			return
		}
		var out bytes.Buffer
		if err := Print(&out, &s, false); err != nil {
			t.Fatal(err)
		}
		revealed := bytes.ReplaceAll(out.Bytes(), []byte(hidden), []byte("x"))
		if err := Load(Source{Name: "printed", YAML: revealed}, new(sample)); err != nil {
			t.Fatalf("what was printed cannot be read: %v\n%s", err, out.String())
		}
	})
}
