package node

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockmq/penstock/broker/listen"
)

// listener is an open port and what it was configured as.
type listener struct {
	*listen.Listener
	name, kind, path string
}

// Accept makes a listener one of package net, for HTTP.
func (l listener) Accept() (net.Conn, error) { return l.Listener.Accept() }

// openListeners opens the MQTT ports, so that one that is taken is known before anything has started.
func (n *Node) openListeners() error {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_sockets_refused_total",
		Help: "Sockets closed before MQTT began: by address, PROXY header, TLS or WebSocket handshake.",
	}, []string{"listener", "reason"})
	if err := n.registry.Register(refused); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	names := map[string]int{}
	for i := range n.cfg.Listeners {
		c := &n.cfg.Listeners[i]
		opts := c.options()
		opts.Name = cmp.Or(c.Name, c.Type)
		if names[opts.Name]++; names[opts.Name] > 1 {
			opts.Name = fmt.Sprintf("%s-%d", opts.Name, names[opts.Name])
		}
		name := opts.Name
		// A WebSocket message may hold a packet that is one byte too large, which MQTT then answers.
		opts.MaxMessage = max(16<<20, 2*int64(n.cfg.Limits.PacketSize))
		opts.Admit = func(remote netip.Addr) (bool, string) { return n.guard.Admit(remote, name) }
		opts.Refused = func(reason string) { refused.WithLabelValues(name, reason).Inc() }
		opts.Logger = n.log
		l, err := n.open(opts)
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, l)
	}
	return nil
}

// openHTTP opens the port of HTTP, over TLS where there is a certificate.
func (n *Node) openHTTP() (err error) {
	c := &n.cfg.HTTP
	opts := listen.Config{Name: "http", Type: "tcp", Address: c.Address, Cert: c.Cert, Key: c.Key, Logger: n.log}
	if c.Cert != "" {
		opts.Type = "tls"
	}
	n.http, err = n.open(opts)
	return err
}

func (n *Node) open(opts listen.Config) (listener, error) {
	l, err := listen.New(opts)
	if err != nil {
		return listener{}, err
	}
	n.closers.push("close listener "+opts.Name, func(context.Context) error { return l.Close() })
	return listener{l, opts.Name, opts.Type, opts.Path}, nil
}

var schemes = map[string]string{"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"}

// url is what a client is told to connect to.
func (l *listener) url() string {
	url := schemes[l.kind] + "://" + l.reachable()
	if l.kind == "ws" || l.kind == "wss" {
		url += l.path
	}
	return url
}

// reachable is the listener's address with the machine's name in the place of "any address".
func (l *listener) reachable() string {
	address := l.Addr().String()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			return net.JoinHostPort(name, port)
		}
	}
	return address
}

// URLs are where clients connect: http.public_urls, or else the listeners, with their real ports.
func (n *Node) URLs() []string {
	if len(n.cfg.HTTP.PublicURLs) > 0 {
		return n.cfg.HTTP.PublicURLs
	}
	urls := make([]string, len(n.listeners))
	for i := range n.listeners {
		urls[i] = n.listeners[i].url()
	}
	return urls
}

// HTTPURL is where HTTP is served, with its real port.
func (n *Node) HTTPURL() string {
	scheme := "http"
	if n.http.kind == "tls" {
		scheme = "https"
	}
	return scheme + "://" + n.http.reachable()
}

// Addresses returns the host:port of each listener by name, with real ports; HTTP is "http".
func (n *Node) Addresses() map[string]string {
	out := map[string]string{"http": n.http.Addr().String()}
	for i := range n.listeners {
		out[n.listeners[i].name] = n.listeners[i].Addr().String()
	}
	return out
}

// urlOf returns the URL of the first listener of a type, or "".
func (n *Node) urlOf(kind string) string {
	for i := range n.listeners {
		if n.listeners[i].kind == kind {
			return n.listeners[i].url()
		}
	}
	return ""
}
