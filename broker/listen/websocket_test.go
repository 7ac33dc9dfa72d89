package listen_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
)

func TestUpgradeIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*wsRequest)
		want   []string
	}{
		{"wrong path", func(r *wsRequest) { r.url += "/other" }, []string{"404", "another path"}},
		{"wrong subprotocol", func(r *wsRequest) { r.Subprotocols = []string{"amqp"} }, []string{"400", "subprotocol mqtt"}},
		{"no subprotocol", func(r *wsRequest) { r.Subprotocols = nil }, []string{"400", "subprotocol mqtt"}},
		{"foreign origin", func(r *wsRequest) { r.header["Origin"] = []string{"https://evil.example"} }, []string{"403"}},
		{"origin of a sandbox", func(r *wsRequest) { r.header["Origin"] = []string{"null"} }, []string{"403"}},
		{"header too large", func(r *wsRequest) { r.header["X-Large"] = []string{strings.Repeat("x", 17<<10)} },
			[]string{"431", "16 KiB"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, listen.Config{Type: "ws", Origins: []string{"app.example"}}, nil)
			_, err := r.dialWS(t, "", c.change)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			eventually(t, "counted", func() bool { return r.refused.of(listen.ReasonWebSocket) == 1 })
			require.Empty(t, r.conns)
		})
	}
}

func TestRequestsThatAreNoUpgrade(t *testing.T) {
	const upgrade = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n"
	for _, c := range []struct {
		name, request string
		status        int
		line          string
	}{
		{"GET", "GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", 426, "MQTT over WebSocket"},
		{"GET elsewhere", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, "another path"},
		{"POST", "POST /mqtt HTTP/1.1\r\n" + upgrade + "Content-Length: 0\r\n\r\n", 405, "GET"},
		{"HTTP 1.0", "GET /mqtt HTTP/1.0\r\n" + upgrade + "\r\n", 426, "MQTT over WebSocket"},
		{"HTTP 2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, "another path"},
		{"no key", "GET /mqtt HTTP/1.1\r\n" + upgrade + "Sec-WebSocket-Version: 13\r\n\r\n", 400, "Sec-WebSocket-Key"},
		{"old version", "GET /mqtt HTTP/1.1\r\n" + upgrade + "Sec-WebSocket-Version: 8\r\n\r\n", 400, "version"},
		{"not HTTP", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00\r\n\r\n", 400, "not an HTTP request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, listen.Config{Type: "ws"}, nil)
			conn := r.socket(t, c.request)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, c.status, response.StatusCode)
			require.Contains(t, string(body), c.line)
			require.True(t, response.Close)
			requireClosed(t, conn)
		})
	}
}

func TestUpgradeIsAccepted(t *testing.T) {
	for _, c := range []struct {
		name    string
		origins []string
		change  func(*rig, *wsRequest)
	}{
		{"MQTT 3.1", nil, func(_ *rig, q *wsRequest) { q.Subprotocols = []string{"mqttv3.1"} }},
		{"mqtt among others", nil, func(_ *rig, q *wsRequest) { q.Subprotocols = []string{"amqp", "mqtt"} }},
		{"same origin", nil, func(r *rig, q *wsRequest) { q.header["Origin"] = []string{"http://" + r.Addr().String()} }},
		{"allowed origin", []string{"App.example"}, func(_ *rig, q *wsRequest) {
			q.header["Origin"] = []string{"https://app.example:8443"}
		}},
		{"any origin", []string{"*"}, func(_ *rig, q *wsRequest) { q.header["Origin"] = []string{"null"} }},
		{"forwarded for someone", nil, func(_ *rig, q *wsRequest) { q.header["X-Forwarded-For"] = []string{"192.0.2.7"} }},
		{"with a query", nil, func(_ *rig, q *wsRequest) { q.url += "?v=1" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, listen.Config{Type: "ws", Origins: c.origins}, echo)
			ws, err := r.dialWS(t, "", func(q *wsRequest) { c.change(r, q) })
			require.NoError(t, err)
			require.Contains(t, []string{"mqtt", "mqttv3.1"}, ws.Subprotocol())
			exchange(t, &wsClient{ws}, "MQTT")
			require.Equal(t, ws.LocalAddr().String(), r.accepted(t).RemoteAddr().String())
		})
	}
}

// upgraded returns both ends of a WebSocket.
func upgraded(t *testing.T, cfg listen.Config) (*websocket.Conn, *listen.Conn) {
	t.Helper()
	cfg.Type = "ws"
	r := start(t, cfg, nil)
	ws, err := r.dialWS(t, "", nil)
	require.NoError(t, err)
	conn := r.accepted(t)
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return ws, conn
}

