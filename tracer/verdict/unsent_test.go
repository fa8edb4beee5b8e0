package verdict_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// givesUp is the end by a timer, with 500 bytes that the peer did not acknowledge.
func givesUp(err unix.Errno, change ...func(*event.Event)) []func(*event.Event) {
	return append([]func(*event.Event){move(event.Established, event.Close), func(e *event.Event) {
		e.Err, e.WriteSeq = event.Errno(err), e.WriteSeq+500
		e.WindowKnown, e.SndWnd, e.MSS = true, 65536, 1448
	}}, change...)
}

// inFlight: the 500 bytes were sent once, and n times again.
func inFlight(n uint8) func(*event.Event) {
	return func(e *event.Event) { e.SndNxt, e.Retransmits = e.WriteSeq, n }
}

func probes(n uint8) func(*event.Event) { return func(e *event.Event) { e.ProbesOut = n } }

func refusedTries(n uint32, errno unix.Errno) func(*event.Event) {
	return func(e *event.Event) { e.UnsentTries, e.UnsentErr = n, -int32(errno) }
}

func icmpFrom(from string, loopback bool, kind, code int32) func(*event.Event) {
	return func(e *event.Event) {
		e.Arg, e.Arg2, e.Loopback = kind, code, loopback
		e.From = netip.AddrPortFrom(netip.MustParseAddr(from), 0)
		e.Has, e.Sock = event.HasTuple|event.HasPreempt, 0
	}
}

