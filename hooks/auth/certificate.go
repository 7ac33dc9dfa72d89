package auth

import (
	"crypto/tls"
	"crypto/x509"
)

// certificateNames are the places in a certificate where its name may stand.
var certificateNames = map[string]func(*x509.Certificate) string{
	"none":      func(*x509.Certificate) string { return "" },
	"cn":        func(c *x509.Certificate) string { return c.Subject.CommonName },
	"san_dns":   func(c *x509.Certificate) string { return first(c.DNSNames) },
	"san_email": func(c *x509.Certificate) string { return first(c.EmailAddresses) },
	"san_uri": func(c *x509.Certificate) string {
		if len(c.URIs) == 0 {
			return ""
		}
		return c.URIs[0].String()
	},
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// certificateName is the name in a client certificate that the listener verified; empty when there is none.
func certificateName(place string, state *tls.ConnectionState) string {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return ""
	}
	name := certificateNames[place](state.VerifiedChains[0][0])
	if !isName(name) {
		return ""
	}
	return name
}
