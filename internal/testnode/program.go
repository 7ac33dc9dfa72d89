package testnode

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// builtIn is the folder of the binary that this process has built, or empty.
var builtIn string

// built is the binary under test: PENSTOCK_TEST_BINARY, or else one that is built once for all tests of a package.
var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("PENSTOCK_TEST_BINARY"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "penstock-testnode-")
	if err != nil {
		return "", err
	}
	builtIn = dir
	path := filepath.Join(dir, "penstock")
	out, err := exec.Command("go", "build", "-o", path, "github.com/penstockmq/penstock/cmd/penstock").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build penstock: %w\n%s", err, out)
	}
	return path, nil
})

// Main is the TestMain of a package that uses this one: it runs the tests, removes what was built, and ends the
// process.
func Main(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// Program returns the path of the binary under test. The first call may build it.
func Program(t testing.TB) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
