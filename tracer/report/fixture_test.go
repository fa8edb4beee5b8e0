package report

import (
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// boot is the monotonic time at which the fixtures begin, and wall the wall
// time of that moment.
const boot = 73 * time.Second

var wall = time.Date(2026, 3, 14, 10, 41, 7, 250_000_000, time.UTC)

var testClock = Clock{Offset: time.Duration(wall.UnixNano()) - boot}

// task is a process of a fixture.
type task struct {
	pid  uint32
	comm string
	exit uint32 // exit_code of a dying task
	dead bool
}

// end builds one end as a kernel would tell of it.
type end struct {
	c    *conn.Connection
	task task
}

func newEnd(id string, t task, local, remote string, open conn.Open) *end {
	l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	family := event.IPv4
	if l.Addr().Is6() {
		family = event.IPv6
	}
	sock := uint64(0xffff888003a40000)
	for _, b := range []byte(id) {
		sock += uint64(b) << 8
	}
	return &end{task: t, c: &conn.Connection{ID: id, Sock: sock, Family: family, Local: l, Remote: r,
		NetNS: 4026531840, Open: open}}
}

func (n *end) process() *conn.Process {
	return &conn.Process{PID: n.task.pid, TID: n.task.pid, Comm: n.task.comm, UID: 1000, Cgroup: 4711}
}

// at is a time in ms and µs since the begin of the story.
func at(ms float64) time.Duration { return boot + time.Duration(ms*float64(time.Millisecond)) }

// see adds an event; on is the task on the CPU.
func (n *end) see(ms float64, h event.Hook, ctx event.Context, on task, change ...func(*event.Event)) *end {
	e := event.Event{Time: at(ms), Hook: h, Context: ctx, Has: event.HasTuple | event.HasTCP | event.HasSocket |
		event.HasTask | event.HasPreempt, Sock: n.c.Sock, Conn: n.c.Gen, PID: on.pid, TID: on.pid, UID: 1000,
		Comm: event.CommOf(on.comm), Cgroup: 4711, Syscall: -1, Family: n.c.Family, Local: n.c.Local,
		Remote: n.c.Remote, NetNS: n.c.NetNS, Arg: -1}
	if on.dead {
		e.TaskFlags = 0x4
		e.ExitCode = on.exit
	}
	if ctx == process {
		e.Call = event.CallClose
		switch h {
		case event.HookConnect:
			e.Call = event.CallConnect
		case event.HookAccept:
			e.Call = event.CallOther
		case event.HookShutdown:
			e.Call = event.CallShutdown
		case event.HookStreamError, event.HookSignal:
			e.Call = event.CallSend
		case event.HookReceive:
			e.Call = event.CallReceive
		}
	}
	for _, f := range change {
		f(&e)
	}
	n.c.Events = append(n.c.Events, e)
	return n
}

func (n *end) elsewhere(ms float64, h event.Hook, ctx event.Context, on task, change ...func(*event.Event)) *end {
	n.see(ms, h, ctx, on, change...)
	last := len(n.c.Events) - 1
	n.c.Elsewhere = append(n.c.Elsewhere, n.c.Events[last])
	n.c.Events = n.c.Events[:last]
	return n
}

const (
	process = event.ContextProcess
	softirq = event.ContextSoftirq
)

func to(from, to event.State) func(*event.Event) {
	return func(e *event.Event) { e.State, e.ToState = from, to }
}
func in(s event.State) func(*event.Event)       { return func(e *event.Event) { e.State = s } }
func arg(a int32) func(*event.Event)            { return func(e *event.Event) { e.Arg = a } }
func arg2(a int32) func(*event.Event)           { return func(e *event.Event) { e.Arg2 = a } }
func failed(err event.Errno) func(*event.Event) { return func(e *event.Event) { e.Err = err } }
func seg(s event.Segment) func(*event.Event) {
	return func(e *event.Event) { e.Segment = s; e.Has |= event.HasSegment }
}
func seqs(write, una, nxt, rcv, copied uint32) func(*event.Event) {
	return func(e *event.Event) {
		e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq = write, una, nxt, rcv, copied
	}
}
func tries(n uint8) func(*event.Event) { return func(e *event.Event) { e.Retransmits = n } }
func refs(n int32) func(*event.Event) {
	return func(e *event.Event) { e.Refs = n; e.Has |= event.HasRefs }
}
func noTCP(e *event.Event) { e.Has &^= event.HasTCP | event.HasSocket }

// done fills in what the join derives from the events.
func (n *end) done() *conn.Connection {
	c := n.c
	c.Gen = uint64(c.Events[0].Time)
	all := observations(c)
	c.First, c.Last = all[0].Time, all[len(all)-1].Time
	for i := range c.Events {
		e := &c.Events[i]
		e.Conn = c.Gen
		if e.Hook != event.HookSetState {
			continue
		}
		switch {
		case e.ToState == event.SynSent, e.State == event.Listen:
			c.Opened = e.Time
		case e.ToState == event.Established:
			c.Established = e.Time
		case e.ToState == event.Close:
			c.Ended = e.Time
		}
	}
	return c
}

func u64(n uint64) *uint64 { return &n }

// find is the evidence of the n-th event (from 0) of a hook.
func find(c *conn.Connection, h event.Hook, n int) verdict.Evidence {
	for i := range c.Events {
		if c.Events[i].Hook == h {
			if n == 0 {
				return verdict.Evidence{Conn: c, Index: i}
			}
			n--
		}
	}
	for i := range c.Elsewhere {
		if c.Elsewhere[i].Hook == h {
			if n == 0 {
				return verdict.Evidence{Conn: c, Index: i, Elsewhere: true}
			}
			n--
		}
	}
	panic("no such event in the fixture: " + h.String())
}

var (
	client = task{pid: 185, comm: "client"}
	server = task{pid: 184, comm: "server"}
)

// handshake is connect(2) over loopback: the server's child is born in the
// client's system call.
func handshake(c, s *end) {
	c.see(0, event.HookSetState, process, c.task, to(event.Close, event.SynSent)).
		see(0.031, event.HookConnect, process, c.task, in(event.SynSent)).
		see(0.112, event.HookSetState, softirq, c.task, to(event.SynSent, event.Established))
	s.see(0.151, event.HookSetState, softirq, c.task, to(event.Listen, event.SynRecv)).
		see(0.160, event.HookSetState, softirq, c.task, to(event.SynRecv, event.Established)).
		see(0.342, event.HookAccept, process, s.task, in(event.Established))
	c.c.Opener, c.c.Owner = c.process(), c.process()
	s.c.Owner = s.process()
}

// closeDemo: the client closes while the server still has an answer to send.
func closeDemo() (Judged, Judged) {
	c := newEnd("1", client, "127.0.0.1:42006", "127.0.0.1:43211", conn.OpenActive)
	s := newEnd("2", server, "127.0.0.1:43211", "127.0.0.1:42006", conn.OpenPassive)
	handshake(c, s)
	c.see(414.010, event.HookFileClose, process, client, in(event.Established), refs(1)).
		see(414.021, event.HookCloseEntry, process, client, in(event.Established), seqs(1011, 1011, 1011, 2001, 2001)).
		see(414.025, event.HookClose, process, client, in(event.Established), seqs(1011, 1011, 1011, 2001, 2001)).
		see(414.031, event.HookSetState, process, client, to(event.Established, event.FinWait1), seqs(1011, 1011, 1011, 2001, 2001)).
		see(414.040, event.HookSendFin, process, client, in(event.FinWait1))
	s.see(414.061, event.HookSetState, softirq, client, to(event.Established, event.CloseWait))
	c.see(414.590, event.HookSetState, softirq, client, to(event.FinWait1, event.FinWait2)).
		see(414.601, event.HookTimeWait, softirq, client, in(event.FinWait2), arg(int32(event.FinWait2))).
		see(414.612, event.HookSetState, softirq, client, to(event.FinWait2, event.Close), seqs(1012, 1012, 1012, 2001, 2001)).
		see(414.633, event.HookDestroy, softirq, client, in(event.Close))
	data := event.Segment{Seq: 2001, Ack: 1012, Len: 9, Flags: event.ACK | event.PSH, TTL: 64, IPID: 4660, Window: 512}
	c.see(720.104, event.HookSendReset, softirq, server, in(event.TimeWait), arg(9), arg2(int32(event.FinWait2)), seg(data), noTCP).
		see(720.140, event.HookTwskKill, softirq, server, in(event.TimeWait), arg(int32(event.FinWait2)), noTCP)
	s.see(720.161, event.HookReset, softirq, server, in(event.CloseWait), seqs(2010, 2001, 2010, 1012, 1012),
		seg(event.Segment{Seq: 1012, Flags: event.RST, TTL: 64})).
		see(720.172, event.HookSetState, softirq, server, to(event.CloseWait, event.Close), seqs(2010, 2001, 2010, 1012, 1012), failed(32)).
		see(720.180, event.HookErrorReport, softirq, server, in(event.Close), failed(32)).
		see(1022.310, event.HookStreamError, process, server, in(event.Close), arg(-32), arg2(1), failed(32)).
		see(1022.340, event.HookSignal, process, server, arg(13), arg2(184), func(e *event.Event) { e.Has = event.HasTask })
	dying := task{pid: 184, comm: "server", exit: 13, dead: true}
	s.elsewhere(1022.510, event.HookExit, process, dying, func(e *event.Event) { e.Has = event.HasTask }).
		see(1022.730, event.HookFileClose, process, dying, in(event.Close), refs(1)).
		see(1022.744, event.HookCloseEntry, process, dying, in(event.Close)).
		see(1022.750, event.HookClose, process, dying, in(event.Close)).
		see(1022.771, event.HookDestroy, process, dying, in(event.Close))
	cc, sc := c.done(), s.done()
	cc.Peer, sc.Peer = sc, cc
	sentence := "client closed both directions with close(2) at 0.414 s, before server had answered. " +
		"The server's answer met a socket that nobody reads, so the client's kernel sent RST."
	advice := "shutdown(SHUT_WR), read to the end, then close(2): tcpbye demo shutdown"
	fin := &verdict.Goodbye{Act: verdict.ActClose, Actor: cc.Owner, At: at(414.025), Acked: true}
	evidence := []verdict.Evidence{find(cc, event.HookSendReset, 0), find(sc, event.HookReset, 0), find(sc, event.HookStreamError, 0)}
	a := Judged{Conn: cc, Scenario: "close", Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.DataAfterClose,
		AppSaw: []string{}, Ender: verdict.LocalKernel, Act: verdict.ActClose, Actor: cc.Owner, Sentence: sentence, Advice: advice,
		Confidence: verdict.Certain, Lost: verdict.Lost{Unread: u64(0), Unsent: u64(0), Unacked: u64(0)},
		Bytes: verdict.Bytes{Sent: u64(10), Acked: u64(10), Received: u64(0)}, LocalFin: fin, Evidence: evidence}}
	b := Judged{Conn: sc, Scenario: "close", Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.DataAfterClose,
		Ender: verdict.PeerKernel, Act: verdict.ActClose, Actor: cc.Owner, Sentence: sentence, Advice: advice,
		AppSaw: []string{"EPIPE", "SIGPIPE"}, Confidence: verdict.Certain,
		Lost:  verdict.Lost{Unread: u64(0), Unsent: u64(0), Unacked: u64(9)},
		Bytes: verdict.Bytes{Sent: u64(9), Acked: u64(0), Received: u64(10)}, PeerFin: fin, Evidence: evidence}}
	return a, b
}

