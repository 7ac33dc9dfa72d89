package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// Bounds of a key set and of how often it is read.
const (
	maxKeySet       = 1 << 20 // bytes
	maxKeys         = 128
	keyFileRest     = time.Second      // between two looks at a file's time of change
	keyURLRefresh   = time.Hour        // after which keys are read again
	keyURLRest      = 10 * time.Second // between two requests, whatever key ids tokens name
	keyURLTimeout   = 5 * time.Second
	keysPerUnmarked = 8 // keys tried for a token that names none
)

// keySet is a parsed JWK set.
type keySet []jose.JSONWebKey

// parseKeySet reads the keys that can verify signatures. Keys of unknown kinds are left out; private ones count by
// their public half.
func parseKeySet(text []byte) (keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("not a JWK set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("JWK set has more than %d keys", maxKeys)
	}
	var set keySet
	for _, text := range raw.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(text) != nil || key.Use != "" && key.Use != "sig" {
			continue
		}
		if shared, ok := key.Key.([]byte); ok {
			if len(shared) >= minSecret {
				set = append(set, key)
			}
		} else if key = key.Public(); key.Valid() {
			set = append(set, key)
		}
	}
	if len(set) == 0 {
		return nil, errors.New("JWK set has no key that verifies signatures")
	}
	return set, nil
}

// find returns the keys with this id, or without an id the first few, that may be used with the algorithm. That a key's
// kind fits the algorithm is checked by the JWT library.
func (s keySet) find(keyID, algorithm string) []jwt.VerificationKey {
	var out []jwt.VerificationKey
	for _, key := range s {
		if (keyID == "" || key.KeyID == keyID) && (key.Algorithm == "" || key.Algorithm == algorithm) {
			out = append(out, key.Key)
		}
		if len(out) == keysPerUnmarked {
			break
		}
	}
	return out
}

var errUnknownKey = errors.New("no key of the issuer fits the token")

// keyFile reads a key set from a file, and again when the file has changed.
type keyFile struct {
	name string
	now  func() time.Time

	mu      sync.Mutex
	looked  time.Time
	changed time.Time
	size    int64
	keys    keySet
}

func (f *keyFile) find(_ context.Context, keyID, algorithm string) ([]jwt.VerificationKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); f.keys == nil || now.Sub(f.looked) >= keyFileRest {
		f.looked = now
		if err := f.read(); err != nil && f.keys == nil {
			return nil, fmt.Errorf("%w: %w", errKeys, err)
		}
	}
	if keys := f.keys.find(keyID, algorithm); len(keys) > 0 {
		return keys, nil
	}
	return nil, errUnknownKey
}

// read keeps the old keys when the file cannot be read or is being written. f.mu is held.
func (f *keyFile) read() error {
	info, err := os.Stat(f.name)
	if err != nil {
		return err
	}
	if f.keys != nil && info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return nil
	}
	if info.Size() > maxKeySet {
		return errors.New("JWK set is larger than 1 MiB")
	}
	text, err := os.ReadFile(f.name)
	if err != nil {
		return err
	}
	keys, err := parseKeySet(text)
	if err != nil {
		return err
	}
	f.keys, f.changed, f.size = keys, info.ModTime(), info.Size()
	return nil
}

// keyURL fetches a key set over HTTP, and again when it is old or a token names a key that is not in it.
type keyURL struct {
	url    string
	now    func() time.Time
	client *http.Client

	fetching sync.Mutex // held during a request: one at a time
	mu       sync.Mutex
	keys     keySet
	fetched  time.Time // when keys were read
	tried    time.Time // when a request was last made
	err      error     // of the last request
}

func newKeyURL(url string, now func() time.Time) *keyURL {
	return &keyURL{url: url, now: now, client: &http.Client{Timeout: keyURLTimeout}}
}

func (u *keyURL) find(ctx context.Context, keyID, algorithm string) ([]jwt.VerificationKey, error) {
	keys, old := u.known(keyID, algorithm)
	if len(keys) > 0 && (!old || !u.fetching.TryLock()) {
		return keys, nil // while another connection refreshes, the keys at hand serve
	} else if len(keys) == 0 {
		u.fetching.Lock()
	}
	defer u.fetching.Unlock()
	u.refresh(ctx, len(keys) == 0 && u.has(keyID, algorithm))
	u.mu.Lock()
	defer u.mu.Unlock()
	switch keys = u.keys.find(keyID, algorithm); {
	case len(keys) > 0:
		return keys, nil
	case u.keys == nil:
		return nil, fmt.Errorf("%w: %w", errKeys, u.err)
	}
	return nil, errUnknownKey
}

func (u *keyURL) known(keyID, algorithm string) (keys []jwt.VerificationKey, old bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.keys.find(keyID, algorithm), u.now().Sub(u.fetched) >= keyURLRefresh
}

func (u *keyURL) has(keyID, algorithm string) bool {
	keys, _ := u.known(keyID, algorithm)
	return len(keys) > 0
}

// refresh makes a request, unless one was made just now or fetched while this caller waited. u.fetching is held.
func (u *keyURL) refresh(ctx context.Context, satisfied bool) {
	u.mu.Lock()
	rest := u.now().Sub(u.tried) < keyURLRest
	u.mu.Unlock()
	if satisfied || rest {
		return
	}
	keys, err := u.fetch(context.WithoutCancel(ctx)) // also for the others that wait; the client has a timeout
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tried, u.err = u.now(), err
	if err == nil {
		u.keys, u.fetched = keys, u.tried
	}
}

func (u *keyURL) fetch(ctx context.Context) (keySet, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url, nil)
	if err != nil {
		return nil, err
	}
	response, err := u.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer is %s", response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySet {
		return nil, errors.New("JWK set is larger than 1 MiB")
	}
	return parseKeySet(text)
}
