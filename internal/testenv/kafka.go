package testenv

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Kafka is a real Apache Kafka: one KRaft node, broker and controller in one JVM, on loopback. Its data and its ports
// stay the same over Stop and Start.
//
// Beside the plain listener it has one with SASL (mechanisms PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512; user KafkaUser,
// password KafkaPassword).
type Kafka struct {
	Brokers     []string // plaintext
	SASLBrokers []string // SASL_PLAINTEXT

	t       testing.TB
	dir     string
	classes string
	command *exec.Cmd
	exited  chan struct{}
	log     *os.File
}

// The one user of the SASL listener.
const (
	KafkaUser     = "penstock"
	KafkaPassword = "gate-of-a-turbine"
)

const kafkaStartBudget = 90 * time.Second

// StartKafka starts a Kafka that is stopped when the test ends. Topics are created when first used, with four
// partitions. It skips the test when the jars (internal/testenv/deps.sh kafka) or Java are not here.
func StartKafka(t testing.TB) *Kafka {
	t.Helper()
	java := Need(t, "java")
	jars := kafkaJars()
	if found, _ := filepath.Glob(filepath.Join(jars, "kafka_2.13-*.jar")); len(found) == 0 {
		Missing(t, "Apache Kafka")
	}
	ports := freePorts(t, 3)
	k := &Kafka{
		Brokers:     []string{fmt.Sprintf("127.0.0.1:%d", ports[0])},
		SASLBrokers: []string{fmt.Sprintf("127.0.0.1:%d", ports[1])},
		t:           t,
		dir:         t.TempDir(),
		classes:     filepath.Join(jars, "*"),
	}
	k.configure(ports)
	format := exec.Command(java, "-cp", k.classes, "kafka.tools.StorageTool", "format", "--cluster-id",
		"cGVuc3RvY2stdGVzdC0wMQ", "--config", k.path("server.properties"),
		"--add-scram", scramUser("SCRAM-SHA-256"), "--add-scram", scramUser("SCRAM-SHA-512"))
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("format Kafka storage: %v\n%s", err, out)
	}
	t.Cleanup(k.Kill9)
	k.Start()
	return k
}

func scramUser(mechanism string) string {
	return fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, KafkaUser, KafkaPassword)
}

func kafkaJars() string {
	if dir := os.Getenv("PENSTOCK_TEST_KAFKA"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "penstock-test", "kafka")
}

// freePorts returns ports that were free a moment ago.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("find a free port: %v", err)
		}
		defer l.Close() // all are held until all are chosen, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

func (k *Kafka) path(name string) string { return filepath.Join(k.dir, name) }

func (k *Kafka) configure(ports []int) {
	k.t.Helper()
	properties := fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[3]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,SASL_PLAINTEXT://127.0.0.1:%[2]d,CONTROLLER://127.0.0.1:%[3]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d,SASL_PLAINTEXT://127.0.0.1:%[2]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=%[4]s
num.partitions=4
auto.create.topics.enable=true
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=2
log.cleaner.enable=false
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_%[5]s="%[6]s";
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
`, ports[0], ports[1], ports[2], k.path("data"), KafkaUser, KafkaPassword)
	if err := os.WriteFile(k.path("server.properties"), []byte(properties), 0o600); err != nil {
		k.t.Fatalf("write Kafka configuration: %v", err)
	}
}

// Start starts a Kafka that was stopped or killed, and waits until it answers.
func (k *Kafka) Start() {
	k.t.Helper()
	log, err := os.OpenFile(k.path("kafka.out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Fatalf("open Kafka output: %v", err)
	}
	k.log = log
	k.command = exec.Command("java", "-Xmx512m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", k.classes, "kafka.Kafka", k.path("server.properties"))
	k.command.Stdout, k.command.Stderr = log, log
	if err := k.command.Start(); err != nil {
		k.t.Fatalf("start Kafka: %v", err)
	}
	exited := make(chan struct{})
	k.exited = exited
	go func(c *exec.Cmd) { _ = c.Wait(); close(exited) }(k.command)
	k.awaitReady()
}

func (k *Kafka) awaitReady() {
	k.t.Helper()
	deadline := time.Now().Add(kafkaStartBudget)
	for time.Now().Before(deadline) {
		if kafkaAnswers(k.Brokers[0]) {
			return
		}
		select {
		case <-k.exited:
			k.t.Fatalf("Kafka ended while it was starting:\n%s", k.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
	k.t.Fatalf("Kafka does not answer within %v:\n%s", kafkaStartBudget, k.tail())
}

// kafkaAnswers sends an ApiVersions request (version 0), to which a ready broker answers without error.
func kafkaAnswers(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	request := []byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff}
	if _, err := conn.Write(request); err != nil {
		return false
	}
	var answer [10]byte // size, correlation id, error code
	if _, err := readFull(conn, answer[:]); err != nil {
		return false
	}
	return bytes.Equal(answer[4:], []byte{0, 0, 0, 7, 0, 0})
}

func readFull(conn net.Conn, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := conn.Read(b[n:])
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

func (k *Kafka) tail() string {
	out, err := os.ReadFile(k.path("kafka.out"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(out), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// Stop ends Kafka in order and waits for it.
func (k *Kafka) Stop() { k.end(syscall.SIGTERM) }

// Kill9 ends Kafka with SIGKILL and waits for it. It does nothing when Kafka does not run.
func (k *Kafka) Kill9() { k.end(syscall.SIGKILL) }

func (k *Kafka) end(signal syscall.Signal) {
	if k.command == nil {
		return
	}
	_ = k.command.Process.Signal(syscall.SIGCONT)
	_ = k.command.Process.Signal(signal)
	select {
	case <-k.exited:
	case <-time.After(30 * time.Second):
		_ = k.command.Process.Kill()
		<-k.exited
	}
	k.command = nil
	_ = k.log.Close()
}

// Pause freezes Kafka with SIGSTOP: its connections stay open and nothing answers.
func (k *Kafka) Pause() { k.signal(syscall.SIGSTOP) }

// Resume lets a frozen Kafka go on.
func (k *Kafka) Resume() { k.signal(syscall.SIGCONT) }

func (k *Kafka) signal(s syscall.Signal) {
	k.t.Helper()
	if k.command == nil {
		k.t.Fatalf("signal Kafka: it does not run")
	}
	if err := k.command.Process.Signal(s); err != nil {
		k.t.Fatalf("signal Kafka: %v", err)
	}
}
