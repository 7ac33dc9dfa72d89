package console

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/hooks/limit"
	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/store/local"
)

type oneNode struct{}

func (oneNode) Nodes(string) []NodeAddress {
	return []NodeAddress{{Name: "n1", URLs: []string{"mqtt://127.0.0.1:1883"}}}
}

// newRegistrar serves the registrar of a real service on a real store.
func newRegistrar(t *testing.T, change func(*auth.Config)) (base string, service *auth.Service, db *local.DB) {
	t.Helper()
	db, err := local.Open("", local.Options{})
	require.NoError(t, err)
	var config auth.Config
	require.NoError(t, conf.SetDefaults(&config))
	config.Products = []auth.Product{{Key: "pump", Secret: "pump-secret"}}
	if change != nil {
		change(&config)
	}
	guard := limit.New(limit.Options{})
	service, err = auth.New(t.Context(), auth.Options{Config: config, Store: db.Devices(), Failures: guard})
	require.NoError(t, err)
	base, _ = newTestServer(t, func(o *Options) {
		o.Routes = []func(huma.API){
			func(api huma.API) { RegisterRegistrar(api, service, oneNode{}) },
			func(api huma.API) { RegisterDevices(api, service) },
			func(api huma.API) { RegisterBans(api, guard) },
		}
	})
	t.Cleanup(func() {
		service.Close()
		assert.NoError(t, db.Close())
	})
	return base, service, db
}

// signed is the body of a registration; edits are field, JSON value, …
func signed(id string, edits ...string) string {
	now, nonce := fmt.Sprint(time.Now().Unix()), rand.Text()
	fields := map[string]string{
		"device_id": fmt.Sprintf("%q", id), "product": `"pump"`, "timestamp": now, "nonce": fmt.Sprintf("%q", nonce),
		"signature": fmt.Sprintf("%q", auth.Sign("pump-secret", id, now, nonce)),
	}
	for i := 0; i < len(edits); i += 2 {
		fields[edits[i]] = edits[i+1]
	}
	var parts []string
	for name, value := range fields {
		if value != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, value))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func register(t *testing.T, base, id string) registration {
	t.Helper()
	resp, text := call(t, "POST", base+"/v1/register", "", signed(id))
	require.Equal(t, 200, resp.StatusCode, text)
	var r registration
	require.NoError(t, json.Unmarshal([]byte(text), &r))
	return r
}

func TestRegisterAnswersWithTokenAndNodes(t *testing.T) {
	base, service, _ := newRegistrar(t, nil)
	r := register(t, base, "pump-1")
	assert.Equal(t, oneNode{}.Nodes(""), r.Nodes)
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), r.ExpiresAt, time.Minute)
	claims, err := service.VerifyToken(t.Context(), r.Token)
	require.NoError(t, err)
	assert.Equal(t, "pump-1", claims.Subject)

	resp, err := http.Post(base+"/v1/register", "application/x-www-form-urlencoded", strings.NewReader(signed("pump-1")))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 200, resp.StatusCode, "as curl -d sends it")

	now, nonce := fmt.Sprint(time.Now().Unix()), "nonce-as-text"
	resp, text := call(t, "POST", base+"/v1/register", "", signed("pump-1", "timestamp", `"`+now+`"`,
		"nonce", `"`+nonce+`"`, "signature", `"`+auth.Sign("pump-secret", "pump-1", now, nonce)+`"`))
	assert.Equal(t, 200, resp.StatusCode, "a timestamp may be text: %s", text)
}

func TestRegisterRefusals(t *testing.T) {
	base, service, _ := newRegistrar(t, nil)
	register(t, base, "disabled")
	require.NoError(t, service.DisableDevice(t.Context(), "disabled"))
	once := signed("pump-1")
	resp, text := call(t, "POST", base+"/v1/register", "", once)
	require.Equal(t, 200, resp.StatusCode, text)
	late := fmt.Sprint(time.Now().Add(-time.Hour).Unix())
	tooLate := signed("d", "timestamp", late, "nonce", `"12345678"`,
		"signature", `"`+auth.Sign("pump-secret", "d", late, "12345678")+`"`)

	for name, c := range map[string]struct {
		body   string
		status int
		names  string
	}{
		"replayed":               {once, 409, "body.nonce"},
		"another id":             {strings.Replace(signed("pump-1"), "pump-1", "pump-2", 1), 401, "signature"},
		"unknown product":        {signed("pump-1", "product", `"fan"`), 401, "signature"},
		"late":                   {tooLate, 401, "body.timestamp"},
		"disabled":               {signed("disabled"), 403, "disabled"},
		"bad id":                 {signed("a/b"), 422, "body.device_id"},
		"short nonce":            {signed("pump-1", "nonce", `"1"`), 422, "body.nonce"},
		"short signature":        {signed("pump-1", "signature", `"1"`), 422, "body.signature"},
		"timestamp with point":   {signed("pump-1", "timestamp", "1.5"), 422, "body.timestamp"},
		"timestamp in words":     {signed("pump-1", "timestamp", `"now"`), 422, "body.timestamp"},
		"timestamp null":         {signed("pump-1", "timestamp", `null`), 422, "body.timestamp"},
		"timestamp out of range": {signed("pump-1", "timestamp", "99999999999999"), 422, "body.timestamp"},
		"no timestamp":           {signed("pump-1", "timestamp", ""), 422, "timestamp"},
		"unknown field":          {signed("pump-1", "more", "1"), 422, "body.more"},
		"wrong type":             {signed("pump-1", "device_id", "7"), 422, "body.device_id"},
		"not JSON":               {"{", 400, ""},
		"empty":                  {"", 400, ""},
		"too large":              {signed("pump-1", "nonce", `"`+strings.Repeat("n", 17<<10)+`"`), 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			resp, text := call(t, "POST", base+"/v1/register", "", c.body)
			assert.Equal(t, c.status, resp.StatusCode, text)
			assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			assert.Contains(t, text, c.names)
			assert.NotContains(t, text, "pump-secret")
		})
	}
}

