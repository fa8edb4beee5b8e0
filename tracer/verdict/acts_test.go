package verdict_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// thread is a call by another thread or process.
func thread(pid, tid uint32, comm string, call event.Call) func(*event.Event) {
	return func(e *event.Event) {
		e.Context, e.Call, e.PID, e.TID, e.Comm = event.ContextProcess, call, pid, tid, event.CommOf(comm)
	}
}

func refs(n int32) func(*event.Event) {
	return func(e *event.Event) { e.Refs, e.Has = n, e.Has|event.HasRefs }
}

func exiting(code uint32, flags event.TaskFlag) func(*event.Event) {
	return func(e *event.Event) {
		e.TaskFlags, e.ExitCode, e.Task = 4, code, flags
		e.Has |= event.HasTask
	}
}

// TestAct: the act is of whoever gave the last descriptor up, when that was.
func TestAct(t *testing.T) {
	kworker := func(e *event.Event) {
		e.Context, e.TaskFlags, e.PID, e.TID = event.ContextProcess, 0x00200000, 9, 9
	}
	onUnix := func(e *event.Event) { e.CallOn = unix.AF_UNIX }
	let := func(at float64, n int32, by ...func(*event.Event)) func(*far) {
		return func(f *far) { f.see(ms(at), event.HookFileClose, append(by, refs(n))...) }
	}
	for _, x := range []struct {
		name    string
		before  func(*far)
		release []func(*event.Event)
		act     verdict.Act
		actor   string
		says    string
		never   string
	}{
		{
			name:    "close(2)",
			before:  let(400, 1, thread(812, 812, "nginx", event.CallClose)),
			release: []func(*event.Event){thread(812, 812, "nginx", event.CallClose)},
			act:     verdict.ActClose, actor: "nginx", says: "0.400 s after", never: "held",
		},
		{
			name:    "another thread was in recv(2)",
			before:  let(119, 2, thread(812, 812, "nginx", event.CallClose)),
			release: []func(*event.Event){thread(812, 815, "reader", event.CallReceive)},
			act:     verdict.ActClose, actor: "nginx", says: "0.119 s after", never: "reader (pid",
		},
		{
			name:    "dup2 while another thread sent",
			before:  let(119, 2, thread(812, 812, "nginx", event.CallDup2)),
			release: []func(*event.Event){thread(812, 815, "writer", event.CallSend)},
			act:     verdict.ActDup2, actor: "nginx", says: "A call in progress held the socket for another 281 ms",
		},
		{
			name:    "io_uring, completed in another call",
			before:  let(119, 2, thread(812, 812, "nginx", event.CallClose)),
			release: []func(*event.Event){thread(812, 812, "nginx", event.CallOther)},
			act:     verdict.ActClose, actor: "nginx", says: "io_uring",
		},
		{
			name:    "a killed owner of a ring",
			before:  let(119, 2, thread(812, 812, "nginx", event.CallOther), exiting(9, 0)),
			release: []func(*event.Event){kworker},
			act:     verdict.ActKilled, actor: "nginx", says: "SIGKILL",
		},
		{
			name:    "thrown away in recvmsg(2)",
			before:  let(119, 2, thread(812, 812, "nginx", event.CallClose)),
			release: []func(*event.Event){thread(900, 900, "worker", event.CallReceive), onUnix},
			act:     verdict.ActDiscard, actor: "worker", says: "MSG_CTRUNC", never: "close(2)",
		},
		{
			name:    "a request of io_uring that ends in recv(2) on a unix socket",
			before:  let(119, 2, thread(812, 812, "nginx", event.CallClose)),
			release: []func(*event.Event){thread(812, 812, "nginx", event.CallReceive), onUnix},
			act:     verdict.ActClose, actor: "nginx", says: "0.119 s after", never: "MSG_CTRUNC",
		},
		{
			name:    "in recv(2) on a unix socket, and nobody was seen to let go",
			before:  func(*far) {},
			release: []func(*event.Event){thread(812, 815, "reader", event.CallReceive), onUnix},
			act:     verdict.NoAct, actor: "reader", never: "MSG_CTRUNC",
		},
		{
			name:    "in recv(2), and nobody was seen to let go",
			before:  func(*far) {},
			release: []func(*event.Event){thread(812, 815, "reader", event.CallReceive)},
			act:     verdict.NoAct, actor: "reader", never: "close(2)",
		},
		{
			name:    "a thread with descriptors of its own",
			before:  let(399, 1, thread(812, 815, "thread", event.CallExit), exiting(0, event.TaskThread)),
			release: []func(*event.Event){thread(812, 815, "thread", event.CallExit), exiting(0, event.TaskThread)},
			act:     verdict.ActThread, actor: "thread", says: "the process lives on", never: "exiting",
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFar(conn.OpenPassive).established(57).exchange(200, 1000)
			x.before(f)
			v := verdict.Judge(closes(f, x.release...).c, verdict.Scope{})
			actor := ""
			if v.Actor != nil {
				actor = v.Actor.Comm
			}
			if v.Act != x.act || actor != x.actor || !strings.Contains(v.Sentence, x.says) || x.never != "" && strings.Contains(v.Sentence, x.never) {
				t.Errorf("%q by %q: %s", v.Act, actor, v.Sentence)
			}
			if v.Act == verdict.NoAct && v.Confidence == verdict.Certain {
				t.Error("and that is certain")
			}
		})
	}
}

