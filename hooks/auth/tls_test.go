package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{certificate, key}
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.certificate, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// handshake connects over loopback and returns what the server's side knows of the client.
func handshake(t *testing.T, server, client *tls.Config) *tls.ConnectionState {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	require.NoError(t, err)
	defer l.Close()
	dialed := make(chan net.Conn, 1)
	go func() {
		conn, err := tls.Dial("tcp", l.Addr().String(), client)
		if err != nil {
			t.Error(err)
		}
		dialed <- conn
	}()
	conn, err := l.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*tls.Conn).HandshakeContext(t.Context()))
	state := conn.(*tls.Conn).ConnectionState()
	(<-dialed).Close()
	return &state
}

func TestCertificateOfARealConnection(t *testing.T) {
	ca := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	server := func(mode tls.ClientAuthType) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "server")}, ClientCAs: pool, ClientAuth: mode}
	}
	client := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: pool, ServerName: "server", Certificates: certificates}
	}
	stranger := newAuthority(t).issue(t, "pump-7")
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		identity       string
	}{
		{"verified", server(tls.VerifyClientCertIfGiven), client(ca.issue(t, "pump-7")), "cert:pump-7"},
		{"none given", server(tls.VerifyClientCertIfGiven), client(), ""},
		{"asked for, but not verified", server(tls.RequireAnyClientCert), client(stranger), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			grant, err := w.Authenticate(t.Context(), &broker.ConnectRequest{
				ClientID: "x", TLS: handshake(t, c.server, c.client),
			})
			require.Equal(t, c.identity, grant.Identity)
			require.Equal(t, c.identity == "", err != nil)
		})
	}
}
