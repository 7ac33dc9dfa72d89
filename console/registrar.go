package console

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstockmq/penstock/hooks/auth"
)

// Registrar gives tokens to devices; *auth.Service is one. Its methods may block for the store.
type Registrar interface {
	Register(ctx context.Context, r auth.RegisterRequest) (auth.Registration, error)
	Refresh(ctx context.Context, token string, remote netip.Addr) (auth.Registration, error)
	VerifyToken(ctx context.Context, token string) (*auth.Claims, error)
}

// NodeLister says where devices find MQTT. It must not block.
type NodeLister interface {
	// Nodes lists the nodes that a device may connect to, the best one first.
	Nodes(deviceID string) []NodeAddress
}

// NodeAddress is one node's public addresses.
type NodeAddress struct {
	Name string   `json:"name" doc:"The node's name."`
	URLs []string `json:"urls" doc:"For example mqtt://host:1883, the preferred one first."`
}

// maxRegistrarBody bounds the bodies of devices' requests, in bytes: they come before any authentication.
const maxRegistrarBody = 16 << 10

// Caller is where a request comes from.
type Caller struct{ addr netip.Addr }

// Resolve implements huma.Resolver. Forwarding headers are not looked at: anyone can send them.
func (c *Caller) Resolve(ctx huma.Context) []error {
	if remote, err := netip.ParseAddrPort(ctx.RemoteAddr()); err == nil {
		c.addr = remote.Addr().Unmap()
	}
	return nil
}

// unixTime is a time in Unix seconds, in the digits that were signed. In JSON it is a number, or the same as a string.
type unixTime string

// Schema implements huma.SchemaProvider.
func (unixTime) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Description: "Unix seconds.",
		OneOf: []*huma.Schema{
			{Type: huma.TypeInteger, Format: "int64"},
			{Type: huma.TypeString, Pattern: "^[0-9]{1,12}$"},
		},
	}
}

// UnmarshalJSON keeps the digits as they are.
func (u *unixTime) UnmarshalJSON(text []byte) error {
	*u = unixTime(bytes.Trim(text, `"`))
	return nil
}

type registerInput struct {
	Caller
	Body struct {
		DeviceID  string   `json:"device_id" doc:"1 to 128 letters, digits and . _ : @ -; becomes the client identifier."`
		Product   string   `json:"product" doc:"A key of auth.products."`
		Timestamp unixTime `json:"timestamp"`
		Nonce     string   `json:"nonce" doc:"8 to 64 printable characters, new each time."`
		Signature string   `json:"signature" doc:"Hex HMAC-SHA256 of device_id\\ntimestamp\\nnonce by the product secret."`
	}
}

type refreshInput struct {
	Caller
	Authorization string `header:"Authorization" doc:"Bearer and the device's token."`
}

type nodesInput struct {
	Authorization string `header:"Authorization" doc:"Bearer and the device's token."`
	DeviceID      string `query:"device_id" maxLength:"128" doc:"The device; it must be the token's."`
}

type registration struct {
	Token     string        `json:"token" doc:"Goes into the password of MQTT CONNECT."`
	ExpiresAt time.Time     `json:"expires_at" doc:"When the connection ends and the token is no longer valid."`
	Nodes     []NodeAddress `json:"nodes" doc:"Where to connect, the best one first."`
}

type nodeList struct {
	Nodes []NodeAddress `json:"nodes" doc:"Where to connect, the best one first."`
}

// deviceSecurity marks an operation whose handler checks the device's token itself.
var deviceSecurity = []map[string][]string{{deviceScheme: {}}}

