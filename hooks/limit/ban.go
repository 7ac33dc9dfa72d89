package limit

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Bounds of what the guard remembers. An attacker with more addresses than that pushes out older failures, never bans.
const (
	maxBans     = 100_000
	maxFailures = 100_000
	maxBan      = 720 * time.Hour

	evictionSample = 16          // entries looked at to find one to forget
	sweepPause     = time.Second // least time between two searches for bans that are over
)

// Errors of Ban.
var (
	ErrTooManyBans = errors.New("too many bans: lift some, or put a range into access.deny")
	ErrBadBan      = errors.New("a ban needs a valid address and a duration between 1s and 720h")
)

// Ban is one address that may not connect.
type Ban struct {
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
	Reason  string     `json:"reason"`
}

// failures counts an address's failed logins in the window that began at since.
type failures struct {
	since time.Time
	count int
}

// banKey is what a ban is about: an IPv4 address, or the /64 that one IPv6 host may choose addresses from.
func banKey(addr netip.Addr) netip.Addr {
	addr = Normalize(addr)
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// Failed counts a failed login from addr, and bans it when there were too many within the window. Loopback and other
// addresses are treated alike; list in ban.exempt what must never be banned.
func (g *Guard) Failed(addr netip.Addr) {
	l := g.lists.Load()
	if l.ban.Failures == 0 || !addr.IsValid() || l.exempt.Contains(addr) {
		return
	}
	key, now := banKey(addr), g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	f, found := g.failures[key]
	if now.Sub(f.since) >= l.ban.Window {
		f = failures{since: now}
	}
	f.count++
	if f.count < l.ban.Failures {
		if !found {
			g.makeRoomForFailure(now, l.ban.Window)
		}
		g.failures[key] = f
		return
	}
	delete(g.failures, key)
	ban := Ban{Address: key, Until: now.Add(l.ban.Duration), Reason: "repeated failures"}
	if err := g.ban(ban, now); err != nil {
		g.log.Warn("cannot ban address", "remote", addr.String(), "error", err)
		return
	}
	g.log.Warn("address banned", "remote", addr.String(), "reason", ban.Reason, "until", ban.Until)
}

// makeRoomForFailure forgets one count when there are too many: of a few, one whose window is over, or else the lowest.
// Looking at all of them would make every failure of a large attack slow. g.mu is held.
func (g *Guard) makeRoomForFailure(now time.Time, window time.Duration) {
	if len(g.failures) < maxFailures {
		return
	}
	var victim netip.Addr
	looked, lowest := 0, 0
	for key, f := range g.failures {
		if now.Sub(f.since) >= window {
			victim = key
			break
		}
		if looked == 0 || f.count < lowest {
			victim, lowest = key, f.count
		}
		if looked++; looked == evictionSample {
			break
		}
	}
	delete(g.failures, victim)
}

// Ban refuses the address from now on for a time. An IPv6 address stands for its /64. Connections that are open stay.
func (g *Guard) Ban(addr netip.Addr, duration time.Duration, reason string) (Ban, error) {
	if !addr.IsValid() || duration < time.Second || duration > maxBan {
		return Ban{}, ErrBadBan
	}
	now := g.now()
	ban := Ban{Address: banKey(addr), Until: now.Add(duration), Reason: reason}
	g.mu.Lock()
	defer g.mu.Unlock()
	return ban, g.ban(ban, now)
}

// ban keeps the later end of an old and a new ban. g.mu is held.
func (g *Guard) ban(ban Ban, now time.Time) error {
	old, found := g.bans[ban.Address]
	if !found && len(g.bans) >= maxBans {
		if now.Sub(g.swept) >= sweepPause {
			g.dropExpired(now)
		}
		if len(g.bans) >= maxBans {
			return ErrTooManyBans
		}
	}
	if !found || old.Until.Before(ban.Until) {
		g.bans[ban.Address] = ban
	}
	g.banned.Store(int64(len(g.bans)))
	return nil
}

func (g *Guard) dropExpired(now time.Time) {
	g.swept = now
	for key, b := range g.bans {
		if !now.Before(b.Until) {
			delete(g.bans, key)
		}
	}
	g.banned.Store(int64(len(g.bans)))
}

// Unban lifts a ban and forgets the address's failures; it reports whether there was a ban.
func (g *Guard) Unban(addr netip.Addr) bool {
	key := banKey(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	ban, found := g.bans[key]
	delete(g.bans, key)
	delete(g.failures, key)
	g.banned.Store(int64(len(g.bans)))
	return found && g.now().Before(ban.Until)
}

// Bans lists the bans in force, by address.
func (g *Guard) Bans() []Ban {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropExpired(g.now())
	out := make([]Ban, 0, len(g.bans))
	for _, b := range g.bans {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Ban) int { return a.Address.Compare(b.Address) })
	return out
}
