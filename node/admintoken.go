package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstockmq/penstock/internal/conf"
)

const adminTokenFile = "admin-token"

// adminToken returns the configured token; or that of an earlier start from the data folder; or a new one, which it
// keeps there for the next start. fresh says that it is new, and so must be shown to the operator.
func adminToken(configured conf.Secret, dir string) (token conf.Secret, fresh bool, err error) {
	if configured != "" {
		return configured, false, nil
	}
	if dir == "" {
		return conf.Secret(rand.Text()), true, nil
	}
	file := filepath.Join(dir, adminTokenFile)
	text, err := os.ReadFile(file)
	if kept := strings.TrimSpace(string(text)); err == nil && kept != "" {
		return conf.Secret(kept), false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("read admin token: %w", err)
	}
	token = conf.Secret(rand.Text())
	if err := os.WriteFile(file, []byte(token.Reveal()+"\n"), 0o600); err != nil {
		return "", false, fmt.Errorf("keep admin token: %w", err)
	}
	return token, true, nil
}
