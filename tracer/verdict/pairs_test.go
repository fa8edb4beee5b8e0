package verdict_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// pairsOf says which sockets the join makes pairs of, by generation.
func pairsOf(events []event.Event) (pairs map[uint64]uint64, ends []*conn.Connection) {
	pairs = map[uint64]uint64{}
	for c := range verdict.JudgeAll(events, verdict.Scope{}) {
		ends = append(ends, c)
		if c.Peer != nil {
			pairs[c.Gen] = c.Peer.Gen
		}
	}
	return pairs, ends
}

// shakeable says whether the kernel told of an end's sequence numbers once it had
// the other one's.
func shakeable(c *conn.Connection) bool {
	return slices.ContainsFunc(c.Events, func(e event.Event) bool {
		return e.Has&event.HasTCP != 0 && e.Hook == event.HookSetState && (e.ToState == event.Established || e.State >= event.Established && e.State != event.SynSent && e.State != event.Close && e.State != event.Listen && e.State != event.SynRecv)
	})
}

// TestPairsAreProven: in what was recorded every pair whose ends both told their
// numbers is proven by them, both ends have the same key, and no two connections do.
func TestPairsAreProven(t *testing.T) {
	proven := 0
	for _, path := range recordings(t) {
		keys := map[[16]byte]string{}
		for _, r := range readRuns(t, path) {
			_, ends := pairsOf(r.events)
			for _, c := range ends {
				p := c.Peer
				if p == nil {
					continue
				}
				if p.Peer != c {
					t.Errorf("%s, %s: %v has a peer with another peer", filepath.Base(path), r.scenario, c.Local)
				}
				if !shakeable(c) || !shakeable(p) {
					continue
				}
				if !c.Proven || c.Key != p.Key || c.Key == [16]byte{} {
					t.Errorf("%s, %s: %v %v: proven %v, keys %x and %x", filepath.Base(path), r.scenario, c.Local, c.Open, c.Proven, c.Key, p.Key)
					continue
				}
				proven++
				where := r.scenario + " " + min(c.Local.String(), p.Local.String())
				if old, ok := keys[c.Key]; ok && old != where {
					t.Errorf("%s: %s and %s have one key", filepath.Base(path), old, where)
				}
				keys[c.Key] = where
			}
		}
	}
	t.Logf("%d ends are proven to have their peer", proven)
	if proven < 800 {
		t.Errorf("only %d", proven)
	}
}

// TestPairsThroughNAT gives the passive ends other addresses, in a namespace of
// their own, as an address translation does: the same ends are pairs.
func TestPairsThroughNAT(t *testing.T) {
	joined := 0
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			want, ends := pairsOf(r.events)
			passive := map[uint64]bool{}
			told := map[uint64]bool{}
			for _, c := range ends {
				told[c.Gen] = shakeable(c)
				passive[c.Sock] = passive[c.Sock] || c.Open == conn.OpenPassive
			}
			events := slices.Clone(r.events)
			for i := range events {
				if e := &events[i]; passive[e.Sock] && e.Local.Port() != 0 {
					e.NetNS++
					e.Local = netip.AddrPortFrom(netip.MustParseAddr("10.250.0.1"), e.Local.Port()^1)
					if e.Remote.Port() != 0 {
						e.Remote = netip.AddrPortFrom(netip.MustParseAddr("10.250.0.2"), e.Remote.Port()^3)
					}
				}
			}
			got, _ := pairsOf(events)
			for a, b := range want {
				if !told[a] || !told[b] {
					continue
				}
				if got[a] != b {
					t.Errorf("%s, %s: the ends of one connection are not joined", filepath.Base(path), r.scenario)
				}
				joined++
			}
			for a, b := range got {
				if told[a] && told[b] && want[a] != b {
					t.Errorf("%s, %s: two strangers are joined", filepath.Base(path), r.scenario)
				}
			}
		}
	}
	if joined < 800 {
		t.Errorf("%d ends have their peers", joined)
	}
}

// TestTwins plays each story twice at once, with the same addresses and ports in
// other network namespaces, as two test stands have them: each end has the peer of
// its own story.
func TestTwins(t *testing.T) {
	moved := netip.MustParseAddr("10.9.0.1") // loopback would tell them apart
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			want, ends := pairsOf(r.events)
			told := map[uint64]bool{}
			for _, c := range ends {
				told[c.Gen] = shakeable(c)
			}
			const later = 50 * time.Microsecond
			var both []event.Event
			for _, e := range r.events {
				plain := func(a netip.AddrPort) netip.AddrPort {
					if a.Addr().IsLoopback() {
						return netip.AddrPortFrom(moved, a.Port())
					}
					return a
				}
				e.Local, e.Remote = plain(e.Local), plain(e.Remote)
				twin := e
				twin.Time, twin.NetNS = e.Time+later, e.NetNS+1000
				if e.Sock != 0 {
					twin.Sock = e.Sock ^ 1<<40
				}
				if e.Other != 0 {
					twin.Other = e.Other ^ 1<<40
				}
				if e.Conn != 0 {
					twin.Conn = e.Conn + uint64(later)
				}
				const a, b = 0x1234567, 0x1234567 // whoever sends: both directions move alike
				twin.SndUna, twin.SndNxt, twin.WriteSeq = e.SndUna+a, e.SndNxt+a, e.WriteSeq+a
				twin.RcvNxt, twin.CopiedSeq = e.RcvNxt+b, e.CopiedSeq+b
				twin.Segment.Seq, twin.Segment.Ack = e.Segment.Seq+a, e.Segment.Ack+a
				both = append(both, e, twin)
			}
			slices.SortStableFunc(both, func(a, b event.Event) int { return int(a.Time - b.Time) })
			got, _ := pairsOf(both)
			for a, b := range want {
				if !told[a] || !told[b] {
					continue
				}
				if got[a] != b || got[a+uint64(later)] != b+uint64(later) {
					t.Errorf("%s, %s: an end has another story's peer", filepath.Base(path), r.scenario)
				}
			}
		}
	}
}
