package limit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/conf"
)

var _ broker.Admitter = (*Guard)(nil)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func TestAdmitByLists(t *testing.T) {
	for _, c := range []struct {
		name        string
		allow, deny []netip.Prefix
		addr        string
		reason      string
	}{
		{"no lists admit all", nil, nil, "192.0.2.1", ""},
		{"denied", nil, prefixes("192.0.2.0/24"), "192.0.2.1", ReasonDenied},
		{"next to a denied range", nil, prefixes("192.0.2.0/24"), "192.0.3.0", ""},
		{"deny wins over allow", prefixes("192.0.2.0/24"), prefixes("192.0.2.7/32"), "192.0.2.7", ReasonDenied},
		{"allowed", prefixes("192.0.2.0/24"), prefixes("192.0.2.7/32"), "192.0.2.8", ""},
		{"not allowed", prefixes("192.0.2.0/24"), nil, "198.51.100.1", ReasonNotAllowed},
		{"mapped address is IPv4", nil, prefixes("192.0.2.0/24"), "::ffff:192.0.2.1", ReasonDenied},
		{"mapped prefix is IPv4", nil, prefixes("::ffff:192.0.2.0/120"), "192.0.2.1", ReasonDenied},
		{"IPv4 is not in an IPv6 range", nil, prefixes("::/0"), "192.0.2.1", ""},
		{"IPv6", nil, prefixes("2001:db8::/32"), "2001:db8:1::1", ReasonDenied},
		{"zone is ignored", nil, prefixes("fe80::/10"), "fe80::1%eth0", ReasonDenied},
		{"unmasked prefix", nil, prefixes("192.0.2.77/24"), "192.0.2.1", ReasonDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := New(Options{Config: Config{Allow: c.allow, Deny: c.deny}})
			ok, reason := g.Admit(netip.MustParseAddr(c.addr), "tcp")
			require.Equal(t, c.reason, reason)
			require.Equal(t, c.reason == "", ok)
		})
	}
	t.Run("a pipe has no address", func(t *testing.T) {
		ok, _ := New(Options{}).Admit(netip.Addr{}, "pipe")
		require.True(t, ok)
		ok, _ = New(Options{Config: Config{Allow: prefixes("0.0.0.0/0")}}).Admit(netip.Addr{}, "pipe")
		require.False(t, ok)
	})
}

func TestReloadReplacesLists(t *testing.T) {
	g, addr := New(Options{}), netip.MustParseAddr("192.0.2.1")
	g.Reload(Config{Deny: prefixes("192.0.2.1/32")})
	ok, _ := g.Admit(addr, "")
	require.False(t, ok)
	g.Reload(Config{})
	ok, _ = g.Admit(addr, "")
	require.True(t, ok)
}

func TestFailuresBan(t *testing.T) {
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	g := New(Options{Now: c.Now, Config: Config{Ban: BanConfig{
		Failures: 3, Window: time.Minute, Duration: time.Hour, Exempt: prefixes("203.0.113.0/24"),
	}}})
	attacker, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	nat := netip.MustParseAddr("203.0.113.9")
	admitted := func(a netip.Addr) bool { ok, _ := g.Admit(a, ""); return ok }

	g.Failed(attacker)
	g.Failed(attacker)
	require.True(t, admitted(attacker), "two failures are not enough")
	c.now = c.now.Add(2 * time.Minute)
	g.Failed(attacker)
	require.True(t, admitted(attacker), "the window began anew")
	g.Failed(attacker)
	g.Failed(attacker)
	require.False(t, admitted(attacker))
	require.True(t, admitted(other))
	require.Len(t, g.Bans(), 1)

	for range 10 {
		g.Failed(nat)
	}
	require.True(t, admitted(nat), "exempt")

	c.now = c.now.Add(time.Hour)
	require.True(t, admitted(attacker), "the ban is over")
	require.Empty(t, g.Bans())
}

func TestIPv6FailuresBanTheNetwork(t *testing.T) {
	g := New(Options{Config: Config{Ban: BanConfig{Failures: 2, Window: time.Minute, Duration: time.Hour}}})
	g.Failed(netip.MustParseAddr("2001:db8::1"))
	g.Failed(netip.MustParseAddr("2001:db8::2"))
	ok, reason := g.Admit(netip.MustParseAddr("2001:db8::3"), "")
	require.False(t, ok)
	require.Equal(t, ReasonBanned, reason)
	ok, _ = g.Admit(netip.MustParseAddr("2001:db8:0:1::1"), "")
	require.True(t, ok)
}

