package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/internal/conf"
)

const issuerName = "https://issuer.example"

// signer is an issuer's key of one algorithm.
type signer struct {
	method  jwt.SigningMethod
	private any
	public  any
}

func signers(t testing.TB) map[string]signer {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	edPublic, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	shared := []byte("a shared secret of 32 characters")
	return map[string]signer{
		"HS256": {jwt.SigningMethodHS256, shared, shared},
		"RS256": {jwt.SigningMethodRS256, rsaKey, rsaKey.Public()},
		"ES256": {jwt.SigningMethodES256, ecKey, ecKey.Public()},
		"EdDSA": {jwt.SigningMethodEdDSA, edPrivate, crypto.PublicKey(edPublic)},
	}
}

func jwks(t testing.TB, keys map[string]signer) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for id, s := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.public, KeyID: id, Algorithm: s.method.Alg(), Use: "sig"})
	}
	text, err := json.Marshal(set)
	require.NoError(t, err)
	return text
}

func (s signer) token(t testing.TB, keyID string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, claims)
	if keyID != "" {
		token.Header["kid"] = keyID
	}
	text, err := token.SignedString(s.private)
	require.NoError(t, err)
	return text
}

func claimsAt(now time.Time, change map[string]any) jwt.MapClaims {
	claims := jwt.MapClaims{
		"iss": issuerName, "sub": "carol", "aud": "mqtt", "jti": "j1", "device": "c1",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func withIssuer(i auth.IssuerConfig) func(*auth.Config) {
	return func(c *auth.Config) {
		i.Issuer, i.UsernameClaim = issuerName, "sub"
		c.JWT.Issuers = []auth.IssuerConfig{i}
	}
}

func TestJWTAlgorithmsAndKeySources(t *testing.T) {
	keys := signers(t)
	set := jwks(t, keys)
	file := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(file, set, 0o600))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(set) }))
	defer server.Close()

	for name, key := range keys {
		for source, config := range map[string]auth.IssuerConfig{"file": {JWKSFile: file}, "url": {JWKSURL: server.URL}} {
			t.Run(name+" by "+source, func(t *testing.T) {
				config.Algorithms = []string{name}
				w := newWorld(t, withIssuer(config))
				for _, id := range []string{name, ""} {
					grant, err := w.login("c1", "", key.token(t, id, claimsAt(w.clock.Now(), nil)))
					require.NoError(t, err)
					require.Equal(t, "jwt:"+issuerName+":carol", grant.Identity)
					require.Equal(t, "carol", grant.Username)
					require.Equal(t, "j1", grant.TokenID)
					require.WithinDuration(t, w.clock.Now().Add(time.Hour), grant.Expires, 10*time.Second)
				}
				for other, wrong := range keys {
					if other != name {
						_, err := w.login("c1", "", wrong.token(t, name, claimsAt(w.clock.Now(), nil)))
						require.EqualValues(t, 0x86, code(t, err), other)
					}
				}
			})
		}
	}
}

