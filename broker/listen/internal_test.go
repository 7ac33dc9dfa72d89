package listen

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/penstockmq/penstock/internal/testcert"
)

// failing is a listener that has no file descriptors left, and is closed after so many attempts.
type failing struct {
	net.Listener
	attempts int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.attempts--; f.attempts < 0 {
		return nil, &net.OpError{Op: "accept", Err: net.ErrClosed}
	}
	return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
}

func TestAcceptDoesNotSpin(t *testing.T) {
	l := &Listener{inner: &failing{attempts: 6}, pressure: rate.Sometimes{Interval: time.Second}}
	l.cfg.setDefaults()
	begin := time.Now()
	_, err := l.acceptSocket()
	require.Equal(t, net.ErrClosed, err)
	require.GreaterOrEqual(t, time.Since(begin), (5+10+20+40+80+160)*time.Millisecond)
}

// Changes of other files in the same directory must not end TLS sessions.
func TestUnchangedFilesAreNotReloaded(t *testing.T) {
	cert, key := testcert.New(t).Server(t, t.TempDir())
	certs, err := newCertificates(Config{Cert: cert, Key: key})
	require.NoError(t, err)
	before := certs.current.Load()
	changed, err := certs.reload()
	require.NoError(t, err)
	require.False(t, changed)
	require.Same(t, before, certs.current.Load())
}
