package auth_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/internal/testenv"
)

func TestRegister(t *testing.T) {
	w := newWorld(t, nil)
	w.register("disabled")
	require.NoError(t, w.DisableDevice(t.Context(), "disabled"))
	sign := func(r *auth.RegisterRequest) {
		r.Signature = auth.Sign(productSecret, r.DeviceID, r.Timestamp, r.Nonce)
	}
	at := func(off time.Duration) func(*auth.RegisterRequest) {
		return func(r *auth.RegisterRequest) { r.Timestamp = fmt.Sprint(w.clock.Now().Add(off).Unix()); sign(r) }
	}
	for _, c := range []struct {
		name   string
		change func(r *auth.RegisterRequest)
		err    error
		field  string
	}{
		{"as it should be", func(*auth.RegisterRequest) {}, nil, ""},
		{"clock a little late", at(-299 * time.Second), nil, ""},
		{"clock a little early", at(299 * time.Second), nil, ""},
		{"clock too late", at(-301 * time.Second), auth.ErrTimestamp, ""},
		{"clock too early", at(301 * time.Second), auth.ErrTimestamp, ""},
		{"upper-case signature", func(r *auth.RegisterRequest) { r.Signature = strings.ToUpper(r.Signature) }, nil, ""},
		{"unknown product", func(r *auth.RegisterRequest) { r.Product = "fan" }, auth.ErrUnauthorized, ""},
		{"unknown product with an empty secret", func(r *auth.RegisterRequest) {
			r.Product, r.Signature = "fan", auth.Sign("", r.DeviceID, r.Timestamp, r.Nonce)
		}, auth.ErrUnauthorized, ""},
		{"another product's secret", func(r *auth.RegisterRequest) { r.Product = "valve" }, auth.ErrUnauthorized, ""},
		{"signed for another device", func(r *auth.RegisterRequest) { r.DeviceID += "x" }, auth.ErrUnauthorized, ""},
		{"signed for another time", func(r *auth.RegisterRequest) {
			r.Timestamp = "0" + r.Timestamp
		}, auth.ErrUnauthorized, ""},
		{"signed for another nonce", func(r *auth.RegisterRequest) { r.Nonce += "x" }, auth.ErrUnauthorized, ""},
		{"signature is not hex", func(r *auth.RegisterRequest) {
			r.Signature = strings.Repeat("z", 64)
		}, auth.ErrUnauthorized, ""},
		{"signature is short", func(r *auth.RegisterRequest) { r.Signature = "00" }, nil, "signature"},
		{"timestamp is no number", func(r *auth.RegisterRequest) { r.Timestamp = "now" }, nil, "timestamp"},
		{"timestamp is negative", func(r *auth.RegisterRequest) { r.Timestamp = "-1" }, nil, "timestamp"},
		{"short nonce", func(r *auth.RegisterRequest) { r.Nonce = "1234567" }, nil, "nonce"},
		{"long nonce", func(r *auth.RegisterRequest) { r.Nonce = strings.Repeat("n", 65) }, nil, "nonce"},
		{"line break in the nonce", func(r *auth.RegisterRequest) { r.Nonce = "12345678\n" }, nil, "nonce"},
		{"empty id", func(r *auth.RegisterRequest) { r.DeviceID = "" }, nil, "device_id"},
		{"long id", func(r *auth.RegisterRequest) { r.DeviceID = strings.Repeat("d", 129) }, nil, "device_id"},
		{"separator in the id", func(r *auth.RegisterRequest) { r.DeviceID = "a/b" }, nil, "device_id"},
		{"wildcard in the id", func(r *auth.RegisterRequest) { r.DeviceID = "a+" }, nil, "device_id"},
		{"id of the server", func(r *auth.RegisterRequest) { r.DeviceID = "$SYS" }, nil, "device_id"},
		{"line break in the id", func(r *auth.RegisterRequest) { r.DeviceID = "a\nb" }, nil, "device_id"},
		{"disabled device", func(r *auth.RegisterRequest) { r.DeviceID = "disabled"; sign(r) }, auth.ErrDeviceDisabled, ""},
		{"device of another product", func(r *auth.RegisterRequest) {
			r.DeviceID, r.Product = "disabled", "valve"
			r.Signature = auth.Sign("valve-secret", r.DeviceID, r.Timestamp, r.Nonce)
		}, auth.ErrOtherProduct, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.request("pump-1")
			c.change(&r)
			registration, err := w.Register(t.Context(), r)
			var field *auth.FieldError
			switch {
			case c.field != "":
				require.ErrorAs(t, err, &field)
				require.Equal(t, c.field, field.Field)
			case c.err != nil:
				require.ErrorIs(t, err, c.err)
				require.Empty(t, registration.Token)
			default:
				require.NoError(t, err)
				claims, err := w.VerifyToken(t.Context(), registration.Token)
				require.NoError(t, err)
				require.Equal(t, "pump-1", claims.Subject)
				require.Equal(t, "pump", claims.Product)
				device, err := w.Device(t.Context(), "pump-1")
				require.NoError(t, err)
				require.Equal(t, registration.TokenID, device.TokenID)
			}
		})
	}
}