func TestRegistrationIsRateLimited(t *testing.T) {
	base, _, _ := newRegistrar(t, func(c *auth.Config) { c.Registration.Rate = 0.001 })
	_, _ = call(t, "POST", base+"/v1/register", "", signed("pump-1"))
	resp, text := call(t, "POST", base+"/v1/register", "", signed("pump-1"))
	assert.Equal(t, 429, resp.StatusCode, text)
	assert.Equal(t, "1", resp.Header.Get("Retry-After"))
}

func TestRefreshAndNodesNeedTheDevicesToken(t *testing.T) {
	base, service, _ := newRegistrar(t, nil)
	token := register(t, base, "pump-1").Token
	revoked := register(t, base, "pump-2").Token
	require.NoError(t, service.RevokeDevice(t.Context(), "pump-2"))

	for name, c := range map[string]struct {
		method, path, token string
		status              int
	}{
		"refresh":                     {"POST", "/v1/token/refresh", token, 200},
		"refresh without a token":     {"POST", "/v1/token/refresh", "", 401},
		"refresh with admin's":        {"POST", "/v1/token/refresh", testToken, 401},
		"refresh of a revoked token":  {"POST", "/v1/token/refresh", revoked, 401},
		"nodes":                       {"GET", "/v1/nodes?device_id=pump-1", token, 200},
		"nodes, the token says whose": {"GET", "/v1/nodes", token, 200},
		"nodes of another":            {"GET", "/v1/nodes?device_id=pump-2", token, 403},
		"nodes without a token":       {"GET", "/v1/nodes?device_id=pump-1", "", 401},
		"nodes with a revoked token":  {"GET", "/v1/nodes?device_id=pump-2", revoked, 401},
	} {
		t.Run(name, func(t *testing.T) {
			resp, text := call(t, c.method, base+c.path, c.token, "")
			assert.Equal(t, c.status, resp.StatusCode, text)
			switch c.status {
			case 200:
				assert.Contains(t, text, `"nodes":[{"name":"n1","urls":["mqtt://127.0.0.1:1883"]}]`)
			case 401:
				assert.Equal(t, "Bearer", resp.Header.Get("WWW-Authenticate"))
			}
		})
	}
}

func TestDevicesAreForAdmins(t *testing.T) {
	base, service, _ := newRegistrar(t, nil)
	token := register(t, base, "pump-1").Token
	steps := []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"show", "GET", "/v1/devices/pump-1", "", 200, `"product":"pump"`},
		{"show nobody", "GET", "/v1/devices/none", "", 404, "unknown device"},
		{"tags", "PUT", "/v1/devices/pump-1/tags", `{"tags":["b","a"]}`, 204, ""},
		{"tags are kept", "GET", "/v1/devices/pump-1", "", 200, `"tags":["a","b"]`},
		{"empty tag", "PUT", "/v1/devices/pump-1/tags", `{"tags":[""]}`, 422, "body.tags"},
		{"disable", "POST", "/v1/devices/pump-1/disable", "", 204, ""},
		{"is disabled", "GET", "/v1/devices/pump-1", "", 200, `"disabled":true`},
		{"disable nobody", "POST", "/v1/devices/none/disable", "", 404, "unknown device"},
		{"enable", "POST", "/v1/devices/pump-1/enable", "", 204, ""},
		{"issue", "POST", "/v1/devices/lab-1/token", `{"product":"lab","ttl_s":60}`, 200, `"token_id"`},
		{"issue for too long", "POST", "/v1/devices/lab-1/token", `{"ttl_s":3153600000}`, 422, "ttl"},
		{"issue for another product", "POST", "/v1/devices/pump-1/token", `{"product":"lab"}`, 403, "product"},
		{"revoke", "POST", "/v1/devices/pump-1/revoke", "", 204, ""},
		{"revoke no token", "POST", "/v1/tokens/none/revoke", "", 404, "unknown token"},
	}
	for _, s := range steps {
		resp, text := call(t, s.method, base+s.path, "", s.body)
		require.Equal(t, 401, resp.StatusCode, s.name+" without the admin token: "+text)
		resp, text = call(t, s.method, base+s.path, token, s.body)
		require.Equal(t, 401, resp.StatusCode, s.name+" with a device's token: "+text)
		resp, text = call(t, s.method, base+s.path, testToken, s.body)
		require.Equal(t, s.status, resp.StatusCode, s.name+": "+text)
		require.Contains(t, text, s.says, s.name)
	}
	_, err := service.VerifyToken(t.Context(), token)
	require.ErrorIs(t, err, auth.ErrTokenRevoked)

	device, err := service.Device(t.Context(), "lab-1")
	require.NoError(t, err)
	resp, text := call(t, "POST", base+"/v1/tokens/"+device.TokenID+"/revoke", testToken, "")
	require.Equal(t, 204, resp.StatusCode, text)
}

