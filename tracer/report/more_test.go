package report

import (
	"bytes"
	"encoding/csv"
	"strconv"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// couple makes two judged ends of two built ones.
func couple(name string, c, s *end, class verdict.Class, cause verdict.Cause) (Judged, Judged) {
	cc, sc := c.done(), s.done()
	cc.Peer, sc.Peer = sc, cc
	v := verdict.Verdict{Class: class, Cause: cause, Confidence: verdict.Certain, Sentence: "See the rows."}
	return Judged{Conn: cc, Verdict: v, Scenario: name}, Judged{Conn: sc, Verdict: v, Scenario: name}
}

func ends(n string) (*end, *end) {
	c := newEnd(n+"c", client, "127.0.0.1:42100", "127.0.0.1:43211", conn.OpenActive)
	s := newEnd(n+"s", server, "127.0.0.1:43211", "127.0.0.1:42100", conn.OpenPassive)
	handshake(c, s)
	return c, s
}

// closeLingerZero: close(2) with SO_LINGER on and time 0.
func closeLingerZero() (Judged, Judged) {
	c, s := ends("l")
	c.see(100.000, event.HookCloseEntry, process, client, in(event.Established)).
		see(100.004, event.HookClose, process, client, in(event.Established)).
		see(100.007, event.HookDisconnect, process, client, in(event.Established)).
		see(100.011, event.HookSetState, process, client, to(event.Established, event.Close)).
		see(100.016, event.HookSendActiveReset, process, client, in(event.Close), arg(14))
	s.see(100.040, event.HookReset, softirq, client, in(event.Established), seg(event.Segment{Flags: event.RST | event.ACK})).
		see(100.044, event.HookSetState, softirq, client, to(event.Established, event.Close), failed(104)).
		see(150.000, event.HookReceive, process, server, in(event.Close), arg(-104))
	c.see(100.090, event.HookDestroy, process, client, in(event.Close))
	return couple("linger-zero", c, s, verdict.Aborted, verdict.LingerZero)
}

// bothShut: shutdown(SHUT_RDWR), and data for the full socket that is left. The
// kernel resets itself first, then answers.
func bothShut() (Judged, Judged) {
	c, s := ends("b")
	data := event.Segment{Len: 5, Flags: event.ACK | event.PSH}
	c.see(50.000, event.HookShutdown, process, client, in(event.Established), arg(3)).
		see(50.004, event.HookSetState, process, client, to(event.Established, event.FinWait1)).
		see(50.009, event.HookSendFin, process, client, in(event.FinWait1))
	s.see(50.030, event.HookSetState, softirq, client, to(event.Established, event.CloseWait))
	c.see(50.050, event.HookSetState, softirq, client, to(event.FinWait1, event.FinWait2)).
		see(90.010, event.HookReset, softirq, server, in(event.FinWait2), seg(data)).
		see(90.015, event.HookSetState, softirq, server, to(event.FinWait2, event.Close), failed(104)).
		see(90.022, event.HookSendReset, softirq, server, in(event.Close), arg(8), seg(data))
	s.see(90.041, event.HookReset, softirq, server, in(event.CloseWait), seg(event.Segment{Flags: event.RST})).
		see(90.046, event.HookSetState, softirq, server, to(event.CloseWait, event.Close), failed(32))
	for ms := 120.0; ms < 150; ms += 10 {
		s.see(ms, event.HookStreamError, process, server, in(event.Close), arg(-32), arg2(0))
	}
	return couple("data-after-shutdown", c, s, verdict.Aborted, verdict.DataAfterShutdown)
}

// farApart: the two ends are 25 ms apart, in two network namespaces.
func farApart() (Judged, Judged) {
	c := newEnd("fc", client, "10.77.0.1:42100", "10.77.0.2:43211", conn.OpenActive)
	s := newEnd("fs", server, "10.77.0.2:43211", "10.77.0.1:42100", conn.OpenPassive)
	idle := task{comm: "swapper/0"}
	c.see(0, event.HookSetState, process, client, to(event.Close, event.SynSent)).
		see(0.020, event.HookConnect, process, client, in(event.SynSent)).
		see(50.100, event.HookSetState, softirq, idle, to(event.SynSent, event.Established))
	s.see(75.200, event.HookSetState, softirq, idle, to(event.Listen, event.SynRecv)).
		see(75.210, event.HookSetState, softirq, idle, to(event.SynRecv, event.Established)).
		see(80.000, event.HookAccept, process, server, in(event.Established))
	c.see(200.000, event.HookCloseEntry, process, client, in(event.Established)).
		see(200.004, event.HookClose, process, client, in(event.Established)).
		see(200.009, event.HookSetState, process, client, to(event.Established, event.FinWait1)).
		see(200.014, event.HookSendFin, process, client, in(event.FinWait1))
	s.see(225.100, event.HookSetState, softirq, idle, to(event.Established, event.CloseWait)).
		see(226.000, event.HookReceive, process, server, in(event.CloseWait), arg(0)).
		see(226.100, event.HookCloseEntry, process, server, in(event.CloseWait)).
		see(226.104, event.HookClose, process, server, in(event.CloseWait)).
		see(226.109, event.HookSetState, process, server, to(event.CloseWait, event.LastAck)).
		see(226.114, event.HookSendFin, process, server, in(event.LastAck))
	c.see(250.200, event.HookSetState, softirq, idle, to(event.FinWait1, event.FinWait2)).
		see(250.210, event.HookTimeWait, softirq, idle, in(event.FinWait2), arg(int32(event.FinWait2))).
		see(250.220, event.HookSetState, softirq, idle, to(event.FinWait2, event.Close)).
		see(251.200, event.HookTwskSchedule, softirq, idle, in(event.TimeWait), arg(int32(event.TimeWait)), noTCP)
	s.see(276.300, event.HookSetState, softirq, idle, to(event.LastAck, event.Close))
	c.c.Opener, c.c.Owner, s.c.Owner = c.process(), c.process(), s.process()
	return couple("far-apart", c, s, verdict.Graceful, verdict.OrderlyClose)
}

// crossing: two FINs cross on the way; both ends keep TIME_WAIT.
func crossing() (Judged, Judged) {
	c, s := ends("x")
	idle := task{comm: "swapper/0"}
	for i, n := range []*end{c, s} {
		ms := 100 + float64(i)*0.4
		n.see(ms, event.HookShutdown, process, n.task, in(event.Established), arg(2)).
			see(ms+0.004, event.HookSetState, process, n.task, to(event.Established, event.FinWait1)).
			see(ms+0.009, event.HookSendFin, process, n.task, in(event.FinWait1))
	}
	c.see(301.000, event.HookSetState, softirq, idle, to(event.FinWait1, event.Closing))
	s.see(301.020, event.HookSetState, softirq, idle, to(event.FinWait1, event.Closing)).
		see(301.050, event.HookTimeWait, softirq, idle, in(event.Closing), arg(int32(event.TimeWait))).
		see(301.060, event.HookSetState, softirq, idle, to(event.Closing, event.Close))
	c.see(301.080, event.HookTimeWait, softirq, idle, in(event.Closing), arg(int32(event.TimeWait))).
		see(301.090, event.HookSetState, softirq, idle, to(event.Closing, event.Close))
	return couple("simultaneous-close", c, s, verdict.Graceful, verdict.SimultaneousClose)
}

// destroyed: an administrator ends it with ss -K.
func destroyed() (Judged, Judged) {
	c, s := ends("d")
	ss := task{pid: 912, comm: "ss"}
	s.see(400.000, event.HookAbort, process, ss, in(event.Established), arg(103)).
		see(400.006, event.HookSendActiveReset, process, ss, in(event.Established), arg(14))
	c.see(400.020, event.HookReset, softirq, ss, in(event.Established), seg(event.Segment{Flags: event.RST | event.ACK})).
		see(400.024, event.HookSetState, softirq, ss, to(event.Established, event.Close), failed(104))
	s.see(400.040, event.HookSetState, process, ss, to(event.Established, event.Close), failed(103), func(e *event.Event) { e.Call = event.CallSend }).
		see(500.000, event.HookReceive, process, server, in(event.Close), arg(-103))
	return couple("sock-destroy", c, s, verdict.Aborted, verdict.SockDestroy)
}

// killed: SIGKILL while a request is unread; the process had a copy of the
// descriptor, too.
func killed() (Judged, Judged) {
	c, s := ends("k")
	dying := task{pid: 184, comm: "server", exit: 9, dead: true}
	s.see(300.000, event.HookFileClose, process, server, in(event.Established), refs(2)).
		elsewhere(700.000, event.HookExit, process, dying, func(e *event.Event) { e.Has = event.HasTask }).
		see(700.500, event.HookCloseEntry, process, dying, in(event.Established)).
		see(700.504, event.HookClose, process, dying, in(event.Established), seqs(1, 1, 1, 101, 1)).
		see(700.509, event.HookSetState, process, dying, to(event.Established, event.Close)).
		see(700.514, event.HookSendActiveReset, process, dying, in(event.Close), arg(11))
	c.see(700.530, event.HookReset, softirq, dying, in(event.Established), seg(event.Segment{Flags: event.RST | event.ACK})).
		see(700.535, event.HookSetState, softirq, dying, to(event.Established, event.Close), failed(104))
	return couple("killed", c, s, verdict.Aborted, verdict.CloseUnread)
}

// keepalive: probes stay unanswered.
func keepalive() Judged {
	idle := task{comm: "swapper/0"}
	n := newEnd("ka", client, "10.0.0.5:42100", "10.0.0.9:5432", conn.OpenUnknown)
	n.see(0, event.HookSendActiveReset, softirq, idle, in(event.Established), arg(15), func(e *event.Event) { e.ProbesOut = 9 }).
		see(0.010, event.HookSetState, softirq, idle, to(event.Established, event.Close), failed(110), func(e *event.Event) { e.ProbesOut = 9 }).
		see(30.000, event.HookReceive, process, client, in(event.Close), arg(-110)).
		see(31.000, event.HookCloseEntry, process, client, in(event.Close), func(e *event.Event) { e.Call = event.CallDup2 }).
		see(31.004, event.HookClose, process, client, in(event.Close), func(e *event.Event) { e.Call = event.CallDup2 })
	n.c.Owner = n.process()
	return Judged{Conn: n.done(), Verdict: verdict.Verdict{Class: verdict.TimedOut, Cause: verdict.KeepaliveTimeout,
		Confidence: verdict.Certain, Sentence: "See the rows."}}
}

// noSocket: this machine's kernel answers a segment for a connection that is
// gone; and a SYN that a full accept queue dropped before.
func noSocket() Judged {
	idle := task{comm: "swapper/0"}
	n := newEnd("ns", client, "127.0.0.1:42100", "127.0.0.1:43211", conn.OpenActive)
	n.see(0, event.HookSetState, process, client, to(event.Close, event.SynSent)).
		see(0.020, event.HookConnect, process, client, in(event.SynSent)).
		elsewhere(0.040, event.HookSynDrop, softirq, client, in(event.Listen), func(e *event.Event) { e.AckBacklog, e.MaxAckBacklog = 2, 1 }).
		see(1001.000, event.HookSetState, softirq, idle, to(event.SynSent, event.Established)).
		elsewhere(2000.000, event.HookSendReset, softirq, client, arg(1), seg(event.Segment{Len: 40, Flags: event.ACK | event.PSH}),
			func(e *event.Event) { e.Sock, e.State = 0, 0; e.Has &^= event.HasSocket | event.HasTCP }).
		see(2000.020, event.HookReset, softirq, client, in(event.Established), seg(event.Segment{Flags: event.RST})).
		see(2000.030, event.HookSetState, softirq, client, to(event.Established, event.Close), failed(104))
	n.c.Opener, n.c.Owner = n.process(), n.process()
	return Judged{Conn: n.done(), Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.NoSocket,
		Confidence: verdict.Certain, Sentence: "See the rows."}}
}

