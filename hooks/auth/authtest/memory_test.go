package authtest

import (
	"testing"

	"github.com/penstockmq/penstock/hooks/auth"
)

func TestMemoryPassesTheSuite(t *testing.T) {
	Run(t, func(*testing.T) auth.Store { return NewMemory() })
}
