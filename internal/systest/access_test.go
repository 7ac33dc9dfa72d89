package systest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testmqtt"
	"github.com/penstockmq/penstock/internal/testnode"
)

const (
	tokenSecret   = "token-secret-0123456789abcdefghijkl"
	productSecret = "product-secret-of-all-pumps"
	alicePassword = "alice-password-in-wonderland"
	bobPassword   = "bob-password-of-a-builder"
)

func hashPassword(t testing.TB, password string) string {
	t.Helper()
	out := runProgram(t, password+"\n", testnode.Program(t), "token", "hash")
	require.Zero(t, out.code, out.stderr)
	hash := strings.TrimSpace(out.stdout)
	require.True(t, strings.HasPrefix(hash, "$argon2id$"), hash)
	return hash
}

// accessSections are a node with devices of one product, the admin alice and the user bob, and the default rules.
func accessSections(t testing.TB) sections {
	t.Helper()
	return sections{
		"auth": fmt.Sprintf(`{token: {secret: %q, ttl: 1h}, products: [{key: pump, secret: %q}], admins: [alice],
  users: {alice: %q, bob: %q}}`, tokenSecret, productSecret, hashPassword(t, alicePassword),
			hashPassword(t, bobPassword)),
		"acl":    "{}",
		"access": "{ban: {failures: 0}}",
		"log":    "{format: json, level: debug}",
	}
}

var nonces atomic.Int64

// registration is a device's request, signed as the documentation says.
func registration(device, secret string, at time.Time) map[string]any {
	timestamp, nonce := at.Unix(), fmt.Sprintf("nonce-%d-%d", time.Now().UnixNano(), nonces.Add(1))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(device + "\n" + strconv.FormatInt(timestamp, 10) + "\n" + nonce))
	return map[string]any{
		"device_id": device, "product": "pump", "timestamp": timestamp, "nonce": nonce,
		"signature": hex.EncodeToString(mac.Sum(nil)),
	}
}

// registered is what a device gets.
type registered struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
	Nodes     []struct {
		Name string   `json:"name"`
		URLs []string `json:"urls"`
	} `json:"nodes"`
}

func (n *node) register(device string) (r registered) {
	n.T.Helper()
	a := n.Call(http.MethodPost, "/v1/register", "", registration(device, productSecret, time.Now()))
	require.Equal(n.T, http.StatusOK, a.Status, string(a.Body))
	a.Into(n.T, &r)
	return r
}

// connect connects with a password and returns the reason code of CONNACK.
func (n *node) connect(t testing.TB, version byte, id, user, password string) (*testmqtt.Client, byte) {
	t.Helper()
	c := testmqtt.Dial(t, n.MQTT, version)
	return c, c.Connect(id, testmqtt.User(user, password)).ReasonCode
}

func (n *node) mustConnect(t testing.TB, version byte, id, user, password string) *testmqtt.Client {
	t.Helper()
	c, code := n.connect(t, version, id, user, password)
	require.Zero(t, code, "CONNECT of %s was refused with 0x%02X", id, code)
	return c
}

func TestDeviceAccess(t *testing.T) {
	t.Parallel()
	n := startNode(t, accessSections(t))
	for name, test := range map[string]func(*testing.T, *node){
		"registration":        accessRegistration,
		"faulty registration": accessFaultyRegistration,
		"connect with token":  accessConnect,
		"topics":              accessTopics,
		"refresh":             accessRefresh,
		"revocation":          accessRevocation,
		"revoked token":       accessTokenRevocation,
		"disabled":            accessDisabled,
		"expiry":              accessExpiry,
		"users":               accessUsers,
		"session identity":    accessSessionIdentity,
	} {
		t.Run(name, func(t *testing.T) { test(t, n) })
	}
	checkSecrets(t, n.Log())
}

