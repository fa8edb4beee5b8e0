package verdict_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestCut tells a half-close from a close in two steps: shutdown(SHUT_WR) and, at
// once, close(2), as python's http.server, haproxy, node and socat do it.
func TestCut(t *testing.T) {
	const ms = time.Millisecond
	doing := func(call event.Call) func(*event.Event) {
		return func(e *event.Event) {
			e.Context, e.Call, e.PID, e.TID = event.ContextProcess, call, 812, 812
			copy(e.Comm[:], "nginx")
		}
	}
	orphan := func(e *event.Event) { e.HasSk, e.SkFlags = false, event.SockDead }
	shut := func() *far {
		f := newFar(conn.OpenPassive).established(57).exchange(500, 100)
		f.see(400*ms, event.HookShutdown, at(event.Established), doing(event.CallShutdown), func(e *event.Event) { e.Arg = 2 })
		return f.see(400*ms, event.HookSetState, move(event.Established, event.FinWait1), doing(event.CallShutdown))
	}
	// kept is the orphan in FIN_WAIT2, whose mini-socket gets the peer's FIN.
	kept := func(f *far) *far {
		f.see(430*ms, event.HookSetState, move(event.FinWait1, event.FinWait2), orphan)
		f.see(430*ms, event.HookTimeWait, at(event.FinWait2), orphan, func(e *event.Event) { e.Arg = int32(event.FinWait2) })
		f.see(430*ms, event.HookSetState, move(event.FinWait2, event.Close), orphan)
		return f.see(500*ms, event.HookTwskSchedule, at(event.TimeWait), func(e *event.Event) { e.Arg, e.Has = int32(event.TimeWait), event.HasTuple })
	}
	for _, x := range []struct {
		name  string
		end   *far
		scope verdict.Scope
		cause verdict.Cause
		says  string
		half  bool
	}{
		{
			name: "it hears the peer out",
			end: func() *far {
				f := shut()
				f.see(430*ms, event.HookSetState, move(event.FinWait1, event.FinWait2))
				f.see(500*ms, event.HookTimeWait, at(event.FinWait2), func(e *event.Event) { e.Arg = int32(event.TimeWait) })
				f.see(500*ms, event.HookSetState, move(event.FinWait2, event.Close))
				return f.see(510*ms, event.HookClose, at(event.Close), doing(event.CallClose))
			}(),
			// Whether the other end's FIN had crossed this one's is not seen from here.
			cause: verdict.OrderlyClose, says: "went on reading until the FIN of 203.0.113.4:443 came", half: true,
		},
		{
			name: "it closes at once",
			end: func() *far {
				f := shut()
				f.see(401*ms, event.HookClose, at(event.FinWait1), doing(event.CallClose))
				return kept(f)
			}(),
			cause: verdict.OrderlyClose, says: "closed before the FIN of 203.0.113.4:443 came, with shutdown(SHUT_WR) 0.400 s after it was opened and with close(2) 0.001 s later",
		},
		{
			name: "it closes at once, and no hook sees the close",
			end: func() *far {
				f := shut()
				f.see(401*ms, event.HookSetState, move(event.FinWait1, event.FinWait1), doing(event.CallClose))
				return kept(f)
			}(),
			scope: verdict.Scope{Missing: []event.Hook{event.HookClose, event.HookCloseEntry, event.HookFileClose}},
			cause: verdict.OrderlyClose, says: "with close(2) 0.001 s later",
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := verdict.Judge(x.end.c, x.scope)
			if v.Cause != x.cause || v.Act != verdict.ActShutWr || !strings.Contains(v.Sentence, x.says) {
				t.Errorf("%s, %s: %s", v.Cause, v.Act, v.Sentence)
			}
			if (v.HalfClose != nil) != x.half {
				t.Errorf("the half-close is %v", v.HalfClose)
			}
		})
	}
}
