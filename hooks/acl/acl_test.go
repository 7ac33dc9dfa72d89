package acl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/stretchr/testify/require"
)

func client(id, user string) *mqtt.Client {
	return &mqtt.Client{
		ID:         id,
		Properties: mqtt.ClientProperties{Username: []byte(user)},
		Net:        mqtt.ClientConnection{Remote: "192.0.2.7:4711"},
	}
}

func isRoot(user string) bool { return user == "root" }

func newHook(t testing.TB, rules string) *Hook {
	t.Helper()
	o := Options{IsAdmin: isRoot}
	if rules != "" {
		o.Config.File = filepath.Join(t.TempDir(), "acl.yaml")
		require.NoError(t, os.WriteFile(o.Config.File, []byte(rules), 0o600))
	}
	h, err := New(o)
	require.NoError(t, err)
	return h
}

const (
	pub = true
	sub = false
)

func TestDefaultRules(t *testing.T) {
	h := newHook(t, "")
	for _, c := range []struct {
		name, id, user, topic string
		write, allowed        bool
	}{
		{"publish under own id", "d1", "", "devices/d1/up/temp", pub, true},
		{"subscribe under own id", "d1", "", "devices/d1/commands/+", sub, true},
		{"subscribe to all of own", "d1", "", "devices/d1/#", sub, true},
		{"own id itself", "d1", "", "devices/d1", pub, false},
		{"another device", "d1", "", "devices/d2/up", pub, false},
		{"a longer id with the same start", "d1", "", "devices/d10/up", pub, false},
		{"a shorter id", "d10", "", "devices/d1/up", pub, false},
		{"all devices", "d1", "", "devices/+/up", sub, false},
		{"all", "d1", "", "#", sub, false},
		{"elsewhere", "d1", "", "other/d1", pub, false},
		{"empty topic", "d1", "", "", pub, false},
		{"shared own", "d1", "", "$share/g/devices/d1/up", sub, true},
		{"shared all", "d1", "", "$share/g/#", sub, false},
		{"shared without a filter", "d1", "", "$share/g", sub, false},
		{"shared without a group", "root", "root", "$share//a", sub, false},
		{"client id is a wildcard", "+", "", "devices/+/up", sub, false},
		{"client id ends in a wildcard", "d1/#", "", "devices/d1/#/x", sub, false},
		{"client id has a separator", "d1/up", "", "devices/d1/up/x", pub, false},
		{"empty client id", "", "", "devices//x", pub, false},
		{"user name of another", "d1", "d2", "devices/d2/up", pub, false},
		{"commands are for administrators", "d1", "alice", "admin/commands", pub, false},
		{"events are for administrators", "d1", "alice", "admin/#", sub, false},
		{"administrator's command", "x", "root", "admin/commands", pub, true},
		{"administrator reads all", "x", "root", "#", sub, true},
		{"administrator reads $SYS", "x", "root", "$SYS/#", sub, true},
		{"nobody writes $SYS", "x", "root", "$SYS/x", pub, false},
		{"others do not read $SYS", "d1", "alice", "$SYS/#", sub, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.allowed, h.OnACLCheck(client(c.id, c.user), c.topic, c.write))
		})
	}
}