func accessRegistration(t *testing.T, n *node) {
	r := n.register("reg-1")
	require.NotEmpty(t, r.Token)
	require.WithinDuration(t, time.Now().Add(time.Hour), r.ExpiresAt, 5*time.Minute)
	require.Len(t, r.Nodes, 1)
	require.Equal(t, "n1", r.Nodes[0].Name)
	require.Equal(t, []string{"mqtt://" + n.MQTT}, r.Nodes[0].URLs)

	a := n.Call(http.MethodGet, "/v1/nodes?device_id=reg-1", r.Token, nil)
	require.Equal(t, http.StatusOK, a.Status, string(a.Body))
	require.Contains(t, string(a.Body), "mqtt://"+n.MQTT)
	require.Equal(t, http.StatusForbidden, n.Call(http.MethodGet, "/v1/nodes?device_id=reg-2", r.Token, nil).Status)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodGet, "/v1/nodes?device_id=reg-1", "", nil).Status)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodGet, "/v1/clients", r.Token, nil).Status,
		"a device's token is no admin's")

	form := n.Call(http.MethodPost, "/v1/register", "", registration("reg-1", productSecret, time.Now()),
		"Content-Type", "application/x-www-form-urlencoded") // curl -d
	require.Equal(t, http.StatusOK, form.Status, string(form.Body))
}

func accessFaultyRegistration(t *testing.T, n *node) {
	replayed := registration("reg-3", productSecret, time.Now())
	require.Equal(t, http.StatusOK, n.Call(http.MethodPost, "/v1/register", "", replayed).Status)
	otherDevice := registration("reg-3", productSecret, time.Now())
	otherDevice["device_id"] = "reg-4"
	otherProduct := registration("reg-3", productSecret, time.Now())
	otherProduct["product"] = "valve"
	unknownField := registration("reg-3", productSecret, time.Now())
	unknownField["admin"] = true
	wrongType := registration("reg-3", productSecret, time.Now())
	wrongType["nonce"] = 7
	for name, test := range map[string]struct {
		body   any
		status int
		field  string
	}{
		"replayed nonce":      {replayed, 409, "nonce"},
		"wrong secret":        {registration("reg-3", "guessed", time.Now()), 401, ""},
		"other device":        {otherDevice, 401, ""},
		"unknown product":     {otherProduct, 401, ""},
		"too old":             {registration("reg-3", productSecret, time.Now().Add(-time.Hour)), 401, "timestamp"},
		"from the future":     {registration("reg-3", productSecret, time.Now().Add(time.Hour)), 401, "timestamp"},
		"bad device id":       {registration("reg/3", productSecret, time.Now()), 422, "device_id"},
		"unknown field":       {unknownField, 422, "admin"},
		"wrong type":          {wrongType, 422, "nonce"},
		"no JSON":             {"device_id=reg-3", 400, ""},
		"longer than allowed": {`{"device_id":"` + strings.Repeat("x", 100_000) + `"}`, 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := n.Call(http.MethodPost, "/v1/register", "", test.body)
			require.Equal(t, test.status, a.Status, string(a.Body))
			require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
			require.Contains(t, string(a.Body), test.field)
			require.NotContains(t, string(a.Body), productSecret)
		})
	}
}

func accessConnect(t *testing.T, n *node) {
	token := n.register("con-1").Token
	n.register("con-2")
	for _, version := range []byte{3, 4, 5} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			refused := func(five, three byte) byte { return map[bool]byte{true: five, false: three}[version == 5] }
			c := n.mustConnect(t, version, "con-1", "anything", token)
			info, _ := n.client("con-1")
			require.Equal(t, "device:con-1", info.Identity)
			c.Disconnect()
			for name, try := range map[string]struct {
				id, password string
				code         byte
			}{
				"token of another device": {"con-2", token, refused(0x85, 2)},
				"wrong signature":         {"con-1", token[:len(token)-4] + "AAAA", refused(0x86, 4)},
				"no token":                {"con-1", "", refused(0x86, 4)},
				"no token at all":         {"con-1", "con-1", refused(0x86, 4)},
			} {
				_, code := n.connect(t, version, try.id, "", try.password)
				require.Equal(t, try.code, code, name)
			}
		})
	}
}

