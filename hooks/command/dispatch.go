package command

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// maxOutstanding bounds the copies of one execution that a connection holds unacknowledged: a device that is connected
// and silent costs no more, however often its acknowledgement times out.
const maxOutstanding = 3

// sendBatch is how many messages are taken from the queues with one hold of the lock.
const sendBatch = 256

// Topics of a device: devices/{id}/commands/{execution} and devices/{id}/results/{execution}.
const (
	devicePrefix = "devices/"
	commandsPart = "/commands/"
	resultsPart  = "/results/"
)

// delivery is one Send of an execution; it hears what becomes of it (broker.SendHandler).
type delivery struct {
	sh      *shard
	e       *execution
	round   uint32
	attempt uint32
	wakes   uint32 // of the device when it was taken from the queue
	message *broker.Message
}

// sendReady sends what the devices in the ready list may be sent.
func (sh *shard) sendReady() {
	for {
		batch := sh.pick()
		if len(batch) == 0 {
			return
		}
		for _, d := range batch {
			device := strings.TrimPrefix(d.message.Topic, devicePrefix)
			device = device[:strings.IndexByte(device, '/')]
			if err := sh.s.broker.Send(device, d.message, d); err != nil {
				d.refused(err)
			}
		}
	}
}

// pick takes executions from the queues of the ready devices.
func (sh *shard) pick() []*delivery {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := nowMillis()
	var batch []*delivery
	for len(sh.ready) > 0 && len(batch) < sendBatch {
		d := sh.ready[0]
		sh.ready[0], sh.ready = nil, sh.ready[1:]
		d.ready = false
		if !d.parked {
			batch = sh.pickFrom(d, now, batch)
		}
		if d.idle() && sh.devices[d.id] == d {
			delete(sh.devices, d.id)
		}
	}
	return batch
}

func (sh *shard) pickFrom(d *device, now int64, batch []*delivery) []*delivery {
	for i := range d.lanes {
		l := &d.lanes[i]
		for e := l.next(sh.s.cfg.Window, now); e != nil; e = l.next(sh.s.cfg.Window, now) {
			if e.Expires <= now {
				break // its deadline is due
			}
			e.sending = true
			e.outstanding++
			d.promote(l, e)
			sh.waiting--
			batch = append(batch, &delivery{sh, e, e.Round, e.Attempt, d.wakes, message(e)})
		}
	}
	return batch
}

// message is what the device gets. Its expiry is absolute: the broker sends what is left of it.
func message(e *execution) *broker.Message {
	id := executionID(e.cmd.id, e.Index, e.Round)
	m := &broker.Message{
		Topic: devicePrefix + e.Device + commandsPart + id, QoS: 1, Received: nowMillis(), Expires: e.Expires,
		Traceparent: childSpan(e.cmd.traceparent),
		Properties: &broker.Properties{
			ResponseTopic: devicePrefix + e.Device + resultsPart + id, CorrelationData: []byte(id),
			User: []packets.UserProperty{
				{Key: "traceparent"},
				{Key: "seq", Val: strconv.FormatUint(e.Seq, 10)},
				{Key: "attempt", Val: strconv.FormatUint(uint64(e.Attempt), 10)},
				{Key: "command_id", Val: e.cmd.id},
			},
		},
	}
	m.Properties.User[0].Val = m.Traceparent
	if p := e.cmd.payload.Load(); p != nil {
		m.Payload = *p
	}
	return m
}

// childSpan gives a trace context with the same trace id and a span id of its own (W3C Trace Context, 3.2).
func childSpan(parent string) string {
	var span [8]byte
	binary.BigEndian.PutUint64(span[:], rand.Uint64()|1)
	if !validTraceparent(parent) {
		var trace [16]byte
		binary.BigEndian.PutUint64(trace[:], rand.Uint64()|1)
		binary.BigEndian.PutUint64(trace[8:], rand.Uint64())
		return "00-" + hex.EncodeToString(trace[:]) + "-" + hex.EncodeToString(span[:]) + "-01"
	}
	return parent[:36] + hex.EncodeToString(span[:]) + parent[52:55]
}

func validTraceparent(t string) bool {
	if len(t) != 55 || t[2] != '-' || t[35] != '-' || t[52] != '-' {
		return false
	}
	_, err := hex.DecodeString(t[:2] + t[3:35] + t[36:52] + t[53:])
	return err == nil && t == strings.ToLower(t)
}

// current reports whether the execution is still in this attempt, and in the broker's hands.
func (d *delivery) current() bool {
	return d.e.Round == d.round && d.e.Attempt == d.attempt && d.e.State.onTheWay()
}

// refused takes back what the broker did not take. The device is left alone until it connects or subscribes, unless it
// did so meanwhile.
func (d *delivery) refused(err error) {
	d.sh.mu.Lock()
	defer d.sh.mu.Unlock()
	e := d.e
	e.outstanding--
	if d.current() && e.sending {
		if dev := e.device; dev != nil && dev.wakes == d.wakes && unreachable(err) {
			dev.parked = true
		}
		d.takeBack(err)
	}
	d.sh.finish(e)
}

