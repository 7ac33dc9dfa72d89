package listen

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
)

// certificates holds what TLS handshakes use, and replaces it as a whole. Each replacement is a new tls.Config with
// session ticket keys of its own, so that a client whose authority was removed cannot come back with an old ticket.
type certificates struct {
	certFile, keyFile, caFile string
	clientAuth                tls.ClientAuthType
	minVersion                uint16

	current atomic.Pointer[tls.Config]

	mu     sync.Mutex // serialises reload
	digest [sha256.Size]byte
}

func newCertificates(cfg Config) (*certificates, error) {
	c := &certificates{certFile: cfg.Cert, keyFile: cfg.Key, caFile: cfg.ClientCA, minVersion: tls.VersionTLS12}
	if cfg.MinTLS == "1.3" {
		c.minVersion = tls.VersionTLS13
	}
	switch cfg.ClientAuth {
	case "require":
		c.clientAuth = tls.RequireAndVerifyClientCert
	case "optional":
		c.clientAuth = tls.VerifyClientCertIfGiven
	}
	_, err := c.reload()
	return c, err
}

// leaf returns the certificate that is shown to clients.
func (c *certificates) leaf() *x509.Certificate { return c.current.Load().Certificates[0].Leaf }

// reload reads the files and puts them in use; changed is false when they are the ones in use already.
func (c *certificates) reload() (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	certPEM, err := readFile("certificate", c.certFile)
	if err != nil {
		return false, err
	}
	keyPEM, err := readFile("key", c.keyFile)
	if err != nil {
		return false, err
	}
	var caPEM []byte
	if c.caFile != "" {
		if caPEM, err = readFile("client CA", c.caFile); err != nil {
			return false, err
		}
	}
	digest := digestOf(certPEM, keyPEM, caPEM)
	if digest == c.digest {
		return false, nil
	}
	config, err := c.build(certPEM, keyPEM, caPEM)
	if err != nil {
		return false, err
	}
	c.current.Store(config)
	c.digest = digest
	return true, nil
}

func (c *certificates) build(certPEM, keyPEM, caPEM []byte) (*tls.Config, error) {
	if err := checkCertificate(certPEM); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.certFile, err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key %s for certificate %s: %w", c.keyFile, c.certFile, err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: c.minVersion, ClientAuth: c.clientAuth}
	if c.caFile != "" {
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(caPEM) {
			return nil, fmt.Errorf("client CA %s holds no certificate", c.caFile)
		}
	}
	return config, nil
}

// checkCertificate looks at the certificate alone, so that what tls.X509KeyPair finds thereafter is the key's fault.
func checkCertificate(certPEM []byte) error {
	for {
		var block *pem.Block
		if block, certPEM = pem.Decode(certPEM); block == nil {
			return errors.New("holds no certificate in PEM")
		}
		if block.Type == "CERTIFICATE" {
			_, err := x509.ParseCertificate(block.Bytes)
			return err
		}
	}
}

func readFile(what, file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, fmt.Errorf("read %s %s: %w", what, file, err)
	}
	return content, nil
}

// digestOf hashes each part before the whole, so that moving bytes from one file to the next is a change.
func digestOf(parts ...[]byte) [sha256.Size]byte {
	var sums []byte
	for _, part := range parts {
		sum := sha256.Sum256(part)
		sums = append(sums, sum[:]...)
	}
	return sha256.Sum256(sums)
}
