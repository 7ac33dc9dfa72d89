package bridge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// Retries inside sarama bridge a change of leader. They are few: a longer trouble is for the spool.
const (
	produceRetries  = 3
	metadataRetries = 3
	retryBackoff    = 150 * time.Millisecond
)

// saramaConfig makes sarama's configuration, without the parts that differ for each producer (see gate.attach). It
// reads the files that the TLS section names.
func saramaConfig(c *KafkaConfig) (*sarama.Config, error) {
	version, err := sarama.ParseKafkaVersion(c.Version)
	if err != nil {
		return nil, fmt.Errorf("read kafka.version: %w", err)
	}
	s := sarama.NewConfig()
	s.ClientID = c.ClientID
	s.Version = version
	s.ChannelBufferSize = 1024
	s.Net.MaxOpenRequests = 1 // as idempotence demands of sarama
	s.Net.DialTimeout = c.DialTimeout
	s.Net.WriteTimeout = c.AckTimeout
	s.Net.ReadTimeout = c.AckTimeout + time.Second // the watch over answers strikes first; this one is for the rest
	s.Metadata.Full = false                        // only the topics of our routes
	s.Metadata.Retry.Max = metadataRetries
	s.Metadata.Timeout = c.AckTimeout
	c.applyProducer(s)
	if err := c.SASL.apply(s); err != nil {
		return nil, err
	}
	if c.TLS.Enabled {
		s.Net.TLS.Enable = true
		if s.Net.TLS.Config, err = c.TLS.load(); err != nil {
			return nil, err
		}
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("check kafka section: %w", err)
	}
	return s, nil
}

func (c *KafkaConfig) applyProducer(s *sarama.Config) {
	p := &s.Producer
	p.Idempotent = true
	p.RequiredAcks = sarama.WaitForAll
	p.Partitioner = sarama.NewHashPartitioner // FNV-1a of the key
	p.Timeout = c.AckTimeout
	p.Compression = codecs[c.Compression]
	p.MaxMessageBytes = int(c.MaxMessageBytes)
	p.Retry.Max = produceRetries
	p.Transaction.Retry.Max = metadataRetries // applies to the request for a producer id, too
	p.Return.Successes = true
	p.Return.Errors = true
	if c.Linger > 0 {
		p.Flush.Frequency = c.Linger
		p.Flush.Bytes = int(c.BatchBytes)
	}
}

func (c *SASLConfig) apply(s *sarama.Config) error {
	if c.Mechanism == "" {
		return nil
	}
	s.Net.SASL.Enable = true
	s.Net.SASL.Mechanism = sarama.SASLMechanism(c.Mechanism)
	s.Net.SASL.User = c.Username
	s.Net.SASL.Password = c.Password.Reveal()
	switch c.Mechanism {
	case sarama.SASLTypePlaintext:
	case sarama.SASLTypeSCRAMSHA256:
		s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case sarama.SASLTypeSCRAMSHA512:
		s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	default:
		return fmt.Errorf("read kafka.sasl.mechanism: %q is unknown", c.Mechanism)
	}
	return nil
}

// scramClient is sarama's view of one SCRAM conversation (RFC 5802).
type scramClient struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err != nil {
		return fmt.Errorf("begin SCRAM: %w", err)
	}
	c.ClientConversation = client.NewConversation()
	return nil
}

func (c *TLSConfig) load() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read kafka.tls.ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read kafka.tls.ca: %s holds no PEM certificate", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read kafka.tls.cert and kafka.tls.key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// permanent reports whether Kafka will never take this very record, however often it is tried.
func permanent(err error) bool {
	var local sarama.ConfigurationError // what sarama returns for a record above MaxMessageBytes
	return errors.Is(err, sarama.ErrMessageSizeTooLarge) || errors.Is(err, sarama.ErrInvalidRecord) ||
		errors.Is(err, sarama.ErrInvalidTimestamp) || errors.As(err, &local)
}

// errorKind is a short word for penstock_kafka_errors_total{kind}.
func errorKind(err error) string {
	var kafka sarama.KError
	switch {
	case errors.Is(err, errAckTimeout):
		return "ack_timeout"
	case permanent(err):
		return "record"
	case errors.As(err, &kafka):
		return fmt.Sprintf("kafka_%d", int16(kafka))
	default:
		return "connection"
	}
}
