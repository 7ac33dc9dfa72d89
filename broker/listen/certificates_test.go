package listen_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
)

// secure starts a TLS listener with a certificate for localhost in dir.
func secure(t *testing.T, dir string, cfg listen.Config) *rig {
	t.Helper()
	ca := testcert.New(t)
	cfg.Type = "tls"
	cfg.Cert, cfg.Key = ca.Server(t, dir)
	if cfg.ClientAuth != "" {
		cfg.ClientCA = ca.File
	}
	r := start(t, cfg, echo)
	r.ca = ca
	return r
}

// connect makes a TLS handshake and an exchange, and returns the error of either: in TLS 1.3 a client learns by the
// first read that the server refused its certificate.
func (r *rig) connect(t *testing.T, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	conn := tls.Client(r.socket(t, ""), config)
	if _, err := conn.Write([]byte("ping")); err != nil {
		return conn, err
	}
	_, err := conn.Read(make([]byte, 4))
	return conn, err
}

// names returns the host for which the certificate is that a new handshake sees.
func (r *rig) names(t *testing.T) string {
	t.Helper()
	config := r.tlsConfig()
	config.InsecureSkipVerify = true // the name is what is asked for here
	conn, err := r.connect(t, config)
	require.NoError(t, err)
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestClientCertificates(t *testing.T) {
	stranger := testcert.New(t)
	for _, auth := range []string{"require", "optional"} {
		r := secure(t, t.TempDir(), listen.Config{ClientAuth: auth})
		for _, c := range []struct {
			name     string
			certs    []tls.Certificate
			accepted bool
		}{
			{"none", nil, auth == "optional"},
			{"signed by the authority", []tls.Certificate{r.ca.Client(t, "pump-7", "urn:pump:7")}, true},
			{"signed by a stranger", []tls.Certificate{stranger.Client(t, "pump-7")}, false},
		} {
			t.Run(auth+"/"+c.name, func(t *testing.T) {
				before := r.refused.of(listen.ReasonTLS)
				config := r.tlsConfig()
				// The certificate is sent whatever authorities the server names.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if c.certs == nil {
						return new(tls.Certificate), nil
					}
					return &c.certs[0], nil
				}
				_, err := r.connect(t, config)
				if !c.accepted {
					require.Error(t, err)
					eventually(t, "counted", func() bool { return r.refused.of(listen.ReasonTLS) == before+1 })
					return
				}
				require.NoError(t, err)
				state := r.accepted(t).TLS()
				require.Len(t, state.PeerCertificates, len(c.certs))
				if c.certs != nil {
					require.Equal(t, "pump-7", state.VerifiedChains[0][0].Subject.CommonName)
					require.Equal(t, "urn:pump:7", state.PeerCertificates[0].URIs[0].String())
				}
			})
		}
	}
}