func TestJWTClaims(t *testing.T) {
	key := signers(t)["HS256"]
	for _, c := range []struct {
		name   string
		change map[string]any
		code   byte
	}{
		{"as they should be", nil, 0},
		{"expired", map[string]any{"exp": int64(1_800_000_000 - 60)}, 0x87},
		{"no expiry", map[string]any{"exp": nil}, 0x87},
		{"not yet", map[string]any{"nbf": int64(1_800_000_000 + 60)}, 0x87},
		{"issued in the future", map[string]any{"iat": int64(1_800_000_000 + 60)}, 0x87},
		{"other audience", map[string]any{"aud": "http"}, 0x87},
		{"no audience", map[string]any{"aud": nil}, 0x87},
		{"unknown issuer", map[string]any{"iss": "https://other.example"}, 0x86},
		{"other client id", map[string]any{"device": "c2"}, 0x85},
		{"no client id", map[string]any{"device": nil}, 0x85},
		{"client id is no text", map[string]any{"device": 1}, 0x85},
		{"no subject", map[string]any{"sub": nil}, 0x87},
		{"line break in the subject", map[string]any{"sub": "a\nb"}, 0x87},
		{"a user's name", map[string]any{"sub": "bob"}, 0x87},
		{"an administrator's name", map[string]any{"sub": "alice"}, 0x87},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, withIssuer(auth.IssuerConfig{
				Algorithms: []string{"HS256"}, Secret: conf.Secret(key.public.([]byte)), Audience: "mqtt", ClientIDClaim: "device",
			}))
			_, err := w.login("c1", "", key.token(t, "", claimsAt(w.clock.Now(), c.change)))
			require.Equal(t, c.code, code(t, err), err)
		})
	}
	t.Run("a trusted issuer vouches for administrators", func(t *testing.T) {
		w := newWorld(t, withIssuer(auth.IssuerConfig{
			Algorithms: []string{"HS256"}, Secret: conf.Secret(key.public.([]byte)), Trusted: true,
		}))
		grant, err := w.login("c1", "", key.token(t, "", claimsAt(w.clock.Now(), map[string]any{"sub": "alice"})))
		require.NoError(t, err)
		require.True(t, grant.Admin)
	})
	t.Run("no signature at all", func(t *testing.T) {
		w := newWorld(t, withIssuer(auth.IssuerConfig{Algorithms: []string{"HS256"}, Secret: "0123456789"}))
		text, err := jwt.NewWithClaims(jwt.SigningMethodNone, claimsAt(w.clock.Now(), nil)).
			SignedString(jwt.UnsafeAllowNoneSignatureType)
		require.NoError(t, err)
		_, err = w.login("c1", "", text)
		require.EqualValues(t, 0x86, code(t, err))
	})
}

func TestKeyFileIsReadAgainWhenItChanges(t *testing.T) {
	keys := signers(t)
	file := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(file, jwks(t, map[string]signer{"RS256": keys["RS256"]}), 0o600))
	w := newWorld(t, withIssuer(auth.IssuerConfig{Algorithms: []string{"RS256", "ES256"}, JWKSFile: file}))
	login := func(name string) byte {
		_, err := w.login("c1", "", keys[name].token(t, name, claimsAt(w.clock.Now(), nil)))
		return code(t, err)
	}
	require.Zero(t, login("RS256"))
	require.EqualValues(t, 0x86, login("ES256"))

	require.NoError(t, os.WriteFile(file, jwks(t, map[string]signer{"ES256": keys["ES256"]}), 0o600))
	w.clock.Advance(2 * time.Second)
	require.Zero(t, login("ES256"))
	require.EqualValues(t, 0x86, login("RS256"))

	require.NoError(t, os.WriteFile(file, []byte("{half"), 0o600))
	w.clock.Advance(2 * time.Second)
	require.Zero(t, login("ES256"), "the keys at hand stay")

	absent := newWorld(t, withIssuer(auth.IssuerConfig{Algorithms: []string{"RS256"}, JWKSFile: file + ".absent"}))
	_, err := absent.login("c1", "", keys["RS256"].token(t, "", claimsAt(absent.clock.Now(), nil)))
	require.EqualValues(t, 0x88, code(t, err))
}

