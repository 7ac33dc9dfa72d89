// Package console is the node's HTTP side: the registrar for devices, the admin API, and what monitoring reads.
package console

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"github.com/penstockmq/penstock/internal/conf"
)

const (
	// maxSockets bounds HTTP connections, so that they cannot take the file descriptors of devices.
	maxSockets     = 4096
	maxHeaderBytes = 64 << 10
	headerTimeout  = 5 * time.Second
	readTimeout    = 30 * time.Second
	writeTimeout   = 60 * time.Second
	idleTimeout    = 2 * time.Minute
	streamGrace    = 300 * time.Millisecond
)

// Part is one part of the node that says whether it is ready. Ready must not block; detail says why it is not.
type Part struct {
	Name  string
	Ready func() (ready bool, detail string)
}

// Options are what a Server is made of. Calls of a service that is nil are not offered; all the rest but Parts and
// Routes is required.
type Options struct {
	Logger     *slog.Logger
	AdminToken conf.Secret          // bearer token of admin calls
	Version    string               // of this build
	Clients    Clients              // whose connections the admin API shows
	Node       func() NodeInfo      // describes this node
	Config     func() any           // the configuration, secrets hidden, as a tree for JSON
	Metrics    prometheus.Gatherer  // shown at /metrics
	Parts      []Part               // asked by /readyz
	Routes     []func(api huma.API) // further operations

	Registrar Registrar  // registration of devices, with Nodes
	Nodes     NodeLister // where devices connect
	Devices   Devices
	Bans      Bans
	Commands  CommandService
	Uplink    UplinkLog
}

// Server is the HTTP server of a node: New, Serve, Close.
type Server struct {
	opts    Options
	http    *http.Server
	serving sync.WaitGroup
	ending  context.Context // done when streams must end
	end     context.CancelFunc
}

// New makes the server with all its routes. It opens nothing.
func New(opts Options) *Server {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Penstock", opts.Version)
	config.DocsPath, config.SchemasPath, config.OpenAPIPath = "", "", ""
	config.RejectUnknownQueryParameters = true // a filter that is misspelt must not answer with everything
	config.CreateHooks = nil                   // without schema pages there is nothing for $schema links to point at
	config.Transformers = append(config.Transformers, withoutEcho)
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		adminScheme:  {Type: "http", Scheme: "bearer", Description: "http.admin_token, or the one that was generated"},
		deviceScheme: {Type: "http", Scheme: "bearer", Description: "the device's own token"},
	}
	api := humago.New(mux, config)
	s := &Server{opts: opts}
	s.ending, s.end = context.WithCancel(context.Background())
	api.UseMiddleware(alwaysJSON, s.requireAdmin(api))
	registerClients(api, opts.Clients)
	registerNode(api, opts)
	registerServices(api, opts)
	for _, register := range opts.Routes {
		register(api)
	}
	s.registerPlain(mux, api)
	s.http = &http.Server{
		Handler:           s.observed(problems(mux)),
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return s.ending },
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
	}
	return s
}

func registerServices(api huma.API, opts Options) {
	if opts.Registrar != nil {
		RegisterRegistrar(api, opts.Registrar, opts.Nodes)
	}
	if opts.Devices != nil {
		RegisterDevices(api, opts.Devices)
	}
	if opts.Bans != nil {
		RegisterBans(api, opts.Bans)
	}
	if opts.Commands != nil {
		RegisterCommands(api, opts.Commands)
	}
	if opts.Uplink != nil {
		RegisterUplink(api, opts.Uplink)
	}
}

// Serve answers requests that come to l, on a goroutine of its own, until Close. It takes l over.
func (s *Server) Serve(l net.Listener) {
	s.serving.Go(func() {
		if err := s.http.Serve(netutil.LimitListener(l, maxSockets)); !errors.Is(err, http.ErrServerClosed) {
			s.opts.Logger.Error("HTTP server ended", "error", err)
		}
	})
}

// Close lets requests that are being answered finish for a moment, then ends streams, which would never, and when ctx
// ends closes all connections. It may be called without Serve.
func (s *Server) Close(ctx context.Context) error {
	s.http.RegisterOnShutdown(func() { time.AfterFunc(streamGrace, s.end) })
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.serving.Wait()
	return err
}
