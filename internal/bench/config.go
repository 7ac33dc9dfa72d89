package bench

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Mode is the shape of the load.
type Mode string

// The modes that Run knows.
const (
	ModeIdle           Mode = "idle"             // connections with one subscription each, and no traffic
	ModeConnect        Mode = "connect"          // how fast connections are accepted
	ModeFanIn          Mode = "fan-in"           // many publishers, none or few subscribers that hear all of them
	ModeFanOut         Mode = "fan-out"          // few publishers, many subscribers that hear all of them
	ModeDeviceToDevice Mode = "device-to-device" // pairs: one publisher and its one subscriber
	ModeUplink         Mode = "uplink"           // publishers under devices/{id}/up, no subscriber
)

// Modes lists every mode in the order in which help texts name them.
func Modes() []Mode {
	return []Mode{ModeIdle, ModeConnect, ModeFanIn, ModeFanOut, ModeDeviceToDevice, ModeUplink}
}

// Auto in a count of clients means the mode's own default.
const Auto = -1

const (
	maxInflight  = 65535 // there are no more packet identifiers
	maxClients   = 2_000_000
	maxSize      = 16 << 20
	defaultQuiet = 2 * time.Second
)

// Config describes one run. NewConfig gives the defaults; Run checks it.
type Config struct {
	Target      string // host:port
	Mode        Mode
	Clients     int // connections of idle and connect
	Publishers  int // Auto: the mode's default
	Subscribers int // Auto: the mode's default
	QoS         int // 0, 1 or 2, for publishing and subscribing
	Size        int // payload bytes, at least StampSize
	// Rate is messages a second over all publishers (connections a second in ModeConnect). Latency then counts from
	// the time a message was due, whether or not it could be sent. 0: as fast as the window allows.
	Rate float64
	// Inflight is the window of each publisher: messages that are not yet acknowledged (QoS 1 and 2) and, where Rate is
	// 0 and there are subscribers, not yet delivered to all of them. It bounds handshakes under way in ModeConnect.
	Inflight  int
	Duration  time.Duration // of the measured interval; in ModeIdle how long the connections are held
	Messages  int64         // ends the measured interval sooner; 0: only Duration does
	Warmup    time.Duration // load before the measured interval
	Settle    time.Duration // wait between connecting and measuring
	Drain     time.Duration // longest wait for acknowledgements and deliveries after the last publish
	Timeout   time.Duration // longest wait for all connections and subscriptions
	PIDs      []int         // processes of the broker, whose CPU time and memory are read
	Username  string
	Password  string
	Version   byte // 4: MQTT 3.1.1, 5: MQTT 5
	Clean     bool // clean session (clean start)
	KeepAlive time.Duration
	ClientID  string // prefix of the client identifiers; empty: new for each run
	// Topic and Filter replace the mode's topics. {run}, {i}, {id} and {peer} stand for the run's name, the client's
	// number, its client identifier, and that of its partner in ModeDeviceToDevice.
	Topic  string
	Filter string
}

// NewConfig returns a configuration with every default for a mode.
func NewConfig(mode Mode, target string) Config {
	return Config{
		Target: target, Mode: mode, Clients: 1000, Publishers: Auto, Subscribers: Auto, Size: 64, Inflight: 100,
		Duration: 5 * time.Second, Warmup: time.Second, Settle: 200 * time.Millisecond, Drain: 30 * time.Second,
		Timeout: 60 * time.Second, Version: 4, Clean: true,
	}
}

// population is how many clients of each kind a mode has when nothing else is said.
func (c *Config) population() (publishers, subscribers int) {
	switch c.Mode {
	case ModeFanIn:
		if c.QoS == 0 {
			return 50, 1
		}
		return 50, 0
	case ModeFanOut:
		return 1, 500
	case ModeDeviceToDevice:
		return 100, 100
	case ModeUplink:
		return 100, 0
	}
	return 0, 0
}

// complete fills what was left to the mode.
func (c *Config) complete() {
	publishers, subscribers := c.population()
	if c.Publishers == Auto {
		c.Publishers = publishers
	}
	switch {
	case c.Mode == ModeDeviceToDevice:
		c.Subscribers = c.Publishers
	case c.Subscribers == Auto:
		c.Subscribers = subscribers
	}
	if c.Mode == ModeUplink && c.QoS == 0 {
		c.QoS = 1
	}
	topic, filter := c.topics()
	if c.Topic == "" {
		c.Topic = topic
	}
	if c.Filter == "" {
		c.Filter = filter
	}
}

func (c *Config) topics() (topic, filter string) {
	switch c.Mode {
	case ModeIdle, ModeConnect:
		return "", "devices/{id}/commands"
	case ModeFanOut:
		return "bench/{run}/out", "bench/{run}/out"
	case ModeDeviceToDevice:
		return "devices/{peer}/in", "devices/{id}/in"
	case ModeUplink:
		return "devices/{id}/up/data", ""
	}
	return "bench/{run}/in/{i}", "bench/{run}/in/#"
}

// Validate reports every fault of the configuration together.
func (c Config) Validate() error {
	c.complete()
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(c.Target != "", "target: host:port is needed")
	check(c.knownMode(), "mode: %q is none of %v", c.Mode, Modes())
	check(c.QoS >= 0 && c.QoS <= 2, "qos: %d is not 0, 1 or 2", c.QoS)
	check(c.Version == 4 || c.Version == 5, "version: %d is not 4 (MQTT 3.1.1) or 5", c.Version)
	check(c.Size >= StampSize && c.Size <= maxSize, "size: %d is not in %d…%d bytes", c.Size, StampSize, maxSize)
	check(c.Inflight >= 1 && c.Inflight <= maxInflight, "inflight: %d is not in 1…%d", c.Inflight, maxInflight)
	check(c.Rate >= 0 && c.Rate <= 1e9, "rate: %g is not in 0…1e9 a second", c.Rate)
	check(c.Messages >= 0, "messages: %d is negative", c.Messages)
	check(c.Duration > 0 || c.Mode == ModeIdle || c.Mode == ModeConnect, "duration: %v is not positive", c.Duration)
	check(c.Warmup >= 0 && c.Settle >= 0 && c.Drain >= 0, "warmup, settle and drain: must not be negative")
	check(c.Timeout > 0, "timeout: %v is not positive", c.Timeout)
	check(c.KeepAlive >= 0 && c.KeepAlive <= 65535*time.Second, "keepalive: %v is not in 0…65535s", c.KeepAlive)
	for _, n := range []int{c.Clients, c.Publishers, c.Subscribers} {
		check(n >= Auto && n <= maxClients, "clients: %d is not in 0…%d", n, maxClients)
	}
	switch c.Mode {
	case ModeIdle, ModeConnect:
		check(c.Clients > 0, "clients: at least one is needed")
	default:
		check(c.Publishers != 0, "publishers: at least one is needed")
	}
	check(c.Subscribers == 0 || c.Filter != "",
		"filter: mode %s has no subscribers of its own; name what they subscribe to", c.Mode)
	check(!strings.ContainsAny(c.Topic, "+#"), "topic: %q has a wildcard", c.Topic)
	return errors.Join(faults...)
}

func (c *Config) knownMode() bool {
	for _, m := range Modes() {
		if c.Mode == m {
			return true
		}
	}
	return false
}
