package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/broker/listen"
	"github.com/penstockmq/penstock/hooks/acl"
	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/hooks/command"
	"github.com/penstockmq/penstock/hooks/limit"
	"github.com/penstockmq/penstock/hooks/uplink"
	"github.com/penstockmq/penstock/internal/conf"
)

// Config is the whole configuration of a node. Each package defines its own section.
type Config struct {
	Node      NodeConfig         `yaml:"node" doc:"This node."`
	Listeners []ListenerConfig   `yaml:"listeners" default:"[{type: tcp, address: \"127.0.0.1:1883\"}, {type: ws, address: \"127.0.0.1:8083\"}]" doc:"Where devices connect by MQTT."`
	HTTP      HTTPConfig         `yaml:"http" doc:"Registration of devices, admin API, metrics."`
	Auth      auth.Config        `yaml:"auth" doc:"Who may connect."`
	ACL       acl.Config         `yaml:"acl" doc:"What clients may publish and subscribe to."`
	Access    limit.Config       `yaml:"access" doc:"From where clients may connect, decided before any protocol work."`
	Limits    LimitsConfig       `yaml:"limits" doc:"What clients may cost."`
	Uplink    uplink.Config      `yaml:"uplink" doc:"Which messages go up to Kafka, or to the local log where no Kafka is configured."`
	Kafka     bridge.KafkaConfig `yaml:"kafka" doc:"Where Kafka is."`
	Spool     bridge.SpoolConfig `yaml:"spool" doc:"What is kept on disk while it waits for Kafka, and of the local log."`
	Commands  command.Config     `yaml:"commands" doc:"Commands to devices."`
	Log       LogConfig          `yaml:"log" doc:"What the node writes to standard error."`

	// Demo starts simulated devices and lets everyone in; not a key, because it belongs to no configuration of a real
	// node.
	Demo bool `yaml:"-"`
}

