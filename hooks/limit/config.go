// Package limit refuses connections by their source address before any protocol work: address lists, bans after
// repeated failures, and a rate of new connections.
package limit

import (
	"fmt"
	"net/netip"
	"time"
)

// Config is the configuration section access.
type Config struct {
	Allow []netip.Prefix `yaml:"allow" doc:"Address ranges (CIDR) that may connect; empty: all that deny does not name."`
	Deny  []netip.Prefix `yaml:"deny" doc:"Address ranges (CIDR) that may not connect, also where allow names them."`
	Ban   BanConfig      `yaml:"ban"`
}

// BanConfig says when an address is banned because its logins fail.
type BanConfig struct {
	Failures int            `yaml:"failures" default:"20" doc:"Failed logins within window that ban an address; 0: never."`
	Window   time.Duration  `yaml:"window" default:"1m" doc:"Time in which failures are counted, 1s to 24h."`
	Duration time.Duration  `yaml:"duration" default:"5m" doc:"How long a ban lasts, 1s to 720h."`
	Exempt   []netip.Prefix `yaml:"exempt" doc:"Address ranges that failures never ban, such as a shared NAT gateway."`
}

// Validate reports values out of range.
func (c *Config) Validate(report func(key, problem string)) {
	checkPrefixes("allow", c.Allow, report)
	checkPrefixes("deny", c.Deny, report)
	checkPrefixes("ban.exempt", c.Ban.Exempt, report)
	if c.Ban.Failures < 0 {
		report("ban.failures", "must not be negative")
	}
	if c.Ban.Failures == 0 {
		return
	}
	if c.Ban.Window < time.Second || c.Ban.Window > 24*time.Hour {
		report("ban.window", "must be between 1s and 24h")
	}
	if c.Ban.Duration < time.Second || c.Ban.Duration > maxBan {
		report("ban.duration", "must be between 1s and 720h")
	}
}

func checkPrefixes(key string, list []netip.Prefix, report func(key, problem string)) {
	for i, p := range list {
		if !p.IsValid() {
			report(fmt.Sprintf("%s[%d]", key, i), "is not an address range such as 10.0.0.0/8")
		}
	}
}