func TestUnsent(t *testing.T) {
	soft := func(errno unix.Errno) func(*event.Event) {
		return func(e *event.Event) { e.ErrSoft = event.Errno(errno) }
	}
	for _, x := range []struct {
		name    string
		before  func(*far)
		end     []func(*event.Event)
		missing []event.Hook
		cause   verdict.Cause
		sure    verdict.Confidence
		says    []string
		never   string
	}{
		{name: "nothing refused", end: givesUp(unix.ETIMEDOUT, inFlight(4)), cause: verdict.RetransmitTimeout, sure: verdict.Certain,
			says: []string{"sent again 4 times"}, never: "could not"},
		{name: "without the hook on repetitions", end: givesUp(unix.ETIMEDOUT, inFlight(4)), missing: []event.Hook{event.HookRetransmit},
			cause: verdict.RetransmitTimeout, sure: verdict.Likely},
		{name: "own filter", end: givesUp(unix.ETIMEDOUT, probes(4), refusedTries(4, unix.EPERM)), cause: verdict.SendFailed, sure: verdict.Certain,
			says: []string{"a rule of its own", "None of the last 4 tries left it"}, never: "window"},
		{name: "own address", before: func(f *far) {
			f.see(time.Second, event.HookAddress, func(e *event.Event) { e.Has, e.Sock = event.HasTuple, 0 })
		}, end: givesUp(unix.ETIMEDOUT, probes(4), refusedTries(4, unix.EHOSTUNREACH)), cause: verdict.SendFailed, sure: verdict.Certain,
			says: []string{"its own address 10.0.0.5 is gone"}},
		{name: "route says no", end: givesUp(unix.EACCES, inFlight(3), soft(unix.EACCES), refusedTries(3, unix.EHOSTUNREACH)),
			cause: verdict.SendFailed, sure: verdict.Certain, says: []string{"a route of its own prohibits 203.0.113.4"}},
		{name: "device filter", end: givesUp(unix.ETIMEDOUT, inFlight(3), func(e *event.Event) { e.UnsentTries, e.UnsentErr = 3, 1 }),
			cause: verdict.SendFailed, sure: verdict.Certain, says: []string{"queueing discipline"}},
		{name: "some left", end: givesUp(unix.ETIMEDOUT, inFlight(5), refusedTries(2, unix.EPERM)), cause: verdict.RetransmitTimeout, sure: verdict.Certain,
			says: []string{"sent again 3 times, and in the last 2 tries could not leave this host"}},
		{name: "copies still here", end: givesUp(unix.ETIMEDOUT, inFlight(5), func(e *event.Event) { e.BusyTries = 4 }), cause: verdict.RetransmitTimeout, sure: verdict.Certain,
			says: []string{"sent again once (4 more tries were put off"}},
		{name: "neighbor", before: func(f *far) {
			for i := range 3 {
				f.see(time.Duration(1+i)*time.Second, event.HookNeighbor, at(event.Established))
			}
		}, end: givesUp(unix.EHOSTUNREACH, inFlight(5), soft(unix.EHOSTUNREACH), func(e *event.Event) { e.BusyTries = 2 }), cause: verdict.SendFailed, sure: verdict.Certain,
			says: []string{"does not answer ARP"}, never: "router"},
		{name: "neighbor, later", before: func(f *far) { f.see(time.Second, event.HookNeighbor, at(event.Established)) },
			end: givesUp(unix.EHOSTUNREACH, inFlight(5), soft(unix.EHOSTUNREACH)), cause: verdict.RetransmitTimeout, sure: verdict.Certain,
			says: []string{"1 of its segments never left this host"}},
		{name: "a router", before: func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("10.9.9.9", false, 3, 1)) },
			end: givesUp(unix.EHOSTUNREACH, inFlight(5), soft(unix.EHOSTUNREACH)), cause: verdict.RetransmitTimeout, sure: verdict.Certain,
			says: []string{"10.9.9.9 said ICMP host unreachable", "EHOSTUNREACH instead of ETIMEDOUT"}},
		{name: "somebody, unseen", end: givesUp(unix.EHOSTUNREACH, inFlight(5), soft(unix.EHOSTUNREACH)), missing: []event.Hook{event.HookICMP, event.HookNeighbor},
			cause: verdict.RetransmitTimeout, sure: verdict.Likely},
		{name: "zero window", end: givesUp(unix.ETIMEDOUT, probes(4), func(e *event.Event) { e.SndWnd, e.SinceProbing = 0, time.Minute }), cause: verdict.ZeroWindowTimeout, sure: verdict.Certain,
			says: []string{"at zero"}},
		{name: "small window", end: givesUp(unix.ETIMEDOUT, probes(4), func(e *event.Event) { e.SndWnd, e.SinceProbing = 100, time.Minute }), cause: verdict.ZeroWindowTimeout, sure: verdict.Certain,
			says: []string{"at 100 bytes, too few"}},
		{name: "zero window, own filter", end: givesUp(unix.ETIMEDOUT, probes(4), refusedTries(4, unix.EPERM), func(e *event.Event) { e.SndWnd = 0 }),
			cause: verdict.SendFailed, sure: verdict.Certain},
		{name: "zero window, own filter, one probe left", end: givesUp(unix.ETIMEDOUT, probes(3), refusedTries(2, unix.EPERM), func(e *event.Event) { e.SndWnd = 0 }),
			cause: verdict.SendFailed, sure: verdict.Likely, says: []string{"a rule of its own", "The last 2 of 3 probes did not leave it"}},
		{name: "open window, probes unseen", end: givesUp(unix.ETIMEDOUT, probes(4)), missing: []event.Hook{event.HookProbe}, cause: verdict.SendFailed, sure: verdict.Likely},
		{name: "an older recording", end: givesUp(unix.ETIMEDOUT, probes(4), func(e *event.Event) { e.WindowKnown = false }),
			missing: []event.Hook{event.HookProbe}, cause: verdict.ZeroWindowTimeout, sure: verdict.Likely},
		{name: "user timeout of an orphan", end: givesUp(unix.ETIMEDOUT, inFlight(2), func(e *event.Event) {
			e.UserTimeout, e.SkFlags, e.HasSk = 500, event.SockDead, false
		}), cause: verdict.UserTimeout, sure: verdict.Certain, says: []string{"which had closed", "500 ms"}},
		{name: "user timeout not reached", end: givesUp(unix.ETIMEDOUT, probes(4), func(e *event.Event) {
			e.UserTimeout, e.SinceProbing, e.SndWnd = 60000, 3*time.Second, 0
		}), cause: verdict.ZeroWindowTimeout, sure: verdict.Likely}, // so short a time a neighbor may be looked for
		{name: "black hole", end: givesUp(unix.ETIMEDOUT, func(e *event.Event) { e.WriteSeq += 5500; e.Sacked = 1 }, inFlight(4)),
			cause: verdict.RetransmitTimeout, sure: verdict.Certain, says: []string{"SACK", "1448 bytes", "path MTU"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFar(conn.OpenActive).established(60)
			if x.before != nil {
				x.before(f)
			}
			f.see(10*time.Second, event.HookSetState, x.end...)
			v := verdict.Judge(f.c, verdict.Scope{Missing: x.missing})
			if v.Cause != x.cause || v.Confidence != x.sure || v.Ender != verdict.LocalKernel || v.Class != verdict.TimedOut {
				t.Errorf("%s %s by %s, %s %v; want %s, %s\n%s", v.Class, v.Cause, v.Ender, v.Confidence, v.Missing, x.cause, x.sure, v.Sentence)
			}
			for _, s := range x.says {
				if !strings.Contains(v.Sentence, s) {
					t.Errorf("no %q in %q", s, v.Sentence)
				}
			}
			if x.never != "" && strings.Contains(v.Sentence, x.never) {
				t.Errorf("%q in %q", x.never, v.Sentence)
			}
		})
	}
}

