package verdict_test

import (
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// doing is a call of the process that holds the far connection.
func doing(call event.Call) func(*event.Event) {
	return func(e *event.Event) {
		e.Context, e.Call, e.PID, e.TID = event.ContextProcess, call, 812, 812
		e.Comm = event.CommOf("nginx")
	}
}

// multipath marks an event's socket as one of MPTCP.
func multipath(e *event.Event) { e.MPTCP = true }

// unreadClose is a close with 300 of 1000 bytes unread.
func unreadClose(f *far, change ...func(*event.Event)) verdict.Verdict {
	f.tcp.RcvNxt += 1000
	f.tcp.CopiedSeq += 700
	f.tcp.BytesReceived += 1000
	by := func(h event.Hook, what ...func(*event.Event)) {
		f.see(400*time.Millisecond, h, append(append(what, doing(event.CallClose)), change...)...)
	}
	by(event.HookClose, at(event.Established))
	by(event.HookSetState, move(event.Established, event.Close))
	by(event.HookSendActiveReset, at(event.Close))
	return verdict.Judge(f.c, verdict.Scope{})
}

// TestListenerOfMPTCP: a child is copied from its listener, and MPTCP is taken
// back where the peer does not speak it. Then its queue is TCP's.
func TestListenerOfMPTCP(t *testing.T) {
	for _, x := range []struct {
		name   string
		child  []func(*event.Event) // of the child itself
		unread bool
	}{
		{"plain TCP", nil, true},
		{"a subflow", []func(*event.Event){multipath}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFar(conn.OpenPassive)
			f.see(0, event.HookSetState, move(event.Listen, event.SynRecv), multipath)
			f.see(ms(1), event.HookSetState, append(x.child, move(event.SynRecv, event.Established))...)
			v := unreadClose(f, x.child...)
			if !x.unread {
				if v.Lost.Unread != nil {
					t.Errorf("what was not read of a subflow is %d", *v.Lost.Unread)
				}
				return
			}
			if v.Cause != verdict.CloseUnread || v.Confidence != verdict.Certain || v.Lost.Unread == nil || *v.Lost.Unread != 300 {
				t.Errorf("%s, %s, unread %s: %s", v.Cause, v.Confidence, number(v.Lost.Unread), v.Sentence)
			}
		})
	}
}
