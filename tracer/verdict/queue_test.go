package verdict_test

import (
	"strings"
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
	by(event.HookFileClose, at(event.Established), func(e *event.Event) { e.Refs = 1 })
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
			f.see(ms(2), event.HookAccept, append(x.child, doing(event.CallUnknown), at(event.Established))...)
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

// marked changes the numbers of all that follows.
func (f *far) marked(change ...func(*event.Event)) *far {
	for _, c := range change {
		c(&f.tcp)
	}
	return f
}

// closes is a polite close by both ends, this one first.
func closes(f *far, release ...func(*event.Event)) *far {
	f.see(ms(400), event.HookClose, append([]func(*event.Event){at(event.Established), doing(event.CallClose)}, release...)...)
	f.see(ms(400), event.HookSetState, append([]func(*event.Event){move(event.Established, event.FinWait1), doing(event.CallClose)}, release...)...)
	f.tcp.WriteSeq++
	f.tcp.SndNxt, f.tcp.SndUna = f.tcp.WriteSeq, f.tcp.WriteSeq
	orphan := func(e *event.Event) { e.HasSk, e.SkFlags = false, e.SkFlags|event.SockDead }
	f.see(ms(430), event.HookSetState, move(event.FinWait1, event.FinWait2), orphan)
	f.see(ms(450), event.HookTimeWait, at(event.FinWait2), orphan, func(e *event.Event) { e.Arg = int32(event.TimeWait) })
	return f.see(ms(450), event.HookSetState, move(event.FinWait2, event.Close), orphan)
}

// TestQueueAboveTCP: what a process did not read, and what it was told, is not
// TCP's to know where something above it has the queue; and what is not known
// never reads as if nothing had been lost.
func TestQueueAboveTCP(t *testing.T) {
	for name, mark := range map[string]func(*event.Event){
		"kTLS, sockmap":   func(e *event.Event) { e.Queue = event.QueueReads | event.QueueULP },
		"kTLS, closing":   func(e *event.Event) { e.Queue = event.QueueULP },
		"hidden":          func(e *event.Event) { e.Queue = event.QueueUnsure },
		"MPTCP, fallback": multipath,
	} {
		f := newFar(conn.OpenPassive).established(57).exchange(200, 1000).marked(mark)
		v := verdict.Judge(closes(f).c, verdict.Scope{})
		if v.Class != verdict.Graceful || v.Lost.Unread != nil || v.AppSaw != nil {
			t.Errorf("%s: %s, unread %s, saw %v", name, v.Class, number(v.Lost.Unread), v.AppSaw)
		}
		if strings.Contains(v.Sentence, "nothing was lost") || !strings.Contains(v.Sentence, "not known") {
			t.Errorf("%s: %s", name, v.Sentence)
		}
		if v.Retry == verdict.RetrySafe {
			t.Errorf("%s: safe: %s", name, v.RetryWhy)
		}
	}
	f := newFar(conn.OpenPassive).established(57).exchange(200, 1000)
	if v := verdict.Judge(closes(f).c, verdict.Scope{}); !strings.Contains(v.Sentence, "nothing was lost") {
		t.Errorf("plain TCP: %s", v.Sentence)
	}
}

// TestUrgentByte: read with MSG_OOB it is read, although its place in the queue
// makes the kernel reset at close; passed over it may have been read or not.
func TestUrgentByte(t *testing.T) {
	for _, x := range []struct {
		name    string
		at      uint32 // bytes behind what was read
		data    uint16
		inline  bool
		unread  string
		aborted bool
	}{
		{"read with MSG_OOB", 299, event.UrgentRead, false, "299", true},
		{"waits", 299, event.UrgentWaits, false, "300", true},
		{"inline", 299, event.UrgentRead, true, "300", true},
		{"passed over", ^uint32(0), 0, false, "-", true},
	} {
		f := newFar(conn.OpenPassive).established(57)
		v := unreadClose(f, func(e *event.Event) {
			e.UrgSeq, e.UrgData = e.CopiedSeq+x.at, x.data
			if x.inline {
				e.SkFlags |= event.SockUrgInline
			}
		})
		if got := number(v.Lost.Unread); got != x.unread || v.Cause != verdict.CloseUnread {
			t.Errorf("%s: unread %s, %s: %s", x.name, got, v.Cause, v.Sentence)
		}
	}
	// All was read, and the kernel resets all the same.
	f := newFar(conn.OpenPassive).established(57)
	f.tcp.CopiedSeq += 299
	v := unreadClose(f, func(e *event.Event) { e.UrgSeq, e.UrgData = e.CopiedSeq, event.UrgentRead })
	if number(v.Lost.Unread) != "0" || v.Cause != verdict.CloseUnread || !strings.Contains(v.Sentence, "MSG_OOB") {
		t.Errorf("unread %s, %s: %s", number(v.Lost.Unread), v.Cause, v.Sentence)
	}
}
