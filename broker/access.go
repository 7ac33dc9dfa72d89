package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Authenticator decides who a connecting client is. It is the broker's own step before mochi's
// OnConnectAuthenticate hooks, because a bool cannot carry an identity, an expiry or a reason code.
type Authenticator interface {
	// Authenticate runs on the connection's goroutine and may block until ctx ends. An error that is (or wraps) a
	// *Refusal goes to the client with its reason code; any other error is logged and becomes 0x87 Not authorized.
	Authenticate(ctx context.Context, c *ConnectRequest) (Grant, error)
}

// ConnectRequest is what an Authenticator may look at. Password is cleared after the decision.
type ConnectRequest struct {
	ClientID        string // never empty: an assigned client identifier is already filled in
	Username        string
	Password        []byte
	Remote          netip.AddrPort // the real client address, also behind PROXY protocol; may be invalid for a pipe
	Listener        string
	TLS             *tls.ConnectionState // nil without TLS; with verified chains when a client certificate was asked for
	ProtocolVersion byte                 // 3, 4 or 5
	TraceID         string               // 32 hex digits; stands in every log line of this connection
}

// Grant is what an Authenticator gives to a client that may connect.
type Grant struct {
	Identity string    // stable name of who this is, for example "device:pump-7" or "user:alice"; sessions belong to it
	Username string    // verified name for %u in the ACL; may be empty
	Admin    bool      // may use admin/#
	Expires  time.Time // the connection is closed then; zero: never
	TokenID  string    // the id (jti) of the token that was used; empty without one
}

// Refusal is an error with an MQTT 5 reason code. Detail goes to the log; to the client goes only Code.
type Refusal struct {
	Code   packets.Code
	Detail string
}

// Refuse makes a *Refusal.
func Refuse(code packets.Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func (r *Refusal) Error() string {
	if r.Detail == "" {
		return r.Code.Reason
	}
	return r.Code.Reason + ": " + r.Detail
}

// Admitter refuses connections by source address before any protocol work.
type Admitter interface {
	// Admit runs for each accepted socket and must not block. A refused socket is closed without a byte; reason is a
	// short word for penstock_connections_refused_total{reason}.
	Admit(remote netip.Addr, listener string) (ok bool, reason string)
}

// Acceptor is a hook that must answer for a message before its publisher is acknowledged. A hook (mqtt.Hook) that
// also implements it is found by Broker.AddHook.
type Acceptor interface {
	// Wants reports whether Accept is to be called for this topic. It runs for every publish: it must not block and
	// should not allocate.
	Wants(topic string) bool
	// Accept takes the message and calls done exactly once, from any goroutine, possibly before it returns: with nil
	// once the message is safe, or with an error if it is not and never will be; a *Refusal chooses the reason code
	// (default 0x83). It must not block. done must not be called with locks held that Accept takes. Messages of one
	// publisher arrive in their order. QoS 0 messages are offered too; their done has no effect.
	Accept(m *Message, done func(error))
}
