package command

import (
	"time"

	"github.com/penstockmq/penstock/internal/conf"
)

// Config is the section "commands".
type Config struct {
	Targets        int           `yaml:"targets" default:"10000" doc:"Most devices of one command, 1 to 1000000."`
	Payload        conf.ByteSize `yaml:"payload" default:"256KiB" doc:"Largest payload of a command, in bytes."`
	PayloadMemory  conf.ByteSize `yaml:"payload_memory" default:"256MiB" doc:"Most bytes of payloads of unfinished commands; more commands are refused until some have finished."`
	Active         int           `yaml:"active" default:"10000" doc:"Most unfinished commands at once; more are refused."`
	TTL            time.Duration `yaml:"ttl" default:"24h" doc:"How long a command waits for its devices when it does not say so itself (ttl_s)."`
	MaxTTL         time.Duration `yaml:"max_ttl" default:"720h" doc:"Longest ttl_s that a command may ask for."`
	AckTimeout     time.Duration `yaml:"ack_timeout" default:"30s" doc:"How long a device may take to acknowledge the message before it is sent again, when the command does not say so itself (ack_timeout_s)."`
	ResultTimeout  time.Duration `yaml:"result_timeout" default:"0s" doc:"How long a device may take from the acknowledgement to its result, when the command does not say so itself (result_timeout_s); 0: no result is awaited, and one that comes is taken."`
	RunningTimeout time.Duration `yaml:"running_timeout" default:"24h" doc:"How long a device may stay at RUNNING when the command has no result timeout."`
	Window         int           `yaml:"window" default:"1" doc:"Messages of one lane that may be unacknowledged at one device at once, 1 to 100; with more than 1 a redelivery may overtake."`
	Queue          int           `yaml:"queue" default:"1000" doc:"Most executions that wait for one device."`
	QueuePolicy    string        `yaml:"queue_policy" default:"reject" doc:"What happens when a device's queue is full: reject (the new one is UNDELIVERABLE) or drop_oldest (the oldest one is)."`
	BackoffMin     time.Duration `yaml:"backoff_min" default:"500ms" doc:"Upper end of the random pause before the second attempt; it doubles with each further attempt."`
	BackoffMax     time.Duration `yaml:"backoff_max" default:"1m" doc:"Longest pause between two attempts."`
	Attempts       int           `yaml:"attempts" default:"0" doc:"Most attempts to send before an execution is UNDELIVERABLE; 0: as many as fit before it expires."`
	ResultBytes    conf.ByteSize `yaml:"result_bytes" default:"64KiB" doc:"How much of a device's result is kept, in bytes; what is longer is cut and marked."`
	EventInterval  time.Duration `yaml:"event_interval" default:"100ms" doc:"Shortest time between two events of one command; what happens in between is told together."`
	EventDetail    int           `yaml:"event_detail" default:"100" doc:"Events of commands with up to this many devices tell each transition; those of bigger ones only the counts."`
	Keep           time.Duration `yaml:"keep" default:"168h" doc:"How long a finished command is kept."`
	KeepMax        int           `yaml:"keep_max" default:"10000" doc:"Most finished commands that are kept; the oldest go first."`
}

// The values of Config.QueuePolicy.
const (
	PolicyReject     = "reject"
	PolicyDropOldest = "drop_oldest"
)

// Validate reports values that the service cannot work with.
func (c *Config) Validate(report func(key, problem string)) {
	between := func(key string, v, low, high int) {
		if v < low || v > high {
			report(key, "is out of its range")
		}
	}
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			report(key, "must be longer than 0")
		}
	}
	between("targets", c.Targets, 1, 1_000_000)
	between("active", c.Active, 1, 1_000_000)
	between("window", c.Window, 1, 100)
	between("queue", c.Queue, 1, 100_000)
	between("attempts", c.Attempts, 0, 1_000_000)
	between("event_detail", c.EventDetail, 0, 10_000)
	between("keep_max", c.KeepMax, 0, 10_000_000)
	between("payload", int(c.Payload), 1, 256<<20)
	between("payload_memory", int(c.PayloadMemory), int(c.Payload), 1<<40)
	between("result_bytes", int(c.ResultBytes), 0, 16<<20)
	positive("ttl", c.TTL)
	positive("ack_timeout", c.AckTimeout)
	positive("running_timeout", c.RunningTimeout)
	positive("backoff_min", c.BackoffMin)
	positive("event_interval", c.EventInterval)
	if c.MaxTTL < c.TTL {
		report("max_ttl", "must not be shorter than ttl")
	}
	if c.BackoffMax < c.BackoffMin {
		report("backoff_max", "must not be shorter than backoff_min")
	}
	if c.ResultTimeout < 0 {
		report("result_timeout", "must not be negative")
	}
	if c.Keep < 0 {
		report("keep", "must not be negative")
	}
	if c.QueuePolicy != PolicyReject && c.QueuePolicy != PolicyDropOldest {
		report("queue_policy", "must be reject or drop_oldest")
	}
}