func accessTopics(t *testing.T, n *node) {
	token := n.register("top-1").Token
	outside := []string{"devices/top-2/up/x", "other", "admin/commands", "$SYS/broker/x", "devices/top-1"}
	five := n.mustConnect(t, 5, "top-1", "", token)
	for i, topic := range append(outside, "devices/top-1/up/x") {
		five.Publish(topic, "x", 1, uint16(i+1))
		ack := five.Expect(packets.Puback)
		require.Equal(t, uint16(i+1), ack.PacketID)
		if i < len(outside) {
			require.EqualValues(t, 0x87, ack.ReasonCode, topic)
		} else {
			require.Less(t, ack.ReasonCode, byte(0x80), topic)
		}
	}
	filters := []string{"#", "+/#", "devices/#", "devices/+/up", "devices/top-2/#", "admin/#", "$SYS/#", "$share/g/#"}
	for _, filter := range filters {
		require.Equal(t, []byte{0x87}, five.Subscribe(1, filter), filter)
	}
	require.Equal(t, []byte{1, 0x87}, five.Subscribe(1, "devices/top-1/#", "devices/top-2/x"))
	five.Disconnect()
	for _, topic := range outside {
		three := n.mustConnect(t, 4, "top-1", "", token)
		require.Equal(t, []byte{0x80}, three.Subscribe(1, "devices/top-2/#"))
		three.Publish(topic, "x", 1, 1)
		require.NotEqual(t, packets.Puback, three.ExpectClosed().FixedHeader.Type, topic)
	}
}

func accessRefresh(t *testing.T, n *node) {
	old := n.register("ref-1").Token
	c := n.mustConnect(t, 5, "ref-1", "", old)
	a := n.Call(http.MethodPost, "/v1/token/refresh", old, nil)
	require.Equal(t, http.StatusOK, a.Status, string(a.Body))
	var r registered
	a.Into(t, &r)
	require.NotEqual(t, old, r.Token)
	require.NotEmpty(t, r.Nodes)
	c.Nothing()
	n.mustConnect(t, 5, "ref-1", "", r.Token)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodPost, "/v1/token/refresh", "guess", nil).Status)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodPost, "/v1/token/refresh", "", nil).Status)
}

// soon measures how long the end of a connection took. A second is promised; a machine that is busy gets more.
func soon(t testing.TB, c *testmqtt.Client, code byte, end func()) {
	t.Helper()
	began := time.Now()
	end()
	c.ExpectDisconnect(code)
	took := time.Since(began)
	t.Logf("ended with 0x%02X after %v", code, took.Round(time.Millisecond))
	require.Less(t, took, 5*time.Second)
}

func accessRevocation(t *testing.T, n *node) {
	token := n.register("rev-1").Token
	c := n.mustConnect(t, 5, "rev-1", "", token)
	soon(t, c, 0x87, func() { n.admin(http.MethodPost, "/v1/devices/rev-1/revoke", nil, 204, nil) })
	_, code := n.connect(t, 5, "rev-1", "", token)
	require.EqualValues(t, 0x87, code)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodPost, "/v1/token/refresh", token, nil).Status)
	three := n.mustConnect(t, 4, "rev-1", "", n.register("rev-1").Token)
	n.admin(http.MethodPost, "/v1/devices/rev-1/revoke", nil, 204, nil)
	three.ExpectClosed()
	n.admin(http.MethodPost, "/v1/devices/nobody/revoke", nil, 404, nil)
}

func accessTokenRevocation(t *testing.T, n *node) {
	token, other := n.register("rev-2").Token, n.register("rev-2").Token
	c := n.mustConnect(t, 5, "rev-2", "", token)
	info, _ := n.client("rev-2")
	require.NotEmpty(t, info.TokenID)
	soon(t, c, 0x87, func() { n.admin(http.MethodPost, "/v1/tokens/"+info.TokenID+"/revoke", nil, 204, nil) })
	_, code := n.connect(t, 5, "rev-2", "", token)
	require.EqualValues(t, 0x87, code)
	n.mustConnect(t, 5, "rev-2", "", other)
}

func accessDisabled(t *testing.T, n *node) {
	token := n.register("dis-1").Token
	c := n.mustConnect(t, 5, "dis-1", "", token)
	soon(t, c, 0x98, func() { n.admin(http.MethodPost, "/v1/devices/dis-1/disable", nil, 204, nil) })
	_, code := n.connect(t, 5, "dis-1", "", token)
	require.EqualValues(t, 0x87, code)
	a := n.Call(http.MethodPost, "/v1/register", "", registration("dis-1", productSecret, time.Now()))
	require.Equal(t, http.StatusForbidden, a.Status, string(a.Body))
	n.admin(http.MethodPost, "/v1/devices/dis-1/enable", nil, 204, nil)
	n.mustConnect(t, 5, "dis-1", "", token)
}

