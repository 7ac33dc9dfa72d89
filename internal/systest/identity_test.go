package systest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

func TestClientCertificateIsAnIdentity(t *testing.T) {
	t.Parallel()
	ca, stranger, dir := testcert.New(t), testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	mutual := testnode.Address()
	s := accessSections(t)
	s["listeners"] = fmt.Sprintf(`[{type: tcp, address: "$MQTT"},
  {type: tls, address: %q, cert: %q, key: %q, client_ca: %q}]`,
		mutual, cert, key, ca.File)
	s["acl"] = `{file: "$DIR/acl.yaml"}`
	n := newNode(t, s)
	n.File("acl.yaml", `rules: [{allow: all, topics: ["plants/%u/#"]}]`)
	n.Start()
	n.register("owned-1")
	dial := func(authority *testcert.CA, cn string) (*testmqtt.Client, error) {
		nc, err := tls.Dial("tcp", mutual, &tls.Config{
			RootCAs: ca.Pool(), Certificates: []tls.Certificate{authority.Client(t, cn)},
		})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = nc.Close() })
		return testmqtt.New(t, nc, 5), nil
	}
	c, err := dial(ca, "north")
	require.NoError(t, err)
	c.MustConnect("gateway-1")
	info, _ := n.client("gateway-1")
	require.Equal(t, "cert:north", info.Identity)
	require.Equal(t, []byte{1, 0x87}, c.Subscribe(1, "plants/north/#", "plants/south/#"))

	c, err = dial(ca, "north")
	require.NoError(t, err)
	require.EqualValues(t, 0x85, c.Connect("owned-1").ReasonCode, "a registered device's client identifier")
	c, err = dial(ca, "owned-1")
	require.NoError(t, err)
	require.Zero(t, c.Connect("owned-1").ReasonCode, "the certificate names the device itself")

	if c, err = dial(stranger, "north"); err == nil { // TLS 1.3 tells the client only when it reads
		_ = c.TrySend(c.ConnectPacket("stranger"))
		_, err = c.Read(patience)
	}
	require.Error(t, err)
	_, found := n.client("stranger")
	require.False(t, found)
}

// jwtIssuer signs tokens, and writes its public keys to a file.
type jwtIssuer struct {
	t    testing.TB
	file string
	id   string
	key  *ecdsa.PrivateKey
}

// rotate makes a new key the only one.
func (i *jwtIssuer) rotate(id string) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(i.t, err)
	i.id, i.key = id, key
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"},
	}})
	require.NoError(i.t, err)
	require.NoError(i.t, os.WriteFile(i.file, text, 0o600))
}

