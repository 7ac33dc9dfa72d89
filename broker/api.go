package broker

// SendHandler hears what becomes of a message given to Broker.Send. Its methods run on the broker's goroutines, in
// order, must not block and must not call back into the broker for the same client.
type SendHandler interface {
	// Sent: the PUBLISH was handed to the connection.
	Sent()
	// Acked: the client answered with PUBACK (QoS 1) or PUBCOMP (QoS 2); code is its reason code (0 for MQTT 3).
	// A code of 0x80 or more means that the client refused the message. Nothing follows.
	Acked(code byte)
	// Lost: the message will not be delivered by this Send any more; err says why (ErrNotConnected when the
	// connection ended first). Nothing follows.
	Lost(err error)
}

// Withdrawer is what a SendHandler may also be: whoever sends may change its mind as long as the message waits.
type Withdrawer interface {
	// Wanted is asked right before the message is sent for the first time. When it says no, nothing is sent, and Lost
	// gets a *DropError with DropWithdrawn. The rules of SendHandler apply.
	Wanted() bool
}

// ClientInfo describes a session for the admin API.
type ClientInfo struct {
	ClientID        string   `json:"client_id"`
	Identity        string   `json:"identity"`
	Username        string   `json:"username"`
	Connected       bool     `json:"connected"`
	Remote          string   `json:"remote,omitempty"`
	Listener        string   `json:"listener,omitempty"`
	ProtocolVersion byte     `json:"protocol_version"`
	KeepAlive       uint16   `json:"keep_alive_s"`
	ConnectedAt     int64    `json:"connected_at,omitempty"`    // Unix milliseconds
	DisconnectedAt  int64    `json:"disconnected_at,omitempty"` // Unix milliseconds
	ExpiryInterval  uint32   `json:"session_expiry_s"`
	Subscriptions   []string `json:"subscriptions"`
	QueueLen        int      `json:"queue_len"`
	QueueBytes      int64    `json:"queue_bytes"`
	Inflight        int      `json:"inflight"`
	TokenID         string   `json:"token_id,omitempty"`
	TraceID         string   `json:"trace_id,omitempty"`
}

// Stats is a snapshot of the broker's counters and gauges. Counters only grow.
type Stats struct {
	Connections     int64 // now
	Sessions        int64 // now, connected or not
	Subscriptions   int64 // now
	Retained        int64 // now
	QueuedMessages  int64 // now, in durable queues of disconnected and connected sessions
	QueuedBytes     int64 // now
	ConnectionsMax  int64 // most at once since the start
	BytesReceived   int64
	BytesSent       int64
	PacketsReceived int64
	PacketsSent     int64
	PublishReceived [3]int64 // by QoS
	PublishAcked    int64    // PUBACK and PUBREC with a success code
	PublishRefused  map[string]int64
	Delivered       [3]int64         // PUBLISH packets handed to connections, by QoS
	DeliveryAcked   int64            // PUBACK and PUBCOMP received
	Dropped         map[string]int64 // messages dropped, by reason
	ConnectAccepted int64
	ConnectRefused  map[string]int64 // by reason
	Disconnects     map[string]int64 // by reason
}
