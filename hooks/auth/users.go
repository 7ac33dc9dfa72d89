package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// How long, and how many, verified passwords are remembered: a storm of reconnects costs argon2id once for each user.
const (
	rememberFor   = 10 * time.Minute
	rememberUsers = 10_000
)

// users verifies the passwords of auth.users.
type users struct {
	hashes   map[string]*passwordHash
	decoy    *passwordHash // what an unknown name is checked against; nil without users
	slots    chan struct{} // one for each computation that may run: each needs its hash's memory
	key      [32]byte      // of this process; the cache holds no password and nothing that could be searched for one
	verified *cache[[sha256.Size]byte, bool]
}

func newUsers(c Config) (*users, error) {
	u := &users{
		hashes:   make(map[string]*passwordHash, len(c.Users)),
		slots:    make(chan struct{}, max(1, c.PasswordChecks)),
		verified: newCache[[sha256.Size]byte, bool](rememberUsers),
	}
	rand.Read(u.key[:]) // never fails
	for name, text := range c.Users {
		hash, err := parsePHC(text.Reveal())
		if err != nil {
			return nil, fmt.Errorf("password hash of user %q %w", name, err)
		}
		u.hashes[name] = hash
		if u.decoy == nil || hash.memory*hash.passes > u.decoy.memory*u.decoy.passes {
			u.decoy = hash
		}
	}
	return u, nil
}

func (u *users) has(name string) bool { return u.hashes[name] != nil }

// remembers reports whether this password of a user was verified lately.
func (u *users) remembers(name string, password []byte, now time.Time) bool {
	if !u.has(name) {
		return false
	}
	ok, found := u.verified.get(u.fingerprint(name, password), now)
	return found && ok
}

func (u *users) fingerprint(name string, password []byte) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(mac, "%d %s ", len(name), name)
	mac.Write(password)
	mac.Sum(sum[:0])
	return sum
}

// verify reports whether the password is the user's. An error means that there was no time to find out.
func (u *users) verify(ctx context.Context, name string, password []byte, now func() time.Time) (bool, error) {
	hash, known := u.hashes[name], u.has(name)
	if !known {
		hash = u.decoy
	}
	if hash == nil || len(password) == 0 {
		return false, nil
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return false, errors.New("too many passwords to check")
	}
	if u.remembers(name, password, now()) { // verified by another connection while this one waited
		return true, nil
	}
	if !hash.matches(password) || !known {
		return false, nil
	}
	u.verified.put(u.fingerprint(name, password), true, now().Add(rememberFor))
	return true, nil
}
