package command

import (
	"bytes"
	"context"
	"encoding/base32"
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// Input is a command that somebody issues.
type Input struct {
	Body        []byte // JSON of a Request
	Key         string // idempotency key; empty: the one in Body, if any
	Issuer      string // who issues it, for people
	Traceparent string // W3C trace context to continue; empty: a new one
}

// issue is a command in the making; it stays as the memory of its idempotency key.
type issue struct {
	cmd     *command
	key     string
	hash    []byte
	size    int64 // of the payload
	err     error // of the store
	done    bool  // the command is stored, and has been given to its devices' queues
	waiting []func(Status, error)
	entries []Execution
}

// Issue takes a command and returns when the store has it. The same key and the same request give the command that is
// already there. Errors are *Problem: 400 and 422 for what is asked, 409 for a key that stands for something else, 413
// for a payload that is too large, 429 for too many unfinished commands, 503 when it cannot be stored.
func (s *Service) Issue(ctx context.Context, in Input) (Status, error) {
	type answer struct {
		status Status
		err    error
	}
	answered := make(chan answer, 1)
	s.issue(in, func(st Status, err error) { answered <- answer{st, err} })
	select {
	case a := <-answered:
		return a.status, a.err
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// issue calls answer exactly once, maybe before it returns.
func (s *Service) issue(in Input, answer func(Status, error)) {
	req, fault := parseRequest(in.Body, s.cfg)
	if fault == nil {
		fault = in.mergeKey(req)
	}
	if fault != nil {
		answer(Status{}, fault)
		return
	}
	is, stored, fault := s.begin(in, req, answer)
	switch {
	case fault != nil:
		answer(Status{}, fault)
	case stored != nil:
		answer(stored.status(), nil)
	case is != nil:
		s.submit(is, req)
	}
}

// mergeKey settles on one idempotency key.
func (in *Input) mergeKey(req *parsed) *Problem {
	switch {
	case in.Key == "":
		in.Key = req.ID
	case req.ID != "" && req.ID != in.Key:
		return faults{{"body.id", "differs from the header Idempotency-Key: give only one of them"}}.problem()
	case len(in.Key) > maxKey:
		return faults{{"header.Idempotency-Key", "is too long"}}.problem()
	}
	return nil
}

// begin reserves key, id and room for a command, or finds the one that has the key already. It returns neither when
// that one is still being stored: answer is then called together with the first one's.
func (s *Service) begin(in Input, req *parsed, answer func(Status, error)) (is *issue, stored *command, p *Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := req.hash()
	if is := s.byKey[in.Key]; in.Key != "" && is != nil {
		if !bytes.Equal(is.hash, hash) {
			return nil, nil, problem(http.StatusConflict, "the idempotency key %q stands for another command",
				clip(in.Key))
		}
		if is.done {
			return nil, is.cmd, nil
		}
		is.waiting = append(is.waiting, answer)
		return nil, nil, nil
	}
	switch {
	case s.stopped || !s.started:
		return nil, nil, problem(http.StatusServiceUnavailable, "commands are not taken now")
	case s.commands[req.ID] != nil:
		return nil, nil, problem(http.StatusConflict, "there is another command with the id %q", req.ID)
	}
	if p := s.roomLocked(int64(len(req.payload))); p != nil {
		return nil, nil, p
	}
	is = &issue{key: in.Key, hash: hash, waiting: []func(Status, error){answer}, size: int64(len(req.payload))}
	is.cmd = newCommand(s.recordLocked(in, req, hash))
	is.cmd.payload.Store(&req.payload)
	s.active++
	s.bytes += is.size
	s.issuing.Add(1)
	if in.Key != "" {
		s.byKey[in.Key] = is
	}
	return is, nil, nil
}

// roomLocked says why another unfinished command cannot be taken.
func (s *Service) roomLocked(payload int64) *Problem {
	if s.active >= s.cfg.Active {
		return problem(http.StatusTooManyRequests, "%d commands are unfinished, and no more are taken", s.active)
	}
	if s.bytes+payload > int64(s.cfg.PayloadMemory) {
		return problem(http.StatusTooManyRequests, "the payloads of unfinished commands take %d bytes, and no more "+
			"are taken", s.bytes)
	}
	return nil
}

func (s *Service) recordLocked(in Input, req *parsed, hash []byte) *Record {
	now := nowMillis()
	r := &Record{
		ID: req.ID, Seq: s.nextSeqLocked(), Key: in.Key, Hash: hash, Created: now, TTL: seconds(req.TTL, s.cfg.TTL),
		AckTimeout: seconds(req.AckTimeout, s.cfg.AckTimeout), Priority: uint8(req.Priority), Lane: req.Lane,
		ResultTimeout: seconds(req.ResultTimeout, s.cfg.ResultTimeout), CollapseKey: req.CollapseKey,
		Issuer: in.Issuer, Traceparent: childSpan(in.Traceparent), PayloadBytes: len(req.payload),
	}
	r.Expires = now + r.TTL
	for r.ID == "" || s.commands[r.ID] != nil && req.ID == "" {
		r.ID = newID(now)
	}
	return r
}

// nextSeqLocked gives a number that is higher than any before it, also before a restart.
func (s *Service) nextSeqLocked() uint64 {
	s.lastSeq = max(s.lastSeq+1, uint64(time.Now().UnixMicro()))
	return s.lastSeq
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID makes an id of 16 letters and digits: 48 bits of time, then 32 random ones.
func newID(now int64) string {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:], uint64(now)<<16)
	binary.BigEndian.PutUint32(b[6:], rand.Uint32())
	return idEncoding.EncodeToString(b[:10])
}

// submit finds the targets and gives the command to the store.
func (s *Service) submit(is *issue, req *parsed) {
	devices, fault := req.Targets.Devices, (*Problem)(nil)
	if req.Targets.Online {
		devices, fault = s.online()
	}
	if fault != nil {
		s.abandon(is, fault)
		return
	}
	c := is.cmd
	r := &c.record
	is.entries = make([]Execution, len(devices))
	tx := &Tx{Payload: req.payload, PutPayload: true, Executions: make([]Update, len(devices))}
	for i, device := range devices {
		is.entries[i] = newExecution(uint32(i), device, r.Seq, r.Created, r.Expires)
		tx.Executions[i] = Update{c.id, is.entries[i]}
	}
	r.Counts = Counts{Total: int64(len(devices)), Queued: int64(len(devices))}
	c.targets = len(devices)
	if c.live = len(devices) > 0; !c.live {
		r.Finished, c.closed = r.Created, true
	}
	stored := *r
	tx.Commands = []*Record{&stored}
	s.store.Apply(tx, func(err error) {
		is.err = err
		s.stored.put(is)
	})
}

// online lists the clients that are connected now and can be named in a topic.
func (s *Service) online() ([]string, *Problem) {
	var devices []string
	cursor := ""
	for {
		page := s.broker.Clients(cursor, 1000)
		if len(page) == 0 {
			return devices, nil
		}
		for i := range page {
			if page[i].Connected && deviceFault(page[i].ClientID) == "" {
				devices = append(devices, page[i].ClientID)
			}
		}
		if len(devices) > s.cfg.Targets {
			const tooMany = "more clients are connected than a command may have devices"
			return nil, faults{{"body.targets.online", tooMany}}.problem()
		}
		cursor = page[len(page)-1].ClientID
	}
}

// abandon frees what a command that was not stored had reserved.
func (s *Service) abandon(is *issue, err error) {
	s.mu.Lock()
	if is.key != "" {
		delete(s.byKey, is.key)
	}
	s.active--
	s.bytes -= is.size
	waiting := is.waiting
	s.mu.Unlock()
	for _, answer := range waiting {
		answer(Status{}, err)
	}
	s.issuing.Done()
}

// admitStored is the goroutine that gives stored commands to their devices' queues, in the order in which they were
// stored.
func (s *Service) admitStored() { s.stored.each(s.stop, s.admit) }

func (s *Service) admit(is *issue) {
	if is.err != nil {
		s.log.Error("command not stored", "error", is.err, "command_id", is.cmd.id)
		s.abandon(is, problem(http.StatusServiceUnavailable, "the command could not be stored"))
		return
	}
	c := is.cmd
	s.mu.Lock()
	s.commands[c.id] = c
	s.insertLocked(c)
	waiting, entries := is.waiting, is.entries
	is.done, is.waiting, is.entries = true, nil, nil
	s.mu.Unlock()
	s.metrics.transitions(Pending).Add(float64(len(entries)))
	s.metrics.transitions(Queued).Add(float64(len(entries)))
	s.log.Info("command issued", "command_id", c.id, "executions", len(entries), "issuer", c.record.Issuer,
		"trace_id", c.traceID())
	st := c.status()
	s.announce(c)
	s.enqueue(c, entries)
	if len(entries) == 0 {
		s.release(c, c.payload.Swap(nil))
	}
	for _, answer := range waiting {
		answer(st, nil)
	}
	s.issuing.Done()
}

// insertLocked keeps the commands in order of age; the newest nearly always belongs at the end.
func (s *Service) insertLocked(c *command) {
	at := len(s.order)
	for at > 0 && s.order[at-1].seq > c.seq {
		at--
	}
	s.order = slices.Insert(s.order, at, c)
}

// enqueue gives executions to their shards, each of which is locked once.
func (s *Service) enqueue(c *command, entries []Execution) {
	var parts [shards][]Execution
	for _, x := range entries {
		i := s.shardIndex(x.Device)
		parts[i] = append(parts[i], x)
	}
	for i, part := range parts {
		sh := s.shards[i]
		sh.mu.Lock()
		for _, x := range part {
			sh.admit(sh.put(c, x))
		}
		sh.mu.Unlock()
	}
}
