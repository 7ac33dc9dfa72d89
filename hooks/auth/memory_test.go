package auth_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/store/storetest"
)

func TestMemoryPassesTheSuite(t *testing.T) {
	storetest.RunDevices(t, func(*testing.T) auth.Store { return newMemory() })
}

// memory is an auth.Store that keeps everything in memory.
type memory struct {
	mu      sync.Mutex
	fail    error
	secret  []byte
	devices map[string]auth.Device
	tokens  map[string]auth.TokenRecord
	nonces  map[[2]string]time.Time
}

// newMemory makes an empty store.
func newMemory() *memory {
	return &memory{
		devices: map[string]auth.Device{}, tokens: map[string]auth.TokenRecord{}, nonces: map[[2]string]time.Time{},
	}
}

// Fail makes every call from now on fail with err; nil ends that.
func (m *memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// TokenSecret implements auth.Store.
func (m *memory) TokenSecret(_ context.Context, proposed []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secret == nil {
		m.secret = bytes.Clone(proposed)
	}
	return m.secret, m.fail
}

// Device implements auth.Store.
func (m *memory) Device(_ context.Context, id string) (auth.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, found := m.devices[id]
	if m.fail != nil {
		return auth.Device{}, m.fail
	}
	if !found {
		return auth.Device{}, auth.ErrUnknownDevice
	}
	return d, nil
}

// UpdateDevice implements auth.Store.
func (m *memory) UpdateDevice(
	_ context.Context, id string, change func(*auth.Device) (*auth.TokenRecord, error),
) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	d := m.devices[id]
	d.ID, d.Tags = id, slices.Clone(d.Tags)
	token, err := change(&d)
	if err != nil {
		return err
	}
	m.devices[id] = d
	if token != nil {
		m.tokens[token.ID] = *token
	}
	return nil
}

// Token implements auth.Store.
func (m *memory) Token(_ context.Context, id string) (auth.TokenRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, found := m.tokens[id]
	if m.fail != nil {
		return auth.TokenRecord{}, m.fail
	}
	if !found {
		return auth.TokenRecord{}, auth.ErrUnknownToken
	}
	return t, nil
}

// RevokeToken implements auth.Store.
func (m *memory) RevokeToken(_ context.Context, id string) (auth.TokenRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, found := m.tokens[id]
	if m.fail != nil {
		return auth.TokenRecord{}, m.fail
	}
	if !found {
		return auth.TokenRecord{}, auth.ErrUnknownToken
	}
	t.Revoked = true
	m.tokens[id] = t
	return t, nil
}

// UseNonce implements auth.Store.
func (m *memory) UseNonce(_ context.Context, device, nonce string, expires time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{device, nonce}
	_, used := m.nonces[key]
	if m.fail == nil && !used {
		m.nonces[key] = expires
	}
	return !used, m.fail
}

// DropExpired implements auth.Store.
func (m *memory) DropExpired(_ context.Context, now time.Time) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.tokens) + len(m.nonces)
	for id, t := range m.tokens {
		if t.Expires.Before(now) {
			delete(m.tokens, id)
		}
	}
	for key, expires := range m.nonces {
		if expires.Before(now) {
			delete(m.nonces, key)
		}
	}
	return before - len(m.tokens) - len(m.nonces), m.fail
}
