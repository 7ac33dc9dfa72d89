package listen

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// Sizes from the PROXY protocol specification: the shortest header of each version, the longest of version 1, and the
// bound that go-proxyproto sets to version 2.
const (
	shortestHeader = len("PROXY UNKNOWN\r\n")
	longestV1      = 107
	fixedV2        = 16
	longestV2      = fixedV2 + 4096
)

var errNotProxied = errors.New("the address is not in proxy_from")

// proxiedAddress reads the PROXY header of a connection that comes from peer and returns the client's address: the
// peer's own when the load balancer speaks for itself (LOCAL, UNKNOWN).
func (l *Listener) proxiedAddress(sock io.Reader, peer netip.AddrPort) (netip.AddrPort, error) {
	if !contains(l.cfg.ProxyFrom, peer.Addr()) {
		return peer, errNotProxied
	}
	header, err := readProxyHeader(sock)
	if err != nil {
		return peer, err
	}
	if want := l.cfg.ProxyProtocol; want != "any" && want != fmt.Sprintf("v%d", header.Version) {
		return peer, fmt.Errorf("header is version %d, and only %s is allowed", header.Version, want)
	}
	if header.Command.IsLocal() || header.TransportProtocol.IsUnspec() {
		return peer, nil
	}
	source, _, ok := header.TCPAddrs()
	if !ok {
		return peer, errors.New("header is not about a TCP connection")
	}
	return unmap(source.AddrPort()), nil
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr.WithZone("")) {
			return true
		}
	}
	return false
}

// readProxyHeader reads a header and not one byte more, so that the socket itself remains usable for what follows.
func readProxyHeader(r io.Reader) (*proxyproto.Header, error) {
	raw, err := cutHeader(r)
	if err != nil {
		return nil, err
	}
	return proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(raw), len(raw)))
}

// cutHeader returns the bytes of the header at the start of r. Their meaning is left to go-proxyproto.
func cutHeader(r io.Reader) ([]byte, error) {
	raw := make([]byte, shortestHeader, longestV1)
	for n := 0; n < len(raw); {
		more, err := r.Read(raw[n:])
		n += more
		if !startsHeader(raw[:n]) {
			return nil, proxyproto.ErrNoProxyProtocol
		}
		if err != nil && n < len(raw) {
			return nil, fmt.Errorf("read PROXY header: %w", err)
		}
	}
	if raw[0] == proxyproto.SIGV1[0] {
		return finishV1(r, raw)
	}
	return finishV2(r, raw)
}

// startsHeader reports whether b, which may be shorter than a signature, could be the start of a header: what could
// not is refused at once instead of waiting for the rest.
func startsHeader(b []byte) bool {
	for _, signature := range [][]byte{proxyproto.SIGV1, proxyproto.SIGV2} {
		n := min(len(b), len(signature))
		if bytes.Equal(b[:n], signature[:n]) {
			return true
		}
	}
	return false
}

// finishV1 reads byte by byte to the end of the line, since nothing else tells where it is.
func finishV1(r io.Reader, raw []byte) ([]byte, error) {
	for raw[len(raw)-1] != '\n' {
		if len(raw) == longestV1 {
			return nil, proxyproto.ErrVersion1HeaderTooLong
		}
		raw = raw[:len(raw)+1]
		if _, err := io.ReadFull(r, raw[len(raw)-1:]); err != nil {
			return nil, fmt.Errorf("read PROXY header: %w", err)
		}
	}
	return raw, nil
}

func finishV2(r io.Reader, raw []byte) ([]byte, error) {
	raw = raw[:fixedV2]
	if _, err := io.ReadFull(r, raw[shortestHeader:]); err != nil {
		return nil, fmt.Errorf("read PROXY header: %w", err)
	}
	size := fixedV2 + int(binary.BigEndian.Uint16(raw[fixedV2-2:]))
	if size > longestV2 {
		return nil, proxyproto.ErrInvalidLength
	}
	whole := append(make([]byte, 0, size), raw...)[:size]
	if _, err := io.ReadFull(r, whole[fixedV2:]); err != nil {
		return nil, fmt.Errorf("read PROXY header: %w", err)
	}
	return whole, nil
}
