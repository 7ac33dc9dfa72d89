package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Why a registration is refused. A FieldError comes for a value that is not well-formed.
var (
	ErrUnauthorized   = errors.New("product or signature is wrong")
	ErrTimestamp      = errors.New("timestamp is too far from the server's clock")
	ErrReplayed       = errors.New("nonce was used before")
	ErrDeviceDisabled = errors.New("device is disabled")
	ErrOtherProduct   = errors.New("device belongs to another product")
	ErrTooMany        = errors.New("too many registrations from this address")
)

// FieldError says what is wrong with one field of a request.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

// RegisterRequest is a device's request for a token.
type RegisterRequest struct {
	DeviceID  string
	Product   string
	Timestamp string // Unix seconds, in the digits that were signed
	Nonce     string // 8 to 64 printable ASCII characters, new each time
	Signature string // hex HMAC-SHA256 of "DeviceID\nTimestamp\nNonce" with the product's secret
	Remote    netip.Addr
}

// Registration is a token that was issued.
type Registration struct {
	DeviceID  string
	TokenID   string
	Token     string
	ExpiresAt time.Time
}

// Register checks a device's request, makes or updates its record, and issues a token. It blocks for the store.
func (s *Service) Register(ctx context.Context, r RegisterRequest) (Registration, error) {
	registration, err := s.register(ctx, r)
	s.metrics.registrations.WithLabelValues("register", resultOf(err)).Inc()
	if errors.Is(err, ErrUnauthorized) {
		s.countGuess(r.Remote, "")
		if s.logLimit.AllowN(s.now(), 1) {
			s.log.Warn("registration refused", "client_id", clip(r.DeviceID), "product", clip(r.Product),
				"remote", r.Remote.String(), "reason", err.Error())
		}
	}
	s.logTrouble("registration failed", r.DeviceID, err)
	return registration, err
}

// logTrouble logs an error that is not the caller's: what the caller is told says nothing of the store.
func (s *Service) logTrouble(what, device string, err error) {
	if err == nil || errors.As(err, new(*FieldError)) ||
		slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) }) {
		return
	}
	s.log.Error(what, "client_id", device, "error", err)
}

// refusals are the errors that say what the caller did wrong.
var refusals = []error{
	ErrUnauthorized, ErrTimestamp, ErrReplayed, ErrDeviceDisabled, ErrOtherProduct, ErrTooMany,
	ErrTokenInvalid, ErrTokenExpired, ErrTokenRevoked, context.Canceled,
}

func (s *Service) register(ctx context.Context, r RegisterRequest) (Registration, error) {
	now := s.now()
	if !s.arrivals.take(sourceKey(r.Remote), now) {
		return Registration{}, ErrTooMany
	}
	signed, err := r.check()
	if err != nil {
		return Registration{}, err
	}
	if !s.signatureHolds(r) {
		return Registration{}, ErrUnauthorized
	}
	// Only who knows the product's secret learns more than that something is wrong.
	window := s.config.Registration.Window
	if off := now.Sub(signed); off > window || off < -window {
		return Registration{}, fmt.Errorf("%w (it is %d now, and may be %v off)", ErrTimestamp, now.Unix(), window)
	}
	fresh, err := s.store.UseNonce(ctx, r.DeviceID, r.Nonce, signed.Add(window+time.Second))
	if err != nil {
		return Registration{}, fmt.Errorf("keep nonce: %w", err)
	}
	if !fresh {
		return Registration{}, ErrReplayed
	}
	return s.issue(ctx, r.DeviceID, s.config.Token.TTL, func(d *Device) error {
		if d.Created.IsZero() {
			d.Created, d.Product = now.UTC(), r.Product
		}
		if d.Product != r.Product {
			return ErrOtherProduct
		}
		return nil
	})
}

// check looks at the form of the fields, and returns the time that was signed.
func (r *RegisterRequest) check() (time.Time, error) {
	if err := CheckDeviceID(r.DeviceID); err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(r.Timestamp, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, &FieldError{"timestamp", "is not a time in Unix seconds"}
	}
	if len(r.Nonce) < 8 || len(r.Nonce) > 64 {
		return time.Time{}, &FieldError{"nonce", "must have 8 to 64 characters"}
	}
	for _, c := range []byte(r.Nonce) {
		if c <= ' ' || c > '~' {
			return time.Time{}, &FieldError{"nonce", "may hold only printable ASCII characters"}
		}
	}
	if len(r.Signature) != hex.EncodedLen(sha256.Size) {
		return time.Time{}, &FieldError{"signature", "must have 64 hexadecimal digits"}
	}
	return time.Unix(seconds, 0), nil
}