func unreachable(err error) bool {
	return errors.Is(err, broker.ErrNotConnected) || errors.Is(err, broker.ErrNotSubscribed)
}

// Sent is called by the broker when the message was handed to the connection.
func (d *delivery) Sent() {
	d.sh.mu.Lock()
	defer d.sh.mu.Unlock()
	if d.current() && d.e.State == Queued && d.e.sending {
		d.sh.advance(d.e, Sent, Queued, "")
	}
}

// Acked is called by the broker when the device answered. An acknowledgement of an earlier attempt counts as well: the
// device has the message. One that comes after the execution was given up changes no state, but its time is recorded.
func (d *delivery) Acked(code byte) {
	d.sh.mu.Lock()
	defer d.sh.mu.Unlock()
	e := d.e
	e.outstanding--
	if e.Round == d.round {
		switch {
		case code >= packets.ErrUnspecifiedError.Code:
			// The device itself has said no, so it is REJECTED; UNDELIVERABLE is for what it could not decide on.
			d.sh.advance(e, Rejected, Sent, fmt.Sprintf("puback_0x%02x", code))
		case d.sh.advance(e, Delivered, Sent, ""):
		case e.Delivered == 0 && e.State.final():
			e.Delivered = nowMillis()
			e.Rev++
			d.sh.touch(e, true)
		}
	}
	d.sh.finish(e)
}

// Wanted is called by the broker before it sends a message that had to wait: one that was canceled, has expired or was
// superseded meanwhile is not sent.
func (d *delivery) Wanted() bool {
	d.sh.mu.Lock()
	defer d.sh.mu.Unlock()
	return d.current() && d.e.State == Queued && d.e.sending
}

// Lost is called by the broker when the message will not be delivered by this Send.
func (d *delivery) Lost(err error) {
	d.sh.mu.Lock()
	defer d.sh.mu.Unlock()
	e := d.e
	e.outstanding--
	if d.current() {
		switch {
		case e.State == Sent:
			d.sh.again(e, lostReason(err))
		case e.sending:
			d.takeBack(err)
		}
	}
	d.sh.finish(e)
}

func lostReason(err error) string {
	if errors.Is(err, broker.ErrNotConnected) {
		return "connection_lost"
	}
	return "not_delivered: " + clip(err.Error())
}

// takeBack returns an execution that did not get as far as Sent to its queue. Only an error that is not about the
// device's being away counts as an attempt.
func (d *delivery) takeBack(err error) {
	e := d.e
	e.sending = false
	if unreachable(err) {
		d.sh.settle(e)
		return
	}
	if dropped := (*broker.DropError)(nil); errors.As(err, &dropped) && dropped.Reason == broker.DropTooLarge {
		d.sh.advance(e, Undeliverable, Queued, "too_large") // for this device it always will be
		return
	}
	if d.sh.exhausted(e) {
		return
	}
	e.Attempt++
	e.Rev++
	now := nowMillis()
	e.NotBefore = now + d.sh.s.backoff(e.Attempt)
	e.because(lostReason(err))
	d.sh.settle(e)
	d.sh.touch(e, false)
}

// finish lets the device go on after a change to e, and drops e if nothing is left to come. mu is held.
func (sh *shard) finish(e *execution) {
	if e.device != nil {
		sh.look(e.device)
	}
	sh.forget(e)
}

// again takes e back from Sent for another attempt after a pause, or gives up. mu is held.
func (sh *shard) again(e *execution, reason string) {
	if sh.exhausted(e) {
		return
	}
	now := nowMillis()
	e.sending = false
	p := e.requeue(now, now+sh.s.backoff(e.Attempt+1), reason)
	if p.n > 0 {
		sh.moved(e, p, now)
	}
}

// exhausted gives e up if it has no attempt left. mu is held.
func (sh *shard) exhausted(e *execution) bool {
	if most := sh.s.cfg.Attempts; most == 0 || int(e.Attempt) < most {
		return false
	}
	return sh.advance(e, Undeliverable, Pending, "max_attempts")
}

// backoff is the pause before an attempt: random up to a bound that doubles (full jitter), in milliseconds.
func (s *Service) backoff(attempt uint32) int64 {
	bound := s.cfg.BackoffMax
	if shift := attempt - 2; attempt >= 2 && shift < 20 {
		bound = min(bound, s.cfg.BackoffMin<<shift)
	}
	return rand.Int64N(bound.Milliseconds() + 1)
}

// expire does what is due.
func (sh *shard) expire() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := nowMillis()
	for at := sh.deadlines.next(); at != 0 && at <= now; at = sh.deadlines.next() {
		sh.due(sh.deadlines[0], now)
	}
}

// due handles one execution whose deadline has come, and leaves it with a later deadline or none. mu is held.
func (sh *shard) due(e *execution, now int64) {
	switch {
	case e.State.onTheWay() && e.Expires <= now:
		sh.advance(e, Expired, Pending, "expired")
	case e.State == Sent:
		sh.again(e, "ack_timeout")
	case e.State.onTheWay():
		e.NotBefore = 0
		sh.settle(e)
		if e.device != nil {
			sh.look(e.device)
		}
	default:
		sh.advance(e, TimedOut, Pending, "no_result")
	}
}
