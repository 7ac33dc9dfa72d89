package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsPlain(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				b := []byte(strings.Repeat("~", length))
				b[at] = byte(c)
				want := c != 0 && c != '+' && c != '#' && c < 0x80
				require.Equal(t, want, isPlain(b), "%q", b)
			}
		}
	}
}
