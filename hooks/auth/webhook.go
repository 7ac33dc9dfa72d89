package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// Bounds of the webhook.
const (
	webhookAtOnce    = 64       // requests
	maxWebhookAnswer = 64 << 10 // bytes
)

// webhook asks an HTTP service about a login: POST with a webhookQuestion. The answer is 204 (let in), 401 or 403
// (refuse), or 200 with a webhookAnswer. Everything else, also silence, refuses the login with 0x88 for now.
type webhook struct {
	config  WebhookConfig
	client  *http.Client
	slots   chan struct{}
	key     [32]byte // of this process, so that the cache holds no password
	answers *cache[[sha256.Size]byte, webhookAnswer]
}

type webhookQuestion struct {
	ClientID        string `json:"client_id"`
	Username        string `json:"username"`
	Password        string `json:"password"`
	Remote          string `json:"remote"`
	Listener        string `json:"listener"`
	ProtocolVersion byte   `json:"protocol_version"`
	TraceID         string `json:"trace_id"`
}

type webhookAnswer struct {
	Result    string `json:"result"`     // allow, deny, or ignore: not known here, ask whoever comes next
	Username  string `json:"username"`   // verified user name; absent: the one that was sent
	ExpiresAt int64  `json:"expires_at"` // Unix seconds at which the connection is to end; 0: never
}

func newWebhook(c WebhookConfig) *webhook {
	w := &webhook{
		config: c, slots: make(chan struct{}, webhookAtOnce),
		client: &http.Client{
			Timeout:   c.Timeout,
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: webhookAtOnce},
			// A redirect would send the password somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		answers: newCache[[sha256.Size]byte, webhookAnswer](c.CacheSize),
	}
	rand.Read(w.key[:]) // never fails
	return w
}

func (w *webhook) close() { w.client.CloseIdleConnections() }

// recognise asks about the login. A verdict without a method means that the service does not know the client.
func (w *webhook) recognise(ctx context.Context, c *broker.ConnectRequest, now time.Time) verdict {
	v := verdict{method: "webhook", outside: !w.config.Trusted}
	answer, err := w.answer(ctx, c, now)
	switch {
	case err != nil:
		v.err = broker.Refuse(packets.ErrServerUnavailable, "ask webhook: %s", err)
	case answer.Result == "ignore":
		return verdict{}
	case answer.Result == "deny":
		v.guessed = true
		v.err = broker.Refuse(packets.ErrBadUsernameOrPassword, "webhook refuses")
	case answer.ExpiresAt != 0 && answer.ExpiresAt <= now.Unix():
		v.err = broker.Refuse(packets.ErrNotAuthorized, "webhook's grant is over")
	default:
		name := answer.Username
		if name == "" {
			name = c.Username
		}
		if !isName(name) {
			name = ""
		}
		v.grant = broker.Grant{Identity: "webhook:" + name, Username: name}
		if name == "" {
			v.grant.Identity = "webhook-client:" + c.ClientID
		}
		if answer.ExpiresAt != 0 {
			v.grant.Expires = time.Unix(answer.ExpiresAt, 0)
		}
	}
	return v
}

// remembers reports whether the service let this login in lately.
func (w *webhook) remembers(c *broker.ConnectRequest, now time.Time) bool {
	answer, found := w.answers.get(w.fingerprint(c), now)
	return found && answer.Result == "allow"
}

func (w *webhook) answer(ctx context.Context, c *broker.ConnectRequest, now time.Time) (webhookAnswer, error) {
	key := w.fingerprint(c)
	if answer, found := w.answers.get(key, now); found {
		return answer, nil
	}
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return webhookAnswer{}, errors.New("too many logins wait for it")
	}
	answer, err := w.ask(ctx, c)
	if err == nil && w.config.CacheTTL > 0 {
		w.answers.put(key, answer, now.Add(w.config.CacheTTL))
	}
	return answer, err
}

// fingerprint names what the answer may depend on, apart from the connection's port and trace.
func (w *webhook) fingerprint(c *broker.ConnectRequest) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, w.key[:])
	for _, field := range []string{c.ClientID, c.Username, c.Remote.Addr().String(), c.Listener} {
		fmt.Fprintf(mac, "%d %s ", len(field), field)
	}
	mac.Write(c.Password)
	mac.Sum(sum[:0])
	return sum
}

func (w *webhook) ask(ctx context.Context, c *broker.ConnectRequest) (webhookAnswer, error) {
	body, err := json.Marshal(webhookQuestion{
		ClientID: c.ClientID, Username: c.Username, Password: string(c.Password), Remote: c.Remote.String(),
		Listener: c.Listener, ProtocolVersion: c.ProtocolVersion, TraceID: c.TraceID,
	})
	if err != nil {
		return webhookAnswer{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.config.URL, bytes.NewReader(body))
	if err != nil {
		return webhookAnswer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	for name, value := range w.config.Headers {
		request.Header.Set(name, value.Reveal())
	}
	response, err := w.client.Do(request)
	if err != nil {
		return webhookAnswer{}, err
	}
	defer response.Body.Close()
	return readAnswer(response)
}

func readAnswer(response *http.Response) (answer webhookAnswer, err error) {
	switch response.StatusCode {
	case http.StatusNoContent:
		return webhookAnswer{Result: "allow"}, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return webhookAnswer{Result: "deny"}, nil
	case http.StatusOK:
	default:
		return answer, fmt.Errorf("answer is %s", response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxWebhookAnswer))
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, errors.New("answer is not the JSON that is expected")
	}
	switch answer.Result {
	case "allow", "deny", "ignore":
		return answer, nil
	}
	return answer, errors.New("answer's result is not allow, deny or ignore")
}
