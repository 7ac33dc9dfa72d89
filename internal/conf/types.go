// Package conf holds what every configuration section is made of: value types, and the loader that reads YAML and
// environment into tagged structs, checks them whole, and documents them.
//
// A section is a struct whose fields carry the tags yaml (its key), default, and doc (one sentence with unit and
// range), and that may have a method Validate(report func(key, problem string)).
package conf

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// Secret is a string that never shows itself in logs, errors or printed configurations.
type Secret string

const hidden = "********"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// ByteSize is a number of bytes, written as 512, 64KiB, 1MiB, 2GiB (powers of 1,024) or 1kB, 1MB, 1GB (of 1,000).
type ByteSize int64

var byteUnits = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseByteSize reads the notation of ByteSize.
func ParseByteSize(s string) (ByteSize, error) {
	number, factor := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if head, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(head), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return 0, fmt.Errorf("%q is not a size in bytes: write for example 512, 64KiB or 1MiB", s)
	}
	return ByteSize(n * factor), nil
}

// UnmarshalText reads the notation of ByteSize.
func (b *ByteSize) UnmarshalText(text []byte) (err error) {
	*b, err = ParseByteSize(string(text))
	return err
}

// MarshalText writes the largest unit that divides the size.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b ByteSize) String() string {
	for i := 3; i >= 0; i-- {
		if u := byteUnits[i]; b > 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