func TestMinimumVersion(t *testing.T) {
	for _, c := range []struct {
		min  string
		max  uint16
		fits bool
	}{
		{"", tls.VersionTLS11, false},
		{"", tls.VersionTLS12, true},
		{"1.3", tls.VersionTLS12, false},
		{"1.3", tls.VersionTLS13, true},
	} {
		t.Run(fmt.Sprintf("%s against %s", c.min, tls.VersionName(c.max)), func(t *testing.T) {
			r := secure(t, t.TempDir(), listen.Config{MinTLS: c.min})
			config := r.tlsConfig()
			config.MinVersion, config.MaxVersion = tls.VersionTLS10, c.max
			_, err := r.connect(t, config)
			require.Equal(t, c.fits, err == nil, "%v", err)
		})
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	var log testenv.Log
	r := secure(t, dir, listen.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	live := r.dial(t, "")
	exchange(t, live, "before")

	r.ca.Server(t, dir, "new.example")
	require.NoError(t, r.Reload())
	require.Equal(t, "new.example", r.names(t))
	exchange(t, live, "after")

	require.NoError(t, os.WriteFile(r.cfg.Key, []byte("garbage"), 0o600))
	err := r.Reload()
	require.ErrorContains(t, err, r.cfg.Key)
	require.ErrorContains(t, err, "the previous certificate stays in use")
	require.Equal(t, "new.example", r.names(t))
	require.NoError(t, os.Remove(r.cfg.Cert))
	require.ErrorContains(t, r.Reload(), r.cfg.Cert)
	require.Equal(t, "new.example", r.names(t))
	exchange(t, live, "still")
}

func TestReloadWithoutTLSDoesNothing(t *testing.T) {
	require.NoError(t, start(t, listen.Config{Type: "ws"}, nil).Reload())
}

// A session ticket must not outlive the authority that vouched for its holder.
func TestReloadOfTheAuthorityEndsItsSessions(t *testing.T) {
	dir := t.TempDir()
	ca := testcert.New(t)
	cert, key := ca.Server(t, dir)
	authority := filepath.Join(dir, "ca.pem")
	copyFile(t, ca.File, authority)
	r := start(t, listen.Config{Type: "tls", Cert: cert, Key: key, ClientCA: authority}, echo)
	r.ca = ca
	config := r.tlsConfig(ca.Client(t, "pump-7"))
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)

	_, err := r.connect(t, config)
	require.NoError(t, err)
	conn, err := r.connect(t, config)
	require.NoError(t, err)
	require.True(t, conn.ConnectionState().DidResume, "tickets are in use")

	copyFile(t, testcert.New(t).File, authority)
	require.NoError(t, r.Reload())
	_, err = r.connect(t, config)
	require.Error(t, err)
}

func TestChangedFilesAreReloaded(t *testing.T) {
	dir := t.TempDir()
	var log testenv.Log
	r := secure(t, dir, listen.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	live := r.dial(t, "")
	logged := func(what string) func() bool {
		return func() bool { return strings.Contains(log.String(), what) }
	}

	require.NoError(t, os.WriteFile(r.cfg.Cert, []byte("half-written"), 0o600))
	eventually(t, "the fault is logged", logged("the previous one stays in use"))
	require.Equal(t, "localhost", r.names(t))

	r.ca.Server(t, dir, "new.example")
	eventually(t, "the new certificate is used", func() bool { return r.names(t) == "new.example" })
	exchange(t, live, "still")
}

// Kubernetes mounts a secret as links through ..data, and replaces ..data by renaming a new link over it.
func TestSwappedLinksAreReloaded(t *testing.T) {
	root := t.TempDir()
	ca := testcert.New(t)
	publish := func(version, host string) {
		require.NoError(t, os.Mkdir(filepath.Join(root, version), 0o700))
		ca.Server(t, filepath.Join(root, version), host)
		require.NoError(t, os.Symlink(version, filepath.Join(root, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(root, "..data_tmp"), filepath.Join(root, "..data")))
	}
	publish("..v1", "old.example")
	cfg := listen.Config{Type: "tls", Cert: filepath.Join(root, "tls.crt"), Key: filepath.Join(root, "tls.key")}
	require.NoError(t, os.Symlink("..data/server.pem", cfg.Cert))
	require.NoError(t, os.Symlink("..data/server.key", cfg.Key))
	r := start(t, cfg, echo)
	require.Equal(t, "old.example", r.names(t))

	publish("..v2", "new.example")
	require.NoError(t, os.RemoveAll(filepath.Join(root, "..v1")))
	eventually(t, "the new certificate is used", func() bool { return r.names(t) == "new.example" })
	publish("..v3", "newest.example")
	eventually(t, "the next one, too", func() bool { return r.names(t) == "newest.example" })
}

func TestPlainBytesAreRefusedByTLS(t *testing.T) {
	r := secure(t, t.TempDir(), listen.Config{})
	conn := r.socket(t, "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00")
	eventually(t, "counted", func() bool { return r.refused.of(listen.ReasonTLS) == 1 })
	require.NoError(t, conn.Close())
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, content, 0o600))
}
