package local

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockmq/penstock/hooks/auth"
)

// Devices keeps device records, tokens and nonces. It implements auth.Store. Every write waits for the disk; many at
// once share one commit.
//
// Its keys begin with 'd' and a letter:
//
//	ds                           the secret that signs tokens
//	dd {device}                  auth.Device as JSON
//	dt {token}                   auth.TokenRecord as JSON
//	dn {device} 0x00 {nonce}     nothing: the nonce was used
//	dx {ms, 8 bytes} {key}       nothing: key, one of the two above, expires then
type Devices struct {
	db   *DB
	seed maphash.Seed
	// locks make a read and the write that depends on it one step. A key's lock is chosen by its hash.
	locks [64]sync.Mutex
}

// Devices returns the part of the database that is about devices. There must be only one user of it.
func (db *DB) Devices() *Devices { return &Devices{db: db, seed: maphash.MakeSeed()} }

var _ auth.Store = (*Devices)(nil)

// maxDropped bounds one DropExpired, so that its commit does not hold up others.
const maxDropped = 10_000

func deviceKey(kind byte, id string) []byte { return append([]byte{'d', kind}, id...) }

func expiryKey(expires time.Time, key []byte) []byte {
	out := binary.BigEndian.AppendUint64([]byte{'d', 'x'}, uint64(max(0, expires.UnixMilli())))
	return append(out, key...)
}

func (d *Devices) lock(key []byte) func() {
	mu := &d.locks[maphash.Bytes(d.seed, key)%uint64(len(d.locks))]
	mu.Lock()
	return mu.Unlock
}

// get returns a copy of the value, or nil when the key is not there.
func (d *Devices) get(key []byte) ([]byte, error) {
	value, closer, err := d.db.pebble.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read from store: %w", err)
	}
	defer closer.Close()
	return append([]byte{}, value...), nil
}

// read decodes the JSON under key, or returns missing.
func (d *Devices) read(key []byte, into any, missing error) error {
	value, err := d.get(key)
	switch {
	case err != nil:
		return err
	case value == nil:
		return missing
	}
	if err := json.Unmarshal(value, into); err != nil {
		return fmt.Errorf("read record %q from store: %w", key, err)
	}
	return nil
}

// write makes keys and values durable together.
func (d *Devices) write(pairs ...[]byte) error {
	return d.db.update(func(b *pebble.Batch) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := b.Set(pairs[i], pairs[i+1], nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// TokenSecret implements auth.Store.
func (d *Devices) TokenSecret(_ context.Context, proposed []byte) ([]byte, error) {
	key := []byte("ds")
	defer d.lock(key)()
	secret, err := d.get(key)
	if err != nil || secret != nil {
		return secret, err
	}
	return proposed, d.write(key, proposed)
}

// Device implements auth.Store.
func (d *Devices) Device(_ context.Context, id string) (auth.Device, error) {
	var device auth.Device
	err := d.read(deviceKey('d', id), &device, auth.ErrUnknownDevice)
	return device, err
}

// UpdateDevice implements auth.Store.
func (d *Devices) UpdateDevice(
	ctx context.Context, id string, change func(*auth.Device) (*auth.TokenRecord, error),
) error {
	key := deviceKey('d', id)
	defer d.lock(key)()
	device, err := d.Device(ctx, id)
	if errors.Is(err, auth.ErrUnknownDevice) {
		device.ID = id
	} else if err != nil {
		return err
	}
	token, err := change(&device)
	if err != nil {
		return err
	}
	value, err := json.Marshal(device)
	if err != nil {
		return fmt.Errorf("encode device: %w", err)
	}
	pairs := [][]byte{key, value}
	if token != nil {
		value, err := json.Marshal(token)
		if err != nil {
			return fmt.Errorf("encode token: %w", err)
		}
		key := deviceKey('t', token.ID)
		pairs = append(pairs, key, value, expiryKey(token.Expires, key), nil)
	}
	return d.write(pairs...)
}

// Token implements auth.Store.
func (d *Devices) Token(_ context.Context, id string) (auth.TokenRecord, error) {
	var token auth.TokenRecord
	err := d.read(deviceKey('t', id), &token, auth.ErrUnknownToken)
	return token, err
}

// RevokeToken implements auth.Store.
func (d *Devices) RevokeToken(ctx context.Context, id string) (auth.TokenRecord, error) {
	key := deviceKey('t', id)
	defer d.lock(key)()
	token, err := d.Token(ctx, id)
	if err != nil || token.Revoked {
		return token, err
	}
	token.Revoked = true
	value, err := json.Marshal(token)
	if err != nil {
		return token, fmt.Errorf("encode token: %w", err)
	}
	return token, d.write(key, value)
}

// UseNonce implements auth.Store.
func (d *Devices) UseNonce(_ context.Context, device, nonce string, expires time.Time) (bool, error) {
	key := append(append(deviceKey('n', device), 0), nonce...)
	defer d.lock(key)()
	used, err := d.get(key)
	if err != nil || used != nil {
		return false, err
	}
	return true, d.write(key, nil, expiryKey(expires, key), nil)
}

// DropExpired implements auth.Store. It drops at most 10,000 records at once.
func (d *Devices) DropExpired(_ context.Context, now time.Time) (int, error) {
	iter, err := d.db.pebble.NewIter(&pebble.IterOptions{
		LowerBound: []byte("dx"), UpperBound: expiryKey(now, nil),
	})
	if err != nil {
		return 0, fmt.Errorf("look for expired records: %w", err)
	}
	var expired [][]byte
	for ok := iter.First(); ok && len(expired) < maxDropped; ok = iter.Next() {
		expired = append(expired, append([]byte{}, iter.Key()...))
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		return 0, fmt.Errorf("look for expired records: %w", err)
	}
	if len(expired) == 0 {
		return 0, nil
	}
	return len(expired), d.db.update(func(b *pebble.Batch) error {
		for _, key := range expired {
			// Token ids and nonces do not come again before they are dropped: each record has one entry.
			if err := errors.Join(b.Delete(key, nil), b.Delete(key[len("dx")+8:], nil)); err != nil {
				return err
			}
		}
		return nil
	})
}
