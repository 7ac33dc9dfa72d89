package console

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstockmq/penstock/bridge"
)

// UplinkLog is the log of uplink messages that a node keeps where no Kafka is configured; *bridge.Log is one.
type UplinkLog interface {
	// Tail yields what is stored from a sequence number on (0: the oldest), and with follow what comes, until ctx ends.
	Tail(ctx context.Context, from uint64, follow bool, yield func(bridge.Entry) error) error
	Stats() bridge.SpoolStats
}

type tailInput struct {
	From   int64 `query:"from" default:"-1" minimum:"-1" doc:"Sequence number to start with; -1: the oldest, with follow the next one."`
	Follow bool  `query:"follow" doc:"Wait for more until the caller goes away."`
}

// uplinkRecord is one line of the answer.
type uplinkRecord struct {
	Seq      uint64            `json:"seq" doc:"1 for the first message of this log, and so on."`
	Time     time.Time         `json:"time" doc:"When the message was received."`
	Topic    string            `json:"topic" doc:"Kafka's."`
	Key      string            `json:"key" doc:"Kafka's partition key."`
	ClientID string            `json:"client_id"`
	Headers  map[string]string `json:"headers" doc:"Among them mqtt_topic."`
	Value    []byte            `json:"value" doc:"The payload, in base64."`
}

// RegisterUplink adds the call that streams the local uplink log.
func RegisterUplink(api huma.API, log UplinkLog) {
	record := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[uplinkRecord](), true, "")
	huma.Register(api, huma.Operation{
		OperationID: "tail-uplink", Method: http.MethodGet, Path: "/v1/uplink/tail", Tags: []string{"uplink"},
		Summary: "Stream the local log of uplink messages, one JSON object a line", Security: adminSecurity,
		Responses: map[string]*huma.Response{"200": {
			Description: "Each line is a message.",
			Content:     map[string]*huma.MediaType{"application/x-ndjson": {Schema: record}},
		}},
	}, func(_ context.Context, in *tailInput) (*huma.StreamResponse, error) {
		from := uint64(max(in.From, 0))
		if in.From < 0 && in.Follow {
			from = log.Stats().Last + 1
		}
		return &huma.StreamResponse{Body: func(ctx huma.Context) { streamUplink(ctx, log, from, in.Follow) }}, nil
	})
}

func streamUplink(ctx huma.Context, log UplinkLog, from uint64, follow bool) {
	ctx.SetHeader("Content-Type", "application/x-ndjson")
	ctx.SetHeader("Cache-Control", "no-store")
	w := ctx.BodyWriter()
	// The server's read deadline is for requests; this one has been read. Without a deadline to clear there is none.
	_ = ctx.SetReadDeadline(time.Time{})
	if writeStream(w, "") != nil { // so that a caller who waits for messages knows that it may
		return
	}
	// Every error means that the caller has gone or the node stops; either ends the stream.
	_ = log.Tail(ctx.Context(), from, follow, func(e bridge.Entry) error {
		line, err := json.Marshal(recordOf(e))
		if err != nil {
			return err
		}
		return writeStream(w, "%s\n", line)
	})
}

func recordOf(e bridge.Entry) uplinkRecord {
	r := uplinkRecord{
		Seq: e.Seq, Time: time.UnixMilli(e.Record.Time).UTC(), Topic: e.Record.Topic, Key: string(e.Record.Key),
		ClientID: e.Record.ClientID, Headers: make(map[string]string, len(e.Record.Headers)), Value: e.Record.Value,
	}
	for _, h := range e.Record.Headers {
		r.Headers[strings.ToValidUTF8(string(h.Key), "?")] = string(h.Value)
	}
	return r
}
