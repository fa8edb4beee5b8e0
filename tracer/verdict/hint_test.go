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

// TestHints: what leads to the bottom of an ending is said where it was seen, and
// only there.
func TestHints(t *testing.T) {
	const ms = time.Millisecond
	failed := func(errno unix.Errno) func(*event.Event) {
		return func(e *event.Event) { e.Err = event.Errno(errno) }
	}
	aside := func(f *far, change ...func(*event.Event)) *far {
		e := event.Event{Time: f.c.First + ms, Hook: event.HookSendReset, Context: event.ContextSoftirq, Has: event.HasTuple | event.HasSegment,
			Local: f.c.Remote, Remote: f.c.Local, NetNS: 1, Segment: event.Segment{Flags: event.SYN}}
		for _, c := range change {
			c(&e)
		}
		f.c.Elsewhere = append(f.c.Elsewhere, e)
		return f
	}
	refused := func(listeners ...conn.Listener) *far {
		f := newFar(conn.OpenActive)
		f.c.Established, f.c.Listeners = 0, listeners
		f.see(0, event.HookSetState, move(event.Close, event.SynSent))
		f.see(2*ms, event.HookReset, at(event.SynSent))
		return f.see(2*ms, event.HookSetState, move(event.SynSent, event.Close), failed(unix.ECONNREFUSED))
	}
	timedOut := func() *far {
		f := newFar(conn.OpenActive)
		f.c.Established = 0
		f.see(0, event.HookSetState, move(event.Close, event.SynSent))
		return f.see(130*time.Second, event.HookSetState, move(event.SynSent, event.Close), failed(unix.ETIMEDOUT), func(e *event.Event) { e.Retransmits = 6 })
	}
	synAck := func(from string) func(*event.Event) {
		return func(e *event.Event) {
			e.Local, e.Remote = e.Remote, netip.MustParseAddrPort(from)
			e.Segment.Flags = event.SYN | event.ACK
		}
	}
	node := conn.Listener{NetNS: 1, Local: netip.MustParseAddrPort("127.0.0.1:443"), Owner: &conn.Process{PID: 1050, Comm: "node"}}
	unacked := func(small, flight uint32) *far {
		f := newFar(conn.OpenActive).established(57).exchange(small, 10)
		f.tcp.WriteSeq += flight
		f.tcp.SndNxt = f.tcp.WriteSeq
		return f.see(900*time.Second, event.HookSetState, move(event.Established, event.Close), failed(unix.ETIMEDOUT), func(e *event.Event) { e.Retransmits = 15 })
	}
	reused := func(state event.State) *far {
		f := newFar(conn.OpenPassive).established(57).exchange(100, 100)
		if state == event.CloseWait {
			f.see(400*ms, event.HookSetState, move(event.Established, state))
		}
		f.see(9*time.Second, event.HookReset, at(state), segment(event.Segment{Flags: event.RST}))
		f.see(9*time.Second, event.HookSetState, move(state, event.Close), failed(unix.ECONNRESET))
		return aside(f, func(e *event.Event) {
			e.Time, e.Sock, e.State, e.Segment.Flags = f.c.First+9*time.Second, 7, event.SynSent, event.ACK
		})
	}
	moved := func(netns uint32) *far {
		f := newFar(conn.OpenActive).established(57).exchange(100, 100)
		f.see(2*time.Second, event.HookReset, at(event.Established), segment(event.Segment{Flags: event.RST}))
		f.see(2*time.Second, event.HookSetState, move(event.Established, event.Close), failed(unix.ECONNRESET))
		aside(f, func(e *event.Event) { e.NetNS, e.Time, e.Segment.Flags = 3, f.c.First+2*time.Second, event.ACK })
		p := newFar(conn.OpenPassive).established(57)
		p.c.NetNS, p.c.Peer, f.c.Peer = netns, f.c, p.c
		return f
	}
	itself := func() *far {
		f := newFar(conn.OpenActive)
		f.c.Remote = f.c.Local
		f.established(0).exchange(6, 6)
		f.see(400*ms, event.HookClose, at(event.Established))
		f.see(400*ms, event.HookSetState, move(event.Established, event.FinWait1))
		f.tcp.SkFlags |= event.SockDone
		f.tcp.WriteSeq, f.tcp.SndNxt, f.tcp.SndUna = f.tcp.WriteSeq+1, f.tcp.SndNxt+1, f.tcp.SndUna+1
		f.see(401*ms, event.HookSetState, move(event.FinWait1, event.Closing))
		f.see(401*ms, event.HookTimeWait, at(event.Closing), func(e *event.Event) { e.Arg = int32(event.TimeWait) })
		return f.see(401*ms, event.HookSetState, move(event.Closing, event.Close))
	}
	waits := func(full uint32) *far {
		f := newFar(conn.OpenPassive)
		f.c.Acceptor = &conn.Process{PID: 77, Comm: "nginx"}
		waiting := func(e *event.Event) { e.HasSk = false }
		f.see(1*ms, event.HookSetState, move(event.SynRecv, event.Established), waiting)
		return f.see(1600*ms, event.HookSetState, move(event.Established, event.CloseWait), waiting, func(e *event.Event) { e.Full = full })
	}
	for _, x := range []struct {
		name  string
		end   *far
		cause verdict.Cause
		says  string // "": no hint
		do    string
	}{
		{"nobody listens anywhere", aside(refused()), verdict.PortClosed, "", ""},
		{"a listener elsewhere", aside(refused(node)), verdict.PortClosed, "There is a listener on 127.0.0.1:443 (node/1050), but it does not accept connections to 203.0.113.4.", "listen on 203.0.113.4"},
		{"another machine refused", refused(node), verdict.PortClosed, "", ""},
		{"no answer", timedOut(), verdict.ConnectTimeout, "", ""},
		{"an answer from elsewhere", aside(aside(timedOut(), synAck("10.7.0.3:80")), synAck("10.7.0.3:80")), verdict.ConnectTimeout,
			"did come 2 times, but from 10.7.0.3:80", "SNAT"},
		{"large segments vanish", unacked(100, 3000), verdict.RetransmitTimeout, "path MTU", "ping -M do"},
		{"large ones had come through", unacked(9000, 3000), verdict.RetransmitTimeout, "", ""},
		{"a small one vanishes", unacked(100, 200), verdict.RetransmitTimeout, "", ""},
		{"reuse of an old one", reused(event.Established), verdict.PortReuse, "", ""},
		{"reuse of one that was never closed", reused(event.CloseWait), verdict.PortReuse, "nginx (pid 812) never closed its end (CLOSE_WAIT)", "Close the connection in nginx"},
		{"it is not known there", moved(3), verdict.NoSocket, "", ""},
		{"the address has moved", moved(2), verdict.NoSocket, "The RST came from the network namespace 3, which has the address 203.0.113.4 now; the connection is still open in the namespace 2", "failover"},
		{"nobody accepts", waits(0), verdict.NeverAccepted, "", ""},
		{"nobody can accept", waits(1024), verdict.NeverAccepted, "nginx (pid 77), which accepts there, had all its 1024 descriptors in use (RLIMIT_NOFILE)", "LimitNOFILE"},
		{"a socket that met itself", itself(), verdict.SimultaneousClose, "was connected to itself: nobody listened on 10.0.0.5:51022", "ip_local_port_range"},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := verdict.Judge(x.end.c, verdict.Scope{})
			if v.Cause != x.cause {
				t.Fatalf("%s, want %s: %s", v.Cause, x.cause, v.Sentence)
			}
			for _, hint := range []string{"There is a listener", "A SYN-ACK did come", "path MTU", "CLOSE_WAIT)", "network namespace", "itself", "descriptors"} {
				if strings.Contains(v.Sentence, hint) && x.says == "" {
					t.Errorf("a hint where nothing was seen: %s", v.Sentence)
				}
			}
			if !strings.Contains(v.Sentence, x.says) || !strings.Contains(v.Advice, x.do) {
				t.Errorf("%q is not in %q, or %q not in %q", x.says, v.Sentence, x.do, v.Advice)
			}
		})
	}
}
