package local

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/store/storetest"
)

func openForDevices(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(dir, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func TestDevicesPassTheSuite(t *testing.T) {
	storetest.RunDevices(t, func(t *testing.T) auth.Store { return openForDevices(t, "").Devices() })
}

func TestDevicesOutliveTheProcess(t *testing.T) {
	dir, expires := t.TempDir(), time.Now().Add(time.Hour)
	db := openForDevices(t, dir)
	devices := db.Devices()
	secret, err := devices.TokenSecret(t.Context(), []byte("secret"))
	require.NoError(t, err)
	err = devices.UpdateDevice(t.Context(), "d1", func(d *auth.Device) (*auth.TokenRecord, error) {
		d.Disabled = true
		return &auth.TokenRecord{ID: "t1", Device: "d1", Expires: expires}, nil
	})
	require.NoError(t, err)
	_, err = devices.RevokeToken(t.Context(), "t1")
	require.NoError(t, err)
	_, err = devices.UseNonce(t.Context(), "d1", "nonce", expires)
	require.NoError(t, err)
	require.NoError(t, db.Close())

	devices = openForDevices(t, dir).Devices()
	again, err := devices.TokenSecret(t.Context(), []byte("another"))
	require.NoError(t, err)
	require.Equal(t, secret, again)
	device, err := devices.Device(t.Context(), "d1")
	require.NoError(t, err)
	require.True(t, device.Disabled)
	token, err := devices.Token(t.Context(), "t1")
	require.NoError(t, err)
	require.True(t, token.Revoked)
	fresh, err := devices.UseNonce(t.Context(), "d1", "nonce", expires)
	require.NoError(t, err)
	require.False(t, fresh, "a nonce stays used")
}

func TestDevicesAfterClose(t *testing.T) {
	db, err := Open("", Options{})
	require.NoError(t, err)
	devices := db.Devices()
	_, err = devices.UseNonce(t.Context(), "d1", "n", time.Now())
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.ErrorIs(t, db.update(nil), ErrClosed)
}