// shutdownDemo: the client ends its direction only, and reads both answers.
func shutdownDemo() (Judged, Judged) {
	c := newEnd("3", client, "[::1]:42008", "[::1]:43211", conn.OpenActive)
	s := newEnd("4", server, "[::1]:43211", "[::1]:42008", conn.OpenPassive)
	handshake(c, s)
	c.see(412.020, event.HookShutdown, process, client, in(event.Established), arg(2)).
		see(412.028, event.HookSetState, process, client, to(event.Established, event.FinWait1)).
		see(412.036, event.HookSendFin, process, client, in(event.FinWait1))
	s.see(412.055, event.HookSetState, softirq, client, to(event.Established, event.CloseWait))
	c.see(412.078, event.HookSetState, softirq, client, to(event.FinWait1, event.FinWait2))
	s.see(712.400, event.HookReceive, process, server, in(event.CloseWait), arg(0))
	dying := task{pid: 184, comm: "server", exit: 0, dead: true}
	s.elsewhere(1021.900, event.HookExit, process, dying, func(e *event.Event) { e.Has = event.HasTask }).
		see(1022.104, event.HookFileClose, process, dying, in(event.CloseWait), refs(1)).
		see(1022.110, event.HookCloseEntry, process, dying, in(event.CloseWait)).
		see(1022.117, event.HookClose, process, dying, in(event.CloseWait)).
		see(1022.121, event.HookSetState, process, dying, to(event.CloseWait, event.LastAck)).
		see(1022.130, event.HookSendFin, process, dying, in(event.LastAck))
	c.see(1022.151, event.HookTimeWait, softirq, dying, in(event.FinWait2), arg(int32(event.TimeWait))).
		see(1022.160, event.HookSetState, softirq, dying, to(event.FinWait2, event.Close))
	s.see(1022.180, event.HookSetState, softirq, dying, to(event.LastAck, event.Close)).
		see(1022.190, event.HookDestroy, softirq, dying, in(event.Close))
	c.see(1022.302, event.HookReceive, process, client, in(event.Close), arg(0)).
		see(1022.412, event.HookCloseEntry, process, client, in(event.Close)).
		see(1022.420, event.HookClose, process, client, in(event.Close)).
		see(1022.431, event.HookDestroy, process, client, in(event.Close))
	cc, sc := c.done(), s.done()
	cc.Peer, sc.Peer = sc, cc
	half := 610085 * time.Microsecond
	lf := &verdict.Goodbye{Act: verdict.ActShutWr, Actor: cc.Owner, At: at(412.020), Acked: true}
	pf := &verdict.Goodbye{Act: verdict.ActExit, Actor: sc.Owner, At: at(1022.117), Acked: true}
	none := verdict.Lost{Unread: u64(0), Unsent: u64(0), Unacked: u64(0)}
	sentence := "client ended its direction with shutdown(SHUT_WR) at 0.412 s and went on reading; server answered for 610 ms more and then exited. Both directions ended with a FIN and every byte arrived."
	a := Judged{Conn: cc, Scenario: "shutdown", Verdict: verdict.Verdict{Class: verdict.Graceful, Cause: verdict.HalfClose,
		Ender: verdict.LocalProcess, Act: verdict.ActShutWr, Actor: cc.Owner, Sentence: sentence, AppSaw: []string{"EOF"},
		Confidence: verdict.Certain, Lost: none, Bytes: verdict.Bytes{Sent: u64(10), Acked: u64(10), Received: u64(18)},
		HalfClose: &half, TimeWait: true, LocalFin: lf, PeerFin: pf,
		Evidence: []verdict.Evidence{find(cc, event.HookShutdown, 0), find(sc, event.HookClose, 0)}}}
	b := Judged{Conn: sc, Scenario: "shutdown", Verdict: verdict.Verdict{Class: verdict.Graceful, Cause: verdict.HalfClose,
		Ender: verdict.PeerProcess, Act: verdict.ActShutWr, Actor: cc.Owner, Sentence: sentence, AppSaw: []string{"EOF"},
		Confidence: verdict.Certain, Lost: none, Bytes: verdict.Bytes{Sent: u64(18), Acked: u64(18), Received: u64(10)},
		HalfClose: &half, LocalFin: pf, PeerFin: lf}}
	return a, b
}

