package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Parameters of the hashes that HashPassword makes: OWASP's recommendation for argon2id.
const (
	hashMemory  = 19 << 10 // KiB
	hashPasses  = 2
	hashThreads = 1
	hashSalt    = 16 // bytes
	hashLength  = 32 // bytes
)

// Bounds of the hashes that are accepted, so that a configuration cannot make one login cost seconds or gigabytes.
const (
	maxHashMemory  = 256 << 10 // KiB
	maxHashPasses  = 16
	maxHashThreads = 16
)

// passwordHash is an argon2id hash in the PHC string format: $argon2id$v=19$m=19456,t=2,p=1$salt$hash.
type passwordHash struct {
	memory, passes uint32
	threads        uint8
	salt, sum      []byte
}

// HashPassword makes an argon2id hash with a random salt, as a PHC string for auth.users.
func HashPassword(password string) string {
	salt := make([]byte, hashSalt)
	rand.Read(salt) // never fails
	sum := argon2.IDKey([]byte(password), salt, hashPasses, hashMemory, hashThreads, hashLength)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashPasses, hashThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum))
}

// VerifyPHC reports whether password has the given argon2id hash. The comparison takes constant time. An error says
// what is wrong with the hash, without quoting it.
func VerifyPHC(hash, password string) (bool, error) {
	h, err := parsePHC(hash)
	if err != nil {
		return false, err
	}
	return h.matches([]byte(password)), nil
}

func (h *passwordHash) matches(password []byte) bool {
	sum := argon2.IDKey(password, h.salt, h.passes, h.memory, h.threads, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}

func parsePHC(text string) (*passwordHash, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 6 || fields[0] != "" || fields[1] != "argon2id" {
		return nil, errors.New("is not an argon2id hash such as $argon2id$v=19$m=19456,t=2,p=1$salt$hash")
	}
	if fields[2] != "v=19" {
		return nil, errors.New("has an argon2 version other than 19")
	}
	h := &passwordHash{}
	if err := h.parseParameters(fields[3]); err != nil {
		return nil, err
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(fields[4]); err != nil || !within(h.salt, 8, 64) {
		return nil, errors.New("has a salt that is not base64 (without padding) of 8 to 64 bytes")
	}
	if h.sum, err = base64.RawStdEncoding.Strict().DecodeString(fields[5]); err != nil || !within(h.sum, 16, 64) {
		return nil, errors.New("has a hash that is not base64 (without padding) of 16 to 64 bytes")
	}
	return h, nil
}

func (h *passwordHash) parseParameters(text string) error {
	params := strings.Split(text, ",")
	if len(params) != 3 {
		return errors.New("needs the parameters m, t and p")
	}
	var memory, passes, threads uint32
	for i, p := range []struct {
		prefix   string
		value    *uint32
		min, max uint32
	}{
		{"m=", &memory, 8, maxHashMemory},
		{"t=", &passes, 1, maxHashPasses},
		{"p=", &threads, 1, maxHashThreads},
	} {
		digits, ok := strings.CutPrefix(params[i], p.prefix)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || uint32(n) < p.min || uint32(n) > p.max {
			return fmt.Errorf("needs %s with a number from %d to %d", p.prefix, p.min, p.max)
		}
		*p.value = uint32(n)
	}
	h.memory, h.passes, h.threads = memory, passes, uint8(threads)
	return nil
}

func within(b []byte, least, most int) bool { return len(b) >= least && len(b) <= most }