// TestShutdownInsideClose: MPTCP shuts its subflow down inside close(2).
func TestShutdownInsideClose(t *testing.T) {
	f := newFar(conn.OpenActive).established(57).exchange(200, 1000).marked(multipath)
	f.see(ms(400), event.HookShutdown, at(event.Established), doing(event.CallClose), func(e *event.Event) { e.Arg = 2 })
	f.see(ms(400), event.HookSetState, move(event.Established, event.FinWait1), doing(event.CallClose))
	f.tcp.WriteSeq++
	f.tcp.SndNxt, f.tcp.SndUna = f.tcp.WriteSeq, f.tcp.WriteSeq
	f.see(ms(430), event.HookSetState, move(event.FinWait1, event.FinWait2))
	f.see(ms(450), event.HookTimeWait, at(event.FinWait2), func(e *event.Event) { e.Arg = int32(event.TimeWait) })
	f.see(ms(450), event.HookSetState, move(event.FinWait2, event.Close))
	v := verdict.Judge(f.c, verdict.Scope{})
	if v.Act != verdict.ActClose || v.Cause != verdict.OrderlyClose || v.HalfClose != nil || v.LocalFin == nil || v.LocalFin.Act != verdict.ActClose {
		t.Errorf("%s by %s: %s", v.Cause, v.Act, v.Sentence)
	}
}

// TestDataAfterCloseIsAClose: where only the shutdown before it was seen, the act
// is not known.
func TestDataAfterCloseIsAClose(t *testing.T) {
	f := newFar(conn.OpenPassive).established(57).exchange(200, 1000)
	f.see(ms(400), event.HookShutdown, at(event.Established), doing(event.CallShutdown), func(e *event.Event) { e.Arg = 2 })
	f.see(ms(400), event.HookSetState, move(event.Established, event.FinWait1), doing(event.CallShutdown))
	f.tcp.WriteSeq++
	f.tcp.SndNxt, f.tcp.SndUna = f.tcp.WriteSeq, f.tcp.WriteSeq
	orphan := func(e *event.Event) { e.HasSk, e.SkFlags = false, event.SockDead }
	f.see(ms(430), event.HookSetState, move(event.FinWait1, event.FinWait2))
	f.see(ms(450), event.HookTimeWait, at(event.FinWait2), orphan, func(e *event.Event) { e.Arg = int32(event.FinWait2) })
	f.see(ms(450), event.HookSetState, move(event.FinWait2, event.Close), orphan)
	f.see(ms(500), event.HookSendReset, at(event.TimeWait), segment(event.Segment{Seq: f.tcp.RcvNxt, Ack: f.tcp.SndNxt, Len: 5, Flags: event.ACK}),
		func(e *event.Event) { e.Arg2 = int32(event.FinWait2) })
	v := verdict.Judge(f.c, verdict.Scope{Missing: []event.Hook{event.HookClose, event.HookCloseEntry, event.HookFileClose}})
	if v.Cause != verdict.DataAfterClose || v.Act != verdict.NoAct || v.Confidence == verdict.Certain {
		t.Errorf("%s by %q, %s: %s", v.Cause, v.Act, v.Confidence, v.Sentence)
	}
}