// retransmitTimeout: a remote peer falls silent.
func retransmitTimeout() Judged {
	ssh := task{pid: 77, comm: "sshd"}
	idle := task{pid: 0, comm: "swapper/1"}
	n := newEnd("5", ssh, "10.0.0.5:51022", "203.0.113.4:22", conn.OpenActive)
	n.see(0, event.HookSetState, process, ssh, to(event.Close, event.SynSent)).
		see(0.040, event.HookConnect, process, ssh, in(event.SynSent)).
		see(31.250, event.HookSetState, softirq, idle, to(event.SynSent, event.Established)).
		see(120_031.250, event.HookSetState, softirq, idle, to(event.Established, event.Close), seqs(5097, 5001, 5097, 9000, 9000), tries(15), failed(110)).
		see(120_031.260, event.HookErrorReport, softirq, idle, in(event.Close), failed(110)).
		see(120_031.900, event.HookCloseEntry, process, ssh, in(event.Close)).
		see(120_031.910, event.HookClose, process, ssh, in(event.Close)).
		see(120_031.930, event.HookDestroy, process, ssh, in(event.Close))
	n.c.Opener, n.c.Owner = n.process(), n.process()
	c := n.done()
	return Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.TimedOut, Cause: verdict.RetransmitTimeout,
		Ender: verdict.LocalKernel, Sentence: "Nobody closed this connection: 96 bytes stayed unacknowledged over 15 retransmissions, and then this kernel gave up without sending a packet. The peer, or the path to it, is gone.",
		Advice: "look at the path to 203.0.113.4; TCP_USER_TIMEOUT makes this end give up sooner", AppSaw: []string{"ETIMEDOUT"},
		Confidence: verdict.Certain, Lost: verdict.Lost{Unread: u64(0), Unsent: u64(0), Unacked: u64(96)},
		Bytes:    verdict.Bytes{Sent: u64(2200), Acked: u64(2104), Received: u64(3100)},
		Evidence: []verdict.Evidence{find(c, event.HookSetState, 2)}}}
}

