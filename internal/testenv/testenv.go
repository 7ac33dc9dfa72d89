// Package testenv finds and starts the real programs that tests talk to.
package testenv

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// Required reports whether a missing program fails a test instead of skipping it (PENSTOCK_TEST_REQUIRE=1).
func Required() bool { return os.Getenv("PENSTOCK_TEST_REQUIRE") == "1" }

// Missing skips the test by name, or fails it where everything is required.
func Missing(t testing.TB, what string) {
	t.Helper()
	if Required() {
		t.Fatalf("%s is needed and is not here: run make deps", what)
	}
	t.Skipf("needs %s, which is not installed: run make deps", what)
}

// Need returns the path of a program, or skips (or fails) the test.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		// Debian keeps servers in /usr/sbin, which is not on every user's path.
		if path, err = exec.LookPath("/usr/sbin/" + program); err != nil {
			Missing(t, program)
		}
	}
	return path
}

// Eventually waits until ok is true, and fails the test when it is not within the deadline.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