func (i *jwtIssuer) sign(claims jwt.MapClaims) string {
	i.t.Helper()
	all := jwt.MapClaims{"iss": "https://id.example", "aud": "penstock", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	token.Header["kid"] = i.id
	text, err := token.SignedString(i.key)
	require.NoError(i.t, err)
	return text
}

func TestTokensOfAnotherIssuer(t *testing.T) {
	t.Parallel()
	issuer := &jwtIssuer{t: t, file: t.TempDir() + "/jwks.json"}
	issuer.rotate("k1")
	s := accessSections(t)
	s["auth"] = fmt.Sprintf(`{users: {alice: %q}, admins: [alice], jwt: {issuers: [{issuer: "https://id.example",
  audience: penstock, algorithms: [ES256], jwks_file: %q, client_id_claim: device}]}}`,
		hashPassword(t, alicePassword), issuer.file)
	n := startNode(t, s)
	good := jwt.MapClaims{"sub": "carol", "device": "jwt-1"}
	c := n.mustConnect(t, 5, "jwt-1", "", issuer.sign(good))
	info, _ := n.client("jwt-1")
	require.Equal(t, "carol", info.Username)
	require.Equal(t, []byte{1, 0x87}, c.Subscribe(1, "devices/jwt-1/#", "devices/jwt-2/#"))

	forger := &jwtIssuer{t: t, file: t.TempDir() + "/forged.json"}
	forger.rotate("k1")
	for name, try := range map[string]struct {
		id, token string
		code      byte
	}{
		"other client id":    {"jwt-2", issuer.sign(good), 0x85},
		"expired":            {"jwt-1", issuer.sign(jwt.MapClaims{"sub": "carol", "device": "jwt-1", "exp": 1}), 0x87},
		"other audience":     {"jwt-1", issuer.sign(jwt.MapClaims{"sub": "carol", "device": "jwt-1", "aud": "x"}), 0x87},
		"other issuer":       {"jwt-1", issuer.sign(jwt.MapClaims{"sub": "carol", "device": "jwt-1", "iss": "x"}), 0x86},
		"no subject":         {"jwt-1", issuer.sign(jwt.MapClaims{"device": "jwt-1"}), 0x87},
		"forged":             {"jwt-1", forger.sign(good), 0x86},
		"an admin's name":    {"jwt-1", issuer.sign(jwt.MapClaims{"sub": "alice", "device": "jwt-1"}), 0x87},
		"never expires":      {"jwt-1", issuer.sign(jwt.MapClaims{"sub": "carol", "device": "jwt-1", "exp": nil}), 0x87},
		"a device's own iss": {"jwt-1", issuer.sign(jwt.MapClaims{"sub": "jwt-1", "iss": "penstock", "jti": "1"}), 0x86},
	} {
		_, code := n.connect(t, 5, try.id, "", try.token)
		require.Equal(t, fmt.Sprintf("%#x", try.code), fmt.Sprintf("%#x", code), name)
	}

	short := n.mustConnect(t, 5, "jwt-3", "",
		issuer.sign(jwt.MapClaims{"sub": "dave", "device": "jwt-3", "exp": time.Now().Add(2 * time.Second).Unix()}))
	old := issuer.sign(good)
	issuer.rotate("k2")
	testenv.Eventually(t, patience, "the new key is used", func() bool {
		_, code := n.connect(t, 5, "jwt-1", "", issuer.sign(good))
		return code == 0
	})
	_, code := n.connect(t, 5, "jwt-1", "", old)
	require.EqualValues(t, 0x86, code, "signed by a key that is gone")
	short.ExpectDisconnect(0xA0)
	checkSecrets(t, n.Log())
}

func TestWebhookDecidesOnLogins(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	hold := make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var q struct {
			ClientID string `json:"client_id"`
			Username string `json:"username"`
			Password string `json:"password"`
			Remote   string `json:"remote"`
		}
		if json.NewDecoder(r.Body).Decode(&q) != nil || q.Remote == "" || r.Header.Get("X-Key") != "webhook-key-2718" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch {
		case q.Username == "slow":
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		case q.Username == "broken":
			_, _ = w.Write([]byte("{"))
		case q.Password != "webhook-password":
			w.WriteHeader(http.StatusForbidden)
		case q.Username == "renamed":
			_, _ = w.Write([]byte(`{"result":"allow","username":"erin"}`))
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer hook.Close()
	defer close(hold)
	s := accessSections(t)
	s["auth"] = fmt.Sprintf(`{users: {alice: %q}, admins: [alice, root], webhook: {url: %q, timeout: 300ms, cache_ttl: 10m,
  headers: {X-Key: webhook-key-2718}}}`, hashPassword(t, alicePassword), hook.URL)
	n := startNode(t, s)
	n.mustConnect(t, 5, "web-1", "frank", "webhook-password")
	n.mustConnect(t, 5, "web-1", "frank", "webhook-password")
	require.EqualValues(t, 1, asked.Load(), "an answer holds for cache_ttl")
	n.mustConnect(t, 5, "web-2", "renamed", "webhook-password")
	info, _ := n.client("web-2")
	require.Equal(t, "erin", info.Username)
	for user, want := range map[string]byte{"frank": 0x86, "slow": 0x88, "broken": 0x88} {
		_, code := n.connect(t, 5, "web-3", user, "guess")
		require.Equal(t, fmt.Sprintf("%#x", want), fmt.Sprintf("%#x", code), user)
	}
	_, code := n.connect(t, 5, "web-3", "root", "webhook-password")
	require.EqualValues(t, 0x87, code, "the webhook may not vouch for an admin")
	n.mustConnect(t, 5, "web-4", "alice", alicePassword)
	checkSecrets(t, n.Log(), "webhook-password", "webhook-key-2718")
}

func TestRulesOfTheACLFile(t *testing.T) {
	t.Parallel()
	s := accessSections(t)
	s["acl"] = `{file: "$DIR/acl.yaml"}`
	n := newNode(t, s)
	n.File("acl.yaml", `
rules:
  - {deny: all, topics: ["plant/secret/#"]}
  - {allow: subscribe, topics: ["plant/#"], who: {user: bob}}
  - {allow: publish, topics: ["plant/%u/%c"], who: {user: "b*"}}
  - {deny: publish, topics: ["devices/%c/locked"]}
  - {allow: all, topics: ["ip/#"], who: {ip: 127.0.0.0/8}}
  - {allow: all, topics: ["far/#"], who: {ip: 10.0.0.0/8}}
  - {allow: all, topics: ["admin/#"]}
`)
	n.Start()
	bob := n.mustConnect(t, 5, "bobs-1", "bob", bobPassword)
	for topic, want := range map[string]byte{
		"plant/bob/bobs-1": 0, "plant/bob/other": 0x87, "plant/alice/bobs-1": 0x87, "plant/secret/x": 0x87,
		"devices/bobs-1/x": 0, "devices/bobs-1/locked": 0x87, "ip/x": 0, "far/x": 0x87, "admin/x": 0x87,
	} {
		bob.Publish(topic, "x", 1, 7)
		code := bob.Expect(packets.Puback).ReasonCode
		require.Equal(t, want >= 0x80, code >= 0x80, "publish to %s: 0x%02X", topic, code)
	}
	for filter, want := range map[string]byte{
		"plant/a/b": 1, "plant/#": 0x87, "plant/+/x": 0x87, "plant/a/#": 1, "$share/g/plant/a/b": 1, "ip/#": 1,
		"far/#": 0x87, "admin/#": 0x87, "#": 0x87,
	} {
		require.Equal(t, []byte{want}, bob.Subscribe(1, filter), filter)
	}

	n.File("acl.yaml", `rules: [{allow: publish, topics: ["new/%u"]}]`)
	n.Signal(syscall.SIGHUP)
	publish := func(topic string) byte {
		bob.Publish(topic, "x", 1, 7)
		return bob.Expect(packets.Puback).ReasonCode
	}
	testenv.Eventually(t, patience, "the new rules hold", func() bool { return publish("new/bob") < 0x80 })
	require.EqualValues(t, 0x87, publish("plant/bob/bobs-1"))
	n.File("acl.yaml", `rules: [{alow: publish, topics: ["x"]}]`)
	n.Signal(syscall.SIGHUP)
	testenv.Eventually(t, patience, "the fault is told", func() bool { return containsAll(n.Log(), "alow") })
	require.Less(t, publish("new/bob"), byte(0x80), "the last good rules hold")
}

func TestAddressListsRefuseAndReload(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	admitted := func() bool {
		c := testmqtt.Dial(t, n.MQTT, 5)
		if c.TrySend(c.ConnectPacket("from-here")) != nil {
			return false
		}
		ack, err := c.Read(patience)
		return err == nil && ack.ReasonCode == 0
	}
	require.True(t, admitted())
	for _, step := range []struct {
		access string
		admits bool
	}{
		{`{deny: ["127.0.0.0/8"]}`, false},
		{`{allow: ["127.0.0.1/32"]}`, true},
		{`{allow: ["10.0.0.0/8"]}`, false},
		{`{allow: ["127.0.0.0/8"], deny: ["127.0.0.1/32"]}`, false},
		{`{}`, true},
	} {
		n.Configure(sections{"access": step.access})
		n.Signal(syscall.SIGHUP)
		testenv.Eventually(t, patience, step.access+" holds", func() bool { return admitted() == step.admits })
	}
	require.Positive(t, n.metric("penstock_sockets_refused_total"))
}
