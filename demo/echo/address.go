package echo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// DefaultPort is the TCP port of the echo server.
const DefaultPort = 43211

// endpoint is where the client connects to.
type endpoint struct {
	addr netip.Addr // the zero Addr if host is a name
	host string
	port uint16
}

// parseEndpoint reads an address as people write them: 127.0.0.1,
// 127.0.0.1:43211, ::1, [::1], [::1]:43211, localhost, localhost:43211. The
// port is DefaultPort where none is given.
func parseEndpoint(s string) (endpoint, error) {
	if s == "" {
		return endpoint{}, fmt.Errorf("no address given: want for example 127.0.0.1, [::1]:%d or localhost", DefaultPort)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		if ap.Port() == 0 {
			return endpoint{}, fmt.Errorf("address %q: port 0 cannot be connected to", s)
		}
		return endpoint{addr: ap.Addr(), port: ap.Port()}, nil
	}
	literal := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		literal = s[1 : len(s)-1]
	}
	if addr, err := netip.ParseAddr(literal); err == nil && (literal == s || addr.Is6()) {
		return endpoint{addr: addr, port: DefaultPort}, nil
	}
	host, port := s, uint64(DefaultPort)
	if before, after, ok := strings.Cut(s, ":"); ok {
		var err error
		if port, err = strconv.ParseUint(after, 10, 16); err != nil || port == 0 {
			return endpoint{}, fmt.Errorf("address %q: want HOST, HOST:PORT or [IPV6]:PORT with a port from 1 to 65535", s)
		}
		host = before
	}
	if host == "" || strings.ContainsAny(host, "[]/ ") {
		return endpoint{}, fmt.Errorf("address %q: %q is neither an IP address nor a host's name", s, host)
	}
	return endpoint{host: host, port: uint16(port)}, nil
}

// resolve returns the addresses to try, in order. Only a name needs a look-up.
func (e endpoint) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if e.addr.IsValid() {
		return []netip.AddrPort{netip.AddrPortFrom(e.addr, e.port)}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.host)
	if err != nil {
		return nil, fmt.Errorf("look up %q: %w; give an IP address if the name is not needed", e.host, err)
	}
	targets := make([]netip.AddrPort, len(addrs))
	for i, addr := range addrs {
		// The resolver may hand out IPv4 addresses in IPv4-mapped form.
		targets[i] = netip.AddrPortFrom(addr.Unmap(), e.port)
	}
	return targets, nil
}

// scopeID returns the index of the interface that an address such as
// fe80::1%eth0 names, 0 if it names none.
func scopeID(addr netip.Addr) (uint32, error) {
	zone := addr.Zone()
	if zone == "" {
		return 0, nil
	}
	if index, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(index), nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("address %v: interface %q: %w", addr, zone, err)
	}
	return uint32(ifi.Index), nil
}
