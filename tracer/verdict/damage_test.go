package verdict_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestLossIsNeverCertain takes events away at random and says so: whatever is
// left is judged without a crash, and nothing that lived then is certain.
func TestLossIsNeverCertain(t *testing.T) {
	for _, path := range recordings(t) {
		for n, r := range readRuns(t, path) {
			rnd := rand.New(rand.NewPCG(uint64(n), 7))
			for range 20 {
				j := conn.New(conn.Options{Hold: true})
				j.Lose(0, 1<<62*time.Nanosecond)
				keep := rnd.Float64()
				for _, e := range r.events {
					if rnd.Float64() < keep {
						j.Add(e)
					}
				}
				for _, c := range j.Flush() {
					v := verdict.Judge(c, verdict.Scope{Missing: r.missing})
					if v.Confidence == verdict.Certain {
						t.Fatalf("%s %s: %s with a loss is judged %s, certain", path, r.scenario, c.Local, v.Cause)
					}
					if v.Sentence == "" {
						t.Fatalf("%s %s: no sentence", path, r.scenario)
					}
				}
			}
		}
	}
}

// FuzzJudge makes events of bytes: no order of hooks, states and flags may
// crash the join or the judge.
func FuzzJudge(f *testing.F) {
	f.Add([]byte("\x01\x00\x07\x02\x05\x01\x01\x07\x10\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var events []event.Event
		local, remote := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")
		for i := 0; i+8 <= len(b); i += 8 {
			x := b[i : i+8]
			e := event.Event{
				Time: time.Duration(i+1) * time.Millisecond, Hook: event.Hook(x[0]%26 + 1), Has: event.Group(x[1]),
				State: event.State(x[2] % 14), ToState: event.State(x[3] % 14), Sock: uint64(x[4]%3 + 1), Conn: uint64(x[4]%3 + 1),
				Context: event.Context(x[5] % 4), Call: event.Call(x[5] >> 4 % 13), Arg: int32(int8(x[6])), Arg2: int32(x[6] & 1),
				SkFlags: event.SkFlags(x[7] & 0x1f), HasSk: x[7]&0x20 != 0, Repair: x[7]&0x40 != 0, MPTCP: x[7]&0x80 != 0,
				WriteSeq: uint32(x[6]), SndUna: uint32(x[7]), SndNxt: uint32(x[5]), RcvNxt: uint32(x[4]), CopiedSeq: uint32(x[3]),
				Segment: event.Segment{Flags: event.TCPFlags(x[7]), Len: uint32(x[6])}, TaskFlags: uint32(x[1]), Refs: int32(x[6] % 4),
				PID: uint32(x[4]), TID: uint32(x[4]),
			}
			e.Local, e.Remote = local, remote
			if x[4]&1 != 0 {
				e.Local, e.Remote = remote, local
			}
			events = append(events, e)
		}
		for range verdict.JudgeAll(events, verdict.Scope{}) {
		}
	})
}

// TestSkippedChanges: the kernel runs no program inside another, and so an end
// may seem to stay in FIN-WAIT-1 for ever. Its peer's end tells better, if the
// peer's FIN was acknowledged; if not, the end is as open as it seems.
func TestSkippedChanges(t *testing.T) {
	for _, x := range []struct {
		name  string
		acked bool
		view  func(event.Event) (event.Event, bool)
		open  bool
	}{
		{"acknowledged", true, nil, false},
		{"not acknowledged", false, nil, true},
		{"acknowledged, to classic tracepoints", true, classicView, false},
		{"not acknowledged, to classic tracepoints", false, classicView, false},
	} {
		found := 0
		for _, path := range recordings(t) {
			for _, r := range readRuns(t, path) {
				if r.scenario != "close-ipv4" {
					continue
				}
				found++
				var first uint64 // who closed first
				left := r.seen(func(e event.Event) (event.Event, bool) {
					if e.Hook == event.HookSetState && e.ToState == event.FinWait1 {
						first = e.Sock
					} else if first != 0 && e.Sock == first || e.State == event.TimeWait {
						return e, false // skipped
					}
					if !x.acked && e.Hook == event.HookSetState && e.State == event.LastAck {
						e.SndUna--
					}
					if x.view != nil {
						return x.view(e)
					}
					return e, true
				})
				judged := false
				for c, v := range verdict.JudgeAll(left, verdict.Scope{Missing: r.missing}) {
					if c.Sock != first {
						continue
					}
					judged = true
					if (v.Class == verdict.Open) != x.open {
						t.Errorf("%s, %s: %s %s: %s", path, x.name, v.Class, v.Cause, v.Sentence)
					}
				}
				if !judged {
					t.Errorf("%s, %s: nobody closed first", path, x.name)
				}
			}
		}
		if found < 4 {
			t.Errorf("%d recordings of a close, want one of each kernel", found)
		}
	}
}
