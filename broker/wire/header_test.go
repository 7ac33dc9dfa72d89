package wire

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
)

func TestHeader(t *testing.T) {
	tests := map[string]struct {
		buf             []byte
		remaining, size int
		malformed       bool
	}{
		"nothing":              {buf: nil},
		"one byte":             {buf: []byte{0x30}},
		"short":                {buf: []byte{0x30, 0}, size: 2},
		"127":                  {buf: []byte{0x30, 0x7F, 1, 2}, remaining: 127, size: 2},
		"two bytes incomplete": {buf: []byte{0x30, 0x80}},
		"128":                  {buf: []byte{0x30, 0x80, 1}, remaining: 128, size: 3},
		"three incomplete":     {buf: []byte{0x30, 0xFF, 0xFF, 0x80}},
		"largest":              {buf: []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, remaining: maxVarint, size: 5},
		"five bytes":           {buf: []byte{0x30, 0x80, 0x80, 0x80, 0x80}, malformed: true},
		"five bytes complete":  {buf: []byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}, malformed: true},
		"not minimal":          {buf: []byte{0x30, 0x80, 0}, malformed: true},
		"not minimal in three": {buf: []byte{0x30, 0xFF, 0x80, 0}, malformed: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			first, remaining, size, err := Header(test.buf)
			if test.malformed {
				require.Equal(t, packets.ErrMalformedVariableByteInteger, err)
				require.Zero(t, size)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.remaining, remaining)
			require.Equal(t, test.size, size)
			if size > 0 {
				require.Equal(t, test.buf[0], first)
			}
		})
	}
}
