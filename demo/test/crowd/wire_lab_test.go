//go:build lab

package crowd

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// link is a connection as its client calls it.
type link struct{ client, server netip.AddrPort }

func (l link) String() string { return fmt.Sprintf("%v > %v", l.client, l.server) }

// wire counts the connections and the resets of a namespace by a packet capture.
type wire struct {
	t       testing.TB
	capture *harness.Capture

	opened map[link][]uint32 // connections, by the sequence numbers that they began with
	resets map[link]int      // RSTs, of either end
}

// newWire starts to count. Segments are IPv4.
func newWire(t testing.TB, r *netns) *wire {
	t.Helper()
	c, err := harness.NewCapture(r.Netns, harness.OpensAndResets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() }) // it may have been stopped
	return &wire{t: t, capture: c, opened: map[link][]uint32{}, resets: map[link]int{}}
}

// stop ends the counting, with all that was sent until now.
func (w *wire) stop() {
	w.t.Helper()
	if err := w.capture.Stop(); err != nil {
		w.t.Fatal(err)
	}
	for _, s := range w.capture.Segments() {
		l := link{s.Src, s.Dst}
		switch {
		case s.Flags&event.RST != 0:
			// The client is known: its SYN came before.
			if back := (link{s.Dst, s.Src}); w.opened[back] != nil {
				l = back
			}
			w.resets[l]++
		case s.Flags&event.ACK == 0 && !slices.Contains(w.opened[l], s.Seq):
			// The same port may be used again; a SYN that is sent again is the same.
			w.opened[l] = append(w.opened[l], s.Seq)
		}
	}
}

// connections counts them.
func (w *wire) connections() (n int) {
	for _, c := range w.opened {
		n += len(c)
	}
	return n
}
