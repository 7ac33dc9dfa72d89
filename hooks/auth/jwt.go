package auth

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// knownAlgorithms are the signature algorithms that issuers may use. "none" is not among them.
var knownAlgorithms = []string{
	"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// clockLeeway is how far another issuer's clock may be off.
const clockLeeway = 5 * time.Second

// issuer checks the tokens of one other issuer.
type issuer struct {
	config IssuerConfig
	keys   keySource
	parser *jwt.Parser
}

// keySource finds the keys that may have signed a token. It may block until ctx ends.
type keySource interface {
	// find returns the keys for a key id and an algorithm; keyID may be empty.
	find(ctx context.Context, keyID, algorithm string) ([]jwt.VerificationKey, error)
}

// errKeys: the keys of an issuer cannot be had; the token may be good.
var errKeys = errors.New("cannot read the issuer's keys")

func newIssuer(c IssuerConfig, now func() time.Time) *issuer {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(c.Algorithms), jwt.WithIssuer(c.Issuer), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now),
	}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	i := &issuer{config: c, parser: jwt.NewParser(options...)}
	switch {
	case c.Secret != "":
		i.keys = sharedSecret(c.Secret.Reveal())
	case c.JWKSFile != "":
		i.keys = &keyFile{name: c.JWKSFile, now: now}
	default:
		i.keys = newKeyURL(c.JWKSURL, now)
	}
	return i
}

type sharedSecret []byte

func (s sharedSecret) find(context.Context, string, string) ([]jwt.VerificationKey, error) {
	return []jwt.VerificationKey{[]byte(s)}, nil
}

// recognise checks a token that says that it is this issuer's.
func (i *issuer) recognise(ctx context.Context, c *broker.ConnectRequest) verdict {
	v := verdict{method: "jwt", outside: !i.config.Trusted}
	claims := jwt.MapClaims{}
	_, err := i.parser.ParseWithClaims(string(c.Password), claims, func(t *jwt.Token) (any, error) {
		keyID, _ := t.Header["kid"].(string)
		keys, err := i.keys.find(ctx, keyID, t.Method.Alg())
		return jwt.VerificationKeySet{Keys: keys}, err
	})
	switch {
	case errors.Is(err, errKeys):
		v.err = broker.Refuse(packets.ErrServerUnavailable, "%s", err)
		return v
	case errors.Is(err, jwt.ErrTokenUnverifiable), errors.Is(err, jwt.ErrTokenSignatureInvalid),
		errors.Is(err, jwt.ErrTokenMalformed):
		v.guessed = true
		v.err = broker.Refuse(packets.ErrBadUsernameOrPassword, "%s", err)
		return v
	case err != nil:
		v.err = broker.Refuse(packets.ErrNotAuthorized, "%s", err)
		return v
	}
	v.grant, v.err = i.grant(claims, c.ClientID)
	return v
}

func (i *issuer) grant(claims jwt.MapClaims, clientID string) (broker.Grant, error) {
	subject, _ := claims["sub"].(string)
	username, _ := claims[i.config.UsernameClaim].(string)
	if !isName(subject) || !isName(username) {
		return broker.Grant{}, broker.Refuse(packets.ErrNotAuthorized, "token lacks sub or %s", i.config.UsernameClaim)
	}
	if claim := i.config.ClientIDClaim; claim != "" && claims[claim] != clientID {
		return broker.Grant{}, broker.Refuse(packets.ErrClientIdentifierNotValid,
			"claim %s is not the client identifier", claim)
	}
	expires, err := claims.GetExpirationTime()
	if err != nil {
		return broker.Grant{}, broker.Refuse(packets.ErrNotAuthorized, "%s", err)
	}
	tokenID, _ := claims["jti"].(string)
	return broker.Grant{
		Identity: "jwt:" + i.config.Issuer + ":" + subject, Username: username,
		Expires: expires.Add(clockLeeway), TokenID: strings.Clone(tokenID),
	}, nil
}
