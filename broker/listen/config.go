package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

const (
	defaultPath             = "/mqtt"
	defaultMaxPending       = 1000
	defaultHandshakeTimeout = 10 * time.Second
	defaultMaxMessage       = 16 << 20
)

// Config says what one listener listens on and whom it lets in. The zero value of a field is its default.
type Config struct {
	// Name is what logs, metrics and errors call the listener; default: the type.
	Name string
	// Type is "tcp", "tls", "ws" or "wss".
	Type string
	// Address is host:port as net.Listen takes it; port 0 takes a free one, see Listener.Addr.
	Address string
	// Path is where ws and wss listen; default "/mqtt". Other paths answer 404.
	Path string

	// Cert and Key are PEM files, required for tls and wss and refused for tcp and ws. Cert may hold a chain.
	Cert, Key string
	// ClientCA is a PEM file of the authorities that sign client certificates; empty: none is asked for.
	ClientCA string
	// ClientAuth is "optional" (a certificate that is sent must be valid) or "require", the default with a ClientCA.
	ClientAuth string
	// MinTLS is "1.2", the default, or "1.3".
	MinTLS string

	// ProxyProtocol is "", "v1", "v2" or "any": each connection begins with a PROXY header of that version. The
	// protocol forbids guessing, so a connection without a header is refused.
	ProxyProtocol string
	// ProxyFrom are the load balancers whose headers are believed; required with ProxyProtocol. A connection from
	// anywhere else is refused before a byte is read.
	ProxyFrom []netip.Prefix

	// Origins are the hosts ("app.example.com", or with a port to allow only that) from which pages in browsers may
	// connect by WebSocket; "*" allows all. The listener's own host, and clients that send no Origin, are always allowed.
	Origins []string
	// MaxMessage bounds one WebSocket message in bytes; default 16 MiB, negative: no bound. Messages are streamed, so
	// it is not memory that it saves, and it must leave room for the largest MQTT packet that is to be answered as such.
	MaxMessage int64

	// MaxPending bounds the sockets that have not finished their PROXY header, TLS handshake and WebSocket upgrade, or
	// have and were not yet taken by Accept; default 1000. Beyond it connections wait in the kernel's queue.
	MaxPending int
	// HandshakeTimeout bounds PROXY header, TLS handshake and WebSocket upgrade together; default 10 s. Bytes that
	// drip in do not extend it.
	HandshakeTimeout time.Duration

	// Admit decides by the real address of the client, before any TLS or WebSocket work. When it refuses, its word is the
	// reason that Refused gets (empty: ReasonDenied). It must not block, and is called from several goroutines. Nil
	// admits everyone.
	Admit func(netip.Addr) (bool, string)
	// Refused is called once for each connection that Accept will not return, with one of the Reason constants or
	// Admit's word, from several goroutines; it must not block. Connections cut by Close are not counted. Nil: not
	// counted.
	Refused func(reason string)
	// Logger gets what an operator must know at Info and above, and each refusal at Debug. Nil: nothing is logged.
	Logger *slog.Logger
}

// Reasons why a connection was refused, as Config.Refused gets them.
const (
	ReasonDenied    = "denied"
	ReasonProxy     = "proxy_header"
	ReasonTLS       = "tls_handshake"
	ReasonWebSocket = "ws_upgrade"
	ReasonTimeout   = "handshake_timeout"
)

func (c *Config) usesTLS() bool       { return c.Type == "tls" || c.Type == "wss" }
func (c *Config) usesWebSocket() bool { return c.Type == "ws" || c.Type == "wss" }

// handshakes reports whether bytes must be exchanged before a connection is ready for MQTT.
func (c *Config) handshakes() bool { return c.Type != "tcp" || c.ProxyProtocol != "" }

func (c *Config) setDefaults() {
	if c.Name == "" {
		c.Name = c.Type
	}
	if c.Path == "" {
		c.Path = defaultPath
	}
	if c.ClientAuth == "" && c.ClientCA != "" {
		c.ClientAuth = "require"
	}
	if c.MinTLS == "" {
		c.MinTLS = "1.2"
	}
	if c.MaxPending == 0 {
		c.MaxPending = defaultMaxPending
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = defaultMaxMessage
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = defaultHandshakeTimeout
	}
	if c.Admit == nil {
		c.Admit = func(netip.Addr) (bool, string) { return true, "" }
	}
	if c.Refused == nil {
		c.Refused = func(string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("listener", c.Name)
}

// validate reports every fault of the configuration at once, on one line.
func (c *Config) validate() error {
	var faults []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	check(oneOf(c.Type, "tcp", "tls", "ws", "wss"), "type %q is not tcp, tls, ws or wss", c.Type)
	check(c.Address != "", "address is missing")
	check(strings.HasPrefix(c.Path, "/"), "path %q does not begin with /", c.Path)
	check(c.MaxPending > 0, "max_pending %d is not positive", c.MaxPending)
	check(c.HandshakeTimeout > 0, "handshake_timeout %v is not positive", c.HandshakeTimeout)
	check(oneOf(c.MinTLS, "1.2", "1.3"), "min_tls %q is not 1.2 or 1.3", c.MinTLS)
	check(oneOf(c.ClientAuth, "", "optional", "require"), "client_auth %q is not optional or require", c.ClientAuth)
	check(c.ClientAuth == "" || c.ClientCA != "", "client_auth %q needs client_ca", c.ClientAuth)
	if c.usesTLS() {
		check(c.Cert != "" && c.Key != "", "type %s needs both cert and key", c.Type)
	} else {
		check(c.Cert == "" && c.Key == "" && c.ClientCA == "", "type %s does not use cert, key or client_ca", c.Type)
	}
	check(oneOf(c.ProxyProtocol, "", "v1", "v2", "any"), "proxy_protocol %q is not v1, v2 or any", c.ProxyProtocol)
	check(c.ProxyProtocol == "" || len(c.ProxyFrom) > 0,
		"proxy_protocol needs proxy_from, the addresses of the load balancers")
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

func oneOf(value string, allowed ...string) bool {
	for _, a := range allowed {
		if value == a {
			return true
		}
	}
	return false
}