func TestKeyURLIsAskedAgainWithinBounds(t *testing.T) {
	keys := signers(t)
	var requests atomic.Int32
	var answer atomic.Pointer[[]byte]
	serve := func(text []byte) { answer.Store(&text) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		if text := *answer.Load(); text != nil {
			w.Write(text)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	w := newWorld(t, withIssuer(auth.IssuerConfig{Algorithms: []string{"RS256", "ES256"}, JWKSURL: server.URL}))
	login := func(name, keyID string) byte {
		_, err := w.login("c1", "", keys[name].token(t, keyID, claimsAt(w.clock.Now(), nil)))
		return code(t, err)
	}
	serve(nil)
	require.EqualValues(t, 0x88, login("RS256", "RS256"), "no keys yet")
	serve(jwks(t, map[string]signer{"RS256": keys["RS256"]}))
	require.EqualValues(t, 0x88, login("RS256", "RS256"), "just tried")
	w.clock.Advance(11 * time.Second)
	require.Zero(t, login("RS256", "RS256"))
	require.EqualValues(t, 2, requests.Load())

	for i := range 20 {
		require.EqualValues(t, 0x86, login("ES256", fmt.Sprint("made-up-", i)))
	}
	require.EqualValues(t, 2, requests.Load(), "made-up key ids do not make requests")
	serve(jwks(t, map[string]signer{"ES256": keys["ES256"]}))
	w.clock.Advance(11 * time.Second)
	require.Zero(t, login("ES256", "ES256"), "the issuer changed its key")
	require.EqualValues(t, 3, requests.Load())

	serve(nil)
	w.clock.Advance(2 * time.Hour)
	require.Zero(t, login("ES256", "ES256"), "old keys serve while the issuer is down")
	require.EqualValues(t, 4, requests.Load())
	serve([]byte(`{"keys":[` + string(make([]byte, 2<<20)) + `]}`))
	w.clock.Advance(11 * time.Second)
	require.Zero(t, login("ES256", "ES256"), "an answer that is too large is not taken")
}

func TestCertificates(t *testing.T) {
	address, err := url.Parse("urn:pump:7")
	require.NoError(t, err)
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "pump-7"}, DNSNames: []string{"pump7.example"}, URIs: []*url.URL{address},
		EmailAddresses: []string{"pump7@example"}, NotAfter: time.Unix(1_900_000_000, 0),
	}
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	for _, c := range []struct {
		place string
		state *tls.ConnectionState
		name  string
	}{
		{"cn", verified, "pump-7"},
		{"san_dns", verified, "pump7.example"},
		{"san_uri", verified, "urn:pump:7"},
		{"san_email", verified, "pump7@example"},
		{"none", verified, ""},
		{"cn", nil, ""},
		{"cn", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, ""},
		{"san_dns", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}, ""},
		{"san_uri", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}, ""},
		{"cn", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: "a\nb"}}}}}, ""},
	} {
		t.Run(c.place+" "+c.name, func(t *testing.T) {
			w := newWorld(t, func(config *auth.Config) { config.Certificates.Identity = c.place })
			grant, err := w.Authenticate(t.Context(), &broker.ConnectRequest{ClientID: "x", TLS: c.state})
			if c.name == "" {
				require.EqualValues(t, 0x86, code(t, err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, broker.Grant{Identity: "cert:" + c.name, Username: c.name, Expires: leaf.NotAfter}, grant)
		})
	}
	t.Run("a registered device's id is for a certificate of that name", func(t *testing.T) {
		w := newWorld(t, nil)
		w.register("pump-7")
		w.register("pump-8")
		_, err := w.Authenticate(t.Context(), &broker.ConnectRequest{ClientID: "pump-7", TLS: verified})
		require.NoError(t, err)
		_, err = w.Authenticate(t.Context(), &broker.ConnectRequest{ClientID: "pump-8", TLS: verified})
		require.EqualValues(t, 0x85, code(t, err))
	})
}

// hookServer is a webhook that answers as its handler says.
func hookServer(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func withWebhook(address string, change func(*auth.WebhookConfig)) func(*auth.Config) {
	return func(c *auth.Config) {
		c.Webhook.URL = address
		c.Webhook.Headers = map[string]conf.Secret{"X-Key": "hook-key"}
		if change != nil {
			change(&c.Webhook)
		}
	}
}

func TestWebhookAnswers(t *testing.T) {
	for _, c := range []struct {
		name     string
		status   int
		body     string
		code     byte
		identity string
	}{
		{"allowed without words", 204, "", 0, "webhook:dora"},
		{"allowed", 200, `{"result":"allow"}`, 0, "webhook:dora"},
		{"allowed by another name", 200, `{"result":"allow","username":"d"}`, 0, "webhook:d"},
		{"allowed as an administrator", 200, `{"result":"allow","username":"alice"}`, 0x87, ""},
		{"allowed until the past", 200, `{"result":"allow","expires_at":5}`, 0x87, ""},
		{"denied", 200, `{"result":"deny"}`, 0x86, ""},
		{"denied by status", 403, "", 0x86, ""},
		{"not known there", 200, `{"result":"ignore"}`, 0x86, ""},
		{"broken", 500, "", 0x88, ""},
		{"redirected", 302, "", 0x88, ""},
		{"not JSON", 200, "yes", 0x88, ""},
		{"unknown result", 200, `{"result":"maybe"}`, 0x88, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var question map[string]any
			server := hookServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Key") != "hook-key" || json.NewDecoder(r.Body).Decode(&question) != nil {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				w.WriteHeader(c.status)
				w.Write([]byte(c.body))
			})
			w := newWorld(t, withWebhook(server.URL, nil))
			grant, err := w.login("c1", "dora", "explorer")
			require.Equal(t, c.code, code(t, err), err)
			require.Equal(t, c.identity, grant.Identity)
			require.Equal(t, "c1", question["client_id"])
			require.Equal(t, "explorer", question["password"])
			require.NotContains(t, w.logs.String(), "explorer")
		})
	}
}

