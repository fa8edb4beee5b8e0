package verdict_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestUnansweredRecordings: of all recorded endings only those are told as without
// an answer in which the service had received what it never answered.
func TestUnansweredRecordings(t *testing.T) {
	told := map[string]bool{}
	may := regexp.MustCompile(`^(close-unread|nat-close-unread|exit-unread|killed-unread|linger-zero-unread|shutdown-rd-unread|zerocopy-close|unanswered|peeked-unread|urgent-read|mptcp-listener-unread)`)
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			for _, x := range r.judge() {
				if x.v.Unanswered == nil {
					continue
				}
				if told[r.scenario] = true; !may.MatchString(r.scenario) {
					t.Errorf("%s %s: %s", filepath.Base(path), r.scenario, x.v.Sentence)
				}
				if x.c.Peer != nil && x.v.Unanswered.Actor == nil {
					t.Errorf("%s %s: nobody did it: %+v", filepath.Base(path), r.scenario, x.v.Unanswered)
				}
			}
		}
	}
	for _, want := range []string{"close-unread-ipv4", "zerocopy-close-ipv4"} {
		if !told[want] {
			t.Errorf("%s had no answer, and that is not told", want)
		}
	}
}

// TestUnanswered: what is an end without an answer, and what is not.
func TestUnanswered(t *testing.T) {
	const ms = time.Millisecond
	by := func(call event.Call, task uint32, code uint32) func(*event.Event) {
		return func(e *event.Event) {
			e.Context, e.Call, e.PID, e.TID, e.TaskFlags, e.ExitCode = event.ContextProcess, call, 812, 812, task, code
			copy(e.Comm[:], "nginx")
		}
	}
	closes := by(event.CallClose, 0, 0)
	end := func(open conn.Open) *far { return newFar(open).established(57) }
	// goes is the service's end, with the client's FIN after its own.
	goes := func(f *far, how func(*event.Event), more ...func(*event.Event)) *far {
		f.see(400*ms, event.HookClose, append(more, at(event.Established), how)...)
		f.see(400*ms, event.HookSetState, append(more, move(event.Established, event.FinWait1), how)...)
		f.see(430*ms, event.HookSetState, move(event.FinWait1, event.FinWait2))
		f.see(431*ms, event.HookTimeWait, at(event.FinWait2), func(e *event.Event) { e.Arg = int32(event.TimeWait) })
		f.tcp.SkFlags |= event.SockDone
		return f.see(431*ms, event.HookSetState, move(event.FinWait2, event.Close))
	}
	// heard is the client's end: the service's FIN comes, and it closes.
	heard := func(f *far, more ...func(*event.Event)) *far {
		f.tcp.RcvNxt, f.tcp.SkFlags = f.tcp.RcvNxt+1, event.SockDone
		f.see(400*ms, event.HookSetState, append(more, move(event.Established, event.CloseWait))...)
		f.see(410*ms, event.HookClose, at(event.CloseWait), closes)
		f.see(410*ms, event.HookSetState, move(event.CloseWait, event.LastAck), closes)
		f.tcp.WriteSeq, f.tcp.SndNxt, f.tcp.SndUna = f.tcp.WriteSeq+1, f.tcp.SndNxt+1, f.tcp.SndUna+1
		return f.see(440*ms, event.HookSetState, move(event.LastAck, event.Close))
	}
	exits := func(arg int32, code uint32) func(*far) {
		return func(f *far) {
			f.c.Elsewhere = append(f.c.Elsewhere, event.Event{Hook: event.HookExit, PID: 812, TID: 812, Time: f.c.First + 399*ms, Arg: arg,
				Context: event.ContextProcess, Has: event.HasTask, ExitCode: code, TaskFlags: event.PFExiting})
		}
	}
	for _, x := range []struct {
		name string
		end  *far
		also func(*far)
		says string // "": it is no such end
	}{
		{"a request, and close", goes(end(conn.OpenPassive).exchange(0, 78), closes), nil, "had received 78 bytes and sent none."},
		{"nothing at all", goes(end(conn.OpenPassive), closes), nil, ""},
		{"a push", goes(end(conn.OpenPassive).exchange(40, 0), closes), nil, ""},
		{"an answer", goes(end(conn.OpenPassive).exchange(500, 78), closes, silence(2*ms, 30*ms)), nil, ""},
		{"both at once", goes(end(conn.OpenPassive).exchange(500, 78), closes, silence(8*ms, 4*ms)), nil, ""},
		{"one request more", goes(end(conn.OpenPassive).exchange(500, 156), closes, silence(5*time.Second, 4*ms)), nil,
			"had received more since it last sent anything."},
		{"it is killed", goes(end(conn.OpenPassive).exchange(0, 24), by(event.CallNone, event.PFExiting, uint32(unix.SIGKILL))), exits(event.OOMNone, 9),
			"and sent none; it was killed by SIGKILL."},
		{"it is killed for memory", goes(end(conn.OpenPassive).exchange(0, 24), by(event.CallNone, event.PFExiting, uint32(unix.SIGKILL))), exits(event.OOMVictim, 9),
			"and sent none; it was killed by SIGKILL: out of memory."},
		{"it exits", goes(end(conn.OpenPassive).exchange(0, 24), by(event.CallExit, event.PFExiting, 3<<8)), exits(event.OOMNone, 3<<8),
			"and sent none; it exited with status 3."},
		{"the client finished first", func() *far {
			f := end(conn.OpenPassive).exchange(0, 78)
			f.tcp.RcvNxt, f.tcp.SkFlags = f.tcp.RcvNxt+1, event.SockDone
			f.see(390*ms, event.HookSetState, move(event.Established, event.CloseWait))
			f.see(400*ms, event.HookClose, at(event.CloseWait), closes)
			f.see(400*ms, event.HookSetState, move(event.CloseWait, event.LastAck), closes)
			return f.see(430*ms, event.HookSetState, move(event.LastAck, event.Close))
		}(), nil, ""},
		{"the FINs crossed", func() *far {
			f := end(conn.OpenPassive).exchange(0, 78)
			f.see(400*ms, event.HookClose, at(event.Established), closes)
			f.see(400*ms, event.HookSetState, move(event.Established, event.FinWait1), closes)
			f.tcp.SkFlags = event.SockDone
			f.see(401*ms, event.HookSetState, move(event.FinWait1, event.Closing))
			return f.see(430*ms, event.HookSetState, move(event.Closing, event.Close))
		}(), nil, ""},
		{"it is the client that closes", goes(end(conn.OpenActive).exchange(78, 500), closes), nil, ""},
		{"a client that got a push and closes", goes(end(conn.OpenActive).exchange(0, 500), closes), nil, ""},
		{"a client hears nothing", heard(end(conn.OpenActive).exchange(78, 0)), nil, "203.0.113.4:443 gave no answer: it had received 78 bytes and sent none."},
		{"a client hears its answer", heard(end(conn.OpenActive).exchange(78, 500), silence(50*ms, 5*ms)), nil, ""},
		{"a client's second request", heard(end(conn.OpenActive).exchange(156, 500), silence(50*ms, 5*time.Second)), nil,
			"203.0.113.4:443 gave no answer: it had received more"},
		{"a client that sent nothing", heard(end(conn.OpenActive)), nil, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.also != nil {
				x.also(x.end)
			}
			v := verdict.Judge(x.end.c, verdict.Scope{})
			switch {
			case x.says == "" && v.Unanswered != nil:
				t.Errorf("it is told: %s", v.Sentence)
			case x.says != "" && v.Unanswered == nil:
				t.Errorf("it is not told: %s, %s", v.Cause, v.Sentence)
			case !strings.Contains(v.Sentence, x.says):
				t.Errorf("%q is not in %q", x.says, v.Sentence)
			}
			if v.Unanswered != nil && v.Class == verdict.Graceful && v.Advice == "" {
				t.Error("no advice")
			}
		})
	}
}