// TestBlackHoleAdvice: the hint comes with what to do about it.
func TestBlackHoleAdvice(t *testing.T) {
	f := newFar(conn.OpenActive).established(60)
	f.see(10*time.Second, event.HookSetState, givesUp(unix.ETIMEDOUT, func(e *event.Event) { e.WriteSeq += 5500; e.Sacked = 1 }, inFlight(4))...)
	if v := verdict.Judge(f.c, verdict.Scope{}); !strings.Contains(v.Advice, "tcp_mtu_probing") {
		t.Errorf("advice %q", v.Advice)
	}
}

// TestWhoRefused: who said that the peer cannot be reached.
func TestWhoRefused(t *testing.T) {
	for _, x := range []struct {
		name    string
		before  func(*far)
		errno   unix.Errno
		missing []event.Hook
		ender   verdict.Ender
		sure    verdict.Confidence
		says    string
	}{
		{"a router", func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("10.9.9.9", false, 3, 1)) }, unix.EHOSTUNREACH, nil,
			verdict.Path, verdict.Certain, "10.9.9.9 said"},
		{"a router, prohibited", func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("10.9.9.9", false, 3, 13)) }, unix.EHOSTUNREACH, nil,
			verdict.Path, verdict.Certain, "communication administratively prohibited"},
		{"IPv6", func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("2001:db8::1", false, 1, 1)) }, unix.EACCES, nil,
			verdict.Path, verdict.Certain, "2001:db8::1 said"},
		{"own neighbor", func(f *far) {
			f.see(time.Second, event.HookNeighbor, at(event.SynSent))
			f.see(time.Second, event.HookICMP, icmpFrom("10.0.0.5", true, 3, 1))
		}, unix.EHOSTUNREACH, nil, verdict.LocalKernel, verdict.Certain, "no router said anything"},
		{"own filter", func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("10.0.0.5", true, 3, 3)) }, unix.ECONNREFUSED, nil,
			verdict.LocalKernel, verdict.Certain, "This host itself rejected the SYN"},
		{"own filter, or neighbor", func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("10.0.0.5", true, 3, 1)) }, unix.EHOSTUNREACH,
			[]event.Hook{event.HookNeighbor}, verdict.LocalKernel, verdict.Likely, "This host itself"},
		{"not seen", nil, unix.EHOSTUNREACH, []event.Hook{event.HookICMP, event.HookNeighbor}, verdict.NoEnder, verdict.Likely, "or this host itself"},
		// A message that says something else is not what ended it.
		{"another message", func(f *far) { f.see(time.Second, event.HookICMP, icmpFrom("10.9.9.9", false, 3, 4)) }, unix.EHOSTUNREACH, nil,
			verdict.NoEnder, verdict.Likely, "or this host itself"},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFar(conn.OpenActive)
			f.c.Established = 0
			f.see(0, event.HookSetState, move(event.Close, event.SynSent))
			if x.before != nil {
				x.before(f)
			}
			f.see(2*time.Second, event.HookSetState, move(event.SynSent, event.Close), func(e *event.Event) { e.Err, e.Retransmits = event.Errno(x.errno), 1 })
			v := verdict.Judge(f.c, verdict.Scope{Missing: x.missing})
			if v.Cause != verdict.Unreachable || v.Ender != x.ender || v.Confidence != x.sure || !strings.Contains(v.Sentence, x.says) {
				t.Errorf("%s by %q, %s %v, want %q, %s, %q:\n%s", v.Cause, v.Ender, v.Confidence, v.Missing, x.ender, x.sure, x.says, v.Sentence)
			}
		})
	}
}

