package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tokenIssuer is the iss claim of the tokens that nodes issue.
const tokenIssuer = "penstock"

// maxTokenLength bounds what is decoded as a token, in bytes.
const maxTokenLength = 8 << 10

// Why a device token is refused.
var (
	ErrTokenInvalid = errors.New("token is not valid")
	ErrTokenExpired = errors.New("token is expired")
	ErrTokenRevoked = errors.New("token is revoked")
)

// Claims are what a device token says.
type Claims struct {
	jwt.RegisteredClaims        // Subject is the device id, ID the token's
	Product              string `json:"product"`
	Generation           uint64 `json:"gen,omitempty"`
}

// tokenSigner issues and checks device tokens: JWTs signed with HS256.
type tokenSigner struct {
	secret []byte
	now    func() time.Time
	parser *jwt.Parser
}

func newTokenSigner(secret []byte, now func() time.Time) *tokenSigner {
	return &tokenSigner{secret: secret, now: now, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(tokenIssuer), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now),
	)}
}

// sign issues a token with a random id.
func (t *tokenSigner) sign(device *Device, ttl time.Duration) (string, TokenRecord, error) {
	id := make([]byte, 15)
	rand.Read(id) // never fails
	now := t.now()
	record := TokenRecord{
		ID: base64.RawURLEncoding.EncodeToString(id), Device: device.ID, Generation: device.Generation,
		Expires: now.Add(ttl).Truncate(time.Second),
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: tokenIssuer, Subject: device.ID, ID: record.ID,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(record.Expires),
		},
		Product: device.Product, Generation: device.Generation,
	}).SignedString(t.secret)
	if err != nil {
		return "", TokenRecord{}, fmt.Errorf("sign token: %w", err)
	}
	return text, record, nil
}

// verify checks signature, issuer and expiry. With ErrTokenExpired it returns the claims too, for they are signed.
func (t *tokenSigner) verify(text string) (*Claims, error) {
	if len(text) > maxTokenLength {
		return nil, ErrTokenInvalid
	}
	claims := &Claims{}
	_, err := t.parser.ParseWithClaims(text, claims, func(*jwt.Token) (any, error) { return t.secret, nil })
	switch {
	case err == nil && claims.Subject != "" && claims.ID != "":
		return claims, nil
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidIssuer) && claims.Subject != "":
		return claims, ErrTokenExpired
	}
	return nil, ErrTokenInvalid
}

// issuerOf reads the iss claim of what may be a JWT, without believing it. Empty: it is none.
func issuerOf(password []byte) string {
	if len(password) > maxTokenLength || !bytes.HasPrefix(password, []byte("ey")) {
		return ""
	}
	parts := bytes.Split(password, []byte("."))
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.AppendDecode(nil, parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Issuer
}