func TestRules(t *testing.T) {
	h := newHook(t, `
rules:
  - deny: all
    topics: ["plant/secret/#"]
  - allow: subscribe
    who: {user: alice}
    topics: ["plant/#", "$SYS/#", "users/%u/#"]
  - allow: publish
    who: {client: "gw-*", ip: 192.0.2.0/24}
    topics: ["devices/+/up/#"]
  - allow: publish
    who: {client: "far-*", ip: 203.0.113.0/24}
    topics: ["devices/+/up/#"]
  - deny: publish
    topics: ["devices/%c/readonly"]
  - allow: all
    topics: ["site/%c/%u", "pct/100%%", "in/x-%c-y"]
  - allow: all
    who: {user: open}
    topics: ["#"]
`)
	for _, c := range []struct {
		name, id, user, topic string
		write, allowed        bool
	}{
		{"covered", "c", "alice", "plant/a/+", sub, true},
		{"not for publishing", "c", "alice", "plant/a", pub, false},
		{"denied first", "c", "alice", "plant/secret/x", sub, false},
		{"wide filter meets a denied topic", "c", "alice", "plant/#", sub, false},
		{"single-level wildcard meets a denied topic", "c", "alice", "plant/+/x", sub, false},
		{"shared form of a denied one", "c", "alice", "$share/g/plant/secret/x", sub, false},
		{"denied to administrators too", "c", "root", "plant/secret/x", pub, false},
		{"$SYS by rule", "c", "alice", "$SYS/broker/uptime", sub, true},
		{"%u", "c", "alice", "users/alice/x", sub, true},
		{"%u of another", "c", "alice", "users/bob/x", sub, false},
		{"client prefix and address", "gw-1", "", "devices/d5/up/t", pub, true},
		{"address does not match", "far-1", "", "devices/d5/up/t", pub, false},
		{"deny before the default", "d1", "", "devices/d1/readonly", pub, false},
		{"the default still holds", "d1", "", "devices/d1/up", pub, true},
		{"both names", "d1", "bob", "site/d1/bob", pub, true},
		{"no user name", "d1", "", "site/d1/", pub, false},
		{"wildcard in the user name", "d1", "+", "site/d1/+", sub, false},
		{"percent sign", "d1", "", "pct/100%", pub, true},
		{"variable inside a level", "d1", "", "in/x-d1-y", pub, true},
		{"variable inside a level of another", "d2", "", "in/x-d1-y", pub, false},
		{"no rule gives admin", "d1", "open", "admin/commands", pub, false},
		{"nor by a wildcard", "d1", "open", "#", sub, false},
		{"nor by another wildcard", "d1", "open", "+/commands", sub, false},
		{"a narrow filter of an open user", "d1", "open", "any/#", sub, true},
		{"# is not $SYS", "d1", "open", "$SYS/x", sub, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.allowed, h.OnACLCheck(client(c.id, c.user), c.topic, c.write))
		})
	}
}

func TestDenyAllMeetsSys(t *testing.T) {
	h := newHook(t, "rules:\n  - {deny: all, who: {user: root}, topics: ['#']}\n")
	require.False(t, h.OnACLCheck(client("c", "root"), "$SYS/x", sub))
}

func TestAllowAllIsForDemos(t *testing.T) {
	h, err := New(Options{AllowAll: true})
	require.NoError(t, err)
	require.True(t, h.OnACLCheck(client("c", ""), "admin/commands", pub))
	require.True(t, h.OnACLCheck(client("c", ""), "#", sub))
	require.False(t, h.OnACLCheck(client("c", ""), "$SYS/x", pub))
}

func TestFaultsNameFileLineAndKey(t *testing.T) {
	_, err := parseRules("acl.yaml", []byte(`rules:
  - allow: write
    topics: ["a/#"]
  - topics: ["a/#/b", "%x", "a+"]
  - allow: all
    deny: all
    topics: []
  - allow: all
    whom: {user: x}
    topics: ["$share/g/a"]
`))
	require.Error(t, err)
	for _, want := range []string{
		"acl.yaml:2", "rules[0].allow", "rules[1]", "rules[1].topics[0]", "rules[1].topics[1]", "rules[1].topics[2]",
		"rules[2]", "rules[2].topics", "whom", "rules[3].topics[0]",
	} {
		require.Contains(t, err.Error(), want)
	}
}

