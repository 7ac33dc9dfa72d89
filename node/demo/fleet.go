// Package demo simulates devices that talk to the node over real MQTT connections, for penstock serve --demo.
package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"
)

// Options are what a Fleet is made of.
type Options struct {
	URL    string        // where the devices connect, for example mqtt://127.0.0.1:1883
	Count  int           // devices: pump-1 to pump-{Count}
	Every  time.Duration // between two reports of one device
	Work   time.Duration // how long a device works on a command
	Logger *slog.Logger
}

// Fleet is a number of simulated pumps. Each reports under devices/{id}/up/telemetry and answers commands with RUNNING
// and then SUCCEEDED.
type Fleet struct {
	cancel context.CancelFunc
	pumps  sync.WaitGroup
}

// Start connects the devices in the background; they connect again when a connection ends, until Stop.
func Start(opts Options) (*Fleet, error) {
	server, err := url.Parse(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("start simulated devices: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Fleet{cancel: cancel}
	for i := range opts.Count {
		p := newPump(fmt.Sprintf("pump-%d", i+1), server, opts)
		if err := p.connect(ctx); err != nil {
			f.Stop()
			return nil, fmt.Errorf("start simulated devices: %w", err)
		}
		f.pumps.Go(func() { p.run(ctx) })
	}
	return f, nil
}

// Stop disconnects the devices and waits for them.
func (f *Fleet) Stop() {
	f.cancel()
	f.pumps.Wait()
}
