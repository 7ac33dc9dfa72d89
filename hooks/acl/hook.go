// Package acl decides which topics a client may publish to and subscribe to.
//
//	rules:
//	  - deny: all # or publish, or subscribe
//	    topics: ["plant/secret/#"]
//	  - allow: subscribe
//	    who: {user: alice} # user, client (a * at the end: any rest) and ip, all that are given; nothing: everybody
//	    topics: ["plant/#", "users/%u/#", "sites/%c/+"]
//
// The rules of the ACL file are asked in their order. An allow rule decides for a topic that its filter matches, and
// for a subscription whose filter it covers: devices/+/up is not let through by devices/pump-7/#. A deny rule decides
// for a topic that its filter matches, and for a subscription that could receive such a topic: after "deny
// plant/secret/#", a subscription to plant/# is refused as a whole, because nothing is filtered on delivery.
//
// Where no rule decides: a client may publish and subscribe under devices/{its client id}/, administrators may do
// everything, and nobody else anything. Two things no rule can give: admin/# is for administrators, so that others
// cannot subscribe to # either; and nobody publishes to $SYS.
package acl

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"unsafe"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are what New needs.
type Options struct {
	Config Config
	// IsAdmin reports whether a verified user name is an administrator's. It runs for publishes: it must not block,
	// and it must not keep its argument. nil: nobody is.
	IsAdmin    func(username string) bool
	AllowAll   bool // everybody may do everything but publish to $SYS: the demo mode
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Hook is a mochi hook that answers OnACLCheck. The broker gives it clients whose user name is the verified one.
type Hook struct {
	mqtt.HookBase
	file     string
	isAdmin  func(string) bool
	allowAll bool
	log      *slog.Logger
	rules    atomic.Pointer[[]rule]
	denied   *prometheus.CounterVec
}

// New reads the ACL file, if there is one. It fails when the file cannot be read or has faults.
func New(o Options) (*Hook, error) {
	h := &Hook{
		file: o.Config.File, isAdmin: o.IsAdmin, allowAll: o.AllowAll, log: o.Logger,
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_acl_denied_total", Help: "Publishes and subscriptions that the access rules refused.",
		}, []string{"action"}),
	}
	if h.isAdmin == nil {
		h.isAdmin = func(string) bool { return false }
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.rules.Store(new([]rule))
	if o.Registerer != nil {
		o.Registerer.MustRegister(h.denied)
	}
	return h, h.Reload()
}

// Reload reads the ACL file again. When it has faults they are returned and the rules stay as they were. Subscriptions
// that exist are not checked again; publishes are, with the next one.
func (h *Hook) Reload() error {
	if h.file == "" {
		return nil
	}
	rules, err := readRules(h.file)
	if err != nil {
		return err
	}
	h.rules.Store(&rules)
	h.log.Info("access rules read", "file", h.file, "rules", len(rules))
	return nil
}

// ID names the hook in logs.
func (h *Hook) ID() string { return "acl" }

// Provides says which of mochi's events the hook answers.
func (h *Hook) Provides(event byte) bool { return event == mqtt.OnACLCheck }

// OnACLCheck reports whether the client may publish to the topic (write), or subscribe to the filter. It does not
// block and does not allocate.
func (h *Hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	// The bytes of the user name do not change after CONNECT, and nothing here keeps the string.
	user := unsafe.String(unsafe.SliceData(cl.Properties.Username), len(cl.Properties.Username))
	s := subject{client: cl.ID, user: user, remote: cl.Net.Remote}
	if h.allows(&s, topic, write) {
		return true
	}
	action := "subscribe"
	if write {
		action = "publish"
	}
	h.denied.WithLabelValues(action).Inc()
	return false
}

func (h *Hook) allows(s *subject, topic string, write bool) bool {
	if !write {
		var ok bool
		if topic, ok = withoutShare(topic); !ok {
			return false
		}
	}
	switch {
	case topic == "" || write && isUnder(topic, "$SYS"):
		return false
	case h.allowAll:
		return true
	case touchesAdmin(topic) && !h.isAdmin(s.user):
		return false
	}
	if allowed, decided := decide(*h.rules.Load(), s, topic, write); decided {
		return allowed
	}
	return isOwn(s.client, topic) || h.isAdmin(s.user)
}

// withoutShare takes $share/{group}/ off a shared subscription's filter.
func withoutShare(filter string) (string, bool) {
	rest, shared := strings.CutPrefix(filter, "$share/")
	if !shared {
		return filter, true
	}
	group, filter, ok := strings.Cut(rest, "/")
	return filter, ok && group != ""
}

func isUnder(topic, root string) bool {
	return strings.HasPrefix(topic, root) && (len(topic) == len(root) || topic[len(root)] == '/')
}

// touchesAdmin reports whether a topic is one of admin/#, or a filter could match one.
func touchesAdmin(topic string) bool {
	return isUnder(topic, "admin") || topic[0] == '#' || isUnder(topic, "+")
}

// isOwn reports whether a topic or filter lies under devices/{client}/ as a whole.
func isOwn(client, topic string) bool {
	rest, ok := strings.CutPrefix(topic, "devices/")
	if !ok || len(rest) <= len(client)+1 {
		return false
	}
	return rest[len(client)] == '/' && rest[:len(client)] == client && isPlainLevel(client)
}
