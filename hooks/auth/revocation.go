package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// VerifyToken checks a device token whole: signature, expiry, revocation, and that its device is not disabled. It
// returns ErrTokenInvalid, ErrTokenExpired, ErrTokenRevoked, ErrDeviceDisabled, or an error of the store, for which it
// blocks. A token that the store does not know is valid by its signature: a store that lost its contents does not lock
// a fleet out.
func (s *Service) VerifyToken(ctx context.Context, token string) (*Claims, error) {
	claims, err := s.tokens.verify(token)
	if err != nil {
		return nil, err
	}
	if err := s.stillValid(ctx, claims); err != nil {
		return nil, err
	}
	return claims, nil
}

func (s *Service) stillValid(ctx context.Context, claims *Claims) error {
	device, err := s.store.Device(ctx, claims.Subject)
	switch {
	case errors.Is(err, ErrUnknownDevice):
	case err != nil:
		return fmt.Errorf("look up device: %w", err)
	case device.Disabled:
		return ErrDeviceDisabled
	case claims.Generation < device.Generation:
		return ErrTokenRevoked
	}
	record, err := s.store.Token(ctx, claims.ID)
	switch {
	case errors.Is(err, ErrUnknownToken):
	case err != nil:
		return fmt.Errorf("look up token: %w", err)
	case record.Revoked:
		return ErrTokenRevoked
	}
	return nil
}

// Device returns a device's record, or ErrUnknownDevice. It blocks for the store.
func (s *Service) Device(ctx context.Context, id string) (Device, error) {
	return s.store.Device(ctx, id)
}

// RevokeToken makes one token invalid, and ends the connection that uses it with 0x87 Not authorized. It returns
// ErrUnknownToken, or blocks until the store has it on disk.
func (s *Service) RevokeToken(ctx context.Context, tokenID string) error {
	record, err := s.store.RevokeToken(ctx, tokenID)
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	s.log.Info("token revoked", "client_id", record.Device, "token_id", tokenID)
	return s.enforceSoon(ctx, record.Device)
}

// RevokeDevice makes all tokens that the device has invalid, and ends its connection with 0x87 Not authorized. The
// device may register anew. It returns ErrUnknownDevice, or blocks until the store has it on disk.
func (s *Service) RevokeDevice(ctx context.Context, id string) error {
	return s.change(ctx, "device's tokens revoked", id, func(d *Device) { d.Generation++ })
}

// DisableDevice refuses the device, whoever it says it is, until EnableDevice, and ends its connection with 0x98
// Administrative action. It returns ErrUnknownDevice, or blocks until the store has it on disk.
func (s *Service) DisableDevice(ctx context.Context, id string) error {
	return s.change(ctx, "device disabled", id, func(d *Device) { d.Disabled = true })
}

// EnableDevice lets a disabled device in again. Its tokens are valid as they were. It returns ErrUnknownDevice, or
// blocks until the store has it on disk.
func (s *Service) EnableDevice(ctx context.Context, id string) error {
	return s.change(ctx, "device enabled", id, func(d *Device) { d.Disabled = false })
}

// Bounds of a device's tags.
const (
	maxTags      = 32
	maxTagLength = 64
)

// SetTags replaces the device's tags, by which commands find groups of devices. It returns ErrUnknownDevice or a
// FieldError, or blocks until the store has it on disk.
func (s *Service) SetTags(ctx context.Context, id string, tags []string) error {
	if len(tags) > maxTags {
		return &FieldError{"tags", fmt.Sprintf("must be at most %d", maxTags)}
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	tags = slices.Compact(tags)
	for _, tag := range tags {
		if !isName(tag) || len(tag) > maxTagLength {
			return &FieldError{"tags", fmt.Sprintf("must each have 1 to %d characters", maxTagLength)}
		}
	}
	return s.change(ctx, "device's tags changed", id, func(d *Device) { d.Tags = tags })
}

func (s *Service) change(ctx context.Context, what, id string, change func(*Device)) error {
	err := s.store.UpdateDevice(ctx, id, func(d *Device) (*TokenRecord, error) {
		if d.Created.IsZero() {
			return nil, ErrUnknownDevice
		}
		change(d)
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("change device: %w", err)
	}
	s.log.Info(what, "client_id", id)
	return s.enforceSoon(ctx, id)
}

// enforceSoon ends the device's connection now if it may not be there any more, and looks again a little later.
func (s *Service) enforceSoon(ctx context.Context, device string) error {
	// What the store has is done, also when who asked for it has gone.
	if err := s.enforce(context.WithoutCancel(ctx), device); err != nil {
		return err
	}
	select {
	case s.recheck <- recheck{device, time.Now().Add(recheckAfter)}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enforce ends the connection of a client whose device is disabled or whose token is revoked.
func (s *Service) enforce(ctx context.Context, clientID string) error {
	s.mu.Lock()
	connections := s.connections
	s.mu.Unlock()
	if connections == nil {
		return nil
	}
	info, found := connections.Client(clientID)
	if !found || !info.Connected {
		return nil
	}
	device, err := s.store.Device(ctx, clientID)
	if err != nil && !errors.Is(err, ErrUnknownDevice) {
		return fmt.Errorf("look up device: %w", err)
	}
	if device.Disabled {
		connections.Disconnect(clientID, packets.ErrAdministrativeAction)
		return nil
	}
	if info.TokenID == "" {
		return nil
	}
	record, err := s.store.Token(ctx, info.TokenID)
	if err != nil && !errors.Is(err, ErrUnknownToken) {
		return fmt.Errorf("look up token: %w", err)
	}
	if record.Revoked || record.Generation < device.Generation {
		connections.Disconnect(clientID, packets.ErrNotAuthorized)
	}
	return nil
}
