package listen_test

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker/listen"
)

// A peer that does not read must hold up neither who closes the connection nor who is writing to it.
func TestCloseIsPromptWhenThePeerDoesNotRead(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "ws", "wss"} {
		for name, stall := range map[string]func(*testing.T, *listen.Conn) (ended chan error){
			"a write is stuck":            writeUntilStuck,
			"the socket's buffer is full": fillSocket,
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				r := start(t, listen.Config{Type: kind}, nil)
				r.dial(t, "")
				conn := r.accepted(t)
				ended := stall(t, conn)
				begin := time.Now()
				conn.Close()
				require.Less(t, time.Since(begin), 3*time.Second)
				if ended != nil {
					require.Error(t, <-ended)
				}
			})
		}
	}
}

// writeUntilStuck writes through all layers, and returns when that no longer goes on. The channel gets the error that
// ends the writing.
func writeUntilStuck(t *testing.T, conn *listen.Conn) chan error {
	t.Helper()
	ended := make(chan error, 1)
	var written atomic.Int64
	go func() {
		for ; ; written.Add(1) {
			if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
				ended <- err
				return
			}
		}
	}()
	before := int64(-1)
	eventually(t, "the socket is full", func() bool {
		time.Sleep(50 * time.Millisecond) // without progress in this time
		last := before
		before = written.Load()
		return before == last
	})
	return ended
}

// fillSocket writes to the socket until the system takes no more; its buffer grows a few times before.
func fillSocket(t *testing.T, conn *listen.Conn) chan error {
	t.Helper()
	tcp := conn.Socket()
	refused := 0
	eventually(t, "the socket is full", func() bool {
		require.NoError(t, tcp.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := tcp.Write(make([]byte, 64<<10))
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			refused = 0
			return false
		}
		refused++
		return refused == 10
	})
	require.NoError(t, tcp.SetWriteDeadline(time.Time{}))
	return nil
}

// Who has said the last word and lingers must get rid of what still comes, so that closing does not reset the
// connection before the peer has read that word; also where a deadline ended the reading.
func TestHalfClose(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "ws", "wss"} {
		t.Run(kind, func(t *testing.T) {
			r := start(t, listen.Config{Type: kind}, nil)
			client := r.dial(t, "")
			conn := r.accepted(t)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(-time.Second)))
			_, err := conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)

			_, err = io.WriteString(conn, "last word")
			require.NoError(t, err)
			require.NoError(t, conn.CloseWrite())
			_, err = io.WriteString(client, "unheard")
			require.NoError(t, err)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
			drained := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, conn)
				drained <- err
			}()

			got := make([]byte, 9)
			_, err = io.ReadFull(client, got)
			require.NoError(t, err)
			require.Equal(t, "last word", string(got))
			_, err = client.Read(got)
			require.Error(t, err)
			if ws, ok := client.(*wsClient); ok {
				_, err = ws.NetConn().Read(got)
				require.ErrorIs(t, err, io.EOF, "the stream ends below the close frame")
			}
			require.NoError(t, client.Close())
			if err := <-drained; err != nil {
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			}
		})
	}
}
