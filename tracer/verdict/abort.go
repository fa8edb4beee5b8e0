package verdict

import (
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// A process that holds the socket aborts the connection.
const (
	CloseUnread Cause = "close-unread" // close with unread bytes in the receive queue
	LingerZero  Cause = "linger-zero"  // close with SO_LINGER on and time 0
	Disconnect  Cause = "disconnect"   // connect(AF_UNSPEC)
)

// abortedAtClose says whether the state went to CLOSE inside the call that
// dropped the last reference, without a FIN of that call.
func (f *facts) abortedAtClose() bool {
	if !f.released() || f.fin != none && f.fin > f.release {
		return false
	}
	if f.timeWait != none && f.timeWait < f.closed {
		return false // close(2) found the peer's FIN there: tcp_time_wait
	}
	rel, end := f.at(f.release), f.end()
	if f.inferred && (end.State == event.FinWait2 || end.State == event.Closing || end.State == event.LastAck) && f.active == none {
		return false
	}
	return rel.TID == end.TID && end.Context != event.ContextSoftirq
}

var closeUnread = Rule{
	Cause: CloseUnread, Class: Aborted, find: findCloseUnread, describe: describeCloseUnread,
	symptoms: map[string]int{"ECONNRESET": 1, "EPIPE": 3, "ENOTCONN": 3, "SIGPIPE": 3, "unanswered": 3, "EOF": 6, "recv() failed (104": 1, "client prematurely closed connection": 3, "i/o timeout": 6,
		"NOT_SPECIFIED": 2, "TCP_ABORT_ON_CLOSE": 1, "TCPAbortOnClose": 1, "TCPAbortFailed": 2, "EstabResets": 3, "OutRsts": 3, "TCPToZeroWindowAdv": 2},
	What: "A process closed while its socket still held data that it had not read. " +
		"__tcp_close empties the receive queue first. If it finds bytes after copied_seq there, it does not send a FIN: it goes straight to CLOSE and tcp_send_active_reset sends RST with ACK, because a FIN would tell the peer that everything had been read (RFC 2525). " +
		"Whatever was still in the send queue is thrown away too. " +
		"The peer first reads what has already reached it, then gets ECONNRESET once, then 0. " +
		"Only the in-order queue counts: out-of-order data, or a lone FIN, does not. shutdown(SHUT_RD) does not empty the queue either, exit and a signal are no different from close(2), and unread data outranks SO_LINGER. " +
		"The test differs: 5.10 counts every byte of a segment that is still queued, even of one that has been read in part, while 6.1 (from its late stable versions on) and later count only what lies after copied_seq. " +
		"TCPAbortOnClose counts it, OutRsts too, and EstabResets when the state was ESTABLISHED or CLOSE_WAIT; from 6.12 the reset reason is TCP_ABORT_ON_CLOSE (11). " +
		"A server that refuses an upload before it has read it is the classic case.",
	Prove: "`nstat -az TcpExtTCPAbortOnClose` moves by 1 at the closing host. " +
		"`ss -tanp` shows Recv-Q above 0 just before. " +
		"`tcpdump -nni any tcp port PORT` shows [R.] from the closing end and no [F.] before it. " +
		"`strace -f -e trace=network,read,close -p PID` shows a close with no read that returned 0 before it.",
	Do:     "Read to the end of the input before closing. If the rest is not wanted: shutdown(SHUT_WR), read on with a limit of time and size, then close(2).",
	Belief: "\"close() always sends a FIN.\" \"shutdown(SHUT_WR) and then close() avoids the reset.\"",
	Truth: "close(2) sends a RST over unread data, with SO_LINGER at zero, or when no more orphans are allowed; it sends nothing while another descriptor or a blocked thread holds the socket, and the FIN waits while the peer's window is closed. " +
		"shutdown helps only if the input is read to its end between the two calls: what is unread at close(2) still resets.",
	Refs: []string{"RFC 2525 2.17", "RFC 9293 3.6.1", "close(2)", "shutdown(2)", "__tcp_close", "tcp_send_active_reset"},
}

func findCloseUnread(a, b *facts, s Scope) *finding {
	if a.unheld(s) || !a.abortedAtClose() || a.disconn != none && a.disconn < a.closed {
		return nil
	}
	if a.active == none && s.has(event.HookSendActiveReset) {
		return nil
	}
	// The kernel's own count decides, which still has an urgent byte that was read
	// with MSG_OOB in it, and what something above TCP had yet to take.
	reader := a.reader()
	if a.subflow || reader == nil || reader.Has&event.HasTCP == 0 || a.queued(reader) == 0 {
		return nil
	}
	if reader == a.end() && a.release != a.closed && a.end().HasSk {
		return nil // it may have been read since
	}
	if a.at(a.release).Repair {
		return nil
	}
	x := &finding{a: []int{a.release, a.closed, a.active}, needs: []event.Hook{event.HookSendActiveReset}}
	return x.did(a, a.actEvent(a.release))
}

func describeCloseUnread(t *trial) string {
	s := fmt.Sprintf("%s closed%s%s while its receive queue still held data: ", t.who(), spaced(t.how()), t.when(t.a.at(t.a.release)))
	l := t.a.lost
	switch lost := lostAt(t.a); {
	case l.Unread != nil && *l.Unread == 0:
		// tcp_close compares sequence numbers, and the urgent byte has one.
		s += "an urgent byte, which had been read with MSG_OOB but still counts"
		if lost != "" {
			s += "; it threw away " + lost
		}
		s += ". So"
	case lost == "":
		s += "how much of it was unread is not known. So"
	default:
		s += "it threw away " + lost + ", so"
	}
	return s + " its kernel sent a RST instead of a FIN."
}

var lingerZero = Rule{
	Cause: LingerZero, Class: Aborted, find: findLingerZero, describe: describeLingerZero, probe: connectedAndAborted,
	symptoms: map[string]int{"ECONNRESET": 5, "ENOTCONN": 2, "recv() failed (104": 2, "NOT_SPECIFIED": 3, "TCP_STATE": 1, "TCP_DISCONNECT_WITH_DATA": 1, "TCPAbortOnData": 1, "TCPAbortFailed": 3,
		"EstabResets": 4, "OutRsts": 5},
	What: "A process closed with SO_LINGER on and a time of 0, which is an abort, not a close. " +
		"__tcp_close calls tcp_disconnect: the state becomes CLOSE, tcp_send_active_reset sends RST with ACK, and both queues are purged, so that everything not yet acknowledged is gone. No TIME_WAIT remains. " +
		"From LAST_ACK or CLOSING with everything sent, no RST goes out at all (tcp_need_reset), though the counter moves. " +
		"The counter is TCPAbortOnData, whatever its name suggests, with EstabResets when the state was ESTABLISHED or CLOSE_WAIT; from 6.12 the reset reason is TCP_STATE (14), or TCP_DISCONNECT_WITH_DATA (16) from LAST_ACK or CLOSING with data unsent. " +
		"If there was unread data as well, it is counted and reported as close-unread.",
	Prove: "`strace -f -e trace=setsockopt,close -p PID` shows SO_LINGER with {l_onoff=1, l_linger=0}, then the close. " +
		"`nstat -az TcpExtTCPAbortOnData` moves by 1. " +
		"`bpftrace -e 'kprobe:tcp_disconnect { printf(\"%d %s%s\\n\", pid, comm, kstack); }'` shows __tcp_close as the caller.",
	Do:     "Leave SO_LINGER off and close normally: shutdown(SHUT_WR), read to the end, then close(2). Use the abort only for peers that must get nothing more.",
	Belief: "\"SO_LINGER 0 is the cure for TIME_WAIT.\" \"TCPAbortOnData counts unread data.\"",
	Truth: "It is an abort that avoids TIME_WAIT by destroying data in flight; TIME_WAIT costs little, and where ports run out net.ipv4.tcp_tw_reuse at the client helps without loss. " +
		"The names are the other way round: unread data at close(2) is TCPAbortOnClose, while TCPAbortOnData counts this abort and data that came after a close.",
	Refs: []string{"RFC 9293 3.10.5", "socket(7)", "close(2)", "__tcp_close", "tcp_disconnect", "tcp_need_reset"},
}

// connectedAndAborted: whoever connected aborted it by close(2), and was not killed.
func connectedAndAborted(t *trial) bool {
	return t.a.c.Open == conn.OpenActive && t.x.act == ActClose
}

func findLingerZero(a, b *facts, s Scope) *finding {
	if a.unheld(s) || !a.abortedAtClose() {
		return nil
	}
	rel := a.at(a.release)
	inside := a.disconn != none && a.disconn < a.closed && (a.inferred || a.disconn > a.release)
	if rel.SkFlags&event.SockLinger == 0 || rel.LingerTime != 0 || rel.Has&event.HasSocket == 0 || rel.Repair {
		return nil
	}
	if !inside && s.has(event.HookDisconnect) {
		return nil
	}
	if l := a.lost; !inside && (l.Unread == nil || *l.Unread != 0 || a.queued(a.reader()) != 0) {
		return nil // what is unread decides before the time does
	}
	if a.active == none && s.has(event.HookSendActiveReset) {
		return nil // LAST_ACK or CLOSING with everything sent: no reset at all
	}
	x := &finding{a: []int{a.release, a.disconn, a.closed, a.active}}
	if a.active == none {
		x.needs = []event.Hook{event.HookSendActiveReset}
	}
	return x.did(a, a.actEvent(a.release))
}

func describeLingerZero(t *trial) string {
	s := fmt.Sprintf("%s closed%s%s, with SO_LINGER on and a time of 0: that is an abort, so its kernel sent a RST instead of a FIN.", t.who(), spaced(t.how()), t.when(t.a.at(t.a.release)))
	if l := lostAt(t.a); l != "" {
		s += " It threw away " + l + "."
	}
	return s
}

var disconnect = Rule{
	Cause: Disconnect, Class: Aborted, find: findDisconnect, describe: describeDisconnect,
	symptoms: map[string]int{"ECONNRESET": 13, "ENOTCONN": 5, "TCP_STATE": 4, "TCP_DISCONNECT_WITH_DATA": 2, "EstabResets": 7, "OutRsts": 8},
	What: "A process dissolved the connection with connect(2) to an address of family AF_UNSPEC. " +
		"__inet_stream_connect calls tcp_disconnect: the state becomes CLOSE, tcp_send_active_reset sends RST with ACK, the queues are purged, and addresses and counters are cleared. " +
		"The descriptor stays open, and the same socket (with the same cookie) can be connected again. " +
		"The peer gets ECONNRESET. EstabResets and OutRsts move, but no TCPAbort counter; from 6.12 the reset reason is TCP_STATE (14).",
	Prove: "`strace -f -e trace=connect,close -p PID` shows connect with sa_family=AF_UNSPEC on a connected descriptor. " +
		"`bpftrace -e 'kprobe:tcp_disconnect { printf(\"%d %s%s\\n\", pid, comm, kstack); }'` shows __inet_stream_connect as the caller.",
	Do:   "If the abort was not meant, end the connection with shutdown(2) and close(2) and take a new socket for the next one.",
	Refs: []string{"connect(2)", "RFC 9293 3.10.5", "__inet_stream_connect", "tcp_disconnect"},
}

func findDisconnect(a, b *facts, s Scope) *finding {
	if a.closed == none || a.forget != none || a.c.Established == 0 && a.c.Open != conn.OpenUnknown {
		return nil
	}
	if a.active == none && s.has(event.HookSendActiveReset) && (a.end().State == event.LastAck || a.end().State == event.Closing) {
		return nil // both FINs are sent, and nothing else waits: no reset (tcp_need_reset)
	}
	if !before(a.disconn, a.closed) {
		// Without the hook: → CLOSE inside connect(2) on what was established.
		if end := a.end(); s.has(event.HookDisconnect) || end.Call != event.CallConnect || !a.actedAt(a.closed) || end.Err != 0 {
			return nil
		}
		x := &finding{a: []int{a.closed, a.active}, needs: []event.Hook{event.HookDisconnect}}
		x.did(a, a.end())
		x.act = ActDisconnect
		return x
	}
	e := a.at(a.disconn)
	if before(a.release, a.disconn) || !e.ByProcess() || e.Exiting() || e.Call != event.CallConnect && e.Call != event.CallUnknown {
		return nil
	}
	x := &finding{a: []int{a.disconn, a.closed, a.active}, needs: []event.Hook{event.HookChildForget, event.HookClose}}
	x.did(a, e)
	x.act = ActDisconnect
	return x
}

func describeDisconnect(t *trial) string {
	sent := ""
	if t.a.active != none {
		sent = "its kernel sent a RST, and "
	}
	return fmt.Sprintf("%s dissolved the connection with connect(AF_UNSPEC)%s: %sthe socket can be used again.", t.who(), t.when(t.a.at(t.a.disconn)), sent)
}
