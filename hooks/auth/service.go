// Package auth decides who connects: device tokens that it issues to registered devices, users, client certificates,
// tokens of other issuers, and an HTTP webhook. It ends connections whose right to be there is taken away.
package auth

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/penstockmq/penstock/broker"
)

// Connections is what the service needs of the broker to end connections; *broker.Broker has it. It does not block.
type Connections interface {
	Client(clientID string) (broker.ClientInfo, bool)
	Disconnect(clientID string, code packets.Code) bool
}

// FailureCounter hears of each login that failed with wrong credentials, to ban its source. It must not block.
type FailureCounter interface {
	Failed(remote netip.Addr)
}

// Options are what New needs.
type Options struct {
	Config     Config // valid
	Store      Store
	Failures   FailureCounter // nil: nobody is told
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time      // nil: time.Now
}

// Service is the node's access control. It implements broker.Authenticator. Its methods may be called from any
// goroutine.
type Service struct {
	config   Config
	store    Store
	failures FailureCounter
	log      *slog.Logger
	now      func() time.Time

	tokens   *tokenSigner
	products map[string][]byte // key → secret
	users    *users
	admins   map[string]bool
	issuers  map[string]*issuer // iss → issuer
	webhook  *webhook           // nil: none
	guesses  *throttle          // failed logins by source and by user name
	arrivals *throttle          // registrations by source
	logLimit *rate.Limiter
	silenced atomic.Int64 // refusals that were not logged
	metrics  *metrics

	mu          sync.Mutex
	connections Connections

	recheck chan recheck // bounded: who revokes waits when it is full
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// New makes the service and starts its one goroutine. Where the configuration has no token secret it takes the store's,
// which is made at random the first time. It blocks for the store. Close ends it.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{
		config: o.Config, store: o.Store, failures: o.Failures, log: o.Logger, now: o.Now,
		products: make(map[string][]byte), admins: make(map[string]bool), issuers: make(map[string]*issuer),
		guesses:  newThrottle(o.Config.Failures.Rate, o.Config.Failures.Burst),
		arrivals: newThrottle(o.Config.Registration.Rate, int(4*o.Config.Registration.Rate)),
		logLimit: rate.NewLimiter(5, 20),
		metrics:  newMetrics(o.Registerer),
		recheck:  make(chan recheck, 1024),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	secret, err := s.tokenSecret(ctx)
	if err != nil {
		return nil, err
	}
	s.tokens = newTokenSigner(secret, s.now)
	for _, p := range o.Config.Products {
		s.products[p.Key] = []byte(p.Secret.Reveal())
	}
	for _, name := range o.Config.Admins {
		s.admins[name] = true
	}
	if s.users, err = newUsers(o.Config); err != nil {
		return nil, err
	}
	for _, c := range o.Config.JWT.Issuers {
		s.issuers[c.Issuer] = newIssuer(c, s.now)
	}
	if o.Config.Webhook.URL != "" {
		s.webhook = newWebhook(o.Config.Webhook)
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Add(1)
	go s.maintain(ctx)
	return s, nil
}

func (s *Service) tokenSecret(ctx context.Context) ([]byte, error) {
	if configured := s.config.Token.Secret.Reveal(); configured != "" {
		if len(configured) < 32 {
			s.log.Warn("auth.token.secret is short: use at least 32 random characters")
		}
		return []byte(configured), nil
	}
	proposed := make([]byte, 32)
	rand.Read(proposed) // never fails
	secret, err := s.store.TokenSecret(ctx, proposed)
	if err != nil {
		return nil, fmt.Errorf("read token secret: %w", err)
	}
	return secret, nil
}

// Bind gives the service the connections that it may end. Until then, revocations reach only new connections.
func (s *Service) Bind(c Connections) {
	s.mu.Lock()
	s.connections = c
	s.mu.Unlock()
}

// IsAdmin reports whether a verified user name is an administrator's. It does not block.
func (s *Service) IsAdmin(username string) bool { return s.admins[username] }

// Close ends the service's goroutine and waits for it.
func (s *Service) Close() {
	s.stop()
	s.done.Wait()
	if s.webhook != nil {
		s.webhook.close()
	}
}

const (
	sweepEvery   = time.Minute
	recheckAfter = 400 * time.Millisecond
)

// maintain drops what expired from the store, and looks a second time at devices whose rights were taken away: a
// connection that was being accepted at that moment is in the broker by then.
func (s *Service) maintain(ctx context.Context) {
	defer s.done.Done()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			if _, err := s.store.DropExpired(ctx, s.now()); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot drop expired tokens", "error", err)
			}
		case r := <-s.recheck:
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(r.due)):
			}
			if err := s.enforce(ctx, r.device); err != nil && ctx.Err() == nil {
				s.log.Error("cannot check a connection", "client_id", r.device, "error", err)
			}
		}
	}
}

// recheck is a device to look at once more. The queue is in order of due, so that each waits for its own moment only.
type recheck struct {
	device string
	due    time.Time
}

type metrics struct {
	logins        *prometheus.CounterVec
	registrations *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_logins_total", Help: "Decisions about MQTT logins, by the method that decided.",
		}, []string{"method", "result"}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_registrations_total", Help: "Registrations, refreshes and tokens issued by operators.",
		}, []string{"kind", "result"}),
	}
	if r != nil {
		r.MustRegister(m.logins, m.registrations)
	}
	return m
}

func resultOf(err error) string {
	if err != nil {
		return "refused"
	}
	return "accepted"
}