func TestFramesAreAStream(t *testing.T) {
	ws, conn := upgraded(t, listen.Config{})
	for _, message := range []string{"one packet", "", "two", " packets in one", "and one"} {
		require.NoError(t, ws.WriteMessage(websocket.BinaryMessage, []byte(message)))
	}
	// One message in three frames, with a ping between them.
	writer, err := ws.NextWriter(websocket.BinaryMessage)
	require.NoError(t, err)
	long := strings.Repeat("long ", 3000)
	for range 3 {
		_, err = io.WriteString(writer, long)
		require.NoError(t, err)
		require.NoError(t, ws.WriteControl(websocket.PingMessage, []byte("alive?"), time.Now().Add(patience)))
	}
	require.NoError(t, writer.Close())

	want := "one packettwo packets in oneand one" + long + long + long
	got := make([]byte, len(want))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))

	pongs := 0
	ws.SetPongHandler(func(text string) error {
		require.Equal(t, "alive?", text)
		pongs++
		return nil
	})
	for _, packet := range []string{"small", strings.Repeat("large ", 10_000)} {
		_, err = io.WriteString(conn, packet)
		require.NoError(t, err)
		kind, message, err := ws.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, websocket.BinaryMessage, kind)
		require.Equal(t, packet, string(message), "one write is one message")
	}
	require.Equal(t, 3, pongs)
}

func TestFramesThatMQTTForbidsCloseTheConnection(t *testing.T) {
	for _, c := range []struct {
		name string
		kind int
		size int
		code int
	}{
		{"text", websocket.TextMessage, 10, websocket.CloseUnsupportedData},
		{"larger than allowed", websocket.BinaryMessage, 1001, websocket.CloseMessageTooBig},
	} {
		t.Run(c.name, func(t *testing.T) {
			ws, conn := upgraded(t, listen.Config{MaxMessage: 1000})
			require.NoError(t, ws.WriteMessage(websocket.BinaryMessage, make([]byte, 1000)))
			require.NoError(t, ws.WriteMessage(c.kind, make([]byte, c.size)))
			_, err := io.ReadFull(conn, make([]byte, 1000))
			require.NoError(t, err)
			for range 2000 { // gorilla/websocket panics at the thousandth
				_, err = conn.Read(make([]byte, 10))
				require.Error(t, err)
				require.NotErrorIs(t, err, io.EOF)
			}
			_, _, err = ws.ReadMessage()
			require.True(t, websocket.IsCloseError(err, c.code), "%v", err)
		})
	}
}

func TestEndOfTheStream(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*websocket.Conn) error
		want error
	}{
		{"close frame", func(ws *websocket.Conn) error {
			return ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
		}, io.EOF},
		{"close frame without a code", func(ws *websocket.Conn) error {
			return ws.WriteMessage(websocket.CloseMessage, nil)
		}, io.EOF},
		{"end of the socket alone", func(ws *websocket.Conn) error { return ws.Close() }, io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			ws, conn := upgraded(t, listen.Config{})
			require.NoError(t, c.end(ws))
			_, err := conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, c.want)
			if c.want == io.EOF {
				_, _, err = ws.ReadMessage()
				var closed *websocket.CloseError
				require.ErrorAs(t, err, &closed, "the close frame is answered")
			}
			require.NoError(t, conn.Close())
		})
	}
}

func TestCloseSendsACloseFrame(t *testing.T) {
	ws, conn := upgraded(t, listen.Config{})
	require.NoError(t, conn.Close())
	_, _, err := ws.ReadMessage()
	require.True(t, websocket.IsCloseError(err, websocket.CloseNormalClosure), "%v", err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestWebSocketDeadlines(t *testing.T) {
	ws, conn := upgraded(t, listen.Config{})
	past := time.Now().Add(-time.Second)

	// A write deadline must hold although every frame, and the pongs between them, have one of their own.
	require.NoError(t, ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)))
	require.NoError(t, ws.WriteMessage(websocket.BinaryMessage, []byte("x")))
	_, err := conn.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, conn.SetWriteDeadline(past))
	_, err = conn.Write([]byte("late"))
	var timeout net.Error
	require.True(t, errors.As(err, &timeout) && timeout.Timeout(), "%v", err)

	require.NoError(t, conn.SetReadDeadline(past))
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// One goroutine reads, one writes, and others set deadlines; the race detector watches, and Close ends them all.
func TestConnIsSafeForConcurrentUse(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "ws", "wss"} {
		t.Run(kind, func(t *testing.T) {
			r := start(t, listen.Config{Type: kind}, nil)
			client := r.dial(t, "")
			conn := r.accepted(t)
			const rounds = 200
			packet := []byte("packet")

			var all sync.WaitGroup
			all.Go(func() {
				for range rounds {
					if _, err := conn.Write(packet); err != nil {
						t.Errorf("write: %v", err)
						return
					}
				}
			})
			all.Go(func() {
				buffer := make([]byte, len(packet))
				for range rounds {
					if _, err := io.ReadFull(conn, buffer); err != nil {
						t.Errorf("read: %v", err)
						return
					}
				}
			})
			all.Go(func() {
				for range rounds {
					conn.SetDeadline(time.Now().Add(patience))
					conn.SetWriteDeadline(time.Now().Add(patience))
					conn.SetReadDeadline(time.Now().Add(patience))
				}
			})
			all.Go(func() {
				for range rounds {
					client.Write(packet)
				}
			})
			buffer := make([]byte, len(packet))
			for range rounds {
				_, err := io.ReadFull(client, buffer)
				require.NoError(t, err)
			}
			all.Wait()

			for range 3 {
				all.Go(func() { conn.Close() })
			}
			all.Go(func() { conn.Write(packet) })
			all.Go(func() { io.Copy(io.Discard, conn) })
			all.Wait()
		})
	}
}
