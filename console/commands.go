package console

import (
	"context"
	"errors"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstockmq/penstock/hooks/command"
)

// CommandService issues commands and knows what became of them; see *command.Service. Its errors are *command.Problem.
type CommandService interface {
	Issue(ctx context.Context, in command.Input) (command.Status, error)
	Status(id string) (command.Status, error)
	List(cursor string, limit int) (command.StatusPage, error)
	Executions(id, state, cursor string, limit int) (command.ExecutionPage, error)
	Cancel(ctx context.Context, id string) (command.Status, error)
	Pause(ctx context.Context, id string) (command.Status, error)
	Resume(ctx context.Context, id string) (command.Status, error)
	Retry(ctx context.Context, id string) (command.Status, error)
	Watch(id string) (status <-chan command.Status, cancel func(), err error)
}

// maxCommandBytes bounds the JSON of a command: 10,000 devices with long names, and a payload in base64.
const maxCommandBytes = 8 << 20

type issueCommandInput struct {
	Key     string `header:"Idempotency-Key" maxLength:"256" doc:"The same key and the same command give the same answer; another command is refused with 409."`
	RawBody []byte `contentType:"application/json"`
}

type commandInput struct {
	ID string `path:"id" maxLength:"64" doc:"The command's id."`
}

type listCommandsInput struct {
	Cursor string `query:"cursor" maxLength:"32" doc:"next of the page before."`
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"Commands on one page."`
}

type listExecutionsInput struct {
	ID     string `path:"id" maxLength:"64" doc:"The command's id."`
	State  string `query:"state" maxLength:"32" doc:"Only executions in this state, for example FAILED."`
	Cursor string `query:"cursor" maxLength:"32" doc:"next of the page before."`
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"Executions on one page."`
}

// RegisterCommands adds the calls about commands to the admin API.
func RegisterCommands(api huma.API, svc CommandService) {
	registerIssue(api, svc)
	registerCommandReads(api, svc)
	registerCommandControl(api, svc)
	registerCommandEvents(api, svc)
}

func commandOperation(id, method, path, summary string, errs ...int) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"commands"},
		Security: adminSecurity, Errors: errs,
	}
}

// registerIssue leaves the body to the command service, which checks what comes by MQTT in the same way; the schema
// is only there for the reader.
func registerIssue(api huma.API, svc CommandService) {
	op := commandOperation("issue-command", http.MethodPost, "/v1/commands", "Issue a command to devices", 400, 409, 413,
		422, 429, 503)
	op.DefaultStatus, op.MaxBodyBytes, op.SkipValidateBody = http.StatusAccepted, maxCommandBytes, true
	huma.Register(api, op, func(ctx context.Context, in *issueCommandInput) (*body[command.Status], error) {
		input := command.Input{Body: in.RawBody, Key: in.Key, Issuer: "http"}
		if trace := TraceID(ctx); trace != "" {
			input.Traceparent = "00-" + trace + "-0000000000000001-01"
		}
		return commandAnswer(svc.Issue(ctx, input))
	})
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[command.Request](), true, "CommandRequest")
	api.OpenAPI().Paths[op.Path].Post.RequestBody.Content["application/json"].Schema = schema
}

func registerCommandReads(api huma.API, svc CommandService) {
	huma.Register(api, commandOperation("list-commands", http.MethodGet, "/v1/commands",
		"List commands, the newest first"),
		func(_ context.Context, in *listCommandsInput) (*body[command.StatusPage], error) {
			return commandAnswer(svc.List(in.Cursor, in.Limit))
		})
	huma.Register(api, commandOperation("get-command", http.MethodGet, "/v1/commands/{id}",
		"Show a command's state and counts", 404),
		func(_ context.Context, in *commandInput) (*body[command.Status], error) {
			return commandAnswer(svc.Status(in.ID))
		})
	huma.Register(api, commandOperation("list-executions", http.MethodGet, "/v1/commands/{id}/executions",
		"List what became of a command at each device", 404),
		func(_ context.Context, in *listExecutionsInput) (*body[command.ExecutionPage], error) {
			return commandAnswer(svc.Executions(in.ID, in.State, in.Cursor, in.Limit))
		})
}

func registerCommandControl(api huma.API, svc CommandService) {
	for _, c := range []struct {
		name, summary string
		do            func(context.Context, string) (command.Status, error)
	}{
		{"cancel", "Withdraw a command from devices that have not acknowledged it", svc.Cancel},
		{"pause", "Send a command to no more devices until it is resumed", svc.Pause},
		{"resume", "Let a paused command go on", svc.Resume},
		{"retry", "Start again where a command has ended without success", svc.Retry},
	} {
		op := commandOperation(c.name+"-command", http.MethodPost, "/v1/commands/{id}/"+c.name, c.summary, 404, 429, 503)
		huma.Register(api, op, func(ctx context.Context, in *commandInput) (*body[command.Status], error) {
			return commandAnswer(c.do(ctx, in.ID))
		})
	}
}

// commandAnswer turns what the service says into an answer or a problem.
func commandAnswer[T any](v T, err error) (*body[T], error) {
	if err == nil {
		return &body[T]{v}, nil
	}
	var p *command.Problem
	if !errors.As(err, &p) {
		return nil, err
	}
	details := make([]error, len(p.Fields))
	for i, f := range p.Fields {
		details[i] = &huma.ErrorDetail{Location: f.Location, Message: f.Message}
	}
	return nil, huma.NewError(p.Status, p.Detail, details...)
}
