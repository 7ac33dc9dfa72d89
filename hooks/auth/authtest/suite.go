package authtest

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

// Run runs the suite. open makes an empty store each time.
func Run(t *testing.T, open func(t *testing.T) auth.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s auth.Store)
	}{
		{"the first token secret stays", testSecret},
		{"devices and their tokens are kept", testDevices},
		{"a refused change stores nothing", testRefusedChange},
		{"updates of a device exclude each other", testConcurrentUpdates},
		{"tokens are revoked", testRevoke},
		{"a nonce is new once", testNonce},
		{"what expired is dropped", testDropExpired},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var later = time.Unix(2_000_000_000, 0).UTC()

func issue(t *testing.T, s auth.Store, device, token string, expires time.Time) {
	t.Helper()
	err := s.UpdateDevice(t.Context(), device, func(d *auth.Device) (*auth.TokenRecord, error) {
		d.Created, d.Product, d.Tags = later, "pump", []string{"a", "b"}
		d.TokenID, d.TokenExpires = token, expires
		return &auth.TokenRecord{ID: token, Device: device, Generation: 3, Expires: expires}, nil
	})
	require.NoError(t, err)
}

func testSecret(t *testing.T, s auth.Store) {
	for _, proposed := range []string{"first", "second"} {
		secret, err := s.TokenSecret(t.Context(), []byte(proposed))
		require.NoError(t, err)
		require.Equal(t, "first", string(secret))
	}
}

func testDevices(t *testing.T, s auth.Store) {
	_, err := s.Device(t.Context(), "d1")
	require.ErrorIs(t, err, auth.ErrUnknownDevice)
	_, err = s.Token(t.Context(), "t1")
	require.ErrorIs(t, err, auth.ErrUnknownToken)

	issue(t, s, "d1", "t1", later)
	d, err := s.Device(t.Context(), "d1")
	require.NoError(t, err)
	require.Equal(t, auth.Device{
		ID: "d1", Product: "pump", Tags: []string{"a", "b"}, Created: later, TokenID: "t1", TokenExpires: later,
	}, d)
	token, err := s.Token(t.Context(), "t1")
	require.NoError(t, err)
	require.Equal(t, auth.TokenRecord{ID: "t1", Device: "d1", Generation: 3, Expires: later}, token)
	_, err = s.Device(t.Context(), "d")
	require.ErrorIs(t, err, auth.ErrUnknownDevice, "the start of an identifier is another one")
}

func testRefusedChange(t *testing.T, s auth.Store) {
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

func testConcurrentUpdates(t *testing.T, s auth.Store) {
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

func testRevoke(t *testing.T, s auth.Store) {
	_, err := s.RevokeToken(t.Context(), "t1")
	require.ErrorIs(t, err, auth.ErrUnknownToken)
	issue(t, s, "d1", "t1", later)
	issue(t, s, "d1", "t2", later)
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

func testNonce(t *testing.T, s auth.Store) {
	var first atomic.Int32
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			fresh, err := s.UseNonce(t.Context(), "d1", "n1", later)
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
		fresh, err := s.UseNonce(t.Context(), other[0], other[1], later)
		require.NoError(t, err)
		require.True(t, fresh, other)
	}
}

func testDropExpired(t *testing.T, s auth.Store) {
	const many = 30
	for i := range many {
		id := fmt.Sprint(i)
		issue(t, s, "old"+id, "old"+id, later.Add(-time.Hour))
		_, err := s.UseNonce(t.Context(), "d", "old"+id, later.Add(-time.Hour))
		require.NoError(t, err)
	}
	issue(t, s, "d1", "new", later.Add(time.Hour))
	_, err := s.UseNonce(t.Context(), "d1", "new", later.Add(time.Hour))
	require.NoError(t, err)

	n, err := s.DropExpired(t.Context(), later)
	require.NoError(t, err)
	require.Equal(t, 2*many, n)
	_, err = s.Token(t.Context(), "old0")
	require.ErrorIs(t, err, auth.ErrUnknownToken)
	_, err = s.Token(t.Context(), "new")
	require.NoError(t, err)
	_, err = s.Device(t.Context(), "old0")
	require.NoError(t, err, "devices stay")
	fresh, err := s.UseNonce(t.Context(), "d1", "new", later)
	require.NoError(t, err)
	require.False(t, fresh)
	n, err = s.DropExpired(t.Context(), later)
	require.NoError(t, err)
	require.Zero(t, n)
}