func TestWebhookExpiry(t *testing.T) {
	server := hookServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"result":"allow","expires_at":1800000060}`))
	})
	w := newWorld(t, withWebhook(server.URL, nil))
	grant, err := w.login("c1", "", "")
	require.NoError(t, err)
	require.Equal(t, broker.Grant{Identity: "webhook-client:c1", Expires: time.Unix(1_800_000_060, 0)}, grant)
}

func TestWebhookIsCached(t *testing.T) {
	var requests atomic.Int32
	server := hookServer(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	w := newWorld(t, withWebhook(server.URL, nil))
	login := func(id, password string) {
		_, err := w.login(id, "dora", password)
		require.NoError(t, err)
	}
	login("c1", "a")
	login("c1", "a")
	require.EqualValues(t, 1, requests.Load())
	login("c1", "b")
	login("c2", "a")
	require.EqualValues(t, 3, requests.Load(), "another password, another client")
	w.clock.Advance(31 * time.Second)
	login("c1", "a")
	require.EqualValues(t, 4, requests.Load())
}

func TestWebhookIsSparedByThrottling(t *testing.T) {
	var requests atomic.Int32
	server := hookServer(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		var question struct{ Password string }
		if json.NewDecoder(r.Body).Decode(&question) != nil || question.Password != "good" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	w := newWorld(t, func(c *auth.Config) {
		withWebhook(server.URL, nil)(c)
		c.Failures = auth.FailureConfig{Rate: 0.1, Burst: 3}
	})
	_, err := w.login("c1", "dora", "good")
	require.NoError(t, err)
	for i := range 10 {
		_, err := w.login("c2", "dora", fmt.Sprint("guess ", i))
		require.Error(t, err)
	}
	require.EqualValues(t, 4, requests.Load())
	_, err = w.login("c1", "dora", "good")
	require.NoError(t, err, "who was let in lately is not held back")
}

func TestWebhookThatIsSlowOrDown(t *testing.T) {
	release := make(chan struct{})
	server := hookServer(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	slow := newWorld(t, withWebhook(server.URL, func(c *auth.WebhookConfig) { c.Timeout = 20 * time.Millisecond }))
	_, err := slow.login("c1", "dora", "x")
	require.EqualValues(t, 0x88, code(t, err))
	_, err = slow.login("c1", "bob", "builder")
	require.NoError(t, err, "users do not need it")
	require.Zero(t, slow.failures.count())

	down := newWorld(t, withWebhook("http://127.0.0.1:1/", nil))
	_, err = down.login("c1", "dora", "x")
	require.EqualValues(t, 0x88, code(t, err))
}
