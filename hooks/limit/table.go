package limit

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// Table is an immutable set of addresses, built from prefixes. A look-up is one binary search over ranges that do not
// overlap, so it costs the same for ten prefixes of one length as for ten thousand of mixed lengths.
type Table struct {
	ranges []addrRange
}

type addrRange struct{ first, last netip.Addr }

// NewTable makes a table of the addresses in the prefixes. IPv4-mapped IPv6 prefixes of 96 bits or more count as IPv4.
func NewTable(prefixes []netip.Prefix) *Table {
	ranges := make([]addrRange, 0, len(prefixes))
	for _, p := range prefixes {
		if p = unmapPrefix(p); p.IsValid() {
			ranges = append(ranges, addrRange{p.Addr(), lastAddr(p)})
		}
	}
	// Of ranges that begin alike the widest comes first, and takes in the others.
	slices.SortFunc(ranges, func(a, b addrRange) int {
		return cmp.Or(a.first.Compare(b.first), b.last.Compare(a.last))
	})
	merged := ranges[:0]
	for _, r := range ranges {
		// Prefixes nest or are disjoint, so a range that starts inside the one before it also ends there.
		if n := len(merged); n == 0 || merged[n-1].last.Less(r.first) {
			merged = append(merged, r)
		}
	}
	return &Table{ranges: merged}
}

// Len is the number of disjoint ranges.
func (t *Table) Len() int { return len(t.ranges) }

// Contains reports whether addr is in the table. IPv4-mapped IPv6 addresses are looked up as IPv4; zones are ignored.
func (t *Table) Contains(addr netip.Addr) bool {
	addr = Normalize(addr)
	i := sort.Search(len(t.ranges), func(i int) bool { return addr.Less(t.ranges[i].first) })
	return i > 0 && !t.ranges[i-1].last.Less(addr)
}

// Normalize turns IPv4-mapped IPv6 into IPv4 and drops the zone, so that one host has one address.
func Normalize(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func lastAddr(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}
