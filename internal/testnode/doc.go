// Package testnode runs penstock as users do, as a process with a configuration file, for tests that kill it, start it
// again and look at it from outside; and it keeps clients connected to such a node over its restarts.
package testnode