// TestWhatEndedFinWait2: a mini-socket that waits for the peer's FIN ends by its
// timer, a RST, an operator, or with its namespace.
func TestWhatEndedFinWait2(t *testing.T) {
	kthread := func(e *event.Event) { e.TaskFlags = 0x00200000 }
	process := func(call event.Call) func(*event.Event) {
		return func(e *event.Event) {
			e.Context, e.Call, e.PID, e.Comm = event.ContextProcess, call, 7, event.CommOf("ss")
		}
	}
	for _, x := range []struct {
		name  string
		how   event.TwskEnd
		lived time.Duration
		end   []func(*event.Event)
		cause verdict.Cause
		sure  verdict.Confidence
		says  string
	}{
		{"its time", event.TwskTimer, 60 * time.Second, nil, verdict.FinWait2Timeout, verdict.Certain, "after 60 s (tcp_fin_timeout)"},
		{"a contradiction", event.TwskTimer, 2 * time.Second, nil, verdict.FinWait2Timeout, verdict.Likely, ""},
		{"not told", event.TwskUnknown, 60 * time.Second, nil, verdict.FinWait2Timeout, verdict.Likely, ""},
		{"a RST", event.TwskEarly, 2 * time.Second, nil, verdict.PeerAbort, verdict.Likely, "a RST came instead, 2.000 s later"},
		{"ss -K", event.TwskEarly, 2 * time.Second, []func(*event.Event){process(event.CallSend)}, verdict.SockDestroy, verdict.Certain, "ss (pid 7) destroyed"},
		{"its namespace", event.TwskEarly, 2 * time.Second, []func(*event.Event){process(event.CallUnknown), kthread}, verdict.NamespaceRemoved, verdict.Certain, "namespace"},
		{"its namespace, inlined", event.TwskTimer, 2 * time.Second, []func(*event.Event){process(event.CallUnknown), kthread}, verdict.NamespaceRemoved, verdict.Certain, "namespace"},
		{"a call", event.TwskEarly, 2 * time.Second, []func(*event.Event){process(event.CallConnect)}, verdict.UnknownCause, verdict.NotKnown, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFar(conn.OpenActive).established(60)
			f.see(time.Second, event.HookFileClose, at(event.Established), process(event.CallClose), func(e *event.Event) { e.Refs = 1 })
			f.see(time.Second, event.HookClose, at(event.Established), process(event.CallClose))
			f.see(time.Second, event.HookSetState, move(event.Established, event.FinWait1), process(event.CallClose))
			f.see(1100*time.Millisecond, event.HookSetState, move(event.FinWait1, event.FinWait2))
			f.see(1100*time.Millisecond, event.HookTimeWait, at(event.FinWait2), func(e *event.Event) { e.Arg, e.Arg2 = int32(event.FinWait2), 60000 })
			f.see(1100*time.Millisecond, event.HookSetState, move(event.FinWait2, event.Close))
			f.see(1100*time.Millisecond+x.lived, event.HookTwskKill, append([]func(*event.Event){at(event.TimeWait), func(e *event.Event) {
				e.Arg, e.Arg2, e.Has, e.Sock = int32(event.FinWait2), int32(x.how), event.HasTuple|event.HasTask|event.HasPreempt|event.HasSyscall, 0xffff888003a50000
			}}, x.end...)...)
			v := verdict.Judge(f.c, verdict.Scope{})
			if v.Cause != x.cause || v.Confidence != x.sure || !strings.Contains(v.Sentence, x.says) {
				t.Errorf("%s, %s %v, want %s, %s, %q:\n%s", v.Cause, v.Confidence, v.Missing, x.cause, x.sure, x.says, v.Sentence)
			}
		})
	}
}
