package auth

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/penstockmq/penstock/internal/conf"
)

// Config is the configuration section auth.
type Config struct {
	Anonymous      bool                   `yaml:"anonymous" default:"false" doc:"Let in whom nothing else recognises."`
	Token          TokenConfig            `yaml:"token"`
	Users          map[string]conf.Secret `yaml:"users" doc:"User names with argon2id hashes (PHC strings)."`
	Products       []Product              `yaml:"products" doc:"Products whose devices may register."`
	Admins         []string               `yaml:"admins" doc:"User names that may use every topic, also admin/#."`
	PasswordChecks int                    `yaml:"password_checks" default:"2" doc:"Hashes computed at once, 1 to 64."`
	Registration   RegistrationConfig     `yaml:"registration"`
	Failures       FailureConfig          `yaml:"failures"`
	Certificates   CertificateConfig      `yaml:"certificates"`
	JWT            JWTConfig              `yaml:"jwt"`
	Webhook        WebhookConfig          `yaml:"webhook"`
}

// TokenConfig is about the tokens that this node issues to devices.
type TokenConfig struct {
	Secret        conf.Secret   `yaml:"secret" doc:"Key that signs device tokens; absent: made once, and stored."`
	TTL           time.Duration `yaml:"ttl" default:"24h" doc:"Life of a device token, 1s to max_ttl."`
	MaxTTL        time.Duration `yaml:"max_ttl" default:"8760h" doc:"Longest life that an operator may give to a token."`
	RefreshWindow time.Duration `yaml:"refresh_window" default:"0s" doc:"How long after expiry refresh works."`
}

// Product is a kind of device with the secret that its devices sign their registration with.
type Product struct {
	Key    string      `yaml:"key" doc:"Name of the product."`
	Secret conf.Secret `yaml:"secret" doc:"Secret that signs registrations."`
}

// RegistrationConfig bounds registrations.
type RegistrationConfig struct {
	Window time.Duration `yaml:"window" default:"5m" doc:"How far a registration's timestamp may be off, 1s to 1h."`
	Rate   float64       `yaml:"rate" default:"50" doc:"Registrations a second from one address; 0: no limit."`
}

// FailureConfig bounds guessing: above the rate, passwords are not looked at. It never holds back a signed token or a
// certificate.
type FailureConfig struct {
	Rate  float64 `yaml:"rate" default:"1" doc:"Failed logins a second from one address or for one user; 0: no limit."`
	Burst int     `yaml:"burst" default:"20" doc:"Failed logins above the rate at once, 1 to 10000."`
}

// CertificateConfig is about client certificates that a listener with client_ca has verified.
type CertificateConfig struct {
	Identity string `yaml:"identity" default:"cn" doc:"Which name counts: cn, san_dns, san_uri, san_email or none."`
}

// JWTConfig is about tokens that others issue.
type JWTConfig struct {
	Issuers []IssuerConfig `yaml:"issuers" doc:"Issuers whose tokens are accepted as passwords."`
}

// IssuerConfig is one issuer of tokens.
type IssuerConfig struct {
	Issuer        string      `yaml:"issuer" doc:"Value of the token's iss claim."`
	Audience      string      `yaml:"audience" doc:"Value that aud must hold; empty: any."`
	Algorithms    []string    `yaml:"algorithms" doc:"Accepted algorithms, such as HS256, RS256, ES256, EdDSA."`
	Secret        conf.Secret `yaml:"secret" doc:"Shared secret for HS algorithms."`
	JWKSFile      string      `yaml:"jwks_file" doc:"File with the issuer's keys; read again when it changes."`
	JWKSURL       string      `yaml:"jwks_url" doc:"Address of the issuer's keys; read again hourly."`
	ClientIDClaim string      `yaml:"client_id_claim" doc:"Claim that must equal the client identifier; empty: none."`
	UsernameClaim string      `yaml:"username_claim" default:"sub" doc:"Claim that holds the user name."`
	Trusted       bool        `yaml:"trusted" default:"false" doc:"May vouch for names in users and admins."`
}

// WebhookConfig is about asking an HTTP service.
type WebhookConfig struct {
	URL       string                 `yaml:"url" doc:"Address that decides on logins; empty: none."`
	Timeout   time.Duration          `yaml:"timeout" default:"2s" doc:"Time for one answer, 10ms to 30s."`
	CacheTTL  time.Duration          `yaml:"cache_ttl" default:"30s" doc:"How long an answer holds, 0s (not) to 1h."`
	CacheSize int                    `yaml:"cache_size" default:"10000" doc:"Answers kept, 1 to 1000000."`
	Headers   map[string]conf.Secret `yaml:"headers" doc:"HTTP headers to send, for example Authorization."`
	Trusted   bool                   `yaml:"trusted" default:"false" doc:"May vouch for names in users and admins."`
}

const minSecret = 8

