// Package killtest holds tests that kill real nodes with SIGKILL while clients load them, and account for every
// message.
package killtest
