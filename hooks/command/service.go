package command

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/conf"
)

// Broker is what commands need of the broker; see *broker.Broker.
type Broker interface {
	Send(clientID string, m *broker.Message, h broker.SendHandler) error
	Publish(m *broker.Message, done func(error))
	// Clients describes up to limit sessions with client identifiers after cursor, in ascending order.
	Clients(cursor string, limit int) []broker.ClientInfo
}

// Options are what a Service is made of. Registerer and Logger may be nil.
type Options struct {
	Broker     Broker
	Store      Store
	Config     Config
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// shards is how many parts the devices are split into; each has a lock and a goroutine.
const shards = 8

// Service takes commands and brings them to devices. It is a hook for the broker (mqtt.Hook and broker.Acceptor).
type Service struct {
	mqtt.HookBase
	broker         Broker
	store          Store
	cfg            *Config
	runningTimeout int64 // milliseconds
	log            *slog.Logger
	metrics        *metrics
	seed           maphash.Seed
	shards         [shards]*shard

	topicIssues *mailbox[topicIssue] // commands from admin/commands, not looked at yet
	stored      *mailbox[*issue]     // commands that the store has, on their way to the queues
	loads       *mailbox[lateResult] // results of executions that are not in memory
	news        *mailbox[*command]   // commands with an event to tell
	ended       *mailbox[*command]   // commands that have finished, for retention

	stop    chan struct{}
	running sync.WaitGroup
	issuing sync.WaitGroup // commands that are being stored

	mu       sync.RWMutex
	commands map[string]*command // by id: those that are stored
	byKey    map[string]*issue   // by idempotency key: also those that are being stored
	order    []*command          // by age
	active   int                 // commands that are not finished, and those being stored
	bytes    int64               // of payloads in memory
	lastSeq  uint64
	started  bool
	stopped  bool
}

// New makes a service. It does not block and starts nothing.
func New(o Options) (*Service, error) {
	if o.Broker == nil || o.Store == nil {
		return nil, errors.New("command service needs a broker and a store")
	}
	if err := conf.Check(&o.Config); err != nil {
		return nil, fmt.Errorf("command service: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		broker: o.Broker, store: o.Store, cfg: &o.Config, log: o.Logger, seed: maphash.MakeSeed(),
		runningTimeout: o.Config.RunningTimeout.Milliseconds(),
		commands:       map[string]*command{}, byKey: map[string]*issue{}, stop: make(chan struct{}),
		topicIssues: newMailbox[topicIssue](256), stored: newMailbox[*issue](0), loads: newMailbox[lateResult](4096),
		news: newMailbox[*command](0), ended: newMailbox[*command](0),
	}
	for i := range s.shards {
		s.shards[i] = newShard(s)
	}
	var err error
	if s.metrics, err = newMetrics(o.Registerer, s); err != nil {
		return nil, fmt.Errorf("command service: %w", err)
	}
	return s, nil
}

// Start reads what is stored and begins to deliver. It blocks until everything unfinished is in memory. It must come
// before the broker takes connections.
func (s *Service) Start(ctx context.Context) error {
	if err := s.reload(ctx); err != nil {
		return fmt.Errorf("load commands: %w", err)
	}
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
	for _, sh := range s.shards {
		s.running.Go(func() { sh.run(s.stop) })
		sh.nudge()
	}
	s.running.Go(s.takeTopicIssues)
	s.running.Go(s.admitStored)
	s.running.Go(s.loadLate)
	s.running.Go(s.tell)
	s.running.Go(s.retain)
	return nil
}

// Stop writes what is still to be written and waits for every goroutine. Nothing is sent afterwards; what comes in is
// refused. It is the last call before the store is closed, and it is harmless to repeat.
func (s *Service) Stop() error {
	s.mu.Lock()
	if s.stopped || !s.started {
		s.stopped = true
		s.mu.Unlock()
		return nil
	}
	s.stopped = true
	s.mu.Unlock()
	s.issuing.Wait()
	close(s.stop)
	s.running.Wait()
	return nil
}

// shard is the one that a device belongs to.
func (s *Service) shard(device string) *shard {
	return s.shards[s.shardIndex(device)]
}

func (s *Service) shardIndex(device string) int { return int(maphash.String(s.seed, device) % shards) }

// lookup finds a stored command.
func (s *Service) lookup(id string) (*command, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.commands[id]; c != nil {
		return c, nil
	}
	return nil, problem(http.StatusNotFound, "there is no command %q", clip(id))
}

func nowMillis() int64 { return time.Now().UnixMilli() }
