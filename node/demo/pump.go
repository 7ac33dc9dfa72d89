package demo

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

const (
	keepAlive = 30 // seconds
	// maxCommands bounds the commands that wait for a simulated device; a real one would have a bound too.
	maxCommands = 64
	callTimeout = 5 * time.Second
)

type pump struct {
	id       string
	server   *url.URL
	every    time.Duration
	work     time.Duration
	log      *slog.Logger
	commands chan command
	conn     *autopaho.ConnectionManager
	started  time.Time
}

type command struct {
	execution string
	payload   string
}

func newPump(id string, server *url.URL, opts Options) *pump {
	return &pump{
		id: id, server: server, every: opts.Every, work: opts.Work, log: opts.Logger.With("client_id", id),
		commands: make(chan command, maxCommands), started: time.Now(),
	}
}

func (p *pump) connect(ctx context.Context) (err error) {
	p.conn, err = autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{p.server}, KeepAlive: keepAlive, CleanStartOnInitialConnection: true,
		ReconnectBackoff: backoff,
		OnConnectionUp:   func(conn *autopaho.ConnectionManager, _ *paho.Connack) { p.subscribe(ctx, conn) },
		OnConnectError:   func(err error) { p.log.Debug("simulated device cannot connect", "error", err) },
		ClientConfig: paho.ClientConfig{
			ClientID:          p.id,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){p.received},
		},
	})
	return err
}

// backoff is asked before the first attempt too.
func backoff(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	return time.Second + rand.N(time.Second)
}

func (p *pump) subscribe(ctx context.Context, conn *autopaho.ConnectionManager) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	filter := "devices/" + p.id + "/commands/+"
	_, err := conn.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}}})
	if err != nil {
		p.log.Debug("simulated device cannot subscribe", "topic", filter, "error", err)
	}
}

// received takes a command; the client acknowledges it when this returns.
func (p *pump) received(m paho.PublishReceived) (bool, error) {
	execution := m.Packet.Topic[strings.LastIndexByte(m.Packet.Topic, '/')+1:]
	select {
	case p.commands <- command{execution, string(m.Packet.Payload)}:
	default:
		p.log.Debug("simulated device has too many commands", "execution_id", execution)
	}
	return true, nil
}

func (p *pump) run(ctx context.Context) {
	// Reports of the fleet spread over the interval, as those of real devices would.
	report := time.NewTimer(rand.N(p.every))
	defer report.Stop()
	for {
		select {
		case <-ctx.Done():
			<-p.conn.Done()
			return
		case <-report.C:
			p.publish(ctx, "up/telemetry", p.telemetry())
			report.Reset(p.every)
		case c := <-p.commands:
			p.obey(ctx, c)
		}
	}
}

func (p *pump) obey(ctx context.Context, c command) {
	topic := "results/" + c.execution
	p.publish(ctx, topic, map[string]any{"state": "RUNNING", "progress": 50})
	select {
	case <-ctx.Done():
		return
	case <-time.After(p.work):
	}
	done := map[string]string{"did": c.payload}
	p.publish(ctx, topic, map[string]any{"state": "SUCCEEDED", "progress": 100, "result": done})
}

// telemetry is a slow wave, so that a graph of it looks alive.
func (p *pump) telemetry() map[string]any {
	phase := time.Since(p.started).Seconds()/60 + float64(len(p.id))
	return map[string]any{
		"at":           time.Now().UTC().Format(time.RFC3339Nano),
		"pressure_bar": math.Round(400+100*math.Sin(phase)+10*rand.Float64()) / 100,
		"flow_m3h":     math.Round(1200+100*math.Cos(phase)) / 10,
	}
}

func (p *pump) publish(ctx context.Context, topic string, content map[string]any) {
	payload, err := json.Marshal(content)
	if err != nil {
		p.log.Error("simulated device", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	topic = "devices/" + p.id + "/" + topic
	if _, err := p.conn.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: payload}); err != nil {
		p.log.Debug("simulated device cannot publish", "topic", topic, "error", err)
	}
}
