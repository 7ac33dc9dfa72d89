package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHashPassword(t *testing.T) {
	hash := HashPassword("secret")
	require.True(t, strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$"), hash)
	require.NotEqual(t, hash, HashPassword("secret"), "the salt is random")
	for password, want := range map[string]bool{"secret": true, "Secret": false, "": false} {
		ok, err := VerifyPHC(hash, password)
		require.NoError(t, err)
		require.Equal(t, want, ok)
	}
	// Made by the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -e
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	ok, err := VerifyPHC(reference, "password")
	require.NoError(t, err)
	require.True(t, ok)
}

func TestHashesThatAreRefused(t *testing.T) {
	const salt, sum = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for name, hash := range map[string]string{
		"empty":             "",
		"plain text":        "secret",
		"another algorithm": "$argon2i$v=19$m=65536,t=2,p=1$" + salt + "$" + sum,
		"another version":   "$argon2id$v=16$m=65536,t=2,p=1$" + salt + "$" + sum,
		"too much memory":   "$argon2id$v=19$m=4194304,t=2,p=1$" + salt + "$" + sum,
		"too many passes":   "$argon2id$v=19$m=65536,t=1000,p=1$" + salt + "$" + sum,
		"no threads":        "$argon2id$v=19$m=65536,t=2,p=0$" + salt + "$" + sum,
		"no parameters":     "$argon2id$v=19$$" + salt + "$" + sum,
		"short salt":        "$argon2id$v=19$m=65536,t=2,p=1$AAAA$" + sum,
		"padded salt":       "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ=$" + sum,
		"short hash":        "$argon2id$v=19$m=65536,t=2,p=1$" + salt + "$AAAA",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyPHC(hash, "x")
			require.Error(t, err)
			if hash != "" {
				require.NotContains(t, err.Error(), hash)
			}
		})
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$argon2id$v=19$m=8,t=1,p=255$$")
	f.Add("$$$$$")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parsePHC(text)
		if err != nil {
			return
		}
		if h.memory > maxHashMemory || h.passes < 1 || h.passes > maxHashPasses || h.threads < 1 ||
			len(h.salt) < 8 || len(h.sum) < 16 {
			t.Fatalf("accepted %+v", h)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`), "a")
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`), "")
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`), "")
	f.Fuzz(func(_ *testing.T, text []byte, keyID string) {
		set, err := parseKeySet(text)
		if err == nil {
			set.find(keyID, "RS256")
		}
	})
}

func FuzzIssuerOf(f *testing.F) {
	f.Add([]byte("eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJwZW5zdG9jayJ9.AAAA"))
	f.Add([]byte("ey.."))
	now := func() time.Time { return time.Unix(1_800_000_000, 0) }
	signer := newTokenSigner([]byte("another secret of 32 characters."), now)
	f.Fuzz(func(t *testing.T, password []byte) {
		issuerOf(password)
		if _, err := signer.verify(string(password)); err == nil {
			t.Fatal("accepted")
		}
	})
}

func TestCacheForgetsTheOldest(t *testing.T) {
	c, now := newCache[int, int](100), time.Unix(0, 0)
	for i := range 1000 {
		c.put(i, i, now.Add(time.Hour))
		_, found := c.get(0, now)
		require.True(t, found, "what is used stays: %d", i)
	}
	require.LessOrEqual(t, len(c.new)+len(c.old), 100)
	_, found := c.get(1, now)
	require.False(t, found)
	_, found = c.get(0, now.Add(time.Hour))
	require.False(t, found, "its time is over")
}

func TestThrottleIsBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	limit := newThrottle(1, 2)
	require.True(t, limit.take("a", now))
	require.False(t, limit.empty("a", now))
	require.True(t, limit.take("a", now))
	require.True(t, limit.empty("a", now))
	require.False(t, limit.take("a", now))
	require.False(t, limit.empty("a", now.Add(time.Second)))
	for i := range maxThrottleKeys + 100 {
		limit.take(fmt.Sprint(i), now)
	}
	require.LessOrEqual(t, len(limit.buckets), maxThrottleKeys)
	off := newThrottle(0, 0)
	for range 10 {
		require.True(t, off.take("a", now))
	}
}