// slowDegraded: an emulated machine that takes its time within a task, and a
// kernel where only tracepoints tell: the RST comes after the peer had it.
func slowDegraded() (Judged, Judged) {
	c := newEnd("zc", client, "127.0.0.1:42100", "127.0.0.1:43211", conn.OpenActive)
	s := newEnd("zs", server, "127.0.0.1:43211", "127.0.0.1:42100", conn.OpenPassive)
	unknown := event.ContextUnknown
	plain := func(e *event.Event) { e.Has &^= event.HasPreempt; e.Call = event.CallClose }
	c.see(0, event.HookSetState, unknown, client, to(event.Close, event.SynSent)).
		see(12, event.HookConnect, unknown, client, in(event.SynSent)).
		see(29, event.HookSetState, unknown, client, to(event.SynSent, event.Established))
	s.see(31, event.HookSetState, unknown, client, to(event.Listen, event.SynRecv)).
		see(34, event.HookSetState, unknown, client, to(event.SynRecv, event.Established)).
		see(200, event.HookSetState, unknown, server, to(event.Established, event.Close), plain)
	c.see(204, event.HookReset, unknown, server, in(event.Established)).
		see(207, event.HookSetState, unknown, server, to(event.Established, event.Close), failed(104))
	s.see(209, event.HookSendReset, unknown, server, in(event.Close), arg(14))
	c.c.Opener, c.c.Owner, s.c.Owner = c.process(), c.process(), s.process()
	return couple("slow-degraded", c, s, verdict.Aborted, verdict.LingerZero)
}

