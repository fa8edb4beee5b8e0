package verdict_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestUnhashedBeforeTold: tcp_set_state takes a socket out of the hash table before
// it tells of CLOSE. A segment that comes in between on another CPU, as what is sent
// again may, is answered for want of a socket; the abort is the cause all the same.
func TestUnhashedBeforeTold(t *testing.T) {
	for _, x := range []struct {
		scenario string
		late     time.Duration
	}{{"close-unread-ipv4", 0}, {"linger-zero-ipv4", 0}, {"close-unread-ipv4", 500 * time.Millisecond}, {"linger-zero-ipv4", 500 * time.Millisecond}} {
		scenario := x.scenario
		r := recorded(t, "7", scenario)
		var came event.Event
		for i := range r.events {
			if e := &r.events[i]; e.Hook == event.HookReset {
				e.Segment.Flags, e.Segment.Ack = event.RST, 0
				came = *e
			}
		}
		var aborted uint64
		var since time.Duration
		for i := range r.events {
			e := &r.events[i]
			if e.Local == came.Remote && e.Remote == came.Local && e.Hook == event.HookSetState && e.ToState == event.Close {
				aborted, since = e.Sock, e.Time
			}
		}
		for i := range r.events { // the aborting CPU had to wait
			if e := &r.events[i]; e.Sock == aborted && e.Time >= since {
				e.Time += x.late
				e.CPU = came.CPU + 1
			}
		}
		r.events = append(r.events, event.Event{
			Time: came.Time - time.Microsecond, Hook: event.HookSendReset, CPU: came.CPU,
			Has:     event.HasTuple | event.HasSegment | event.HasTask,
			Context: event.ContextSoftirq, Family: came.Family, Local: came.Remote, Remote: came.Local, NetNS: came.NetNS,
			Segment: event.Segment{Seq: came.SndUna, Ack: came.Segment.Seq, Len: 10, Flags: event.PSH | event.ACK},
		})
		slices.SortStableFunc(r.events, func(a, b event.Event) int { return int(a.Time - b.Time) })
		ends := 0
		for _, end := range append(r.judge(), r.judgeTold()...) {
			if end.c.Local != came.Local && end.c.Local != came.Remote {
				continue
			}
			ends++
			want := verdict.CloseUnread
			if scenario == "linger-zero-ipv4" {
				want = verdict.LingerZero
			}
			if end.v.Cause != want || end.v.Confidence != verdict.Certain {
				t.Errorf("%s, %v: %s", scenario, x.late, line(end.c, end.v))
			}
		}
		if ends != 4 {
			t.Errorf("%s: %d ends", scenario, ends)
		}
	}
}
