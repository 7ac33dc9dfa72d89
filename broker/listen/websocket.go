package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	readBuffer  = 1 << 10 // for each connection, all its life
	writeBuffer = 4 << 10 // from writeBuffers, for the time of one write
)

var writeBuffers = new(sync.Pool)

var errTextFrame = errors.New("websocket: text frame, where MQTT needs binary ones")

// webSocket presents the binary messages of a WebSocket as a stream of bytes: packets may span frames, and frames may
// hold several packets [MQTT-6.0.0-2]. It streams frames, so that memory does not depend on what a peer announces.
type webSocket struct {
	net.Conn // the frames' own connection, which gives addresses and read deadlines
	frames   *frameConn
	ws       *websocket.Conn

	message io.Reader // what is being read; nil between messages
	readErr error     // gorilla/websocket panics when a failed connection is read on and on

	writing    sync.Mutex // gorilla/websocket panics when two write at once
	halfClosed atomic.Bool
}

func newWebSocket(frames *frameConn, ws *websocket.Conn, maxMessage int64) *webSocket {
	ws.SetReadLimit(max(maxMessage, 0))
	return &webSocket{Conn: frames.Conn, frames: frames, ws: ws}
}

// Read returns the payload of binary messages. Pings are answered and close frames returned from here, so a connection
// must be read. The end of the stream is io.EOF after a close frame that reports no fault.
func (s *webSocket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.readErr != nil {
		return 0, s.readOn(p)
	}
	for {
		if s.message == nil {
			if s.readErr = s.nextMessage(); s.readErr != nil {
				return 0, s.readErr
			}
		}
		n, err := s.message.Read(p)
		switch {
		case err == io.EOF:
			s.message = nil
		case err != nil:
			s.readErr = readError(err)
		}
		if n > 0 || s.readErr != nil {
			return n, s.readErr
		}
	}
}

// readOn is how reading fails after it has failed. After CloseWrite it first gets rid of what still comes, into p:
// frames cannot be told apart any more where a deadline had ended the reading within one, and nobody wants them.
func (s *webSocket) readOn(p []byte) error {
	if !s.halfClosed.Load() || s.readErr != os.ErrDeadlineExceeded {
		return s.readErr
	}
	for {
		if _, err := s.Conn.Read(p); err != nil {
			return err
		}
	}
}

// nextMessage waits for the next data message. A text frame closes the connection [MQTT-6.0.0-1].
func (s *webSocket) nextMessage() error {
	kind, message, err := s.ws.NextReader()
	if err != nil {
		return readError(err)
	}
	if kind != websocket.BinaryMessage {
		s.sendClose(websocket.CloseUnsupportedData, "MQTT needs binary frames")
		return errTextFrame
	}
	s.message = message
	return nil
}

// readError gives the errors of gorilla/websocket the form that a stream's have.
func readError(err error) error {
	var timeout net.Error
	switch {
	case websocket.IsCloseError(err, websocket.CloseAbnormalClosure): // no close frame came
		return io.ErrUnexpectedEOF
	case websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway,
		websocket.CloseNoStatusReceived):
		return io.EOF
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded
	default:
		return err
	}
}

// Write sends p as one binary message.
func (s *webSocket) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye with a close frame, unless a Write is stuck, and closes the socket without waiting for an answer.
func (s *webSocket) Close() error {
	if s.writing.TryLock() {
		s.sendClose(websocket.CloseNormalClosure, "")
		s.writing.Unlock()
	}
	return s.Conn.Close()
}

// CloseWrite says goodbye with a close frame and ends the stream below it.
func (s *webSocket) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.sendClose(websocket.CloseNormalClosure, "")
	s.halfClosed.Store(true)
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// sendClose sends a close frame. That it could not be sent changes nothing: the connection is at its end.
func (s *webSocket) sendClose(code int, text string) {
	_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(closeWait))
}

func (s *webSocket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *webSocket) SetWriteDeadline(t time.Time) error { return s.frames.setOwnerDeadline(t) }

// frameConn is what gorilla/websocket writes frames to. It sets a deadline for every frame, mostly none, and would so
// undo the one that the owner of the connection set; here the earlier of the two holds.
type frameConn struct {
	net.Conn

	mu           sync.Mutex
	owner, frame time.Time
}

// SetWriteDeadline is called by gorilla/websocket before each frame.
func (c *frameConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Equal(c.frame) {
		return nil
	}
	c.frame = t
	return c.Conn.SetWriteDeadline(earlier(c.owner, c.frame))
}

func (c *frameConn) setOwnerDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner = t
	return c.Conn.SetWriteDeadline(earlier(c.owner, c.frame))
}

// earlier returns the earlier of two deadlines; the zero time is none.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}
