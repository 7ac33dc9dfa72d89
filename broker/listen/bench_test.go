package listen

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// endless repeats its data for ever.
type endless struct {
	data []byte
	next int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.next:])
	e.next = (e.next + n) % len(e.data)
	return n, nil
}

func BenchmarkWebSocketRead(b *testing.B) {
	frame := []byte("\x82\xfe\x01\x00\x00\x00\x00\x00" + string(make([]byte, 256)))
	frames := &endless{data: bytes.Repeat(frame, 64)}
	socket := benchmarkSocket(b, io.MultiReader(strings.NewReader(fuzzRequest), frames))
	buffer := make([]byte, 4096)
	b.SetBytes(256)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := io.ReadFull(socket, buffer[:256]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWebSocketWrite(b *testing.B) {
	socket := benchmarkSocket(b, strings.NewReader(fuzzRequest))
	packet := make([]byte, 256)
	b.SetBytes(256)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := socket.Write(packet); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkSocket(b *testing.B, source io.Reader) *webSocket {
	b.Helper()
	l := &Listener{cfg: Config{Type: "ws"}}
	l.cfg.setDefaults()
	socket, err := l.upgrade(&memoryConn{Reader: source}, time.Now().Add(time.Hour))
	if err != nil {
		b.Fatal(err)
	}
	return socket
}