func TestReplayIsRefusedAlsoAfterRestart(t *testing.T) {
	w := newWorld(t, nil)
	r := w.request("pump-1")
	_, err := w.Register(t.Context(), r)
	require.NoError(t, err)
	_, err = w.Register(t.Context(), r)
	require.ErrorIs(t, err, auth.ErrReplayed)

	again := openWorld(t, w.store, w.clock, nil)
	_, err = again.Register(t.Context(), r)
	require.ErrorIs(t, err, auth.ErrReplayed)
	w.clock.Advance(6 * time.Minute)
	_, err = w.store.DropExpired(t.Context(), w.clock.Now())
	require.NoError(t, err)
	_, err = again.Register(t.Context(), r)
	require.ErrorIs(t, err, auth.ErrTimestamp, "when the nonce is forgotten the timestamp is too old")
}

func TestRegistrationsAreRateLimited(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.Registration.Rate = 1 })
	for range 4 {
		w.register("pump-1")
	}
	_, err := w.Register(t.Context(), w.request("pump-1"))
	require.ErrorIs(t, err, auth.ErrTooMany)
	r := w.request("pump-1")
	r.Remote = netip.MustParseAddr("192.0.2.2")
	_, err = w.Register(t.Context(), r)
	require.NoError(t, err, "another address")
}

func TestRefresh(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.Token.TTL, c.Token.RefreshWindow = time.Hour, time.Minute })
	old := w.register("pump-1")
	w.clock.Advance(time.Hour - time.Second)
	renewed, err := w.Refresh(t.Context(), old.Token, netip.Addr{})
	require.NoError(t, err)
	require.NotEqual(t, old.TokenID, renewed.TokenID)
	require.True(t, renewed.ExpiresAt.After(old.ExpiresAt))
	_, err = w.VerifyToken(t.Context(), old.Token)
	require.NoError(t, err, "the old token stays valid until it expires")

	w.clock.Advance(2 * time.Second)
	_, err = w.VerifyToken(t.Context(), old.Token)
	require.ErrorIs(t, err, auth.ErrTokenExpired)
	_, err = w.Refresh(t.Context(), old.Token, netip.Addr{})
	require.NoError(t, err, "within the refresh window")
	w.clock.Advance(time.Minute)
	_, err = w.Refresh(t.Context(), old.Token, netip.Addr{})
	require.ErrorIs(t, err, auth.ErrTokenExpired)

	_, err = w.Refresh(t.Context(), "nonsense", netip.Addr{})
	require.ErrorIs(t, err, auth.ErrTokenInvalid)
	require.NoError(t, w.RevokeDevice(t.Context(), "pump-1"))
	_, err = w.Refresh(t.Context(), renewed.Token, netip.Addr{})
	require.ErrorIs(t, err, auth.ErrTokenRevoked)
}

func TestIssueByOperator(t *testing.T) {
	w := newWorld(t, nil)
	r, err := w.Issue(t.Context(), "lab-1", "bench", 48*time.Hour)
	require.NoError(t, err)
	require.Equal(t, w.clock.Now().Add(48*time.Hour).UTC(), r.ExpiresAt)
	_, err = w.Issue(t.Context(), "lab-1", "", 0)
	require.NoError(t, err)
	_, err = w.Issue(t.Context(), "lab-1", "other", 0)
	require.ErrorIs(t, err, auth.ErrOtherProduct)
	var field *auth.FieldError
	_, err = w.Issue(t.Context(), "lab-1", "", 100*365*24*time.Hour)
	require.ErrorAs(t, err, &field)
	_, err = w.Issue(t.Context(), "#", "", 0)
	require.ErrorAs(t, err, &field)
}

