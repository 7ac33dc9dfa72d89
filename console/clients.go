package console

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstockmq/penstock/broker"
)

// Clients is the broker as the admin API needs it.
type Clients interface {
	Client(clientID string) (broker.ClientInfo, bool)
	Clients(cursor string, limit int) []broker.ClientInfo
	// Kick closes the client's connection (MQTT 5: 0x98 Administrative action) and reports whether there was one.
	Kick(clientID string) bool
}

// adminSecurity marks an operation that only an admin may call.
var adminSecurity = []map[string][]string{{adminScheme: {}}}

type clientPage struct {
	Clients []broker.ClientInfo `json:"clients" doc:"In ascending order of client_id."`
	Next    string              `json:"next,omitempty" doc:"The cursor of the next page; absent on the last one."`
}

type listClientsInput struct {
	Cursor string `query:"cursor" doc:"Only clients after this client_id." maxLength:"65535"`
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"Clients on one page."`
}

type clientInput struct {
	ID string `path:"id" doc:"The client identifier." maxLength:"65535"`
}

type body[T any] struct{ Body T }

func registerClients(api huma.API, clients Clients) {
	huma.Register(api, huma.Operation{
		OperationID: "list-clients", Method: http.MethodGet, Path: "/v1/clients", Tags: []string{"clients"},
		Summary: "List sessions, connected or not", Security: adminSecurity,
	}, func(_ context.Context, in *listClientsInput) (*body[clientPage], error) {
		page := clientPage{Clients: clients.Clients(in.Cursor, in.Limit+1)} // one more shows whether there is a next page
		if page.Clients == nil {
			page.Clients = []broker.ClientInfo{}
		}
		if len(page.Clients) > in.Limit {
			page.Clients = page.Clients[:in.Limit]
			page.Next = page.Clients[in.Limit-1].ClientID
		}
		return &body[clientPage]{page}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-client", Method: http.MethodGet, Path: "/v1/clients/{id}", Tags: []string{"clients"},
		Summary: "Show one session", Security: adminSecurity, Errors: []int{http.StatusNotFound},
	}, func(_ context.Context, in *clientInput) (*body[broker.ClientInfo], error) {
		info, ok := clients.Client(in.ID)
		if !ok {
			return nil, huma.Error404NotFound("there is no session with this client identifier")
		}
		return &body[broker.ClientInfo]{info}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "disconnect-client", Method: http.MethodDelete, Path: "/v1/clients/{id}", Tags: []string{"clients"},
		Summary: "Close a client's connection (MQTT 5: 0x98); its session stays", Security: adminSecurity,
		DefaultStatus: http.StatusNoContent, Errors: []int{http.StatusNotFound},
	}, func(_ context.Context, in *clientInput) (*struct{}, error) {
		if !clients.Kick(in.ID) {
			return nil, huma.Error404NotFound("no client with this identifier is connected")
		}
		return nil, nil
	})
}
