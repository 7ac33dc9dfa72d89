package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 15 * time.Second
	stopTimeout  = 15 * time.Second
	// logTail is how much of its output is shown of a broker that does not start.
	logTail = 2000
)

// Contender is a broker that can be compared.
type Contender struct {
	Name string
	// Start brings the broker up with nothing kept from before, where it can; dir is its own and empty.
	Start func(ctx context.Context, dir string) (*Instance, error)
}

// Instance is a broker that runs.
type Instance struct {
	Address string
	PIDs    []int
	Stop    func() // ends it and waits until it has ended; nil for one that goes on
}

// External is a broker that somebody else runs. It is never restarted, so that its memory is compared only where
// nothing ran before.
func External(name, address string, pids ...int) Contender {
	return Contender{name, func(context.Context, string) (*Instance, error) {
		return &Instance{Address: address, PIDs: pids}, nil
	}}
}

// mosquittoConfig lifts every limit that would cost messages or throughput, and keeps nothing on disk.
const mosquittoConfig = `listener %s %s
allow_anonymous true
persistence false
max_connections -1
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 0
set_tcp_nodelay true
sys_interval 0
log_type none
`

// Mosquitto starts a mosquitto of this machine.
func Mosquitto(program string) Contender {
	return Contender{"mosquitto", func(ctx context.Context, dir string) (*Instance, error) {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		host, port, _ := net.SplitHostPort(address)
		file := filepath.Join(dir, "mosquitto.conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, mosquittoConfig, port, host), 0o600); err != nil {
			return nil, err
		}
		return launch(ctx, dir, address, program, "-c", file)
	}}
}

// penstockConfig keeps nothing on disk, lets everyone do everything, and allows the same windows and queues as
// mosquittoConfig: a full window of all publishers has room in one subscriber's buffer.
const penstockConfig = `node: {name: bench, data: ""}
listeners: [{type: tcp, address: %q}]
http: {address: %q, admin_token: "bench-on-the-loopback"}
auth: {anonymous: true}
acl: {file: %q}
limits: {queue: 1000000, queue_bytes: 1GiB, out_buffer: 64MiB, inflight: 65535, receive_maximum: 65535}
`

const openACL = `rules: [{allow: all, topics: ["#"]}]
`

// Penstock starts a node of this program.
func Penstock(program string) Contender {
	return Contender{"penstock", func(ctx context.Context, dir string) (*Instance, error) {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		web, err := freeAddress()
		if err != nil {
			return nil, err
		}
		acl, file := filepath.Join(dir, "acl.yaml"), filepath.Join(dir, "penstock.yaml")
		if err := os.WriteFile(acl, []byte(openACL), 0o600); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, penstockConfig, address, web, acl), 0o600); err != nil {
			return nil, err
		}
		return launch(ctx, dir, address, program, "serve", "--config", file)
	}}
}

// freeAddress finds a port of the loopback that is free now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// launch starts a program and waits until it accepts connections.
func launch(ctx context.Context, dir, address, program string, args ...string) (*Instance, error) {
	output, err := os.Create(filepath.Join(dir, "output.log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = plainEnvironment()
	cmd.SysProcAttr = apart()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	exited := make(chan struct{})
	go func() {
		// How it ended is of no interest; that it did, is.
		_ = cmd.Wait()
		close(exited)
	}()
	stop := func() { terminate(cmd.Process, exited) }
	if err := awaitListener(ctx, address, exited); err != nil {
		stop()
		return nil, fmt.Errorf("start %s: %w\n%s", program, err, tail(output.Name()))
	}
	return &Instance{Address: address, PIDs: []int{cmd.Process.Pid}, Stop: stop}, nil
}

// plainEnvironment is this process's without what would change the configuration of a node.
func plainEnvironment() []string {
	var environment []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PENSTOCK_") {
			environment = append(environment, variable)
		}
	}
	return environment
}

func awaitListener(ctx context.Context, address string, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-exited:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("it does not listen on %s: %w", address, ctx.Err())
		case <-retry.C:
		}
	}
}

func terminate(process *os.Process, exited <-chan struct{}) {
	// A process that has ended already cannot be signalled, which is as well.
	_ = process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
		return
	case <-time.After(stopTimeout):
	}
	_ = process.Kill()
	<-exited
}

func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-logTail):]))
}
