package bridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/conf"
)

type emptySpool struct{ Spool }

func (emptySpool) Stats() SpoolStats { return SpoolStats{First: 1} }

func defaults(t *testing.T) KafkaConfig {
	t.Helper()
	var c KafkaConfig
	require.NoError(t, conf.SetDefaults(&c))
	c.Brokers = []string{"127.0.0.1:1"}
	return c
}

func TestMetricsHaveTheirNames(t *testing.T) {
	reg := prometheus.NewRegistry()
	u, err := NewUplink(defaults(t), Options{Spool: emptySpool{}, Registerer: reg})
	require.NoError(t, err)
	u.m.kafkaErrors.WithLabelValues(errorKind(sarama.ErrNotLeaderForPartition)).Inc()
	families, err := reg.Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	assert.Equal(t, []string{"penstock_kafka_ack_seconds", "penstock_kafka_errors_total", "penstock_spool_bytes",
		"penstock_spool_messages", "penstock_spool_set_aside_total", "penstock_uplink_circuit_state",
		"penstock_uplink_inflight"}, names)
	_, err = NewUplink(defaults(t), Options{Spool: emptySpool{}, Registerer: reg})
	assert.Error(t, err, "registering twice is told")
}

func TestSaramaIsSetUpForOrderAndDurability(t *testing.T) {
	s, err := saramaConfig(ptr(defaults(t)))
	require.NoError(t, err)
	assert.True(t, s.Producer.Idempotent)
	assert.Equal(t, sarama.WaitForAll, s.Producer.RequiredAcks)
	assert.Equal(t, 1, s.Net.MaxOpenRequests)
	assert.False(t, s.Net.TLS.Enable)
}

func ptr[T any](v T) *T { return &v }

func TestTLSConfiguration(t *testing.T) {
	dir := t.TempDir()
	cert, key := writePair(t, dir)
	c := defaults(t)
	c.TLS = TLSConfig{Enabled: true, CA: cert, Cert: cert, Key: key, ServerName: "kafka.example"}
	s, err := saramaConfig(&c)
	require.NoError(t, err)
	require.True(t, s.Net.TLS.Enable)
	assert.EqualValues(t, tls.VersionTLS12, s.Net.TLS.Config.MinVersion)
	assert.False(t, s.Net.TLS.Config.InsecureSkipVerify)
	assert.Len(t, s.Net.TLS.Config.Certificates, 1)
	assert.Equal(t, "kafka.example", s.Net.TLS.Config.ServerName)

	for name, broken := range map[string]TLSConfig{
		"no such file":        {Enabled: true, CA: filepath.Join(dir, "none")},
		"no certificate":      {Enabled: true, CA: key},
		"key without its own": {Enabled: true, Cert: cert, Key: cert},
	} {
		c.TLS = broken
		_, err := saramaConfig(&c)
		assert.ErrorContains(t, err, "kafka.tls", name)
	}
}

// writePair writes a self-signed certificate and its key.
func writePair(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(path, kind string, der []byte) {
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(cert, "CERTIFICATE", der)
	write(key, "EC PRIVATE KEY", keyDER)
	return cert, key
}