func TestBanByOperator(t *testing.T) {
	registry := prometheus.NewRegistry()
	g := New(Options{Registerer: registry})
	addr := netip.MustParseAddr("192.0.2.1")
	_, err := g.Ban(addr, 0, "")
	require.ErrorIs(t, err, ErrBadBan)
	_, err = g.Ban(netip.Addr{}, time.Hour, "")
	require.ErrorIs(t, err, ErrBadBan)

	ban, err := g.Ban(netip.MustParseAddr("::ffff:192.0.2.1"), time.Hour, "noisy")
	require.NoError(t, err)
	require.Equal(t, addr, ban.Address)
	shorter, err := g.Ban(addr, time.Minute, "again")
	require.NoError(t, err)
	require.True(t, shorter.Until.Before(ban.Until))
	require.Equal(t, ban.Until, g.Bans()[0].Until, "the later end stands")
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Equal(t, 1.0, families[0].Metric[0].Gauge.GetValue())

	require.True(t, g.Unban(addr))
	require.False(t, g.Unban(addr))
	ok, _ := g.Admit(addr, "")
	require.True(t, ok)
}

func TestMemoryIsBounded(t *testing.T) {
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	g := New(Options{Now: c.Now, Config: Config{Ban: BanConfig{Failures: 2, Window: time.Minute, Duration: time.Hour}}})
	addr := netip.MustParseAddr("10.0.0.0")
	for range maxFailures + 10 {
		addr = addr.Next()
		g.Failed(addr)
	}
	require.LessOrEqual(t, len(g.failures), maxFailures)
	addr = netip.MustParseAddr("10.0.0.0")
	for range maxBans {
		addr = addr.Next()
		_, err := g.Ban(addr, time.Hour, "")
		require.NoError(t, err)
	}
	_, err := g.Ban(addr.Next(), time.Hour, "")
	require.ErrorIs(t, err, ErrTooManyBans)
	c.now = c.now.Add(2 * time.Hour)
	_, err = g.Ban(addr.Next(), time.Hour, "")
	require.NoError(t, err, "bans that are over make room")
}

func TestConnectRate(t *testing.T) {
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	g := New(Options{Now: c.Now, ConnectRate: 10, ConnectBurst: 2})
	addr := netip.MustParseAddr("192.0.2.1")
	var refused int
	for range 5 {
		if ok, reason := g.Admit(addr, ""); !ok {
			require.Equal(t, ReasonConnectRate, reason)
			refused++
		}
	}
	require.Equal(t, 3, refused)
	c.now = c.now.Add(100 * time.Millisecond)
	ok, _ := g.Admit(addr, "")
	require.True(t, ok)
}

func TestConfigReportsEveryFaultByKey(t *testing.T) {
	c := Config{Allow: []netip.Prefix{{}}, Ban: BanConfig{Failures: -1, Window: time.Millisecond, Duration: -1}}
	var keys []string
	c.Validate(func(key, _ string) { keys = append(keys, key) })
	require.Equal(t, []string{"allow[0]", "ban.failures", "ban.window", "ban.duration"}, keys)

	var defaults Config
	require.NoError(t, conf.SetDefaults(&defaults))
	require.Equal(t, 20, defaults.Ban.Failures)
}

// FuzzTable compares the table with a look at every prefix.
func FuzzTable(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 1, 0, 0, 16}, []byte{10, 1, 2, 3})
	f.Add([]byte("--000--00 "), []byte("0000")) // two prefixes that begin alike
	f.Add([]byte{255, 255, 255, 255, 32, 0, 0, 0, 0, 0}, []byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, list, address []byte) {
		var ps []netip.Prefix
		for ; len(list) >= 5; list = list[5:] {
			v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte(list)), int(list[4])%33)
			v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, list[0], list[1], 15: list[2]}), int(list[4])%129)
			ps = append(ps, v4, v6)
		}
		var addrs []netip.Addr
		if len(address) >= 4 {
			addrs = append(addrs, netip.AddrFrom4([4]byte(address)),
				netip.AddrFrom16([16]byte{0x20, 1, address[0], address[1], 15: address[2]}))
		}
		for _, p := range ps {
			addrs = append(addrs, p.Masked().Addr(), p.Masked().Addr().Prev(), lastAddr(p.Masked()), lastAddr(p.Masked()).Next())
		}
		table := NewTable(ps)
		for _, a := range addrs {
			want := false
			for _, p := range ps {
				want = want || p.Contains(a)
			}
			if a.IsValid() && table.Contains(a) != want {
				t.Fatalf("%v in %v: got %v", a, ps, !want)
			}
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	for _, n := range []int{0, 10, 10_000} {
		b.Run(fmt.Sprintf("prefixes=%d", n), func(b *testing.B) {
			var deny []netip.Prefix
			addr := netip.MustParseAddr("10.0.0.0")
			for range n {
				deny = append(deny, netip.PrefixFrom(addr, 32))
				addr = addr.Next().Next()
			}
			g := New(Options{Config: Config{Deny: deny}})
			if _, err := g.Ban(netip.MustParseAddr("198.51.100.1"), time.Hour, ""); err != nil {
				b.Fatal(err)
			}
			remote := netip.MustParseAddr("192.0.2.1")
			b.ReportAllocs()
			for b.Loop() {
				if ok, _ := g.Admit(remote, "tcp"); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}
