package broker

// Store keeps what must outlive the process: durable sessions, their queues, and retained messages.
//
// Every implementation passes the suite in store/storetest. Keys are the client identifier (session) and the sequence
// number of a queue entry, which the broker assigns: per session, ascending, never reused while the session lives.
type Store interface {
	// Sessions yields every stored session. Called once, before the first Apply. It stops at the first error of yield.
	Sessions(yield func(StoredSession) error) error
	// Retained yields every retained message. Called once, before the first Apply.
	Retained(yield func(*Message) error) error
	// Apply makes all of the transaction's operations durable, or none. It returns at once, without waiting for the
	// disk. done (which may be nil) is called exactly once, on a goroutine of the store, in the order in which the
	// transactions were given; it must not block. The store owns tx from then on.
	// A Tx with Lazy set may be lost by a crash, together with everything given after it that is lazy too; its done is
	// called once it is visible to Queue.
	Apply(tx *Tx, done func(error))
	// Queue reads entries of a session's queue in ascending order of Seq, from from (inclusive) on: at most limit
	// entries, and at most maxBytes of Message.Size in sum but always one. It sees every transaction whose done was
	// called. It blocks for the disk.
	Queue(session string, from uint64, limit, maxBytes int) ([]QueueEntry, error)
}

// Tx is a list of operations that a Store applies in order and atomically.
type Tx struct {
	Ops  []Op
	Lazy bool // need not be on disk before done is called
}

// OpKind says what an Op does and which of its fields it uses.
type OpKind byte

// The operations of a Tx.
const (
	OpPutSession         OpKind = iota + 1 // Record: create or overwrite the session's record alone
	OpDeleteSession                        // Session: remove the record, its subscriptions, queue and inbound packet ids
	OpPutSubscription                      // Session, Subscription: create or overwrite, by Filter
	OpDeleteSubscription                   // Session, Subscription.Filter
	OpAppend                               // Session, Entry: add to the queue; a *Message in several Ops is stored once
	OpRemove                               // Session, Entry.Seq: remove from the queue; absent is no error
	OpRelease                              // Session, Entry.Seq: QoS 2, PUBREC received: the entry stays, Released
	OpAddInbound                           // Session, PacketID: a QoS 2 packet id received and not yet released (PUBREL)
	OpRemoveInbound                        // Session, PacketID
	OpPutRetained                          // Message: becomes the retained message of its topic
	OpDeleteRetained                       // Topic
)

// Op is one operation of a Tx.
type Op struct {
	Kind         OpKind
	Session      string // client identifier
	Record       *SessionRecord
	Subscription Subscription
	Entry        QueueEntry
	PacketID     uint16
	Message      *Message
	Topic        string
}

// SessionRecord is what a Store keeps of a session beside its subscriptions and its queue.
type SessionRecord struct {
	ClientID        string
	Identity        string // who made the session; only the same identity inherits it
	Username        string // verified user name of the last connection, for the ACL check of its will
	Admin           bool   // the last connection's grant was an administrator's
	ProtocolVersion byte
	Created         int64  // Unix milliseconds
	ExpiryInterval  uint32 // seconds after disconnection; 0: ends with the connection; 0xFFFFFFFF: never
	DisconnectedAt  int64  // Unix milliseconds; 0: it was connected when the record was written
	SentTo          uint64 // highest Seq that may have been sent to the client; such entries are sent again with DUP
	NextSeq         uint64 // no Seq below this one will be assigned again
	Will            *Will  // the will that is still to be published, if any
}

// Will is a will message and when it is due.
type Will struct {
	Message   Message
	Delay     uint32 // seconds after disconnection
	DueAt     int64  // Unix milliseconds; 0: the client is still connected
	Expiry    uint32 // message expiry interval in seconds, counted from publication, if HasExpiry
	HasExpiry bool
}

// Subscription is one topic filter of a session with its options (MQTT 5, 3.8.3.1).
type Subscription struct {
	Filter            string // as the client sent it, including $share/{group}/
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	Identifier        uint32 // subscription identifier; 0: none
}

// QueueEntry is one message that waits for one session.
type QueueEntry struct {
	Seq         uint64
	Message     *Message // nil when Released
	QoS         byte     // 1 or 2: the QoS of this delivery
	Retain      bool     // the RETAIN flag of this delivery
	Released    bool     // QoS 2: PUBREC was received; only PUBREL and PUBCOMP are outstanding
	Share       string   // the $share filter that chose this session; empty otherwise
	Identifiers []uint32 // subscription identifiers to send with it
}

// StoredSession is a session as a Store yields it at start.
type StoredSession struct {
	Record        SessionRecord
	Subscriptions []Subscription
	Inbound       []uint16 // QoS 2 packet ids received and not yet released
	QueueFirst    uint64   // lowest Seq in the queue; 0: the queue is empty
	QueueLast     uint64   // highest Seq in the queue
	QueueLen      int      // number of entries
	QueueBytes    int64    // sum of Message.Size, for entries that still have a message
}
