// Package systest holds system tests: the built penstock binary as a process, real clients, a real Kafka.
package systest
