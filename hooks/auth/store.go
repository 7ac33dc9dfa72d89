package auth

import (
	"context"
	"errors"
	"time"
)

// What a Store says when something is not there.
var (
	ErrUnknownDevice = errors.New("unknown device")
	ErrUnknownToken  = errors.New("unknown token")
)

// Store keeps devices, their tokens and the nonces of registrations. Its methods may block for the disk or the
// network. Every implementation passes storetest.RunDevices.
type Store interface {
	// TokenSecret returns the secret that signs device tokens. When none is kept yet it keeps proposed and returns it:
	// all nodes that share a store get the same one.
	TokenSecret(ctx context.Context, proposed []byte) ([]byte, error)
	// Device returns a device's record, or ErrUnknownDevice.
	Device(ctx context.Context, id string) (Device, error)
	// UpdateDevice gives change the device's record, or for a new device one that holds only its ID, and makes what
	// change left in it durable, together with the token record that change returns, if any. Updates of one device
	// exclude each other. An error of change comes back as it is, and nothing is stored. change may run more than once.
	UpdateDevice(ctx context.Context, id string, change func(*Device) (*TokenRecord, error)) error
	// Token returns a token's record, or ErrUnknownToken.
	Token(ctx context.Context, id string) (TokenRecord, error)
	// RevokeToken marks a token as revoked and returns its record, or ErrUnknownToken. To do it twice is no error.
	RevokeToken(ctx context.Context, id string) (TokenRecord, error)
	// UseNonce makes durable that a device used a nonce, until expires, and reports whether it is the first time.
	UseNonce(ctx context.Context, device, nonce string, expires time.Time) (bool, error)
	// DropExpired removes the token records and nonces that expired before now, and says how many.
	DropExpired(ctx context.Context, now time.Time) (int, error)
}

// Device is what is kept of a device that registered.
type Device struct {
	ID       string    `json:"id"`
	Product  string    `json:"product"`
	Tags     []string  `json:"tags,omitempty"`
	Created  time.Time `json:"created"`
	Disabled bool      `json:"disabled"`
	// Generation counts how often all tokens of the device were revoked. A token of an older generation is not valid.
	Generation   uint64    `json:"generation"`
	TokenID      string    `json:"token_id,omitempty"` // of the newest token
	TokenExpires time.Time `json:"token_expires,omitzero"`
}

// TokenRecord says to which device a token belongs.
type TokenRecord struct {
	ID         string    `json:"id"`
	Device     string    `json:"device"`
	Generation uint64    `json:"generation"` // the device's when the token was issued
	Expires    time.Time `json:"expires"`
	Revoked    bool      `json:"revoked"`
}
