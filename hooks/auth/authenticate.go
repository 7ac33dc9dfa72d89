package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// verdict is what one way of recognising a client says about it.
type verdict struct {
	method  string
	grant   broker.Grant
	err     error
	guessed bool // the credentials were wrong, so that this counts as an attempt to guess
	outside bool // the user name comes from somebody who may not vouch for names of ours
}

// Authenticate decides about a CONNECT. The first of these that recognises the client decides: a device token in the
// password; a client certificate; a user of auth.users; a token of another issuer; the webhook; anonymous access.
// A device token comes before the certificate because a connection whose certificate names a gateway may still carry
// the token of one device. It blocks for the store, for argon2id, and for the services that it asks.
func (s *Service) Authenticate(ctx context.Context, c *broker.ConnectRequest) (broker.Grant, error) {
	v := s.recognise(ctx, c)
	if v.err == nil && v.method != "token" {
		v.err = s.admit(ctx, c.ClientID, &v)
	}
	s.metrics.logins.WithLabelValues(v.method, resultOf(v.err)).Inc()
	if v.err != nil {
		if v.guessed {
			s.countGuess(c.Remote.Addr(), c.Username)
		}
		s.logRefusal(c, &v)
		return broker.Grant{}, v.err
	}
	v.grant.Admin = s.IsAdmin(v.grant.Username)
	return v.grant, nil
}

func (s *Service) recognise(ctx context.Context, c *broker.ConnectRequest) verdict {
	iss := issuerOf(c.Password)
	if iss == tokenIssuer {
		return s.byToken(ctx, c)
	}
	if name := certificateName(s.config.Certificates.Identity, c.TLS); name != "" {
		return verdict{method: "certificate", grant: broker.Grant{
			Identity: "cert:" + name, Username: name, Expires: c.TLS.VerifiedChains[0][0].NotAfter,
		}}
	}
	if s.users.has(c.Username) {
		return s.byPassword(ctx, c)
	}
	if issuer := s.issuers[iss]; issuer != nil && iss != "" {
		return issuer.recognise(ctx, c)
	}
	if s.webhook != nil {
		if held := s.throttled(c, "webhook"); held.err != nil && !s.webhook.remembers(c, s.now()) {
			return held
		}
		if v := s.webhook.recognise(ctx, c, s.now()); v.method != "" {
			return v
		}
	}
	if s.config.Anonymous {
		return verdict{method: "anonymous", grant: broker.Grant{Identity: "anonymous"}}
	}
	return s.byPassword(ctx, c)
}

// byToken checks a device token that claims to be ours.
func (s *Service) byToken(ctx context.Context, c *broker.ConnectRequest) verdict {
	v := verdict{method: "token"}
	claims, err := s.VerifyToken(ctx, string(c.Password))
	switch {
	case errors.Is(err, ErrTokenInvalid):
		v.guessed = true
		v.err = broker.Refuse(packets.ErrBadUsernameOrPassword, "%s", err)
	case errors.Is(err, ErrTokenExpired), errors.Is(err, ErrTokenRevoked), errors.Is(err, ErrDeviceDisabled):
		v.err = broker.Refuse(packets.ErrNotAuthorized, "%s", err)
	case err != nil:
		v.err = unavailable(err)
	case claims.Subject != c.ClientID:
		v.err = broker.Refuse(packets.ErrClientIdentifierNotValid, "token belongs to another client identifier")
	default:
		v.grant = broker.Grant{Identity: "device:" + c.ClientID, Expires: claims.ExpiresAt.Time, TokenID: claims.ID}
	}
	return v
}

// byPassword checks user name and password. For a name that is unknown it does the same work in vain.
func (s *Service) byPassword(ctx context.Context, c *broker.ConnectRequest) verdict {
	v := verdict{method: "password"}
	if s.users.remembers(c.Username, c.Password, s.now()) {
		v.grant = broker.Grant{Identity: "user:" + c.Username, Username: c.Username}
		return v
	}
	if held := s.throttled(c, v.method); held.err != nil {
		return held
	}
	ok, err := s.users.verify(ctx, c.Username, c.Password, s.now)
	switch {
	case err != nil:
		v.err = broker.Refuse(packets.ErrServerBusy, "%s", err)
	case !ok:
		v.guessed = len(c.Password) > 0 // who brings no password does not guess
		v.err = broker.Refuse(packets.ErrBadUsernameOrPassword, "user name and password do not match")
	default:
		v.grant = broker.Grant{Identity: "user:" + c.Username, Username: c.Username}
	}
	return v
}

// admit looks at who was recognised by another way than a device token: names of our users are not for outsiders, and
// the client identifier of a registered device is for that device.
func (s *Service) admit(ctx context.Context, clientID string, v *verdict) error {
	name := v.grant.Username
	if v.outside && (s.users.has(name) || s.IsAdmin(name)) {
		return broker.Refuse(packets.ErrNotAuthorized, "user name stands in auth.users or auth.admins")
	}
	if CheckDeviceID(clientID) != nil {
		return nil // such a device cannot be registered
	}
	device, err := s.store.Device(ctx, clientID)
	switch {
	case errors.Is(err, ErrUnknownDevice):
		return nil
	case err != nil:
		return unavailable(err)
	case device.Disabled:
		return broker.Refuse(packets.ErrNotAuthorized, "%s", ErrDeviceDisabled)
	case name != clientID:
		return broker.Refuse(packets.ErrClientIdentifierNotValid, "client identifier belongs to a registered device")
	}
	return nil
}

func unavailable(err error) *broker.Refusal {
	return broker.Refuse(packets.ErrServerUnavailable, "%s", err)
}

// throttled refuses when the source or the user name failed too often lately. Only what can be guessed is throttled, so
// that nobody can keep a device with a token away by failing in its name. A source that goes on regardless comes nearer
// to its ban; whoever is held back because others tried his name does not.
func (s *Service) throttled(c *broker.ConnectRequest, method string) verdict {
	now := s.now()
	source := s.guesses.empty(sourceKey(c.Remote.Addr()), now)
	if !source && (c.Username == "" || !s.guesses.empty(userKey(c.Username), now)) {
		return verdict{}
	}
	return verdict{
		method: method, guessed: source,
		err: broker.Refuse(packets.ErrConnectionRateExceeded, "too many failed logins"),
	}
}

func (s *Service) countGuess(remote netip.Addr, username string) {
	now := s.now()
	s.guesses.take(sourceKey(remote), now)
	if username != "" {
		s.guesses.take(userKey(username), now)
	}
	if s.failures != nil && remote.IsValid() {
		s.failures.Failed(remote)
	}
}

// sourceKey is one IPv4 address, or the /64 from which an IPv6 host may choose its addresses.
func sourceKey(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	return addr.String()
}

// userKey is short, however long the user name is.
func userKey(name string) string {
	if len(name) > sha256.Size {
		sum := sha256.Sum256([]byte(name))
		name = string(sum[:])
	}
	return "user " + name
}

// logRefusal logs a refused login, a few in a second. What the client sent stands in attributes, its password nowhere.
func (s *Service) logRefusal(c *broker.ConnectRequest, v *verdict) {
	if !s.logLimit.AllowN(s.now(), 1) {
		s.silenced.Add(1)
		return
	}
	s.log.Warn("login refused", "client_id", clip(c.ClientID), "username", clip(c.Username), "remote", c.Remote.String(),
		"listener", c.Listener, "trace_id", c.TraceID, "method", v.method, "reason", fmt.Sprint(v.err),
		"not_logged_before", s.silenced.Swap(0))
}

// clip keeps what a client sent from filling the log.
func clip(text string) string {
	const most = 256
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