func accessExpiry(t *testing.T, n *node) {
	var issued struct{ Token string }
	n.admin(http.MethodPost, "/v1/devices/exp-1/token", map[string]any{"product": "pump", "ttl_s": 3}, 200, &issued)
	c := n.mustConnect(t, 5, "exp-1", "", issued.Token)
	c.ExpectDisconnect(0xA0)
	_, code := n.connect(t, 5, "exp-1", "", issued.Token)
	require.EqualValues(t, 0x87, code)
	require.Equal(t, http.StatusUnauthorized, n.Call(http.MethodPost, "/v1/token/refresh", issued.Token, nil).Status)
}

func accessUsers(t *testing.T, n *node) {
	alice := n.mustConnect(t, 5, "console-1", "alice", alicePassword)
	require.Equal(t, []byte{1}, alice.Subscribe(1, "admin/#"))
	info, _ := n.client("console-1")
	require.Equal(t, "user:alice", info.Identity)
	bob := n.mustConnect(t, 5, "console-2", "bob", bobPassword)
	require.Equal(t, []byte{0x87}, bob.Subscribe(1, "admin/#"))
	bob.Publish("admin/commands", `{"targets":{"devices":["x"]},"payload":"x"}`, 1, 1)
	require.EqualValues(t, 0x87, bob.Expect(packets.Puback).ReasonCode)
	for name, try := range map[string]struct{ id, user, password string }{
		"wrong password":       {"console-3", "alice", bobPassword},
		"no password":          {"console-3", "alice", ""},
		"unknown user":         {"console-3", "carol", alicePassword},
		"the hash as password": {"console-3", "alice", "$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA"},
	} {
		_, code := n.connect(t, 5, try.id, try.user, try.password)
		require.EqualValues(t, 0x86, code, name)
	}
	n.register("owned-1")
	_, code := n.connect(t, 5, "owned-1", "bob", bobPassword)
	require.EqualValues(t, 0x85, code, "the client identifier of a registered device")
}

// accessSessionIdentity lets another user connect with the client identifier of a session that waits.
func accessSessionIdentity(t *testing.T, n *node) {
	c := testmqtt.Dial(t, n.MQTT, 5)
	c.MustConnect("shared-id", testmqtt.User("alice", alicePassword), testmqtt.Durable())
	c.Subscribe(1, "private")
	c.Disconnect()
	n.awaitOffline("shared-id")
	pub := n.mustConnect(t, 5, "console-9", "alice", alicePassword)
	pub.Publish("private", "for alice", 1, 1)
	pub.Expect(packets.Puback)
	bob := testmqtt.Dial(t, n.MQTT, 5)
	ack := bob.Connect("shared-id", testmqtt.User("bob", bobPassword), testmqtt.Durable())
	if ack.ReasonCode == 0 {
		require.False(t, ack.SessionPresent)
		bob.Nothing()
	}
}

func TestRepeatedFailuresAreBanned(t *testing.T) {
	t.Parallel()
	s := accessSections(t)
	s["access"] = "{ban: {failures: 4, duration: 10m}}"
	n := startNode(t, s)
	stays := n.mustConnect(t, 5, "console-1", "alice", alicePassword)
	for range 4 {
		_, code := n.connect(t, 5, "guesser", "alice", "guess")
		require.EqualValues(t, 0x86, code)
	}
	banned := func() bool {
		c := testmqtt.Dial(t, n.MQTT, 5)
		if c.TrySend(c.ConnectPacket("console-2", testmqtt.User("alice", alicePassword))) != nil {
			return true
		}
		_, err := c.Read(patience)
		return err != nil
	}
	require.True(t, banned(), "the address may still connect")
	stays.Nothing()
	var list struct {
		Bans []struct{ Address, Reason string }
	}
	n.admin(http.MethodGet, "/v1/bans", nil, 200, &list)
	require.Len(t, list.Bans, 1)
	require.Equal(t, "127.0.0.1", list.Bans[0].Address)
	require.Positive(t, n.metric("penstock_sockets_refused_total", `reason="banned"`))
	n.admin(http.MethodDelete, "/v1/bans/127.0.0.1", nil, 204, nil)
	n.mustConnect(t, 5, "console-2", "alice", alicePassword)
	n.admin(http.MethodPost, "/v1/bans", map[string]any{"address": "127.0.0.1", "duration_s": 60}, 200, nil)
	require.True(t, banned())
	require.Contains(t, n.Log(), "address banned")
	checkSecrets(t, n.Log())
}
