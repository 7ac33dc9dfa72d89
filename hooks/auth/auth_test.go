package auth_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/argon2"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testenv"
)

var _ broker.Authenticator = (*auth.Service)(nil)

const productSecret = "pump-secret"

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// failures counts what the service reports.
type failures struct {
	mu    sync.Mutex
	addrs []netip.Addr
}

func (f *failures) Failed(a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addrs = append(f.addrs, a)
}

func (f *failures) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.addrs)
}

// world is a service with all that it stands on.
type world struct {
	*auth.Service
	t        testing.TB
	clock    *clock
	store    *memory
	failures *failures
	logs     *testenv.Log
}

func quickHash(password string) conf.Secret {
	salt := make([]byte, 16)
	rand.Read(salt)
	sum := argon2.IDKey([]byte(password), salt, 1, 8, 1, 32)
	return conf.Secret(fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s",
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum)))
}

func newWorld(t testing.TB, change func(*auth.Config)) *world {
	t.Helper()
	return openWorld(t, newMemory(), &clock{now: time.Unix(1_800_000_000, 0)}, change)
}

func openWorld(t testing.TB, store *memory, c *clock, change func(*auth.Config)) *world {
	t.Helper()
	var config auth.Config
	require.NoError(t, conf.SetDefaults(&config))
	config.Products = []auth.Product{{Key: "pump", Secret: productSecret}, {Key: "valve", Secret: "valve-secret"}}
	config.Users = map[string]conf.Secret{"alice": quickHash("wonderland"), "bob": quickHash("builder")}
	config.Admins = []string{"alice"}
	if change != nil {
		change(&config)
	}
	require.NoError(t, conf.Check(&config))
	w := &world{t: t, clock: c, store: store, failures: &failures{}, logs: &testenv.Log{}}
	service, err := auth.New(context.Background(), auth.Options{
		Config: config, Store: store, Failures: w.failures, Now: c.Now, Logger: slog.New(slog.NewTextHandler(w.logs, nil)),
	})
	require.NoError(t, err)
	t.Cleanup(service.Close)
	w.Service = service
	return w
}

// request is a well-signed registration.
func (w *world) request(id string) auth.RegisterRequest {
	timestamp, nonce := fmt.Sprint(w.clock.Now().Unix()), rand.Text()
	return auth.RegisterRequest{
		DeviceID: id, Product: "pump", Timestamp: timestamp, Nonce: nonce,
		Signature: auth.Sign(productSecret, id, timestamp, nonce), Remote: netip.MustParseAddr("192.0.2.1"),
	}
}

func (w *world) register(id string) auth.Registration {
	w.t.Helper()
	r, err := w.Register(context.Background(), w.request(id))
	require.NoError(w.t, err)
	return r
}

func (w *world) login(clientID, username, password string) (broker.Grant, error) {
	return w.Authenticate(context.Background(), &broker.ConnectRequest{
		ClientID: clientID, Username: username, Password: []byte(password), Listener: "tcp", ProtocolVersion: 5,
		Remote: netip.MustParseAddrPort("192.0.2.1:5000"), TraceID: "0123456789abcdef0123456789abcdef",
	})
}

// code is the reason code of a refusal; 0 for none.
func code(t testing.TB, err error) byte {
	t.Helper()
	if err == nil {
		return 0
	}
	var refusal *broker.Refusal
	require.ErrorAs(t, err, &refusal)
	return refusal.Code.Code
}