// NodeConfig is the section node.
type NodeConfig struct {
	Name        string        `yaml:"name" default:"n1" doc:"Name of this node: 1 to 64 letters, digits, dots, underscores and hyphens."`
	Data        string        `yaml:"data" default:"./data" doc:"Folder for sessions, queues, retained messages, commands and the spool; empty keeps nothing on disk."`
	Zone        string        `yaml:"zone" doc:"Where the node is, for example a data centre; shown to operators."`
	StopTimeout time.Duration `yaml:"stop_timeout" default:"25s" doc:"How long a graceful stop may take before connections are cut, 1s to 10m."`
	DrainDelay  time.Duration `yaml:"drain_delay" default:"0s" doc:"At a graceful stop, how long /readyz answers 503 before the first connection is closed, so that load balancers look elsewhere; a part of stop_timeout, and shorter."`
	SysInterval time.Duration `yaml:"sys_interval" default:"10s" doc:"Time between two rounds of $SYS topics, at least 1s; 0s: none."`
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Validate reports values out of range.
func (c *NodeConfig) Validate(report func(key, problem string)) {
	if !nodeName.MatchString(c.Name) {
		report("name", "must be 1 to 64 letters, digits, dots, underscores and hyphens")
	}
	if c.StopTimeout < time.Second || c.StopTimeout > 10*time.Minute {
		report("stop_timeout", "must be between 1s and 10m")
	}
	if c.DrainDelay < 0 || c.DrainDelay >= c.StopTimeout {
		report("drain_delay", "must be shorter than stop_timeout, and not negative")
	}
	if c.SysInterval != 0 && c.SysInterval < time.Second {
		report("sys_interval", "must be 0s or at least 1s")
	}
}

// HTTPConfig is the section http.
type HTTPConfig struct {
	Address    string      `yaml:"address" default:"127.0.0.1:8080" doc:"Where HTTP is served, host:port; port 0 takes a free one."`
	AdminToken conf.Secret `yaml:"admin_token" doc:"Bearer token of admin calls, at least 8 characters (16 random ones are advised); when absent, one is generated, printed once, and kept in the data folder."`
	Cert       string      `yaml:"cert" doc:"PEM file with the server's certificate; with key, HTTP is served over TLS."`
	Key        string      `yaml:"key" doc:"PEM file with the certificate's key."`
	PublicURLs []string    `yaml:"public_urls" doc:"URLs that devices are told to connect to, for example mqtts://mqtt.example.com:8883; empty: the addresses of the listeners."`
}

// Validate reports what cannot be served.
func (c *HTTPConfig) Validate(report func(key, problem string)) {
	checkAddress("address", c.Address, report)
	if t := c.AdminToken.Reveal(); t != "" && len(t) < 8 {
		report("admin_token", "must have at least 8 characters; 16 random ones are advised")
	}
	if (c.Cert == "") != (c.Key == "") {
		report("cert", "cert and key go together")
	}
	checkFile("cert", c.Cert, report)
	checkFile("key", c.Key, report)
}

// ListenerConfig is one element of the list listeners.
type ListenerConfig struct {
	Type             string         `yaml:"type" doc:"tcp, tls, ws or wss."`
	Address          string         `yaml:"address" doc:"host:port to listen on; port 0 takes a free one."`
	Name             string         `yaml:"name" doc:"What logs and metrics call it; empty: its type, with a number where that is taken."`
	Path             string         `yaml:"path" default:"/mqtt" doc:"Path of WebSocket listeners; others answer 404."`
	Cert             string         `yaml:"cert" doc:"PEM file with the server's certificate chain, for tls and wss; read again when it changes and on SIGHUP."`
	Key              string         `yaml:"key" doc:"PEM file with the certificate's key."`
	ClientCA         string         `yaml:"client_ca" doc:"PEM file with the authorities of client certificates; empty: none is asked for."`
	ClientAuth       string         `yaml:"client_auth" doc:"optional (a certificate that is sent must be valid) or require; with client_ca, require is the default."`
	MinTLS           string         `yaml:"min_tls" default:"1.2" doc:"Oldest TLS version that is spoken: 1.2 or 1.3."`
	ProxyProtocol    string         `yaml:"proxy_protocol" doc:"v1, v2 or any: each connection begins with a PROXY header of a load balancer; empty: none does."`
	ProxyFrom        []netip.Prefix `yaml:"proxy_from" doc:"Address ranges (CIDR) of the load balancers whose PROXY headers are believed."`
	Origins          []string       `yaml:"origins" doc:"Hosts whose web pages may connect by WebSocket; * for all; the listener's own host always may."`
	MaxPending       int            `yaml:"max_pending" default:"1000" doc:"Sockets that may be in their handshakes at once."`
	HandshakeTimeout time.Duration  `yaml:"handshake_timeout" default:"10s" doc:"Time for PROXY header, TLS handshake and WebSocket upgrade together."`
}

// Validate reports what cannot be listened on.
func (c *ListenerConfig) Validate(report func(key, problem string)) {
	tls := c.Type == "tls" || c.Type == "wss"
	if !slices.Contains([]string{"tcp", "tls", "ws", "wss"}, c.Type) {
		report("type", "must be tcp, tls, ws or wss")
	}
	checkAddress("address", c.Address, report)
	if !strings.HasPrefix(c.Path, "/") {
		report("path", "must begin with /")
	}
	switch {
	case tls && c.Cert == "":
		report("cert", "is needed for type "+c.Type)
	case tls && c.Key == "":
		report("key", "is needed for type "+c.Type)
	case !tls && (c.Cert != "" || c.Key != "" || c.ClientCA != ""):
		report("cert", "cert, key and client_ca are for types tls and wss")
	}
	checkFile("cert", c.Cert, report)
	checkFile("key", c.Key, report)
	checkFile("client_ca", c.ClientCA, report)
	if !slices.Contains([]string{"", "optional", "require"}, c.ClientAuth) {
		report("client_auth", "must be optional or require")
	} else if c.ClientAuth != "" && c.ClientCA == "" {
		report("client_auth", "needs client_ca")
	}
	if c.MinTLS != "1.2" && c.MinTLS != "1.3" {
		report("min_tls", "must be 1.2 or 1.3")
	}
	if !slices.Contains([]string{"", "v1", "v2", "any"}, c.ProxyProtocol) {
		report("proxy_protocol", "must be v1, v2 or any")
	} else if c.ProxyProtocol != "" && len(c.ProxyFrom) == 0 {
		report("proxy_from", "is needed with proxy_protocol: the addresses of the load balancers")
	}
	if c.MaxPending < 1 {
		report("max_pending", "must be at least 1")
	}
	if c.HandshakeTimeout <= 0 {
		report("handshake_timeout", "must be longer than 0s")
	}
}

// options turns the section into what package listen takes.
func (c *ListenerConfig) options() listen.Config {
	return listen.Config{
		Name: c.Name, Type: c.Type, Address: c.Address, Path: c.Path, Cert: c.Cert, Key: c.Key, ClientCA: c.ClientCA,
		ClientAuth: c.ClientAuth, MinTLS: c.MinTLS, ProxyProtocol: c.ProxyProtocol, ProxyFrom: c.ProxyFrom,
		Origins: c.Origins, MaxPending: c.MaxPending, HandshakeTimeout: c.HandshakeTimeout,
	}
}

// LimitsConfig is the section limits.
type LimitsConfig struct {
	Connections    int           `yaml:"connections" default:"0" doc:"Connections at once; a CONNECT beyond it gets 0x89 Server busy; 0: no limit."`
	ConnectRate    float64       `yaml:"connect_rate" default:"0" doc:"Sockets accepted per second; the rest wait in the kernel's queue; 0: no limit."`
	PublishRate    float64       `yaml:"publish_rate" default:"0" doc:"Publishes per second of one client; beyond it its socket is read more slowly; 0: no limit."`
	PacketSize     conf.ByteSize `yaml:"packet_size" default:"1MiB" doc:"Largest MQTT packet, both ways; at most 256MiB."`
	Queue          int           `yaml:"queue" default:"1000" doc:"Messages of QoS 1 and 2 that may wait for one session."`
	QueueBytes     conf.ByteSize `yaml:"queue_bytes" default:"64MiB" doc:"Bytes that may wait for one session."`
	QueueFull      string        `yaml:"queue_full" default:"drop" doc:"When a session's queue is full: drop (the message is not for that session, and counted) or refuse (the publisher gets 0x97)."`
	OutBuffer      conf.ByteSize `yaml:"out_buffer" default:"256KiB" doc:"Bytes that may wait for one socket before QoS 0 is dropped and QoS 1 and 2 stay queued."`
	Inflight       int           `yaml:"inflight" default:"100" doc:"Unacknowledged messages sent to a client that names no Receive Maximum, 1 to 65535."`
	ReceiveMaximum int           `yaml:"receive_maximum" default:"1024" doc:"Unacknowledged messages accepted from a client at once, 1 to 65535."`
	TopicAliases   int           `yaml:"topic_aliases" default:"64" doc:"Topic aliases accepted from a client, 1 to 65535."`
	TopicLevels    int           `yaml:"topic_levels" default:"128" doc:"Levels of a topic name or filter, at least 4."`
	Subscriptions  int           `yaml:"subscriptions" default:"10000" doc:"Topic filters of one session."`
	SessionExpiry  time.Duration `yaml:"session_expiry" default:"168h" doc:"Longest time that a session may outlive its connection."`
	KeepAlive      time.Duration `yaml:"keep_alive" default:"0s" doc:"Longest keep-alive; a client that asks for more, or for none, is told this one; 0s: any."`
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"10s" doc:"Time from the accepted socket to a complete CONNECT."`
	WillGrace      time.Duration `yaml:"will_grace" default:"10s" doc:"After a start, time for clients of the last run to come back before their wills are published."`
}

// Validate reports values out of range.
func (c *LimitsConfig) Validate(report func(key, problem string)) {
	for key, v := range map[string]float64{
		"connections": float64(c.Connections), "connect_rate": c.ConnectRate, "publish_rate": c.PublishRate,
		"keep_alive": float64(c.KeepAlive),
	} {
		if v < 0 {
			report(key, "must not be negative")
		}
	}
	for key, v := range map[string]int64{
		"queue": int64(c.Queue), "queue_bytes": int64(c.QueueBytes), "out_buffer": int64(c.OutBuffer),
		"subscriptions": int64(c.Subscriptions), "session_expiry": int64(c.SessionExpiry),
		"connect_timeout": int64(c.ConnectTimeout), "will_grace": int64(c.WillGrace),
	} {
		if v < 1 {
			report(key, "must be greater than 0")
		}
	}
	for key, v := range map[string]int{
		"inflight": c.Inflight, "receive_maximum": c.ReceiveMaximum, "topic_aliases": c.TopicAliases,
	} {
		if v < 1 || v > 65535 {
			report(key, "must be between 1 and 65535")
		}
	}
	if c.PacketSize < 1024 || c.PacketSize > 256<<20 {
		report("packet_size", "must be between 1KiB and 256MiB")
	}
	if c.TopicLevels < 4 || c.TopicLevels > 65535 {
		report("topic_levels", "must be between 4 and 65535")
	}
	if c.QueueFull != "drop" && c.QueueFull != "refuse" {
		report("queue_full", "must be drop or refuse")
	}
}

// options turns the section into what package broker takes.
func (c *LimitsConfig) options() broker.Limits {
	return broker.Limits{
		Connections: c.Connections, ConnectRate: c.ConnectRate, PublishRate: c.PublishRate,
		PacketSize: int(c.PacketSize), Queue: c.Queue, QueueBytes: int64(c.QueueBytes),
		RefuseWhenFull: c.QueueFull == "refuse", OutBuffer: int(c.OutBuffer), Inflight: c.Inflight,
		ReceiveMaximum: c.ReceiveMaximum, TopicAliasMaximum: c.TopicAliases, TopicLevels: c.TopicLevels,
		Subscriptions: c.Subscriptions, SessionExpiry: c.SessionExpiry, KeepAlive: c.KeepAlive,
		ConnectTimeout: c.ConnectTimeout, WillGrace: c.WillGrace,
	}
}

// Validate reports what only the sections together can get wrong.
func (c *Config) Validate(report func(key, problem string)) {
	if len(c.Listeners) == 0 {
		report("listeners", "needs at least one listener")
	}
	taken := map[string]string{c.HTTP.Address: "http.address"}
	names := map[string]bool{}
	for i, l := range c.Listeners {
		key := fmt.Sprintf("listeners[%d].address", i)
		if other, ok := taken[l.Address]; ok && !strings.HasSuffix(l.Address, ":0") {
			report(key, "is the same as "+other)
		}
		taken[l.Address] = key
		if l.Name != "" && names[l.Name] {
			report(fmt.Sprintf("listeners[%d].name", i), "is the name of another listener")
		}
		names[l.Name] = true
	}
}

func checkAddress(key, address string, report func(key, problem string)) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		report(key, `must be host:port, for example 127.0.0.1:1883 or :1883`)
		return
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		report(key, "has no valid port")
	}
}

func checkFile(key, file string, report func(key, problem string)) {
	if file == "" {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		report(key, "cannot be read: "+err.Error())
		return
	}
	_ = f.Close() // opened for reading only: nothing can be lost
}

// LoadConfig reads a configuration whole; its error may be conf.Faults.
func LoadConfig(src conf.Source) (Config, error) {
	var c Config
	err := conf.Load(src, &c)
	return c, err
}

// DemoConfig is what penstock serve --demo runs: the loopback only, everyone let in, nothing kept on disk, and
// simulated devices.
func DemoConfig() (Config, error) {
	c, err := LoadConfig(conf.Source{Name: "demo", YAML: []byte(demoYAML), Env: os.Environ()})
	c.Demo = true
	return c, err
}
