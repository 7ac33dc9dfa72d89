package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/hooks/auth"
)

// RunDevices runs the suite of stores for devices, tokens and nonces. open makes an empty store each time.
func RunDevices(t *testing.T, open func(t *testing.T) auth.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s auth.Store)
	}{
		{"the first token secret stays", devicesSecret},
		{"devices and their tokens are kept", devicesKept},
		{"a refused change stores nothing", devicesRefusedChange},
		{"updates of a device exclude each other", devicesConcurrentUpdates},
		{"tokens are revoked", devicesRevoke},
		{"a nonce is new once", devicesNonce},
		{"what expired is dropped", devicesDropExpired},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var devicesTime = time.Unix(2_000_000_000, 0).UTC()

func issueToken(t *testing.T, s auth.Store, device, token string, expires time.Time) {
	t.Helper()
	err := s.UpdateDevice(t.Context(), device, func(d *auth.Device) (*auth.TokenRecord, error) {
		d.Created, d.Product, d.Tags = devicesTime, "pump", []string{"a", "b"}
		d.TokenID, d.TokenExpires = token, expires
		return &auth.TokenRecord{ID: token, Device: device, Generation: 3, Expires: expires}, nil
	})
	require.NoError(t, err)
}

func devicesSecret(t *testing.T, s auth.Store) {
	for _, proposed := range []string{"first", "second"} {
		secret, err := s.TokenSecret(t.Context(), []byte(proposed))
		require.NoError(t, err)
		require.Equal(t, "first", string(secret))
	}
}

func devicesKept(t *testing.T, s auth.Store) {
	_, err := s.Device(t.Context(), "d1")
	require.ErrorIs(t, err, auth.ErrUnknownDevice)
	_, err = s.Token(t.Context(), "t1")
	require.ErrorIs(t, err, auth.ErrUnknownToken)

	issueToken(t, s, "d1", "t1", devicesTime)
	d, err := s.Device(t.Context(), "d1")
	require.NoError(t, err)
	require.Equal(t, auth.Device{
		ID: "d1", Product: "pump", Tags: []string{"a", "b"}, Created: devicesTime, TokenID: "t1", TokenExpires: devicesTime,
	}, d)
	token, err := s.Token(t.Context(), "t1")
	require.NoError(t, err)
	require.Equal(t, auth.TokenRecord{ID: "t1", Device: "d1", Generation: 3, Expires: devicesTime}, token)
	_, err = s.Device(t.Context(), "d")
	require.ErrorIs(t, err, auth.ErrUnknownDevice, "the start of an identifier is another one")
}

func devicesRefusedChange(t *testing.T, s auth.Store) {
	refusal := errors.New("no")
	err := s.UpdateDevice(t.Context(), "d1", func(d *auth.Device) (*auth.TokenRecord, error) {
		require.Equal(t, auth.Device{ID: "d1"}, *d)
		d.Disabled = true
		return &auth.TokenRecord{ID: "t1"}, refusal
	})
	require.ErrorIs(t, err, refusal)
	_, err = s.Device(t.Context(), "d1")
	require.ErrorIs(t, err, auth.ErrUnknownDevice)
	_, err = s.Token(t.Context(), "t1")
	require.ErrorIs(t, err, auth.ErrUnknownToken)
}

func devicesConcurrentUpdates(t *testing.T, s auth.Store) {
	const writers = 20
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			err := s.UpdateDevice(t.Context(), "d1", func(d *auth.Device) (*auth.TokenRecord, error) {
				d.Generation++
				return nil, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	d, err := s.Device(t.Context(), "d1")
	require.NoError(t, err)
	require.EqualValues(t, writers, d.Generation)
}

func devicesRevoke(t *testing.T, s auth.Store) {
	_, err := s.RevokeToken(t.Context(), "t1")
	require.ErrorIs(t, err, auth.ErrUnknownToken)
	issueToken(t, s, "d1", "t1", devicesTime)
	issueToken(t, s, "d1", "t2", devicesTime)
	for range 2 {
		token, err := s.RevokeToken(t.Context(), "t1")
		require.NoError(t, err)
		require.Equal(t, "d1", token.Device)
		require.True(t, token.Revoked)
	}
	token, err := s.Token(t.Context(), "t1")
	require.NoError(t, err)
	require.True(t, token.Revoked)
	token, err = s.Token(t.Context(), "t2")
	require.NoError(t, err)
	require.False(t, token.Revoked)
}

func devicesNonce(t *testing.T, s auth.Store) {
	var first atomic.Int32
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			fresh, err := s.UseNonce(t.Context(), "d1", "n1", devicesTime)
			if err != nil {
				t.Error(err)
			}
			if fresh {
				first.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 1, first.Load())
	for _, other := range [][2]string{{"d1", "n2"}, {"d2", "n1"}, {"d1n", "1"}} {
		fresh, err := s.UseNonce(t.Context(), other[0], other[1], devicesTime)
		require.NoError(t, err)
		require.True(t, fresh, other)
	}
}

func devicesDropExpired(t *testing.T, s auth.Store) {
	const many = 30
	for i := range many {
		id := fmt.Sprint(i)
		issueToken(t, s, "old"+id, "old"+id, devicesTime.Add(-time.Hour))
		_, err := s.UseNonce(t.Context(), "d", "old"+id, devicesTime.Add(-time.Hour))
		require.NoError(t, err)
	}
	issueToken(t, s, "d1", "new", devicesTime.Add(time.Hour))
	_, err := s.UseNonce(t.Context(), "d1", "new", devicesTime.Add(time.Hour))
	require.NoError(t, err)

	n, err := s.DropExpired(t.Context(), devicesTime)
	require.NoError(t, err)
	require.Equal(t, 2*many, n)
	_, err = s.Token(t.Context(), "old0")
	require.ErrorIs(t, err, auth.ErrUnknownToken)
	_, err = s.Token(t.Context(), "new")
	require.NoError(t, err)
	_, err = s.Device(t.Context(), "old0")
	require.NoError(t, err, "devices stay")
	fresh, err := s.UseNonce(t.Context(), "d1", "new", devicesTime)
	require.NoError(t, err)
	require.False(t, fresh)
	n, err = s.DropExpired(t.Context(), devicesTime)
	require.NoError(t, err)
	require.Zero(t, n)
}
