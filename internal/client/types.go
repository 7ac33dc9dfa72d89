package client

import (
	"encoding/json"
	"time"
)

// Request is the JSON of POST /v1/commands. Times are in seconds; 0 leaves the choice to the node.
type Request struct {
	Targets       Targets         `json:"targets"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 *[]byte         `json:"payload_base64,omitempty"`
	TTL           float64         `json:"ttl_s,omitempty"`
	AckTimeout    float64         `json:"ack_timeout_s,omitempty"`
	ResultTimeout float64         `json:"result_timeout_s,omitempty"`
	Priority      int             `json:"priority,omitempty"`
	Lane          string          `json:"lane,omitempty"`
	CollapseKey   string          `json:"collapse_key,omitempty"`
}

// Targets says who gets a command: one of its fields.
type Targets struct {
	Devices []string `json:"devices,omitempty"`
	Online  bool     `json:"online,omitempty"`
}

// Status is a command with its counts. Times are Unix milliseconds.
type Status struct {
	ID            string  `json:"id"`
	State         string  `json:"state"`
	Open          int64   `json:"open"` // executions that will still change by themselves
	Counts        Counts  `json:"counts"`
	CreatedAt     int64   `json:"created_at"`
	ExpiresAt     int64   `json:"expires_at"`
	FinishedAt    int64   `json:"finished_at,omitempty"`
	AckTimeout    float64 `json:"ack_timeout_s"`
	ResultTimeout float64 `json:"result_timeout_s,omitempty"`
	Priority      int     `json:"priority"`
	Lane          string  `json:"lane,omitempty"`
	CollapseKey   string  `json:"collapse_key,omitempty"`
	PayloadBytes  int     `json:"payload_bytes"`
	Issuer        string  `json:"issuer,omitempty"`
	Traceparent   string  `json:"traceparent,omitempty"`
}

// Done reports whether nothing is to come by itself any more.
func (s *Status) Done() bool { return s.Open == 0 }

// Counts is how many executions are in each state, by its name, and "total".
type Counts map[string]int64

// Total is the number of executions.
func (c Counts) Total() int64 { return c["total"] }

// Of sums the counts of some states.
func (c Counts) Of(states ...string) (n int64) {
	for _, s := range states {
		n += c[s]
	}
	return n
}

// Execution is a command for one device.
type Execution struct {
	ID      string          `json:"id"`
	Device  string          `json:"device"`
	State   string          `json:"state"`
	Attempt int             `json:"attempt"`
	Late    bool            `json:"late,omitempty"`
	Code    int64           `json:"code,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

// ExecutionPage is some executions, and the cursor of the next page.
type ExecutionPage struct {
	Executions []Execution `json:"executions"`
	Next       string      `json:"next,omitempty"`
}

// Node is one node of the cluster.
type Node struct {
	Name        string    `json:"name"`
	Version     string    `json:"version"`
	URLs        []string  `json:"urls"`
	Connections int64     `json:"connections"`
	Sessions    int64     `json:"sessions"`
	Started     time.Time `json:"started"`
}

// Session is what lists show of a session. ConnectedAt is in Unix milliseconds.
type Session struct {
	ClientID      string   `json:"client_id"`
	Identity      string   `json:"identity"`
	Connected     bool     `json:"connected"`
	Remote        string   `json:"remote"`
	Protocol      int      `json:"protocol_version"`
	ConnectedAt   int64    `json:"connected_at"`
	Subscriptions []string `json:"subscriptions"`
	QueueLen      int      `json:"queue_len"`
}

// SessionPage is some sessions, and the cursor of the next page.
type SessionPage struct {
	Sessions []Session `json:"clients"`
	Next     string    `json:"next"`
}

// Token is a device's token, which is its MQTT password.
type Token struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}
