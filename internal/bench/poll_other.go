//go:build !linux

package bench

import "net/netip"

func newPoller(target netip.AddrPort) (poller, error) { return newNetPoller(target), nil }