// TestSaw: a list of what the application was told is whole, or there is none.
func TestSaw(t *testing.T) {
	unwatched := verdict.Scope{Missing: []event.Hook{event.HookReceive}}
	reset := func() *far {
		f := newFar(conn.OpenActive).established(57).exchange(5, 0)
		f.see(ms(500), event.HookReset, at(event.Established), segment(event.Segment{Seq: f.tcp.RcvNxt, Ack: f.tcp.SndNxt, Flags: event.RST | event.ACK}))
		return f.see(ms(500), event.HookSetState, move(event.Established, event.Close), func(e *event.Event) { e.Err = 104 })
	}
	fin := func() *far {
		f := newFar(conn.OpenActive).established(57).exchange(5, 5)
		f.tcp.RcvNxt++
		f.tcp.SkFlags |= event.SockDone
		f.see(ms(500), event.HookSetState, move(event.Established, event.CloseWait))
		return f
	}
	lastAck := func(f *far) *far {
		f.see(ms(600), event.HookClose, at(event.CloseWait), doing(event.CallClose))
		f.see(ms(600), event.HookSetState, move(event.CloseWait, event.LastAck), doing(event.CallClose))
		f.tcp.WriteSeq++
		f.tcp.SndNxt, f.tcp.SndUna = f.tcp.WriteSeq, f.tcp.WriteSeq
		return f.see(ms(630), event.HookSetState, move(event.LastAck, event.Close), func(e *event.Event) { e.HasSk, e.SkFlags = false, e.SkFlags|event.SockDead })
	}
	pipe := func(what int32) *far {
		f := reset()
		f.see(ms(510), event.HookStreamError, at(event.Close), doing(event.CallSend), func(e *event.Event) { e.Arg = -104 })
		f.see(ms(520), event.HookStreamError, at(event.Close), doing(event.CallSend), func(e *event.Event) { e.Arg, e.Arg2 = -32, what })
		return f.see(ms(600), event.HookClose, at(event.Close), doing(event.CallClose))
	}
	for _, x := range []struct {
		name  string
		end   *far
		scope verdict.Scope
		want  string // "-": not known
	}{
		{"reset, and the process still has it", reset(), verdict.Scope{}, "-"},
		{"reset, and closed without a call", reset().see(ms(600), event.HookClose, at(event.Close), doing(event.CallClose), func(e *event.Event) { e.Err = 104 }), verdict.Scope{}, ""},
		{"reset, and not watched", reset().see(ms(600), event.HookClose, at(event.Close), doing(event.CallClose), func(e *event.Event) { e.Err = 104 }), unwatched, "-"},
		{"the end read past the watch", lastAck(func() *far { f := fin(); f.tcp.CopiedSeq = f.tcp.RcvNxt; return f }()), verdict.Scope{}, "EOF"},
		{"the same unwatched", lastAck(func() *far { f := fin(); f.tcp.CopiedSeq = f.tcp.RcvNxt; return f }()), unwatched, "EOF"},
		{"the end not read", lastAck(fin()), verdict.Scope{}, ""},
		{"the end not read, unwatched", lastAck(fin()), unwatched, "-"},
		{"SIGPIPE", pipe(event.PipeDelivered), verdict.Scope{}, "ECONNRESET EPIPE SIGPIPE"},
		{"SIGPIPE ignored", pipe(event.PipeHeld), verdict.Scope{}, "ECONNRESET EPIPE"},
		{"SIGPIPE, whether delivered is not known", pipe(event.PipeRaised), verdict.Scope{}, "-"},
	} {
		v := verdict.Judge(x.end.c, x.scope)
		got := strings.Join(v.AppSaw, " ")
		if v.AppSaw == nil {
			got = "-"
		}
		if got != x.want {
			t.Errorf("%s: saw %s, not %s", x.name, got, x.want)
		}
	}
}

