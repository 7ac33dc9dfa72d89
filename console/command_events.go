package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstockmq/penstock/hooks/command"
)

const (
	streamHeartbeat    = 15 * time.Second // between two signs of life on a stream with nothing to tell
	streamWriteTimeout = 10 * time.Second // for a reader that does not read
)

// registerCommandEvents adds the live status of a command as server-sent events. It ends when the command is finished.
func registerCommandEvents(api huma.API, svc CommandService) {
	op := commandOperation("watch-command", http.MethodGet, "/v1/commands/{id}/events",
		"Follow a command's state and counts as server-sent events, until it is finished", 404, 429)
	status := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[command.Status](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Events without a name; the data of each is the status of the command.",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: status}},
	}}
	huma.Register(api, op, func(_ context.Context, in *commandInput) (*huma.StreamResponse, error) {
		latest, cancel, err := svc.Watch(in.ID)
		if err != nil {
			_, err = commandAnswer(command.Status{}, err)
			return nil, err
		}
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			defer cancel()
			streamStatus(ctx, latest)
		}}, nil
	})
}

// streamStatus writes until the command is finished, the reader is gone, or the server ends.
func streamStatus(ctx huma.Context, latest <-chan command.Status) {
	ctx.SetHeader("Content-Type", "text/event-stream")
	ctx.SetHeader("Cache-Control", "no-store")
	w := ctx.BodyWriter()
	// The server's read deadline is for requests; this one has been read. Without a deadline to clear there is none.
	_ = ctx.SetReadDeadline(time.Time{})
	beat := time.NewTicker(streamHeartbeat)
	defer beat.Stop()
	for {
		select {
		case st := <-latest:
			text, err := json.Marshal(st)
			if err == nil {
				err = writeStream(w, "data: %s\n\n", text)
			}
			if err != nil || st.Done() {
				return
			}
		case <-beat.C:
			if writeStream(w, ": still there\n\n") != nil {
				return
			}
		case <-ctx.Context().Done():
			return
		}
	}
}

func writeStream(w io.Writer, format string, args ...any) error {
	rw, ok := w.(http.ResponseWriter)
	if !ok {
		_, err := fmt.Fprintf(w, format, args...)
		return err
	}
	c := http.NewResponseController(rw)
	if err := c.SetWriteDeadline(time.Now().Add(streamWriteTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(rw, format, args...); err != nil {
		return err
	}
	return c.Flush()
}
