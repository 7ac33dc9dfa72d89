package bridge

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/penstockmq/penstock/internal/conf"
)

// KafkaConfig says where Kafka is and how uplink records are produced to it. Always so: idempotent, acks = all, FNV-1a
// hash of the key for the partition.
type KafkaConfig struct {
	Brokers         []string      `yaml:"brokers" doc:"Kafka brokers to start from, as host:port; none: uplink stays in the local log."`
	ClientID        string        `yaml:"client_id" default:"penstock" doc:"Name of this client in Kafka's logs, quotas and metrics."`
	Version         string        `yaml:"version" default:"2.8.0" doc:"Oldest Kafka version among the brokers; at least 2.1.0."`
	Compression     string        `yaml:"compression" default:"none" doc:"Compression of batches: none, gzip, snappy, lz4 or zstd."`
	Linger          time.Duration `yaml:"linger" default:"2ms" doc:"How long a record waits for others to share its batch, 0 to 1s; it adds to the time until PUBACK."`
	BatchBytes      conf.ByteSize `yaml:"batch_bytes" default:"256KiB" doc:"Size at which a request is sent without lingering, 1KiB to 16MiB."`
	MaxMessageBytes conf.ByteSize `yaml:"max_message_bytes" default:"1000000" doc:"Largest record and largest batch of a partition, 1KiB to 64MiB; not above Kafka's message.max.bytes. Larger publishes are refused."`
	MaxInflight     conf.ByteSize `yaml:"max_inflight" default:"32MiB" doc:"Bytes of records that wait for Kafka's answer in memory, 1MiB to 4GiB; what is above goes to the spool."`
	AckTimeout      time.Duration `yaml:"ack_timeout" default:"5s" doc:"How long Kafka may go without answering before records go to the spool, 100ms to 5m."`
	DialTimeout     time.Duration `yaml:"dial_timeout" default:"3s" doc:"How long connecting to a broker may take, 100ms to 1m."`
	SASL            SASLConfig    `yaml:"sasl"`
	TLS             TLSConfig     `yaml:"tls"`
}

// SASLConfig says who we are to Kafka.
type SASLConfig struct {
	Mechanism string      `yaml:"mechanism" doc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: no SASL."`
	Username  string      `yaml:"username" doc:"User name for SASL."`
	Password  conf.Secret `yaml:"password" doc:"Password for SASL."`
}

// TLSConfig says how connections to Kafka are secured. Verification cannot be switched off.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled" default:"false" doc:"Connect with TLS 1.2 or later."`
	CA         string `yaml:"ca" doc:"File with the PEM certificates of the authorities that sign Kafka's certificates; empty: the system's."`
	Cert       string `yaml:"cert" doc:"File with our PEM certificate, for mutual TLS."`
	Key        string `yaml:"key" doc:"File with the PEM private key of cert."`
	ServerName string `yaml:"server_name" doc:"Name that Kafka's certificates must have; empty: the host of each broker's address."`
}

// SpoolConfig bounds what is kept on disk: what waits for Kafka, or, with no Kafka configured, the local log.
type SpoolConfig struct {
	MaxBytes  conf.ByteSize `yaml:"max_bytes" default:"1GiB" doc:"Room on disk, 1MiB or more. Full while Kafka is down: publishes are refused. Full without Kafka: the oldest records are removed."`
	Retention time.Duration `yaml:"retention" default:"72h" doc:"Without Kafka: how long records are kept, 1s or more; 0: as long as there is room. What waits for Kafka never ages out."`
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

var mechanisms = []string{sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512}

// Validate reports everything that is wrong with the section. It does not read the files that it names.
func (c *KafkaConfig) Validate(report func(key, problem string)) {
	for i, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			report(fmt.Sprintf("brokers[%d]", i), "is not host:port")
		}
	}
	if v, err := sarama.ParseKafkaVersion(c.Version); err != nil || !v.IsAtLeast(sarama.V2_1_0_0) {
		report("version", "is not a Kafka version from 2.1.0 on")
	}
	if _, ok := codecs[c.Compression]; !ok {
		report("compression", "is not one of none, gzip, snappy, lz4, zstd")
	}
	between(report, "linger", c.Linger, 0, time.Second)
	between(report, "batch_bytes", c.BatchBytes, kib, 16*mib)
	between(report, "max_message_bytes", c.MaxMessageBytes, kib, 64*mib)
	between(report, "max_inflight", c.MaxInflight, mib, 4*gib)
	between(report, "ack_timeout", c.AckTimeout, 100*time.Millisecond, 5*time.Minute)
	between(report, "dial_timeout", c.DialTimeout, 100*time.Millisecond, time.Minute)
	c.SASL.check(report)
	c.TLS.check(report)
}

func between[T time.Duration | conf.ByteSize](report func(key, problem string), key string, v, least, most T) {
	if v < least || v > most {
		report(key, fmt.Sprintf("is %v, which is not from %v to %v", v, least, most))
	}
}

func (c *SASLConfig) check(report func(key, problem string)) {
	switch {
	case c.Mechanism == "" && (c.Username != "" || c.Password != ""):
		report("sasl.mechanism", "is missing: write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	case c.Mechanism == "":
	case !slices.Contains(mechanisms, c.Mechanism):
		report("sasl.mechanism", "is not one of "+strings.Join(mechanisms, ", "))
	case c.Username == "" || c.Password == "":
		report("sasl", "needs username and password")
	}
}

func (c *TLSConfig) check(report func(key, problem string)) {
	if (c.Cert == "") != (c.Key == "") {
		report("tls", "needs both cert and key, or neither")
	}
	if !c.Enabled && (c.CA != "" || c.Cert != "" || c.ServerName != "") {
		report("tls.enabled", "is false, but other keys of tls are set")
	}
}

// Validate reports everything that is wrong with the section.
func (c *SpoolConfig) Validate(report func(key, problem string)) {
	if c.MaxBytes < mib {
		report("max_bytes", "is less than 1MiB")
	}
	if c.Retention < 0 || c.Retention > 0 && c.Retention < time.Second {
		report("retention", "is less than 1s")
	}
}
