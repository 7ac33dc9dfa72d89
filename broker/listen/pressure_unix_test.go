//go:build unix

package listen_test

import (
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/internal/testenv"
)

// Lack of file descriptors is made for real, so this test must not run beside others.
func TestAcceptWaitsForFileDescriptors(t *testing.T) {
	var log testenv.Log
	l, err := listen.New(listen.Config{Type: "tcp", Address: "127.0.0.1:0",
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer client.Close()

	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 0
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	restore := func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }
	defer restore()

	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Close()
		}
		accepted <- err
	}()
	eventually(t, "the trouble is logged", func() bool { return strings.Contains(log.String(), "too many open files") })
	require.NoError(t, restore())
	require.NoError(t, <-accepted)
	require.Less(t, strings.Count(log.String(), "\n"), 3, "one line a second at most")
}
