package command

import "errors"

// ErrNotFound: there is no such command or execution.
var ErrNotFound = errors.New("no such command")

// Store keeps commands and executions beyond the process.
type Store interface {
	// Commands yields every stored command. It stops at the first error of yield.
	Commands(yield func(*Record) error) error
	// Payload reads the payload of a command, or ErrNotFound. It blocks for the disk.
	Payload(command string) ([]byte, error)
	// Executions yields the executions of a command with an index of at least from, in ascending order, as the
	// transactions whose done was called have left them, until yield returns false. It blocks for the disk.
	Executions(command string, from uint32, yield func(*Execution) bool) error
	// Execution reads one execution, or ErrNotFound. It blocks for the disk.
	Execution(command string, index uint32) (Execution, error)
	// Apply makes all of the transaction durable, or none. It returns at once. done is called exactly once, in the
	// order in which the transactions were given, and must not block. The store owns tx from then on.
	Apply(tx *Tx, done func(error))
}

// Tx is what a Store applies atomically, in the order of its fields.
type Tx struct {
	Delete     []string // commands that go, with everything of theirs
	Commands   []*Record
	Payload    []byte // of Commands[0], when PutPayload is set
	PutPayload bool
	Executions []Update
	Lazy       bool // may be lost by a crash of the machine; done is called once readers see it
}

// Update is a new version of an execution. There is one writer for each execution, which gives versions with ascending
// Rev; a store with several writers must refuse one whose Rev is not higher than the stored one's.
type Update struct {
	Command   string
	Execution Execution
}

// Record is a command as it is stored, without its payload. Times are Unix milliseconds.
type Record struct {
	ID            string `json:"id"`
	Seq           uint64 `json:"seq"`
	Key           string `json:"key,omitempty"`  // idempotency key
	Hash          []byte `json:"hash,omitempty"` // of what was asked for, to compare when the key comes again
	Created       int64  `json:"created"`
	Expires       int64  `json:"expires"`
	Finished      int64  `json:"finished,omitempty"` // 0: not finished, Counts are not up to date
	TTL           int64  `json:"ttl_ms"`
	AckTimeout    int64  `json:"ack_timeout_ms"`
	ResultTimeout int64  `json:"result_timeout_ms,omitempty"` // 0: no result is awaited
	Priority      uint8  `json:"priority,omitempty"`
	Lane          string `json:"lane,omitempty"`
	CollapseKey   string `json:"collapse_key,omitempty"`
	Paused        bool   `json:"paused,omitempty"`
	Canceled      bool   `json:"canceled,omitempty"`
	Issuer        string `json:"issuer,omitempty"`
	Traceparent   string `json:"traceparent,omitempty"`
	PayloadBytes  int    `json:"payload_bytes"`
	Counts        Counts `json:"counts"`
}