// Validate reports what is wrong beside the sub-sections.
func (c *Config) Validate(report func(key, problem string)) {
	for name, hash := range c.Users {
		if name == "" {
			report("users", "has an empty user name")
		}
		if _, err := parsePHC(hash.Reveal()); err != nil {
			report("users."+name, err.Error())
		}
	}
	if slices.Contains(c.Admins, "") {
		report("admins", "has an empty user name")
	}
	if c.PasswordChecks < 1 || c.PasswordChecks > 64 {
		report("password_checks", "must be between 1 and 64")
	}
	seen := map[string]bool{}
	for i, p := range c.Products {
		switch {
		case p.Key == "" || strings.ContainsAny(p.Key, "\n\x00"):
			report(fmt.Sprintf("products[%d].key", i), "must be a name")
		case seen[p.Key]:
			report(fmt.Sprintf("products[%d].key", i), "is there twice")
		}
		if p.Secret == "" {
			report(fmt.Sprintf("products[%d].secret", i), "is missing")
		}
		seen[p.Key] = true
	}
	issuers := map[string]bool{}
	for i, issuer := range c.JWT.Issuers {
		if issuers[issuer.Issuer] {
			report(fmt.Sprintf("jwt.issuers[%d].issuer", i), "is there twice")
		}
		issuers[issuer.Issuer] = true
	}
}

// Validate reports values out of range.
func (c *TokenConfig) Validate(report func(key, problem string)) {
	if c.Secret != "" && len(c.Secret) < minSecret {
		report("secret", fmt.Sprintf("must have at least %d characters; 32 random ones are advised", minSecret))
	}
	if c.TTL < time.Second || c.TTL > c.MaxTTL {
		report("ttl", "must be between 1s and max_ttl")
	}
	if c.RefreshWindow < 0 {
		report("refresh_window", "must not be negative")
	}
}

// Validate reports values out of range.
func (c *RegistrationConfig) Validate(report func(key, problem string)) {
	if c.Window < time.Second || c.Window > time.Hour {
		report("window", "must be between 1s and 1h")
	}
	if c.Rate < 0 {
		report("rate", "must not be negative")
	}
}

// Validate reports values out of range.
func (c *FailureConfig) Validate(report func(key, problem string)) {
	if c.Rate < 0 {
		report("rate", "must not be negative")
	}
	if c.Burst < 1 || c.Burst > 10_000 {
		report("burst", "must be between 1 and 10000")
	}
}

// Validate reports an unknown place for the name.
func (c *CertificateConfig) Validate(report func(key, problem string)) {
	if _, known := certificateNames[c.Identity]; !known {
		report("identity", fmt.Sprintf("is %q; choose cn, san_dns, san_uri, san_email or none", c.Identity))
	}
}

// Validate reports algorithms and key sources that do not belong together.
func (c *IssuerConfig) Validate(report func(key, problem string)) {
	switch c.Issuer {
	case "":
		report("issuer", "is missing")
	case tokenIssuer:
		report("issuer", "is this node's own issuer")
	}
	if len(c.Algorithms) == 0 {
		report("algorithms", "needs at least one")
	}
	for i, a := range c.Algorithms {
		key := fmt.Sprintf("algorithms[%d]", i)
		switch {
		case !slices.Contains(knownAlgorithms, a):
			report(key, fmt.Sprintf("is %q; choose from %s", a, strings.Join(knownAlgorithms, ", ")))
		case c.Secret != "" && !strings.HasPrefix(a, "HS"):
			report(key, "needs jwks_file or jwks_url: a secret is for HS algorithms")
		}
	}
	sources := 0
	for _, source := range []string{string(c.Secret), c.JWKSFile, c.JWKSURL} {
		if source != "" {
			sources++
		}
	}
	if sources != 1 {
		report("", "needs exactly one of secret, jwks_file and jwks_url")
	}
	if c.Secret != "" && len(c.Secret) < minSecret {
		report("secret", fmt.Sprintf("must have at least %d characters", minSecret))
	}
	if c.JWKSURL != "" && !isHTTP(c.JWKSURL) {
		report("jwks_url", "is not an http or https address")
	}
	if c.UsernameClaim == "" {
		report("username_claim", "is missing")
	}
}

// Validate reports values out of range.
func (c *WebhookConfig) Validate(report func(key, problem string)) {
	if c.URL == "" {
		return
	}
	if !isHTTP(c.URL) {
		report("url", "is not an http or https address")
	}
	if c.Timeout < 10*time.Millisecond || c.Timeout > 30*time.Second {
		report("timeout", "must be between 10ms and 30s")
	}
	if c.CacheTTL < 0 || c.CacheTTL > time.Hour {
		report("cache_ttl", "must be between 0s and 1h")
	}
	if c.CacheSize < 1 || c.CacheSize > 1_000_000 {
		report("cache_size", "must be between 1 and 1000000")
	}
}

func isHTTP(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}
