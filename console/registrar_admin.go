package console

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstockmq/penstock/hooks/auth"
	"github.com/penstockmq/penstock/hooks/limit"
)

// Devices are the device records as an operator sees them; *auth.Service has them. Its methods may block for the store.
type Devices interface {
	Device(ctx context.Context, id string) (auth.Device, error)
	DisableDevice(ctx context.Context, id string) error
	EnableDevice(ctx context.Context, id string) error
	RevokeDevice(ctx context.Context, id string) error
	SetTags(ctx context.Context, id string, tags []string) error
	RevokeToken(ctx context.Context, tokenID string) error
	Issue(ctx context.Context, deviceID, product string, ttl time.Duration) (auth.Registration, error)
}

// Bans are the banned source addresses; *limit.Guard has them. It does not block.
type Bans interface {
	Bans() []limit.Ban
	Ban(addr netip.Addr, duration time.Duration, reason string) (limit.Ban, error)
	Unban(addr netip.Addr) bool
}

type deviceInput struct {
	ID string `path:"id" maxLength:"128" doc:"The device's id."`
}

type tagsInput struct {
	ID   string `path:"id" maxLength:"128" doc:"The device's id."`
	Body struct {
		Tags []string `json:"tags" maxItems:"32" doc:"Replace the device's tags."`
	}
}

type issueInput struct {
	ID   string `path:"id" maxLength:"128" doc:"The device's id."`
	Body struct {
		Product string `json:"product,omitempty" maxLength:"128" doc:"Product of a device that is new."`
		TTL     int64  `json:"ttl_s,omitempty" minimum:"0" maximum:"3153600000" doc:"Life in seconds; 0: as configured."`
	}
}

type issued struct {
	Token     string    `json:"token"`
	TokenID   string    `json:"token_id"`
	ExpiresAt time.Time `json:"expires_at"`
}

type tokenInput struct {
	ID string `path:"jti" maxLength:"128" doc:"The token's id."`
}

// adminOperation is an operation on a device or a token that answers 204.
func adminOperation(id, method, path, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"devices"},
		Security: adminSecurity, DefaultStatus: http.StatusNoContent, Errors: []int{http.StatusNotFound},
		MaxBodyBytes: maxRegistrarBody,
	}
}

// RegisterDevices adds the admin calls about devices and their tokens.
func RegisterDevices(api huma.API, devices Devices) {
	huma.Register(api, huma.Operation{
		OperationID: "get-device", Method: http.MethodGet, Path: "/v1/devices/{id}", Tags: []string{"devices"},
		Summary: "Show a device's record", Security: adminSecurity, Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *deviceInput) (*body[auth.Device], error) {
		device, err := devices.Device(ctx, in.ID)
		if err != nil {
			return nil, problemOf(err)
		}
		return &body[auth.Device]{device}, nil
	})
	for _, action := range []struct {
		name, summary string
		do            func(context.Context, string) error
	}{
		{"disable", "Refuse a device from now on, and close its connection (MQTT 5: 0x98)", devices.DisableDevice},
		{"enable", "Let a disabled device in again", devices.EnableDevice},
		{"revoke", "Make all tokens of a device invalid, and close its connection (MQTT 5: 0x87)", devices.RevokeDevice},
	} {
		huma.Register(api, adminOperation(action.name+"-device", http.MethodPost, "/v1/devices/{id}/"+action.name,
			action.summary), func(ctx context.Context, in *deviceInput) (*struct{}, error) {
			return noContent(action.do(ctx, in.ID))
		})
	}
	huma.Register(api, adminOperation("tag-device", http.MethodPut, "/v1/devices/{id}/tags", "Replace a device's tags"),
		func(ctx context.Context, in *tagsInput) (*struct{}, error) {
			return noContent(devices.SetTags(ctx, in.ID, in.Body.Tags))
		})
	huma.Register(api, adminOperation("revoke-token", http.MethodPost, "/v1/tokens/{jti}/revoke",
		"Make one token invalid, and close the connection that uses it (MQTT 5: 0x87)"),
		func(ctx context.Context, in *tokenInput) (*struct{}, error) {
			return noContent(devices.RevokeToken(ctx, in.ID))
		})
	huma.Register(api, huma.Operation{
		OperationID: "issue-token", Method: http.MethodPost, Path: "/v1/devices/{id}/token", Tags: []string{"devices"},
		Summary: "Make a token for a device, known or new", Security: adminSecurity, MaxBodyBytes: maxRegistrarBody,
		Errors: []int{http.StatusForbidden},
	}, func(ctx context.Context, in *issueInput) (*body[issued], error) {
		r, err := devices.Issue(ctx, in.ID, in.Body.Product, time.Duration(in.Body.TTL)*time.Second)
		if err != nil {
			return nil, problemOf(err)
		}
		return &body[issued]{issued{r.Token, r.TokenID, r.ExpiresAt}}, nil
	})
}

func noContent(err error) (*struct{}, error) {
	if err != nil {
		return nil, problemOf(err)
	}
	return nil, nil
}

type banInput struct {
	Body struct {
		Address  string `json:"address" maxLength:"64" doc:"An IP address; of IPv6 its /64 is banned."`
		Duration int64  `json:"duration_s" minimum:"1" maximum:"2592000" doc:"How long, in seconds."`
		Reason   string `json:"reason,omitempty" maxLength:"200" doc:"For those who read the list."`
	}
}

type unbanInput struct {
	Address string `path:"address" maxLength:"64" doc:"The banned IP address."`
}

type banList struct {
	Bans []limit.Ban `json:"bans" doc:"In ascending order of address."`
}

// RegisterBans adds the admin calls about banned source addresses.
func RegisterBans(api huma.API, bans Bans) {
	tags := []string{"bans"}
	huma.Register(api, huma.Operation{
		OperationID: "list-bans", Method: http.MethodGet, Path: "/v1/bans", Tags: tags, Security: adminSecurity,
		Summary: "List the source addresses that may not connect",
	}, func(context.Context, *struct{}) (*body[banList], error) {
		return &body[banList]{banList{bans.Bans()}}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "ban", Method: http.MethodPost, Path: "/v1/bans", Tags: tags, Security: adminSecurity,
		Summary: "Refuse new connections from an address for a time", MaxBodyBytes: maxRegistrarBody,
	}, func(_ context.Context, in *banInput) (*body[limit.Ban], error) {
		addr, err := netip.ParseAddr(in.Body.Address)
		if err != nil {
			return nil, badAddress("body.address")
		}
		ban, err := bans.Ban(addr, time.Duration(in.Body.Duration)*time.Second, in.Body.Reason)
		switch {
		case errors.Is(err, limit.ErrTooManyBans):
			return nil, huma.Error409Conflict(err.Error())
		case err != nil:
			return nil, huma.Error422UnprocessableEntity(err.Error())
		}
		return &body[limit.Ban]{ban}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "unban", Method: http.MethodDelete, Path: "/v1/bans/{address}", Tags: tags, Security: adminSecurity,
		Summary: "Lift a ban", DefaultStatus: http.StatusNoContent, Errors: []int{http.StatusNotFound},
	}, func(_ context.Context, in *unbanInput) (*struct{}, error) {
		addr, err := netip.ParseAddr(in.Address)
		if err != nil {
			return nil, badAddress("path.address")
		}
		if !bans.Unban(addr) {
			return nil, huma.Error404NotFound("this address is not banned")
		}
		return nil, nil
	})
}

func badAddress(location string) error {
	return huma.Error422UnprocessableEntity("not an IP address",
		&huma.ErrorDetail{Location: location, Message: "is not an IP address"})
}
