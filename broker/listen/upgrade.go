package listen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	maxHeaderBytes = 16 << 10
	requestBuffer  = 2 << 10
	// A refused client gets this long to read the answer, and may send that much meanwhile: closing at once could make
	// the system throw the answer away.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 64 << 10
)

// MQTT names "mqtt" for all versions [MQTT-6.0.0-3]; clients of 3.1 came with a name of their own.
var subprotocols = []string{"mqtt", "mqttv3.1"}

// answer is an HTTP response that refuses an upgrade; its line is for the human who sees it.
type answer struct {
	status int
	line   string
}

func (a *answer) Error() string { return fmt.Sprintf("%d %s", a.status, a.line) }

// upgrade reads one HTTP request and makes the connection a WebSocket, or says by HTTP why not. The connection's
// deadline bounds both; nothing but the socket says where the client is, since any client can send X-Forwarded-For.
func (l *Listener) upgrade(sock net.Conn, deadline time.Time) (*webSocket, error) {
	socket, err := l.negotiate(sock, deadline)
	var refused *answer
	if errors.As(err, &refused) {
		refused.send(sock, deadline)
	}
	return socket, err
}

func (l *Listener) negotiate(sock net.Conn, deadline time.Time) (*webSocket, error) {
	limited := &io.LimitedReader{R: sock, N: maxHeaderBytes}
	reader := bufio.NewReaderSize(limited, requestBuffer)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return nil, requestError(err, limited.N == 0, deadline)
	}
	if err := l.checkRequest(request); err != nil {
		return nil, err
	}
	frames := &frameConn{Conn: sock}
	var refused *answer
	upgrader := websocket.Upgrader{
		HandshakeTimeout: max(time.Until(deadline), time.Millisecond), // zero would be none
		ReadBufferSize:   readBuffer,
		WriteBufferSize:  writeBuffer,
		WriteBufferPool:  writeBuffers,
		Subprotocols:     subprotocols,
		CheckOrigin:      l.allowsOrigin,
		Error: func(_ http.ResponseWriter, _ *http.Request, status int, reason error) {
			refused = &answer{status, reason.Error()}
		},
	}
	ws, err := upgrader.Upgrade(&hijacked{conn: frames, reader: reader}, request, nil)
	if refused != nil {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	return newWebSocket(frames, ws, l.cfg.MaxMessage), nil
}

// requestError tells a request that is not HTTP, which is answered, from a client that left or fell silent.
func requestError(err error, tooLarge bool, deadline time.Time) error {
	var network net.Error
	switch {
	case !time.Now().Before(deadline):
		// A line that the deadline cut short looks to the parser like a whole one that is wrong.
		return fmt.Errorf("read request: %w", os.ErrDeadlineExceeded)
	case tooLarge:
		return &answer{http.StatusRequestHeaderFieldsTooLarge, "the request header is larger than 16 KiB"}
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read request: %w", err)
	default:
		return &answer{http.StatusBadRequest, "this is not an HTTP request"}
	}
}

// checkRequest looks for what people get wrong when they point a client, or a browser, at this port.
func (l *Listener) checkRequest(r *http.Request) error {
	switch {
	case r.URL.Path != l.cfg.Path:
		return &answer{http.StatusNotFound, "MQTT over WebSocket is served at another path of this port"}
	case !websocket.IsWebSocketUpgrade(r) || !r.ProtoAtLeast(1, 1):
		return &answer{http.StatusUpgradeRequired,
			"this is an MQTT over WebSocket endpoint: connect with a WebSocket client and the subprotocol mqtt"}
	case !offersMQTT(r):
		return &answer{http.StatusBadRequest, "the client must offer the WebSocket subprotocol mqtt"}
	default:
		return nil
	}
}

func offersMQTT(r *http.Request) bool {
	return slices.ContainsFunc(websocket.Subprotocols(r), func(offered string) bool {
		return slices.Contains(subprotocols, offered)
	})
}

// allowsOrigin keeps foreign pages from connecting through the browser of someone who may reach this port. Clients that
// are not browsers send no Origin, and could send any.
func (l *Listener) allowsOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(l.cfg.Origins, "*") {
		return true
	}
	from, err := url.Parse(origin)
	if err != nil || from.Host == "" {
		return false
	}
	return strings.EqualFold(from.Host, r.Host) || slices.ContainsFunc(l.cfg.Origins, func(allowed string) bool {
		return strings.EqualFold(allowed, from.Host) || strings.EqualFold(allowed, from.Hostname())
	})
}

// send writes the answer, and waits until the client has read it or the time for that is over.
func (a *answer) send(sock net.Conn, deadline time.Time) {
	response := http.Response{
		StatusCode: a.status, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header: http.Header{
			"Content-Type":           {"text/plain; charset=utf-8"},
			"X-Content-Type-Options": {"nosniff"},
		},
		Body:          io.NopCloser(strings.NewReader(a.line + "\n")),
		ContentLength: int64(len(a.line) + 1),
	}
	if a.status == http.StatusUpgradeRequired {
		response.Header.Set("Upgrade", "websocket")
	}
	if response.Write(sock) != nil {
		return
	}
	if half, ok := sock.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	if sock.SetReadDeadline(earlier(deadline, time.Now().Add(lingerTime))) == nil {
		_, _ = io.CopyN(io.Discard, sock, lingerBytes)
	}
}

// hijacked is a response that was hijacked before it began: the Upgrader takes the connection from it, and leaves
// refusals to answer.
type hijacked struct {
	conn   net.Conn
	reader *bufio.Reader
}

func (h *hijacked) Header() http.Header         { return http.Header{} }
func (h *hijacked) Write(p []byte) (int, error) { return len(p), nil }
func (h *hijacked) WriteHeader(int)             {}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.reader, bufio.NewWriterSize(h.conn, requestBuffer)), nil
}
