package console

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NodeInfo describes one node of the cluster.
type NodeInfo struct {
	Name        string    `json:"name"`
	Zone        string    `json:"zone,omitempty"`
	Version     string    `json:"version"`
	URLs        []string  `json:"urls" doc:"Where devices connect."`
	Connections int64     `json:"connections"`
	Sessions    int64     `json:"sessions"`
	Started     time.Time `json:"started"`
	Draining    bool      `json:"draining"`
}

type clusterInfo struct {
	Nodes []NodeInfo `json:"nodes"`
}

func registerNode(api huma.API, opts Options) {
	huma.Register(api, huma.Operation{
		OperationID: "get-cluster", Method: http.MethodGet, Path: "/v1/cluster", Tags: []string{"cluster"},
		Summary: "Show the nodes", Security: adminSecurity,
	}, func(context.Context, *struct{}) (*body[clusterInfo], error) {
		return &body[clusterInfo]{clusterInfo{Nodes: []NodeInfo{opts.Node()}}}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-config", Method: http.MethodGet, Path: "/v1/config", Tags: []string{"cluster"},
		Summary: "Show this node's configuration, secrets hidden", Security: adminSecurity,
	}, func(context.Context, *struct{}) (*body[any], error) {
		return &body[any]{opts.Config()}, nil
	})
}

// registerPlain adds what is no JSON operation of the API: health, metrics, profiles, and the API's own description.
func (s *Server) registerPlain(mux *http.ServeMux, api huma.API) {
	describePlain(api.OpenAPI())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.opts.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	describe := sync.OnceValues(func() ([]byte, error) { return json.Marshal(api.OpenAPI()) })
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		text, err := describe()
		if err != nil {
			writeProblem(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(text)
	})
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /debug/pprof/": pprof.Index, "GET /debug/pprof/cmdline": pprof.Cmdline,
		"GET /debug/pprof/profile": pprof.Profile, "GET /debug/pprof/symbol": pprof.Symbol,
		"GET /debug/pprof/trace": pprof.Trace,
	} {
		mux.Handle(pattern, s.adminOnly(handler))
	}
}

// describePlain tells readers of the description what monitoring may ask for.
func describePlain(description *huma.OpenAPI) {
	for _, op := range []struct {
		id, path, summary, kind string
		also                    []int
	}{
		{"health", "/healthz", "Say that the process runs", "application/json", nil},
		{"readiness", "/readyz", "Say whether devices should be sent here", "application/json",
			[]int{http.StatusServiceUnavailable}},
		{"metrics", "/metrics", "Show metrics for Prometheus", "text/plain", nil},
	} {
		responses := map[string]*huma.Response{}
		for _, status := range append([]int{http.StatusOK}, op.also...) {
			responses[strconv.Itoa(status)] = &huma.Response{
				Description: http.StatusText(status), Content: map[string]*huma.MediaType{op.kind: {}},
			}
		}
		description.AddOperation(&huma.Operation{
			OperationID: op.id, Method: http.MethodGet, Path: op.path, Summary: op.summary, Tags: []string{"monitoring"},
			Responses: responses,
		})
	}
}

type partState struct {
	Ready  bool   `json:"ready"`
	Detail string `json:"detail,omitempty"`
}

// ready answers 503 as long as one part is not ready, so that a load balancer stops sending clients here.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Ready bool                 `json:"ready"`
		Parts map[string]partState `json:"parts"`
	}{true, make(map[string]partState, len(s.opts.Parts))}
	for _, p := range s.opts.Parts {
		ok, detail := p.Ready()
		answer.Parts[p.Name] = partState{ok, detail}
		answer.Ready = answer.Ready && ok
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error is the client's connection, which is gone
}