func TestReloadKeepsRulesWhenTheFileIsBad(t *testing.T) {
	h := newHook(t, "rules:\n  - {allow: all, topics: ['a/#']}\n")
	cl := client("c", "")
	require.True(t, h.OnACLCheck(cl, "a/b", pub))

	require.NoError(t, os.WriteFile(h.file, []byte("rules:\n  - {allow: nothing}\n"), 0o600))
	require.ErrorContains(t, h.Reload(), h.file)
	require.True(t, h.OnACLCheck(cl, "a/b", pub))

	require.NoError(t, os.WriteFile(h.file, []byte("rules:\n  - {allow: all, topics: ['b/#']}\n"), 0o600))
	require.NoError(t, h.Reload())
	require.False(t, h.OnACLCheck(cl, "a/b", pub))
	require.True(t, h.OnACLCheck(cl, "b/b", pub))

	_, err := New(Options{Config: Config{File: filepath.Join(t.TempDir(), "absent")}})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// mqttMatch is MQTT's matching, written as plainly as possible.
func mqttMatch(filter, topic []string) bool {
	switch {
	case len(filter) == 0:
		return len(topic) == 0
	case filter[0] == "#":
		return true
	case len(topic) == 0:
		return false
	}
	return (filter[0] == "+" || filter[0] == topic[0]) && mqttMatch(filter[1:], topic[1:])
}

// topics are all topics of up to four levels over an alphabet with a letter that no filter of the fuzz test names.
var topics = func() (out [][]string) {
	level := [][]string{nil}
	for range 4 {
		var next [][]string
		for _, t := range level {
			for _, letter := range []string{"a", "b", "z"} {
				next = append(next, append(t[:len(t):len(t)], letter))
			}
		}
		out, level = append(out, next...), next
	}
	return out
}()

func fuzzFilter(seed uint16) string {
	var levels []string
	for range 1 + seed%3 {
		seed /= 3
		word := []string{"a", "b", "+", "#"}[seed%4]
		levels = append(levels, word)
		if word == "#" {
			break
		}
		seed /= 4
	}
	return strings.Join(levels, "/")
}

// FuzzPattern compares covers and overlaps with what they mean, by trying all topics.
func FuzzPattern(f *testing.F) {
	for i := range uint16(64) {
		f.Add(i*37, i*101)
	}
	f.Fuzz(func(t *testing.T, a, b uint16) {
		text, filter := fuzzFilter(a), fuzzFilter(b)
		p, err := parsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		covers, overlaps := true, false
		for _, topic := range topics {
			byPattern := mqttMatch(strings.Split(text, "/"), topic)
			byFilter := mqttMatch(strings.Split(filter, "/"), topic)
			covers = covers && (byPattern || !byFilter)
			overlaps = overlaps || byPattern && byFilter
		}
		if got := p.covers(filter, &subject{}); got != covers {
			t.Errorf("%s covers %s: got %v", text, filter, got)
		}
		if got := p.overlaps(filter, &subject{}); got != overlaps {
			t.Errorf("%s overlaps %s: got %v", text, filter, got)
		}
	})
}

// FuzzRules feeds the reader of ACL files, and asks what it accepts about hostile names.
func FuzzRules(f *testing.F) {
	f.Add("rules:\n  - {allow: all, topics: ['a/%c/#', '%u']}\n", "a/+/#", "+")
	f.Add("rules: [{deny: publish, who: {ip: 10.0.0.0/8}, topics: ['#']}]", "$share/g/x", "a/b")
	f.Fuzz(func(t *testing.T, text, topic, name string) {
		rules, err := parseRules("f", []byte(text))
		if err != nil {
			return
		}
		h := &Hook{isAdmin: isRoot}
		h.rules.Store(&rules)
		s := subject{client: name, user: name, remote: name}
		if h.allows(&s, topic, true) && strings.HasPrefix(topic, "admin/") && name != "root" {
			t.Fatal("admin topic for everyone")
		}
		h.allows(&s, topic, false)
	})
}

func BenchmarkOnACLCheck(b *testing.B) {
	rules := "rules: [{deny: all, topics: ['plant/secret/#']}, {allow: publish, who: {user: svc}, topics: ['x/#']}]"
	for _, c := range []struct{ name, rules, user, topic string }{
		{"default", "", "", "devices/pump-7/up/telemetry"},
		{"rules", rules, "", "devices/pump-7/up/telemetry"},
		{"admin", "", "root", "devices/pump-8/commands/1"},
		{"template", "rules:\n  - {allow: publish, topics: ['t/%c/up/#']}\n", "", "t/pump-7/up/telemetry"},
	} {
		b.Run(c.name, func(b *testing.B) {
			h, cl := newHook(b, c.rules), client("pump-7", c.user)
			b.ReportAllocs()
			for b.Loop() {
				if !h.OnACLCheck(cl, c.topic, true) {
					b.Fatal("refused")
				}
			}
		})
	}
}
