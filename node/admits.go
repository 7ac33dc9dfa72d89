package node

import "fmt"

// Admits says in words who can connect, for people who have just started the node. Where it is nobody, because no way
// to log in is configured, there are still the devices that an admin issues a token for.
func (n *Node) Admits() []string {
	c := &n.cfg.Auth
	var who []string
	if c.Anonymous {
		who = append(who, "everybody (auth.anonymous)")
	}
	if k := len(c.Products); k > 0 {
		who = append(who, fmt.Sprintf("devices of %d %s that registered at /v1/register", k, plural(k, "product")))
	}
	if k := len(c.Users); k > 0 {
		who = append(who, fmt.Sprintf("%d %s with password", k, plural(k, "user")))
	}
	for i := range n.cfg.Listeners {
		if l := &n.cfg.Listeners[i]; l.ClientCA != "" && c.Certificates.Identity != "none" {
			who = append(who, "client certificates on "+n.listeners[i].name)
		}
	}
	for i := range c.JWT.Issuers {
		who = append(who, "tokens of "+c.JWT.Issuers[i].Issuer)
	}
	if c.Webhook.URL != "" {
		who = append(who, "whom "+c.Webhook.URL+" lets in")
	}
	return who
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
