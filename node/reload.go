package node

import (
	"errors"
	"fmt"
	"strings"

	"github.com/penstockmq/penstock/internal/conf"
)

// live are the keys that a running node takes over; of sections, all that is below them. The files that certificates
// and the ACL are in are read again without any key changing.
var live = []string{"access.", "log.level"}

// Reload takes over what can change while the node runs: certificates, the ACL file, address lists and bans, the log
// level. It logs which changed keys need a restart. What cannot be read stays as it was, and is in the error. It is not
// for two goroutines at once.
func (n *Node) Reload(cfg Config) error {
	now := *n.current.Load()
	changed, err := conf.Changed(&now, &cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range append(n.listeners[:len(n.listeners):len(n.listeners)], n.http) {
		if err := l.Reload(); err != nil {
			errs = append(errs, fmt.Errorf("reload certificates: %w", err))
		}
	}
	if err := n.acl.Reload(); err != nil {
		errs = append(errs, fmt.Errorf("reload access rules: %w", err))
	}
	if level, err := cfg.Log.level(); err == nil {
		n.logLevel.Set(level)
	}
	n.guard.Reload(cfg.Access)
	now.Access, now.Log.Level = cfg.Access, cfg.Log.Level
	n.current.Store(&now)

	var restart []string
	for _, key := range changed {
		if !isLive(key) {
			restart = append(restart, key)
		}
	}
	if len(restart) > 0 {
		n.log.Warn("changed keys need a restart", "keys", strings.Join(restart, ", "))
	}
	n.log.Info("configuration reloaded", "changed", len(changed)-len(restart))
	return errors.Join(errs...)
}

func isLive(key string) bool {
	for _, l := range live {
		if key == l || strings.HasSuffix(l, ".") && strings.HasPrefix(key, l) {
			return true
		}
	}
	return false
}
