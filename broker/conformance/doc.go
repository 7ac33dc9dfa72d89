// Package conformance holds the broker to the normative statements of MQTT 3.1.1 and MQTT 5.0, over sockets.
//
// Each version has a table of its numbered statements; a statement of servers names the function that tests it. To run
// one: go test ./broker/conformance -run 'TestMQTT5/\[MQTT-3.1.2-4\]'. docs/CONFORMANCE.md is written from the tables:
// go test ./broker/conformance -run TestDocument -update.
package conformance
