package tracer

import (
	"net/netip"
	"testing"
)

// TestMapped: a prefix, as the kernel half compares it, takes the addresses that
// netip says it contains.
func TestMapped(t *testing.T) {
	for _, tt := range []struct {
		prefix, addr string
		in           bool
	}{
		{"10.0.0.0/8", "10.255.0.1", true},
		{"10.0.0.0/8", "11.0.0.1", false},
		{"10.0.0.5/32", "10.0.0.5", true},
		{"10.0.0.5/32", "10.0.0.4", false},
		{"10.0.0.0/31", "10.0.0.1", true},
		{"0.0.0.0/0", "203.0.113.9", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"2001:db8::/33", "2001:db8:7fff::1", true},
		{"2001:db8::/33", "2001:db8:8000::1", false},
		{"::1/128", "::1", true},
		{"::1/128", "::2", false},
	} {
		p, a := mapped(netip.MustParsePrefix(tt.prefix)), netip.MustParseAddr(tt.addr).As16()
		in := true
		for i, b := range a {
			in = in && (b^p.Addr[i/4][i%4])&p.Mask[i/4][i%4] == 0
		}
		if in != tt.in {
			t.Errorf("%s takes %s: %v", tt.prefix, tt.addr, in)
		}
	}
}