func TestLogin(t *testing.T) {
	w := newWorld(t, nil)
	good := w.register("pump-1").Token
	other := newWorld(t, nil)
	foreign := other.register("pump-1").Token
	revoked := w.register("pump-2")
	require.NoError(t, w.RevokeToken(t.Context(), revoked.TokenID))
	stale := w.register("pump-3").Token
	require.NoError(t, w.RevokeDevice(t.Context(), "pump-3"))
	renewed := w.register("pump-3").Token
	disabled := w.register("pump-4").Token
	require.NoError(t, w.DisableDevice(t.Context(), "pump-4"))

	for _, c := range []struct {
		name, client, user, password string
		code                         byte
		identity, username           string
	}{
		{"token", "pump-1", "", good, 0, "device:pump-1", ""},
		{"token with any user name", "pump-1", "alice", good, 0, "device:pump-1", ""},
		{"token of another client id", "pump-9", "", good, 0x85, "", ""},
		{"token of another node's secret", "pump-1", "", foreign, 0x86, "", ""},
		{"token with a changed signature", "pump-1", "", good[:len(good)-2] + "xx", 0x86, "", ""},
		{"token without a signature", "pump-1", "", good[:bytes.LastIndexByte([]byte(good), '.')+1], 0x86, "", ""},
		{"revoked token", "pump-2", "", revoked.Token, 0x87, "", ""},
		{"token of a revoked device", "pump-3", "", stale, 0x87, "", ""},
		{"new token of a revoked device", "pump-3", "", renewed, 0, "device:pump-3", ""},
		{"disabled device", "pump-4", "", disabled, 0x87, "", ""},
		{"disabled device as a user", "pump-4", "alice", "wonderland", 0x87, "", ""},
		{"user", "console", "bob", "builder", 0, "user:bob", "bob"},
		{"user again, from memory", "console", "bob", "builder", 0, "user:bob", "bob"},
		{"wrong password", "console", "bob", "wonderland", 0x86, "", ""},
		{"empty password", "console", "bob", "", 0x86, "", ""},
		{"unknown user", "console", "carol", "builder", 0x86, "", ""},
		{"nothing", "console", "", "", 0x86, "", ""},
		{"what only begins like a token", "console", "", "eyJhbGciOiJub25lIn0.e30.", 0x86, "", ""},
		{"user with a registered device's id", "pump-1", "bob", "builder", 0x85, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			grant, err := w.login(c.client, c.user, c.password)
			require.Equal(t, c.code, code(t, err), err)
			require.Equal(t, c.identity, grant.Identity)
			require.Equal(t, c.username, grant.Username)
			require.False(t, grant.Admin)
		})
	}
	grant, err := w.login("console", "alice", "wonderland")
	require.NoError(t, err)
	require.True(t, grant.Admin)
	require.True(t, w.IsAdmin("alice"))
	require.False(t, w.IsAdmin("bob"))
}

func TestTokenExpires(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.Token.TTL = time.Hour })
	r := w.register("pump-1")
	require.Equal(t, w.clock.Now().Add(time.Hour).UTC(), r.ExpiresAt)
	grant, err := w.login("pump-1", "", r.Token)
	require.NoError(t, err)
	require.True(t, grant.Expires.Equal(r.ExpiresAt))
	require.Equal(t, r.TokenID, grant.TokenID)
	w.clock.Advance(time.Hour + time.Second)
	_, err = w.login("pump-1", "", r.Token)
	require.EqualValues(t, 0x87, code(t, err))
	require.Zero(t, w.failures.count(), "an expired token is no attempt to guess")
}

func TestAnonymous(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.Anonymous = true })
	token := w.register("pump-1").Token
	grant, err := w.login("any", "", "")
	require.NoError(t, err)
	require.Equal(t, broker.Grant{Identity: "anonymous"}, grant)
	_, err = w.login("any", "bob", "wrong")
	require.EqualValues(t, 0x86, code(t, err), "a user's name is still the user's")
	_, err = w.login("pump-1", "", "")
	require.EqualValues(t, 0x85, code(t, err), "a registered device's id is still the device's")
	_, err = w.login("pump-1", "", token)
	require.NoError(t, err)
}

func TestStoreFailureIsNotARefusalForGood(t *testing.T) {
	w := newWorld(t, nil)
	token := w.register("pump-1").Token
	w.store.Fail(errors.New("disk"))
	for _, user := range []string{"", "bob"} {
		_, err := w.login("pump-1", user, map[string]string{"": token, "bob": "builder"}[user])
		require.EqualValues(t, packets.ErrServerUnavailable.Code, code(t, err))
	}
	_, err := w.Register(t.Context(), w.request("pump-2"))
	require.ErrorContains(t, err, "disk")
	require.Contains(t, w.logs.String(), "registration failed")
}

func TestStoreThatLostItsContentsKeepsTokensValid(t *testing.T) {
	secret := func(c *auth.Config) { c.Token.Secret = "0123456789abcdef0123456789abcdef" }
	w := newWorld(t, secret)
	token := w.register("pump-1").Token
	empty := openWorld(t, newMemory(), w.clock, secret)
	_, err := empty.login("pump-1", "", token)
	require.NoError(t, err)
	_, err = empty.Refresh(t.Context(), token, netip.Addr{})
	require.NoError(t, err)
	device, err := empty.Device(t.Context(), "pump-1")
	require.NoError(t, err)
	require.Equal(t, "pump", device.Product)
}

func TestGeneratedSecretOutlivesTheService(t *testing.T) {
	w := newWorld(t, nil)
	token := w.register("pump-1").Token
	again := openWorld(t, w.store, w.clock, nil)
	_, err := again.login("pump-1", "", token)
	require.NoError(t, err)
}

