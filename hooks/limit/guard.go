package limit

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Reasons that Admit gives, for the label of a metric.
const (
	ReasonDenied      = "denied"
	ReasonNotAllowed  = "not_allowed"
	ReasonBanned      = "banned"
	ReasonConnectRate = "connect_rate"
)

// Options are what New needs.
type Options struct {
	Config       Config
	ConnectRate  float64 // new connections a second on this node; 0: no limit
	ConnectBurst int     // connections above the rate at once; 0: one second's worth
	Logger       *slog.Logger
	Registerer   prometheus.Registerer // nil: no metrics
	Now          func() time.Time      // nil: time.Now
}

// Guard decides by source address who may connect. It implements broker.Admitter. Its methods may be called from any
// goroutine and do not block.
type Guard struct {
	log   *slog.Logger
	now   func() time.Time
	lists atomic.Pointer[lists]
	rate  *rate.Limiter // nil: no limit

	banned   atomic.Int64 // length of bans: Admit skips the lock while there are none
	mu       sync.RWMutex
	bans     map[netip.Addr]Ban
	failures map[netip.Addr]failures
	swept    time.Time // when bans that are over were last looked for
}

type lists struct {
	allow, deny, exempt *Table
	ban                 BanConfig
}

// New makes a Guard from a valid configuration.
func New(o Options) *Guard {
	g := &Guard{
		log: o.Logger, now: o.Now,
		bans: make(map[netip.Addr]Ban), failures: make(map[netip.Addr]failures),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.now == nil {
		g.now = time.Now
	}
	if o.ConnectRate > 0 {
		burst := o.ConnectBurst
		if burst <= 0 {
			burst = max(1, int(o.ConnectRate))
		}
		g.rate = rate.NewLimiter(rate.Limit(o.ConnectRate), burst)
	}
	g.Reload(o.Config)
	if o.Registerer != nil {
		o.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "penstock_bans", Help: "Source addresses that are banned now, by failures or by an operator.",
		}, func() float64 { return float64(len(g.Bans())) }))
	}
	return g
}

// Reload replaces the address lists and the rules for bans. Bans that stand, stay.
func (g *Guard) Reload(c Config) {
	g.lists.Store(&lists{
		allow: NewTable(c.Allow), deny: NewTable(c.Deny), exempt: NewTable(c.Ban.Exempt), ban: c.Ban,
	})
}

// Admit reports whether a connection from remote may go on, and else one of the Reason words. A remote that is not an
// IP address (a pipe) is refused only where there is a list of allowed ones.
func (g *Guard) Admit(remote netip.Addr, _ string) (ok bool, reason string) {
	remote = Normalize(remote)
	l := g.lists.Load()
	switch {
	case l.deny.Len() > 0 && l.deny.Contains(remote):
		return false, ReasonDenied
	case l.allow.Len() > 0 && !l.allow.Contains(remote):
		return false, ReasonNotAllowed
	case g.banned.Load() > 0 && g.isBanned(remote):
		return false, ReasonBanned
	case g.rate != nil && !g.rate.AllowN(g.now(), 1):
		return false, ReasonConnectRate
	}
	return true, ""
}

func (g *Guard) isBanned(addr netip.Addr) bool {
	g.mu.RLock()
	ban, found := g.bans[banKey(addr)]
	g.mu.RUnlock()
	return found && g.now().Before(ban.Until)
}
