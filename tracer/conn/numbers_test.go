package conn

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestNumbers: both ends know the same numbers crosswise, also where nobody saw which
// one opened the connection.
func TestNumbers(t *testing.T) {
	const mine, theirs = 1000, 4294967290 // the latter wraps
	look := event.Event{Time: 5, Hook: event.HookSetState, Has: event.HasTuple | event.HasTCP, State: event.Established, ToState: event.FinWait1,
		SndUna: mine + 101, SndNxt: mine + 101, BytesAcked: 101, BytesReceived: 50}
	look.RcvNxt = 45 // theirs + 51
	answer := event.Event{Time: 6, Hook: event.HookSetState, Has: event.HasTuple | event.HasTCP, State: event.Established, ToState: event.CloseWait,
		SndUna: 45, SndNxt: 45, BytesAcked: 50, RcvNxt: mine + 101, BytesReceived: 100}
	for _, seen := range []bool{true, false} {
		a, b := &Connection{Events: []event.Event{look}}, &Connection{Events: []event.Event{answer}}
		if seen {
			a.Open, b.Open = OpenActive, OpenPassive
		}
		x, y := a.Numbers(10), b.Numbers(10)
		if n, ok := x.Received(); !ok || n != theirs {
			t.Errorf("seen %v: the active end received %d, %v", seen, n, ok)
		}
		if n, ok := y.Received(); !ok || n != mine {
			t.Errorf("seen %v: the passive end received %d, %v", seen, n, ok)
		}
		if _, doubt, ok := x.Sent(); !ok || doubt == seen {
			t.Errorf("seen %v: in doubt %v, known %v", seen, doubt, ok)
		}
		cross := func(k [2]uint32) bool { return slices.Contains(y.Keys(), [2]uint32{k[1], k[0]}) }
		if !slices.ContainsFunc(x.Keys(), cross) {
			t.Errorf("seen %v: %v and %v do not meet", seen, x.Keys(), y.Keys())
		}
	}
	if n := (&Connection{Events: []event.Event{look}}).Numbers(4); len(n.Keys()) > 0 {
		t.Errorf("before anything was told the numbers are %v", n.Keys())
	}
}

// TestStray: what concerns an end that is not known here is told of.
func TestStray(t *testing.T) {
	here, there := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("198.51.100.1:4000")
	var hooks []event.Hook
	j := New(Options{Hold: true, Stray: func(e *event.Event, own *Connection) {
		if own != nil {
			t.Errorf("%v is the own event of %v", e.Hook, own.Local)
		}
		hooks = append(hooks, e.Hook)
	}})
	for i, h := range []event.Hook{event.HookSendReset, event.HookSynDrop} {
		j.Add(event.Event{Time: time.Duration(i + 1), Hook: h, Has: event.HasTuple | event.HasSegment, Local: here, Remote: there,
			Segment: event.Segment{Seq: 7, Flags: event.SYN}})
	}
	j.Flush()
	if !slices.Equal(hooks, []event.Hook{event.HookSendReset, event.HookSynDrop}) {
		t.Errorf("told of %v", hooks)
	}
}