// unreachable: ICMP ends a connect(2) that a timer had repeated.
func unreachable() Judged {
	n := newEnd("un", client, "10.77.0.1:46926", "10.77.9.9:80", conn.OpenActive)
	n.see(0, event.HookSetState, process, client, to(event.Close, event.SynSent)).
		see(0.020, event.HookConnect, process, client, in(event.SynSent)).
		see(1017, event.HookSetState, softirq, task{}, to(event.SynSent, event.Close), failed(113), tries(1), func(e *event.Event) { e.ErrSoft = 113 }).
		see(1017.200, event.HookDisconnect, process, client, in(event.Close)).
		see(1024, event.HookClose, process, client, in(event.Close))
	n.c.Opener, n.c.Owner = n.process(), n.process()
	return Judged{Conn: n.done(), Verdict: verdict.Verdict{Class: verdict.Refused, Cause: verdict.Unreachable,
		Confidence: verdict.Certain, Sentence: "See the rows."}}
}

func TestGoldenTimelineMore(t *testing.T) {
	pair := func(a, b Judged) []Judged { return []Judged{b, a} } // the second end first: it must not matter
	var all []Judged
	for _, js := range [][]Judged{pair(closeLingerZero()), pair(bothShut()), pair(farApart()), pair(crossing()), pair(destroyed()),
		pair(killed()), {keepalive()}, {noSocket()}, pair(slowDegraded()), {unreachable()}} {
		all = append(all, js...)
	}
	golden(t, "timeline-more.txt", shown(t, Timeline, testOptions(), all...))
	golden(t, "sequence-more.txt", shown(t, Sequence, testOptions(), all...))
}

// TestCSVHoldsNoFormula: no name of a process makes a spreadsheet compute.
func TestCSVHoldsNoFormula(t *testing.T) {
	for _, name := range []string{"=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1+1", "-", "=cmd|' /C", `",=1`, "-5", "nginx", "a=b", ""} {
		n := newEnd("1", task{pid: 7, comm: name}, "10.0.0.1:1", "10.0.0.2:2", conn.OpenActive)
		n.c.Owner = n.process()
		n.c.Owner.Exe = name
		rows, err := csv.NewReader(bytes.NewReader(shown(t, CSV, Options{}, Judged{Conn: n.c}))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for i, k := range rows[0] {
			cell := rows[1][i]
			if k == "comm" || k == "exe" {
				if strings.Contains(cell, strings.TrimSpace(event.Quote(name))) {
					found++
				}
			}
			_, err := strconv.ParseFloat(cell, 64)
			if cell = strings.TrimSpace(cell); err != nil && cell != "" && strings.ContainsAny(string([]rune(cell)[:1]), "=+-@＝\t\r") {
				t.Errorf("%q: %s is %q", name, k, cell)
			}
		}
		if found != 2 {
			t.Errorf("%q is in %d cells: %q", name, found, rows[1])
		}
	}
}