// listenerClose: the listener goes away with a connection still in its queue.
func listenerClose() (Judged, Judged) {
	c := newEnd("6", client, "127.0.0.1:42010", "127.0.0.1:43211", conn.OpenActive)
	s := newEnd("7", server, "127.0.0.1:43211", "127.0.0.1:42010", conn.OpenPassive)
	c.see(0, event.HookSetState, process, client, to(event.Close, event.SynSent)).
		see(0.031, event.HookConnect, process, client, in(event.SynSent)).
		see(0.112, event.HookSetState, softirq, client, to(event.SynSent, event.Established))
	s.see(0.151, event.HookSetState, softirq, client, to(event.Listen, event.SynRecv)).
		see(0.160, event.HookSetState, softirq, client, to(event.SynRecv, event.Established)).
		see(502.001, event.HookChildForget, process, server, in(event.Established), func(e *event.Event) { e.Other = 0xffff888003a4f000 }).
		see(502.006, event.HookDisconnect, process, server, in(event.Established)).
		see(502.012, event.HookSetState, process, server, to(event.Established, event.Close), seqs(2001, 2001, 2001, 1001, 1001)).
		see(502.020, event.HookSendActiveReset, process, server, in(event.Close), arg(14))
	c.see(502.041, event.HookReset, softirq, server, in(event.Established), seg(event.Segment{Seq: 2001, Ack: 1001, Flags: event.RST | event.ACK, TTL: 64})).
		see(502.050, event.HookSetState, softirq, server, to(event.Established, event.Close), failed(104)).
		see(502.058, event.HookErrorReport, softirq, server, in(event.Close), failed(104))
	s.see(502.070, event.HookDestroy, process, server, in(event.Close))
	c.see(502.300, event.HookCloseEntry, process, client, in(event.Close)).
		see(502.310, event.HookClose, process, client, in(event.Close)).
		see(502.330, event.HookDestroy, process, client, in(event.Close))
	c.c.Opener, c.c.Owner = c.process(), c.process()
	cc, sc := c.done(), s.done()
	cc.Peer, sc.Peer = sc, cc
	zero := verdict.Lost{Unread: u64(0), Unsent: u64(0), Unacked: u64(0)}
	sentence := "server closed its listener while this connection still waited to be accepted, so its kernel reset it."
	actor := s.process()
	a := Judged{Conn: cc, Scenario: "listener-close", Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.ListenerClosed,
		Ender: verdict.PeerProcess, Act: verdict.ActListener, Actor: actor, Sentence: sentence, AppSaw: []string{"ECONNRESET"},
		Confidence: verdict.Certain, Lost: zero, Evidence: []verdict.Evidence{find(sc, event.HookChildForget, 0), find(cc, event.HookReset, 0)}}}
	b := Judged{Conn: sc, Scenario: "listener-close", Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.ListenerClosed,
		AppSaw: []string{}, Ender: verdict.LocalProcess, Act: verdict.ActListener, Actor: actor, Sentence: sentence,
		Advice: "accept what is queued, then close the listener", Confidence: verdict.Certain, Lost: zero}}
	return a, b
}

