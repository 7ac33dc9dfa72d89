package bridge

import "github.com/penstockmq/penstock/hooks/uplink"

// Spool keeps records on disk in the order of their sequence numbers. Two things are kept this way: what waits for
// Kafka (see Uplink), and what is kept instead of Kafka (see Log). Each has a Spool of its own.
//
// It may be used from several goroutines; but only one removes and sets aside, and it names only what it has read.
type Spool interface {
	// Append stores entries on disk and returns at once. It takes the longest head of entries for which there is room.
	// done is called exactly once, on a goroutine of the store or before Append returns, and must not block: taken says
	// how many entries there was room for, err whether storing those failed. Sequence numbers may come in any order,
	// but each only once. Entry.Size is ignored.
	Append(entries []Entry, done func(taken int, err error))
	// Read returns entries with sequence numbers from from on, in ascending order: at most limit, and at most maxBytes
	// of Entry.Size in sum but always one. It sees every Append whose done was called. It blocks for the disk.
	Read(from uint64, limit, maxBytes int) ([]Entry, error)
	// Remove deletes every entry up to and including upTo: that many messages, with that many bytes of Entry.Size in
	// sum. It does not wait for the disk; a crash may bring back what was removed shortly before.
	Remove(upTo uint64, messages int, bytes int64)
	// SetAside takes one entry out of the order and keeps it, with the reason, until an operator deals with it. It
	// still counts against the room. It blocks for the disk.
	SetAside(e Entry, reason string) error
	// Stats returns how much is stored now.
	Stats() SpoolStats
}

// Entry is one stored record.
type Entry struct {
	Seq    uint64 // from 1 on
	Record *uplink.Record
	Size   int64 // what it counts for against the room of the Spool, as Read reports it
}

// SpoolStats says how much is stored.
type SpoolStats struct {
	Messages int64  // without those set aside
	Bytes    int64  // with those set aside
	SetAside int64  // messages
	First    uint64 // no entry has a lower sequence number
	Last     uint64 // no entry has a higher sequence number; 0: there never was one
}
