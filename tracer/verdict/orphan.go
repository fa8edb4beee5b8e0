package verdict

import (
	"fmt"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// The kernel ends a socket that its process has closed.
const (
	OrphanLimit     Cause = "orphan-limit"      // too many orphans, or no TCP memory
	OrphanTimeout   Cause = "orphan-timeout"    // closed, and the peer never acknowledged the rest
	FinWait2Timeout Cause = "fin-wait2-timeout" // closed, and the peer never sent its FIN
	Linger2Negative Cause = "linger2-negative"  // TCP_LINGER2 below zero: no FIN_WAIT2 wait at all
)

var orphanLimit = Rule{
	Cause: OrphanLimit, Class: Aborted, find: findOrphanLimit,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s had closed, and this machine has too many closed sockets that still wait for their peer (tcp_max_orphans), or too little TCP memory (tcp_mem): the kernel reset the connection.", end(t.a))
	},
	symptoms: map[string]int{"ECONNRESET": 15, "TCP_ABORT_ON_MEMORY": 1, "TCPAbortOnMemory": 1, "TCPAbortFailed": 1, "OutRsts": 12, "TCPMemoryPressures": 1, "FIN_WAIT1": 4, "LAST_ACK": 3},
	What: "The kernel reset a closed socket, because too many of them wait or TCP memory is short. " +
		"A socket that its process has closed, but that has not finished closing, is an orphan. tcp_check_oom looks at net.ipv4.tcp_max_orphans and net.ipv4.tcp_mem at the close (__tcp_close), and again at each retransmit or probe timer (tcp_out_of_resources), where an orphan counts for more if its peer has long been silent or an ICMP error has come for it. " +
		"At close the RST always goes out; from the timer it does unless the socket has sent nothing for a long time. What was in the send queue is lost. " +
		"TCPAbortOnMemory moves, from 6.12 the reset reason is TCP_ABORT_ON_MEMORY (13), and the kernel log has \"too many orphaned sockets\" or \"out of memory -- consider tuning tcp_mem\".",
	Prove: "`nstat -az TcpExtTCPAbortOnMemory` moves. " +
		"`cat /proc/net/sockstat` shows orphan and mem (in pages), `sysctl net.ipv4.tcp_max_orphans net.ipv4.tcp_mem` the limits. " +
		"`dmesg | grep -e orphaned -e tcp_mem` shows what the kernel said.",
	Do:   "Find out which peers let closed sockets wait (ss -tan state fin-wait-1, state last-ack). Then raise net.ipv4.tcp_max_orphans or net.ipv4.tcp_mem if the load is legitimate.",
	Refs: []string{"tcp(7)", "__tcp_close", "tcp_check_oom", "tcp_out_of_resources"},
}

func findOrphanLimit(a, b *facts, s Scope) *finding {
	e := a.at(a.active)
	if e == nil || e.SkFlags&event.SockDead == 0 || e.Linger2 < 0 || e.Call == event.CallSend {
		return nil
	}
	switch e.State {
	case event.Close, event.FinWait1, event.Closing, event.LastAck:
		return &finding{by: byKernel, a: []int{a.release, a.closed, a.active}}
	}
	return nil
}

var orphanTimeout = Rule{
	Cause: OrphanTimeout, Class: TimedOut, find: findOrphanTimeout,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s had closed; the rest of its data, or its FIN, was never acknowledged by %s, and this kernel gave up without sending a packet.", end(t.a), t.other()) + t.a.softly()
	},
	resends:  true,
	symptoms: map[string]int{"NO_SOCKET": 7, "TCPAbortOnTimeout": 3, "TCPTimeouts": 4, "TCPWinProbe": 4, "RetransSegs": 4, "FIN_WAIT1": 2, "LAST_ACK": 1, "CLOSING": 2},
	What: "The process had closed, and the peer never acknowledged the rest or the FIN. " +
		"close(2) has returned 0, and the socket without owner (FIN_WAIT1, CLOSING or LAST_ACK, SOCK_DEAD) goes on sending on its own, but with less patience: net.ipv4.tcp_orphan_retries attempts, where the default 0 means 8 while the waits are short. It gives up on a window that never opens, too, even if the probes are answered. " +
		"No packet is sent and no error is reported, since nobody is left to read it: this is the silent loss. " +
		"TCPAbortOnTimeout moves. If the peer still lives, its next segment is answered with a RST, because the socket is gone.",
	Prove: "`ss -tanoe state fin-wait-1` (or state last-ack, state closing) shows the socket with Send-Q above 0, a timer, and no process. " +
		"`nstat -az TcpExtTCPAbortOnTimeout` moves by 1. " +
		"`sysctl net.ipv4.tcp_orphan_retries` shows the limit.",
	Do:     "Where the data matters, do not let close(2) be the last word: shutdown(SHUT_WR), read to the end (the peer's FIN is its receipt), then close(2).",
	Belief: "\"SO_LINGER with a time guarantees delivery.\"",
	Truth:  "It waits for the acknowledgement of the peer's kernel, not for its process to read; when the time is over, close(2) returns without an error and the sending goes on in the background. Only an answer from the peer's application proves delivery.",
	Refs:   []string{"RFC 9293 3.8.3", "close(2)", "socket(7)", "tcp(7)", "tcp_orphan_retries", "tcp_write_timeout"},
}

func findOrphanTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().SkFlags&event.SockDead == 0 {
		return nil
	}
	return a.heardNothing(&finding{by: byKernel, a: []int{a.release, a.closed}, needs: []event.Hook{event.HookReset}})
}

var finWait2Timeout = Rule{
	Cause: FinWait2Timeout, Class: TimedOut, find: findFinWait2Timeout,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s had closed, and %s never sent its FIN: the kernel stopped waiting%s.", end(t.a), t.other(), t.a.waitText())
	},
	symptoms: map[string]int{"EPIPE": 7, "NO_SOCKET": 3, "TCP_STATE": 5, "TW": 4, "FIN_WAIT2": 2},
	What: "The process had closed, and the peer never sent its FIN; the kernel stopped waiting. " +
		"A closed socket whose FIN is acknowledged becomes a FIN_WAIT2 mini-socket (tcp_time_wait) for net.ipv4.tcp_fin_timeout (60 s) or TCP_LINGER2, and then vanishes without a packet (inet_twsk_kill). " +
		"Above 60 s the full socket waits for the surplus first. Where the full socket had to be kept, because its lock was held as the ACK came, tcp_keepalive_timer ends it with a RST (from 6.12 reason TCP_STATE, 14). " +
		"The peer is still in CLOSE_WAIT: whatever it sends now is answered with a RST, because the socket is gone. No TCPAbort counter moves.",
	Prove: "`ss -tanoe state fin-wait-2` shows it with timer:(timewait,…) and without a process until it goes. " +
		"At the peer, `ss -tanp state close-wait` names the process that has not closed. " +
		"`sysctl net.ipv4.tcp_fin_timeout` shows the time.",
	Do:     "Look at the peer: its process has not closed (CLOSE_WAIT there). If it answers late on purpose, use shutdown(SHUT_WR) here and close only after its end.",
	Belief: "\"tcp_fin_timeout shortens TIME_WAIT.\"",
	Truth:  "It limits how long a closed socket stays in FIN_WAIT2, nothing else. TIME_WAIT is a fixed 60 s (TCP_TIMEWAIT_LEN).",
	Refs:   []string{"RFC 9293 3.6", "tcp(7)", "tcp_time_wait", "inet_twsk_kill", "tcp_keepalive_timer"},
}

func findFinWait2Timeout(a, b *facts, s Scope) *finding {
	if a.closed == none || a.fin == none || a.peerFin != none || a.rst {
		return nil
	}
	if e := a.at(a.active); e != nil && e.State == event.FinWait2 && e.SkFlags&event.SockDead != 0 {
		return &finding{by: byKernel, a: []int{a.release, a.active}, needs: []event.Hook{event.HookSendReset, event.HookReset}}
	}
	// A mini-socket that ends before its time was ended by a RST, by an operator,
	// or with its namespace (tcp_timewait_state_process, inet_twsk_purge).
	if a.miniEnd != none && event.State(a.at(a.miniEnd).Arg) == event.FinWait2 && a.mini == none {
		given, lived := a.waitTimes()
		how := twskEnd(a.at(a.miniEnd))
		if how == event.TwskEarly || how == event.TwskUnknown && a.timeWait != none && lived < time.Second/2 {
			return nil
		}
		// The peer was reset, and by what was not seen: it may have sent more,
		// before the time was over or after.
		if b != nil && b.rst {
			return nil
		}
		return &finding{by: byKernel, a: []int{a.release, a.miniEnd}, needs: []event.Hook{event.HookReset}, needsAll: []event.Hook{event.HookSendReset},
			likely: how == event.TwskUnknown || given != 0 && lived < given-jiffies}
	}
	return nil
}

