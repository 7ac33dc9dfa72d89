// Package command brings commands down to devices and knows what became of each: a state machine with absolute
// deadlines, queues for devices that are away, and a store that has every state before anyone is told of it.
//
// The way of a command: issue.go takes it and has it stored; shard.go and lane.go hold what waits, by device;
// dispatch.go sends and hears acknowledgements; result.go takes what devices answer; flush.go writes and event.go
// tells.
//
// # What a state says
//
// SENT means that the message was handed to the connection, DELIVERED that the device has acknowledged it; nothing is
// inferred but backwards: a result implies that the message was sent and delivered. Counts, events and listings show
// only what the store has. QUEUED and SENT are written without waiting for the disk: a crash of the machine may lose
// them, and the execution then goes on from QUEUED, which is the one way back that the states have. DELIVERED, RUNNING
// and every end are on disk before anybody sees them, and before the device's result is acknowledged.
//
// An acknowledgement with a reason code of 0x80 or more is REJECTED (reason puback_0x…): the device has answered.
// UNDELIVERABLE is for what the device could not decide on: its queue was full (queue_full, queue_overflow) or all
// attempts were used (max_attempts). An acknowledgement or an answer that comes after an execution was EXPIRED,
// CANCELED or UNDELIVERABLE does not change the state, but it is kept (delivered_at, late, result), because the device
// may well have acted. TIMED_OUT takes a late result as its state.
//
// Without a result timeout, a command is finished when every device has acknowledged it, though results that come are
// still taken. Cancel withdraws what was not acknowledged; it cannot take back what was.
//
// # Order
//
// The executions of one lane reach a device by priority, then by age; one at a time with the default window of 1: the
// next is sent when the one before is acknowledged. In the pause between two attempts, an execution holds back what is
// behind it. Those of a paused command do not. A retry enters at the end, with a new sequence number and a new
// execution id ({command}-{index}.{round}); a success that is answered to an earlier round counts, so that nothing is
// done twice.
//
// # Who guards what
//
// An execution belongs to the shard of its device, whose mutex guards it; the shard's goroutine is the only one that
// sends, so order holds, and the only one that writes, so the store gets the versions of an execution in order. There
// is one deadline heap and one timer for each shard. Executions that can change no more by themselves are not in
// memory; one that gets a late result is fetched.
package command