func TestFailedLogins(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.Failures = auth.FailureConfig{Rate: 0.1, Burst: 3} })
	token := w.register("pump-1").Token
	_, err := w.login("console", "alice", "wonderland")
	require.NoError(t, err)
	for range 3 {
		_, err := w.login("console", "bob", "hunter2-secret")
		require.EqualValues(t, 0x86, code(t, err))
	}
	require.Equal(t, 3, w.failures.count())
	_, err = w.login("console", "bob", "builder")
	require.EqualValues(t, 0x9F, code(t, err), "not even the right password is looked at")
	require.Equal(t, 4, w.failures.count(), "who goes on comes nearer to a ban")
	_, err = w.login("console", "alice", "wonderland")
	require.NoError(t, err, "who was verified lately is not held back")
	_, err = w.login("pump-1", "", token)
	require.NoError(t, err, "a signed token is not held back")
	w.clock.Advance(11 * time.Second)
	_, err = w.login("console", "bob", "builder")
	require.NoError(t, err)

	require.Contains(t, w.logs.String(), "login refused")
	require.Contains(t, w.logs.String(), "client_id=console")
	require.Contains(t, w.logs.String(), "trace_id=0123456789abcdef0123456789abcdef")
	require.NotContains(t, w.logs.String(), "hunter2")
}

func TestRefusalsAreNotLoggedWithoutBound(t *testing.T) {
	w := newWorld(t, nil)
	for range 200 {
		_, err := w.login("a\nb", "carol", "x")
		require.Error(t, err)
	}
	lines := bytes.Count([]byte(w.logs.String()), []byte("\n"))
	require.LessOrEqual(t, lines, 25)
	require.Equal(t, lines, bytes.Count([]byte(w.logs.String()), []byte("login refused")), "no forged line")
	w.clock.Advance(time.Minute)
	_, err := w.login("c", "carol", "x")
	require.Error(t, err)
	require.Contains(t, w.logs.String(), "not_logged_before=180")
}

func TestWhoBringsNoPasswordDoesNotGuess(t *testing.T) {
	w := newWorld(t, nil)
	for range 50 {
		_, err := w.login("console", "bob", "")
		require.EqualValues(t, 0x86, code(t, err))
	}
	require.Zero(t, w.failures.count())
}

func TestLongNamesTakeLittleRoom(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.login(strings.Repeat("c", 60_000), strings.Repeat("u", 60_000), "x")
	require.EqualValues(t, 0x86, code(t, err))
	require.Less(t, len(w.logs.String()), 2000)
}

func TestPasswordChecksAreBounded(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.PasswordChecks = 1 })
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			if _, err := w.login(fmt.Sprint("c", i), "bob", "builder"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestConfigReportsEveryFaultByKey(t *testing.T) {
	var c auth.Config
	err := conf.Load(conf.Source{Name: "p.yaml", YAML: []byte(`
token: {secret: short, ttl: 0s, refresh_window: -1s}
users: {alice: plain}
products: [{key: a, secret: s}, {key: a}, {secret: s}]
admins: [""]
password_checks: 0
registration: {window: 2h, rate: -1}
failures: {rate: -1, burst: 0}
certificates: {identity: dn}
jwt: {issuers: [{issuer: penstock, algorithms: [none]}, {issuer: x, algorithms: [RS256], secret: 0123456789},
  {issuer: x, jwks_url: "ftp://x", username_claim: ""}]}
webhook: {url: nowhere, timeout: 1ms, cache_ttl: 2h, cache_size: 0}
`)}, &c)
	var faults conf.Faults
	require.ErrorAs(t, err, &faults)
	keys := map[string]bool{}
	for _, f := range faults {
		keys[f.Key] = true
	}
	for _, key := range []string{
		"token.secret", "token.ttl", "token.refresh_window", "users.alice", "products[1].key", "products[1].secret",
		"products[2].key", "admins", "password_checks", "registration.window", "registration.rate", "failures.rate",
		"failures.burst", "certificates.identity", "jwt.issuers[0].issuer", "jwt.issuers[0].algorithms[0]",
		"jwt.issuers[0]", "jwt.issuers[1].algorithms[0]", "jwt.issuers[2].issuer", "jwt.issuers[2].algorithms",
		"jwt.issuers[2].jwks_url", "jwt.issuers[2].username_claim", "webhook.url", "webhook.timeout",
		"webhook.cache_ttl", "webhook.cache_size",
	} {
		require.True(t, keys[key], "%s in %v", key, faults)
	}
	require.NotContains(t, err.Error(), "plain", "secrets are not quoted")
}

func BenchmarkLogin(b *testing.B) {
	w := newWorld(b, nil)
	token := []byte(w.register("pump-1").Token)
	for _, c := range []struct {
		name    string
		request broker.ConnectRequest
	}{
		{"token", broker.ConnectRequest{ClientID: "pump-1", Password: token}},
		{"user from memory", broker.ConnectRequest{ClientID: "c", Username: "bob", Password: []byte("builder")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Authenticate(context.Background(), &c.request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
