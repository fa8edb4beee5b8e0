package scenario

import (
	"net/netip"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestSpace: an event without a namespace is of the end that has its addresses,
// however many namespaces the story has.
func TestSpace(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.77.0.2:40000"), netip.MustParseAddrPort("10.77.0.1:80")
	o := Outcome{NetNS: []uint32{7, 8, 9}, Ends: map[string]*End{
		"client": {Local: a, Remote: b, NetNS: 9},
		"server": {Local: b, Remote: a, NetNS: 7},
	}}
	for range 50 { // the order of a map is chosen anew each time
		for e, want := range map[event.Event]uint32{
			{Has: event.HasTuple, Local: a, Remote: b}: 9,
			{Has: event.HasTuple, Local: b, Remote: a}: 7,
		} {
			if got := o.space(e); got != want {
				t.Fatalf("%v: namespace %d, want %d", e.Local, got, want)
			}
		}
	}
}