func TestBans(t *testing.T) {
	base, _, _ := newRegistrar(t, nil)
	for _, s := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"none", "GET", "/v1/bans", "", 200, `"bans":[]`},
		{"ban", "POST", "/v1/bans", `{"address":"192.0.2.1","duration_s":60,"reason":"noise"}`, 200, `"address":"192.0.2.1"`},
		{"listed", "GET", "/v1/bans", "", 200, `"reason":"noise"`},
		{"not an address", "POST", "/v1/bans", `{"address":"here","duration_s":60}`, 422, "body.address"},
		{"no time", "POST", "/v1/bans", `{"address":"192.0.2.1","duration_s":0}`, 422, "body.duration_s"},
		{"lift", "DELETE", "/v1/bans/192.0.2.1", "", 204, ""},
		{"lift again", "DELETE", "/v1/bans/192.0.2.1", "", 404, "not banned"},
		{"lift nonsense", "DELETE", "/v1/bans/here", "", 422, "path.address"},
	} {
		resp, text := call(t, s.method, base+s.path, "", s.body)
		require.Equal(t, 401, resp.StatusCode, text)
		resp, text = call(t, s.method, base+s.path, testToken, s.body)
		require.Equal(t, s.status, resp.StatusCode, s.name+": "+text)
		require.Contains(t, text, s.says, s.name)
	}
}

// remoteRegistrar remembers from where it was called.
type remoteRegistrar struct {
	Registrar
	remote netip.Addr
}

func (r *remoteRegistrar) Register(_ context.Context, q auth.RegisterRequest) (auth.Registration, error) {
	r.remote = q.Remote
	return auth.Registration{}, nil
}

func (r *remoteRegistrar) Refresh(_ context.Context, _ string, remote netip.Addr) (auth.Registration, error) {
	r.remote = remote
	return auth.Registration{}, nil
}

func TestTheServiceHearsWhoCalls(t *testing.T) {
	svc := &remoteRegistrar{}
	base, _ := newTestServer(t, func(o *Options) {
		o.Routes = []func(huma.API){func(api huma.API) { RegisterRegistrar(api, svc, oneNode{}) }}
	})
	for path, sent := range map[string]string{"/v1/register": signed("pump-1"), "/v1/token/refresh": ""} {
		svc.remote = netip.Addr{}
		resp, text := call(t, "POST", base+path, "", sent)
		require.Equal(t, 200, resp.StatusCode, text)
		assert.Equal(t, "127.0.0.1", svc.remote.String(), path)
	}
}

// brokenRegistrar is a service whose store does not answer.
type brokenRegistrar struct{ Registrar }

func (brokenRegistrar) Register(context.Context, auth.RegisterRequest) (auth.Registration, error) {
	return auth.Registration{}, fmt.Errorf("keep nonce: disk /secret/path is gone")
}

func (brokenRegistrar) Refresh(context.Context, string, netip.Addr) (auth.Registration, error) {
	return auth.Registration{}, context.DeadlineExceeded
}

func TestAStoreThatFailsIsNotTheDevicesFault(t *testing.T) {
	base, _ := newTestServer(t, func(o *Options) {
		o.Routes = []func(huma.API){func(api huma.API) { RegisterRegistrar(api, brokenRegistrar{}, oneNode{}) }}
	})
	for _, path := range []string{"/v1/register", "/v1/token/refresh"} {
		sent := ""
		if path == "/v1/register" {
			sent = signed("pump-1")
		}
		resp, text := call(t, "POST", base+path, "", sent)
		assert.Equal(t, 503, resp.StatusCode, text)
		assert.NotContains(t, text, "secret")
		assert.Equal(t, "1", resp.Header.Get("Retry-After"))
	}
}
