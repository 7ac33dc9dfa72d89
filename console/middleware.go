package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const (
	adminScheme  = "admin"
	deviceScheme = "device"
)

type traceKey struct{}

// TraceID returns the trace id of a request: that of its traceparent header, or a new one. 32 hex digits.
func TraceID(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

// traceOf reads the trace id of a W3C traceparent header (Trace Context, section 3.2), or makes one.
func traceOf(r *http.Request) string {
	parts := strings.Split(r.Header.Get("traceparent"), "-")
	if len(parts) >= 4 && len(parts[0]) == 2 && len(parts[1]) == 32 && strings.Trim(parts[1], "0") != "" {
		if _, err := hex.DecodeString(parts[1]); err == nil && parts[1] == strings.ToLower(parts[1]) {
			return parts[1]
		}
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, by its documentation
	return hex.EncodeToString(id[:])
}

// observed gives a request its trace id, logs it at debug level, and turns a panic into a 500.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trace, started := traceOf(r), time.Now()
		w.Header().Set("X-Trace-Id", trace)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		rec := &statusRecorder{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				s.opts.Logger.Error("request failed", "trace_id", trace, "error", p, "stack", string(debug.Stack()))
				if rec.status == 0 {
					writeProblem(rec, http.StatusInternalServerError, "")
				}
			}
			s.opts.Logger.LogAttrs(r.Context(), slog.LevelDebug, "request",
				slog.String("trace_id", trace), slog.String("method", r.Method), slog.String("path", r.URL.Path),
				slog.Int("status", rec.status), slog.String("remote", r.RemoteAddr),
				slog.Duration("took", time.Since(started)))
		}()
		next.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), traceKey{}, trace)))
	})
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *statusRecorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection, for deadlines and flushes.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// problems makes the mux's own answers (404, 405) problem+json like all others.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		own := &discardBody{header: http.Header{}}
		mux.ServeHTTP(own, r)
		for _, name := range []string{"Allow", "Location"} {
			if v := own.header.Get(name); v != "" {
				w.Header().Set(name, v)
			}
		}
		detail := "there is nothing at this path; see /openapi.json"
		if own.status == http.StatusMethodNotAllowed {
			detail = "this path takes " + own.header.Get("Allow")
		}
		writeProblem(w, own.status, detail)
	})
}

type discardBody struct {
	header http.Header
	status int
}

func (d *discardBody) Header() http.Header         { return d.header }
func (d *discardBody) WriteHeader(status int)      { d.status = status }
func (d *discardBody) Write(p []byte) (int, error) { return len(p), nil }

// writeProblem answers with RFC 9457 problem details.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	var body bytes.Buffer
	// Encoding a struct of strings and numbers cannot fail.
	_ = json.NewEncoder(&body).Encode(huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

// alwaysJSON lets a body be JSON whatever its content type says: small devices, and curl -d, say the wrong thing, and
// there is no other format. The type would only keep browsers' forms out, and those carry no credentials that this API
// takes.
func alwaysJSON(ctx huma.Context, next func(huma.Context)) { next(jsonContext{ctx}) }

type anyContext = huma.Context // has a method Context, whose name embedding would take

type jsonContext struct{ anyContext }

func (c jsonContext) Header(name string) string {
	if http.CanonicalHeaderKey(name) == "Content-Type" {
		return "application/json"
	}
	return c.anyContext.Header(name)
}

// maxPlace bounds the place of an error, in bytes: the names of fields in it may be the caller's.
const maxPlace = 200

// withoutEcho takes out of an error what the caller had sent, which may be a secret or the whole body. Its place is
// named anyway.
func withoutEcho(_ huma.Context, _ string, answer any) (any, error) {
	if problem, ok := answer.(*huma.ErrorModel); ok {
		for _, detail := range problem.Errors {
			detail.Value = nil
			if len(detail.Location) > maxPlace {
				detail.Location = strings.ToValidUTF8(detail.Location[:maxPlace], "") + "…"
			}
		}
	}
	return answer, nil
}

const needAdmin = "this call needs the admin token: Authorization: Bearer …"

// requireAdmin checks the bearer token of operations that are marked with the admin scheme.
func (s *Server) requireAdmin(api huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if !needsAdmin(ctx.Operation()) || s.isAdmin(ctx.Header("Authorization")) {
			next(ctx)
			return
		}
		ctx.SetHeader("WWW-Authenticate", "Bearer")
		// An error here is the client's connection, which is gone.
		_ = huma.WriteErr(api, ctx, http.StatusUnauthorized, needAdmin)
	}
}

func needsAdmin(op *huma.Operation) bool {
	for _, alternative := range op.Security {
		if _, ok := alternative[adminScheme]; ok {
			return true
		}
	}
	return false
}

// adminOnly guards a plain handler with the admin token.
func (s *Server) adminOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.isAdmin(r.Header.Get("Authorization")) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, http.StatusUnauthorized, needAdmin)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isAdmin compares in constant time; hashing first hides the length too.
func (s *Server) isAdmin(authorization string) bool {
	scheme, token, ok := strings.Cut(authorization, " ")
	want := s.opts.AdminToken.Reveal()
	if !ok || !strings.EqualFold(scheme, "Bearer") || want == "" {
		return false
	}
	a, b := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
