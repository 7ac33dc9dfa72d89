package acl

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/penstockmq/penstock/internal/conf"
)

// Config is the configuration section acl.
type Config struct {
	File string `yaml:"file" doc:"File with access rules (YAML); empty: only the default rules."`
}

// file is what an ACL file holds.
type file struct {
	Rules []ruleConfig `yaml:"rules" doc:"Rules in order; the first that decides, decides."`
}

type ruleConfig struct {
	Allow  string    `yaml:"allow" doc:"Allow publish, subscribe or all; a rule has either allow or deny."`
	Deny   string    `yaml:"deny" doc:"Deny publish, subscribe or all."`
	Who    whoConfig `yaml:"who"`
	Topics []string  `yaml:"topics" doc:"Topic filters, with %c for the client identifier and %u for the user name."`
}

type whoConfig struct {
	User   string       `yaml:"user" doc:"Verified user name; a * at the end stands for any rest."`
	Client string       `yaml:"client" doc:"Client identifier; a * at the end stands for any rest."`
	IP     netip.Prefix `yaml:"ip" doc:"Range of source addresses (CIDR)."`
}

// Validate reports what is wrong with a rule.
func (r *ruleConfig) Validate(report func(key, problem string)) {
	switch {
	case r.Allow == "" && r.Deny == "":
		report("", "needs allow or deny: publish, subscribe or all")
	case r.Allow != "" && r.Deny != "":
		report("", "has both allow and deny; write two rules")
	}
	for _, v := range []struct{ key, action string }{{"allow", r.Allow}, {"deny", r.Deny}} {
		if v.action != "" && v.action != "publish" && v.action != "subscribe" && v.action != "all" {
			report(v.key, fmt.Sprintf("is %q; choose publish, subscribe or all", v.action))
		}
	}
	if len(r.Topics) == 0 {
		report("topics", "needs at least one topic filter")
	}
	for i, topic := range r.Topics {
		if _, err := parsePattern(topic); err != nil {
			report(fmt.Sprintf("topics[%d]", i), err.Error())
		}
	}
}

// rule is one compiled rule.
type rule struct {
	allow              bool
	publish, subscribe bool
	user, client       string
	ip                 netip.Prefix
	topics             []pattern
}

// readRules reads an ACL file. An error names the file, and line and key of everything that is wrong.
func readRules(name string) ([]rule, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read access rules: %w", err)
	}
	return parseRules(name, text)
}

func parseRules(name string, text []byte) ([]rule, error) {
	var f file
	if err := conf.Load(conf.Source{Name: name, YAML: text}, &f); err != nil {
		return nil, fmt.Errorf("read access rules: %w", err)
	}
	rules := make([]rule, 0, len(f.Rules))
	for _, c := range f.Rules {
		action := c.Allow + c.Deny // one of them is empty
		r := rule{
			allow: c.Allow != "", publish: action != "subscribe", subscribe: action != "publish",
			user: c.Who.User, client: c.Who.Client, ip: c.Who.IP,
		}
		for _, topic := range c.Topics {
			p, err := parsePattern(topic)
			if err != nil {
				return nil, fmt.Errorf("read access rules: topic %q %w", topic, err)
			}
			r.topics = append(r.topics, p)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// concerns reports whether the rule is about this subject and action.
func (r *rule) concerns(s *subject, write bool) bool {
	if write && !r.publish || !write && !r.subscribe {
		return false
	}
	if r.user != "" && !nameMatches(r.user, s.user) || r.client != "" && !nameMatches(r.client, s.client) {
		return false
	}
	if r.ip.IsValid() {
		remote, err := netip.ParseAddrPort(s.remote)
		return err == nil && r.ip.Contains(remote.Addr().Unmap().WithZone(""))
	}
	return true
}

// nameMatches compares a name with a rule's. Nobody is meant by a name that is empty, so "*" asks for some name.
func nameMatches(want, name string) bool {
	if head, ok := strings.CutSuffix(want, "*"); ok {
		return name != "" && strings.HasPrefix(name, head)
	}
	return want == name
}

// decide goes through the rules for one topic or filter; decided is false when no rule settles it.
func decide(rules []rule, s *subject, topic string, write bool) (allowed, decided bool) {
	for i := range rules {
		r := &rules[i]
		if !r.concerns(s, write) {
			continue
		}
		for j := range r.topics {
			switch p := &r.topics[j]; {
			case r.allow && p.covers(topic, s):
				return true, true
			case !r.allow && p.overlaps(topic, s):
				return false, true
			}
		}
	}
	return false, false
}