// TestRetryAfterAPeek: what lies in the queue may have been looked at.
func TestRetryAfterAPeek(t *testing.T) {
	for _, x := range []struct {
		name  string
		peek  bool
		scope verdict.Scope
		want  verdict.Retry
	}{
		{"watched", false, verdict.Scope{}, verdict.RetrySafe},
		{"not watched", false, verdict.Scope{Missing: []event.Hook{event.HookReceive}}, verdict.RetryUnknown},
		{"looked at", true, verdict.Scope{}, verdict.RetryUnknown},
	} {
		f := newFar(conn.OpenPassive).established(57)
		if x.peek {
			f.see(ms(300), event.HookReceive, at(event.Established), doing(event.CallReceive), func(e *event.Event) { e.Arg = 24 })
		}
		f.tcp.CopiedSeq -= 700 // unreadClose leaves 300 of 1000
		f.tcp.RcvNxt -= 700
		f.tcp.BytesReceived -= 700
		unreadClose(f)
		v := verdict.Judge(f.c, x.scope)
		if v.Retry != x.want {
			t.Errorf("%s: %q, %s", x.name, v.Retry, v.RetryWhy)
		}
	}
}

// TestActorsAreNamed: an actor has what the join knows of its process, and the stack
// that was taken nearest to its act, at the end where it acted.
func TestActorsAreNamed(t *testing.T) {
	for _, x := range recorded(t, "6.1", "close-ipv4").judge() {
		if x.v.Ender != verdict.PeerProcess {
			continue
		}
		act := x.v.PeerFin
		pid := x.v.Actor.PID
		stack := func(at time.Duration, h event.Hook, s event.Stack) event.Event {
			return event.Event{Time: at, Hook: event.HookStack, PID: pid, Arg: int32(h), Stack: s}
		}
		x.c.Hands = nil
		x.c.Peer.Hands = []conn.Process{{PID: pid, UID: x.v.Actor.UID + 1, Exe: "/before", User: "somebody"}, {PID: pid, UID: x.v.Actor.UID, Exe: "/closer", User: "one"}, {PID: pid + 1, Exe: "/other"}}
		x.c.Stacks = []event.Event{stack(act.At, event.HookCloseEntry, "here")}
		x.c.Peer.Stacks = []event.Event{stack(act.At-time.Second, event.HookCloseEntry, "before"), stack(act.At-1, event.HookCloseEntry, "close"), stack(act.At, event.HookExit, "exit"), stack(act.At+time.Second, event.HookCloseEntry, "after")}
		for side, v := range map[string]verdict.Verdict{"the peer's": verdict.Judge(x.c, verdict.Scope{}), "its own": verdict.Judge(x.c.Peer, verdict.Scope{})} {
			fin := v.PeerFin
			if v.Ender == verdict.LocalProcess {
				fin = v.LocalFin
			}
			for _, who := range []*conn.Process{v.Actor, fin.Actor} {
				if who.Exe != "/closer" || who.User != "one" || who.Stack != "close" {
					t.Errorf("%s act: %+v", side, who)
				}
			}
		}
		// Where only the other end saw it, and it was another user's.
		x.c.Hands, x.c.Peer.Hands = x.c.Peer.Hands[:1], nil
		if who := verdict.Judge(x.c.Peer, verdict.Scope{}).Actor; who.Exe != "/before" || who.User != "" {
			t.Errorf("seen at the other end alone: %+v", who)
		}
		return
	}
	t.Error("no peer closed first")
}