// RegisterRegistrar adds the calls that devices make: registration, refresh, and the list of nodes.
func RegisterRegistrar(api huma.API, svc Registrar, nodes NodeLister) {
	answer := func(r auth.Registration, err error) (*body[registration], error) {
		if err != nil {
			return nil, problemOf(err)
		}
		return &body[registration]{registration{r.Token, r.ExpiresAt, listNodes(nodes, r.DeviceID)}}, nil
	}
	huma.Register(api, huma.Operation{
		OperationID: "register-device", Method: http.MethodPost, Path: "/v1/register", Tags: []string{"devices"},
		Summary: "Get a token for a device, with its product's signature", MaxBodyBytes: maxRegistrarBody,
		Errors: []int{
			http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict, http.StatusTooManyRequests,
			http.StatusServiceUnavailable,
		},
	}, func(ctx context.Context, in *registerInput) (*body[registration], error) {
		return answer(svc.Register(ctx, auth.RegisterRequest{
			DeviceID: in.Body.DeviceID, Product: in.Body.Product, Timestamp: string(in.Body.Timestamp),
			Nonce: in.Body.Nonce, Signature: in.Body.Signature, Remote: in.addr,
		}))
	})
	huma.Register(api, huma.Operation{
		OperationID: "refresh-token", Method: http.MethodPost, Path: "/v1/token/refresh", Tags: []string{"devices"},
		Summary: "Exchange a device's token for a new one", Security: deviceSecurity, MaxBodyBytes: maxRegistrarBody,
		Errors: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests},
	}, func(ctx context.Context, in *refreshInput) (*body[registration], error) {
		return answer(svc.Refresh(ctx, bearerOf(in.Authorization), in.addr))
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-nodes-for-device", Method: http.MethodGet, Path: "/v1/nodes", Tags: []string{"devices"},
		Summary: "List the nodes a device may connect to", Security: deviceSecurity,
		Errors: []int{http.StatusUnauthorized, http.StatusForbidden},
	}, func(ctx context.Context, in *nodesInput) (*body[nodeList], error) {
		claims, err := svc.VerifyToken(ctx, bearerOf(in.Authorization))
		if err != nil {
			return nil, problemOf(err)
		}
		if in.DeviceID != "" && in.DeviceID != claims.Subject {
			return nil, huma.Error403Forbidden("the token belongs to another device",
				&huma.ErrorDetail{Location: "query.device_id", Message: "is not the token's device"})
		}
		return &body[nodeList]{nodeList{listNodes(nodes, claims.Subject)}}, nil
	})
}

func listNodes(nodes NodeLister, deviceID string) []NodeAddress {
	list := nodes.Nodes(deviceID)
	if list == nil {
		return []NodeAddress{} // in JSON a list, never null
	}
	return list
}

// bearerOf is the bearer token in the header; empty, and so not valid, when there is none.
func bearerOf(authorization string) string {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// problems of access control, with the field that they are about, if it is one.
var authProblems = []struct {
	err      error
	status   int
	location string
}{
	{auth.ErrUnauthorized, http.StatusUnauthorized, ""},
	{auth.ErrTimestamp, http.StatusUnauthorized, "body.timestamp"},
	{auth.ErrReplayed, http.StatusConflict, "body.nonce"},
	{auth.ErrTokenInvalid, http.StatusUnauthorized, "header.Authorization"},
	{auth.ErrTokenExpired, http.StatusUnauthorized, "header.Authorization"},
	{auth.ErrTokenRevoked, http.StatusUnauthorized, "header.Authorization"},
	{auth.ErrDeviceDisabled, http.StatusForbidden, ""},
	{auth.ErrOtherProduct, http.StatusForbidden, "body.product"},
	{auth.ErrTooMany, http.StatusTooManyRequests, ""},
	{auth.ErrUnknownDevice, http.StatusNotFound, ""},
	{auth.ErrUnknownToken, http.StatusNotFound, ""},
}

// problemOf turns an error of access control into problem details. What it does not know is an error of the store,
// which auth has logged, and about which the caller learns only that it may try again.
func problemOf(err error) error {
	var field *auth.FieldError
	if errors.As(err, &field) {
		return huma.Error422UnprocessableEntity(field.Error(),
			&huma.ErrorDetail{Location: "body." + field.Field, Message: field.Problem})
	}
	for _, p := range authProblems {
		if !errors.Is(err, p.err) {
			continue
		}
		message := p.err.Error()
		if p.err == auth.ErrTimestamp {
			message = err.Error() // with the server's time, so that a device without a clock can correct itself
		}
		var details []error
		if p.location != "" {
			details = append(details, &huma.ErrorDetail{Location: p.location, Message: message})
		}
		return withHint(p.status, huma.NewError(p.status, message, details...))
	}
	return withHint(http.StatusServiceUnavailable,
		huma.Error503ServiceUnavailable("the store does not answer; try again later"))
}

// withHint adds the header that belongs to a status.
func withHint(status int, err error) error {
	switch status {
	case http.StatusUnauthorized:
		return huma.ErrorWithHeaders(err, http.Header{"WWW-Authenticate": {"Bearer"}})
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return huma.ErrorWithHeaders(err, http.Header{"Retry-After": {"1"}})
	}
	return err
}