// hostile: a process whose name is an attack on the terminal, a remote client,
// and request bytes that it never reads.
func hostile() Judged {
	evil := task{pid: 9921, comm: "\x1b[2J|`<b>;\u202e\xff"}
	n := newEnd("8", evil, "[2001:db8::5]:8000", "[2001:db8:85a3::8a2e:370:7334]:40412", conn.OpenPassive)
	n.see(0, event.HookSetState, softirq, task{}, to(event.Listen, event.SynRecv)).
		see(0.020, event.HookSetState, softirq, task{}, to(event.SynRecv, event.Established)).
		see(3.250, event.HookAccept, process, evil, in(event.Established)).
		see(210.010, event.HookFileClose, process, evil, in(event.Established), refs(3)).
		see(211.500, event.HookFileClose, process, evil, in(event.Established), refs(1)).
		see(211.510, event.HookCloseEntry, process, evil, in(event.Established), seqs(700, 228, 300, 1101, 1001)).
		see(211.514, event.HookClose, process, evil, in(event.Established), seqs(700, 228, 300, 1101, 1001)).
		see(211.520, event.HookSetState, process, evil, to(event.Established, event.Close), seqs(700, 228, 300, 1101, 1001)).
		see(211.530, event.HookSendActiveReset, process, evil, in(event.Close), arg(11)).
		see(211.560, event.HookDestroy, process, evil, in(event.Close))
	n.c.Owner = n.process()
	n.c.Owner.Exe, n.c.Owner.Container = "/tmp/a\x1b]0;pwned\x07b", "evil\r\nX"
	c := n.done()
	return Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread,
		AppSaw: []string{}, Ender: verdict.LocalProcess, Act: verdict.ActClose, Actor: n.c.Owner,
		Sentence: n.task.comm + " closed with 100 bytes unread,\nso its kernel sent RST instead of FIN.",
		Advice:   "read to the end before close(2)", Confidence: verdict.Likely, Missing: []string{"tcp_abort", "tcp_disconnect"},
		Lost:     verdict.Lost{Unread: u64(100), Unsent: u64(472), Unacked: nil},
		Evidence: []verdict.Evidence{find(c, event.HookClose, 0), find(c, event.HookSendActiveReset, 0)}}}
}
