// Package bench loads an MQTT broker and accounts for every message.
//
// It speaks MQTT 3.1.1 and 5 over plain TCP with a codec and a socket loop of its own, because it shares the machine
// with the broker under test: a general client library costs more per message than a fast broker does, and would hide
// what is measured. One goroutine runs everything (see loop.go); no connection has a goroutine, and no message
// allocates.
//
// Each payload begins with a stamp: the run, the publisher, its sequence number and the time at which the message was
// meant to be sent. From it follow what was lost, duplicated or reordered, and latencies without coordinated omission.
package bench