func TestTags(t *testing.T) {
	w := newWorld(t, nil)
	require.ErrorIs(t, w.SetTags(t.Context(), "pump-1", nil), auth.ErrUnknownDevice)
	w.register("pump-1")
	require.NoError(t, w.SetTags(t.Context(), "pump-1", []string{"b", "a", "b"}))
	device, err := w.Device(t.Context(), "pump-1")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, device.Tags)
	var field *auth.FieldError
	require.ErrorAs(t, w.SetTags(t.Context(), "pump-1", []string{""}), &field)
	require.ErrorAs(t, w.SetTags(t.Context(), "pump-1", make([]string, 33)), &field)
}

// connections plays the broker.
type connections struct {
	mu    sync.Mutex
	live  map[string]string // client id → token id
	codes map[string]byte
}

func (c *connections) connect(clientID, tokenID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live[clientID] = tokenID
	delete(c.codes, clientID)
}

func (c *connections) Client(clientID string) (broker.ClientInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	token, found := c.live[clientID]
	return broker.ClientInfo{ClientID: clientID, Connected: found, TokenID: token}, found
}

func (c *connections) Disconnect(clientID string, code packets.Code) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, found := c.live[clientID]
	delete(c.live, clientID)
	c.codes[clientID] = code.Code
	return found
}

func (c *connections) ended(clientID string) byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.codes[clientID]
}

func TestRevocationReachesLiveConnections(t *testing.T) {
	w := newWorld(t, nil)
	live := &connections{live: map[string]string{}, codes: map[string]byte{}}
	w.Bind(live)
	first, second := w.register("pump-1"), w.register("pump-1")

	live.connect("pump-1", second.TokenID)
	require.NoError(t, w.RevokeToken(t.Context(), first.TokenID))
	require.Zero(t, live.ended("pump-1"), "the connection uses another token")
	require.NoError(t, w.RevokeToken(t.Context(), second.TokenID))
	require.EqualValues(t, 0x87, live.ended("pump-1"))

	live.connect("pump-1", w.register("pump-1").TokenID)
	require.NoError(t, w.RevokeDevice(t.Context(), "pump-1"))
	require.EqualValues(t, 0x87, live.ended("pump-1"))

	live.connect("pump-1", w.register("pump-1").TokenID)
	require.NoError(t, w.DisableDevice(t.Context(), "pump-1"))
	require.EqualValues(t, 0x98, live.ended("pump-1"))

	live.connect("pump-1", "") // by a certificate of that name
	require.NoError(t, w.DisableDevice(t.Context(), "pump-1"))
	require.EqualValues(t, 0x98, live.ended("pump-1"))

	require.NoError(t, w.EnableDevice(t.Context(), "pump-1"))
	live.connect("pump-1", w.register("pump-1").TokenID)
	require.NoError(t, w.EnableDevice(t.Context(), "pump-1"))
	require.Zero(t, live.ended("pump-1"))

	for _, err := range []error{
		w.RevokeToken(t.Context(), "none"), w.RevokeDevice(t.Context(), "none"), w.DisableDevice(t.Context(), "none"),
	} {
		require.True(t, errors.Is(err, auth.ErrUnknownDevice) || errors.Is(err, auth.ErrUnknownToken), err)
	}
}

func TestRevocationReachesAConnectionThatWasBeingAccepted(t *testing.T) {
	w := newWorld(t, nil)
	live := &connections{live: map[string]string{}, codes: map[string]byte{}}
	w.Bind(live)
	r := w.register("pump-1")
	_, err := w.login("pump-1", "", r.Token)
	require.NoError(t, err)
	require.NoError(t, w.RevokeToken(t.Context(), r.TokenID))
	live.connect("pump-1", r.TokenID) // the broker comes to it only now
	testenv.Eventually(t, 10*time.Second, "the connection is ended", func() bool { return live.ended("pump-1") == 0x87 })
}