// waitText is how long a closed socket was waited for, and which setting said so.
func (f *facts) waitText() string {
	given, _ := f.waitTimes()
	if given == 0 {
		return ""
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", given.Seconds()), ".0") + " s"
	if e := f.at(f.timeWait); e.Has&event.HasTCP != 0 {
		if e.Linger2 > 0 {
			return " after " + text + " (TCP_LINGER2)"
		}
		return " after " + text + " (tcp_fin_timeout)"
	}
	return " after " + text
}

// waitTimes is the time that a FIN_WAIT2 mini-socket was given, and for how long it
// lived; 0: not known.
func (f *facts) waitTimes() (given, lived time.Duration) {
	if f.timeWait == none {
		return 0, 0
	}
	e := f.at(f.timeWait)
	if f.miniEnd != none {
		lived = f.at(f.miniEnd).Time - e.Time
	}
	return time.Duration(e.Arg2) * time.Millisecond, lived
}

// early is what ended a FIN_WAIT2 mini-socket before its time; nil: nothing did,
// or that is not known.
func (f *facts) early() *event.Event {
	e := f.at(f.miniEnd)
	if e == nil || event.State(e.Arg) != event.FinWait2 || twskEnd(e) != event.TwskEarly || f.mini != none || f.peerFin != none {
		return nil
	}
	return e
}

// twskEnd is what ended a mini-socket. No timer runs in a process: on 5.10 the
// end of a namespace calls inet_twsk_kill from within its own file, where
// inet_twsk_deschedule_put is inlined.
func twskEnd(e *event.Event) event.TwskEnd {
	if how := event.TwskEnd(e.Arg2); how != event.TwskTimer || e.Context != event.ContextProcess {
		return how
	}
	return event.TwskEarly
}

// resetInFinWait2 says whether a segment ended the mini-socket that waited for the
// peer's FIN, and was not answered with a RST: it was one itself
// (tcp_timewait_state_process).
func (f *facts) resetInFinWait2() bool {
	e := f.early()
	return e != nil && e.Context == event.ContextSoftirq
}

var linger2Negative = Rule{
	Cause: Linger2Negative, Class: Aborted, find: findLinger2Negative,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s closed%s with TCP_LINGER2 below zero, so its kernel did not wait for the peer's FIN and sent a RST as soon as its own FIN was acknowledged.", t.who(), spaced(t.how()))
	},
	symptoms: map[string]int{"TCP_ABORT_ON_DATA": 3, "TCP_ABORT_ON_LINGER": 1, "TCPAbortOnData": 4, "TCPAbortOnLinger": 1, "OutRsts": 13},
	What: "A process closed with TCP_LINGER2 below zero: its kernel keeps no FIN_WAIT2 at all. " +
		"If close(2) finds the socket in FIN_WAIT2, __tcp_close sends RST with ACK at once (TCPAbortOnLinger, from 6.12 reason TCP_ABORT_ON_LINGER, 12). If the FIN is still on its way, tcp_rcv_state_process answers the ACK for it with a bare RST (TCPAbortOnData, reason TCP_ABORT_ON_DATA, 8). " +
		"TCP_ABORT_ON_LINGER is about this option, not about SO_LINGER. " +
		"When all data had been acknowledged, the peer has read everything and then the end of file: the RST is harmless. It is not harmless if the peer still had to answer.",
	Prove: "`strace -f -e trace=setsockopt,close -p PID` shows TCP_LINGER2 set to a negative value. " +
		"`nstat -az TcpExtTCPAbortOnLinger TcpExtTCPAbortOnData` shows one of them moving. " +
		"`tcpdump -nni any tcp port PORT` shows [F.], its ACK, and a RST from the same end right behind.",
	Do:   "Leave TCP_LINGER2 alone or set a time above zero, if the peer is to answer after the close.",
	Refs: []string{"tcp(7)", "RFC 9293 3.6", "__tcp_close", "tcp_rcv_state_process"},
}

func findLinger2Negative(a, b *facts, s Scope) *finding {
	e := a.at(a.active)
	switch {
	case e != nil && e.SkFlags&event.SockDead != 0 && e.Linger2 < 0:
	case a.closed != none && a.answer != none && a.end().State == event.FinWait2 && a.end().Err == 0 && a.end().Linger2 < 0:
	default:
		return nil
	}
	x := &finding{a: []int{a.release, a.closed, a.active, a.answer}}
	return x.closedBy(a)
}

// goodbyeAct is the act that began the goodbye of this end: the close where there
// was one before the end, else the shutdown that sent the FIN.
func (f *facts) goodbyeAct() *event.Event {
	if f.released() && f.at(f.release).Call != event.CallShutdown {
		return f.actEvent(f.release)
	}
	return f.actEvent(f.finAct)
}

// closedBy is how this end let go of a socket that no process held any more. A
// shutdown does not do that: where the close was not seen, its act is not known.
func (x *finding) closedBy(a *facts) *finding {
	o := a.goodbyeAct()
	if i := a.closeAfterShutdown(); i != none && o == a.actEvent(a.finAct) {
		o = a.actEvent(i)
	}
	if o == nil {
		return x
	}
	x.did(a, o)
	switch x.act {
	case ActShutRd, ActShutWr, ActShutRdWr:
		x.act = NoAct
		x.needs = append(x.needs, event.HookClose)
	}
	return x
}