// signatureHolds compares in constant time, and does the same work for a product that does not exist.
func (s *Service) signatureHolds(r RegisterRequest) bool {
	secret, known := s.products[r.Product]
	given, err := hex.DecodeString(r.Signature)
	return hmac.Equal(given, signature(secret, r.DeviceID, r.Timestamp, r.Nonce)) && known && err == nil
}

func signature(secret []byte, deviceID, timestamp, nonce string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(deviceID + "\n" + timestamp + "\n" + nonce))
	return mac.Sum(nil)
}

// Sign makes the signature of a registration, in hex: what a device does.
func Sign(secret, deviceID, timestamp, nonce string) string {
	return hex.EncodeToString(signature([]byte(secret), deviceID, timestamp, nonce))
}

// issue lets change check and alter the device's record, and issues a token that the record and the store then know.
func (s *Service) issue(
	ctx context.Context, deviceID string, ttl time.Duration, change func(*Device) error,
) (Registration, error) {
	var out Registration
	err := s.store.UpdateDevice(ctx, deviceID, func(d *Device) (*TokenRecord, error) {
		if err := change(d); err != nil {
			return nil, err
		}
		if d.Disabled {
			return nil, ErrDeviceDisabled
		}
		text, record, err := s.tokens.sign(d, ttl)
		if err != nil {
			return nil, err
		}
		d.TokenID, d.TokenExpires = record.ID, record.Expires.UTC()
		out = Registration{DeviceID: d.ID, TokenID: record.ID, Token: text, ExpiresAt: record.Expires.UTC()}
		return &record, nil
	})
	if err != nil {
		return Registration{}, fmt.Errorf("issue token: %w", err)
	}
	return out, nil
}

// Refresh exchanges a device token, which may be expired by at most token.refresh_window, for a new one. The old one
// stays valid until it expires, so that the connection that uses it stays. It blocks for the store.
func (s *Service) Refresh(ctx context.Context, token string, remote netip.Addr) (Registration, error) {
	registration, err := s.refresh(ctx, token, remote)
	s.metrics.registrations.WithLabelValues("refresh", resultOf(err)).Inc()
	if errors.Is(err, ErrTokenInvalid) {
		s.countGuess(remote, "")
	}
	s.logTrouble("refresh failed", registration.DeviceID, err)
	return registration, err
}

func (s *Service) refresh(ctx context.Context, token string, remote netip.Addr) (Registration, error) {
	if !s.arrivals.take(sourceKey(remote), s.now()) {
		return Registration{}, ErrTooMany
	}
	claims, err := s.tokens.verify(token)
	if errors.Is(err, ErrTokenExpired) && s.now().Sub(claims.ExpiresAt.Time) < s.config.Token.RefreshWindow {
		err = nil
	}
	if err == nil {
		err = s.stillValid(ctx, claims)
	}
	if err != nil {
		return Registration{}, err
	}
	return s.issue(ctx, claims.Subject, s.config.Token.TTL, func(d *Device) error {
		if d.Created.IsZero() { // the store lost it; the token proves that it was there
			d.Created, d.Product, d.Generation = s.now().UTC(), claims.Product, claims.Generation
		}
		if claims.Generation < d.Generation {
			return ErrTokenRevoked
		}
		return nil
	})
}

// Issue makes a token for a device without a signature: an operator asks for it. An unknown device is made, with the
// product. ttl 0 is the configured one; longer than token.max_ttl is a FieldError. It blocks for the store.
func (s *Service) Issue(ctx context.Context, deviceID, product string, ttl time.Duration) (Registration, error) {
	if err := CheckDeviceID(deviceID); err != nil {
		return Registration{}, err
	}
	if ttl == 0 {
		ttl = s.config.Token.TTL
	}
	if ttl < time.Second || ttl > s.config.Token.MaxTTL {
		return Registration{}, &FieldError{"ttl", fmt.Sprintf("must be between 1s and %v", s.config.Token.MaxTTL)}
	}
	registration, err := s.issue(ctx, deviceID, ttl, func(d *Device) error {
		if d.Created.IsZero() {
			d.Created, d.Product = s.now().UTC(), product
		}
		if product != "" && d.Product != product {
			return ErrOtherProduct
		}
		return nil
	})
	s.metrics.registrations.WithLabelValues("issue", resultOf(err)).Inc()
	return registration, err
}
