package verdict

import (
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Data comes for a socket that takes none any more.
const (
	DataAfterClose    Cause = "data-after-close"    // data for a socket that was closed
	DataAfterShutdown Cause = "data-after-shutdown" // data for a socket whose both directions were shut down
)

var dataAfterClose = Rule{
	Cause: DataAfterClose, Class: Aborted, find: findDataAfterClose, describe: describeDataAfterClose,
	symptoms: map[string]int{"ECONNRESET": 4, "EPIPE": 1, "SIGPIPE": 1, "unanswered": 4, "EOF": 2, "read() = 0": 5, "upstream prematurely closed connection": 1,
		"client prematurely closed connection": 4, "NOT_SPECIFIED": 4, "TCP_ABORT_ON_DATA": 1, "TCP_TIMEWAIT_SOCKET": 1, "TCPAbortOnData": 2, "OutRsts": 4, "TCPTimeWaitOverflow": 3, "FIN_WAIT2": 4,
		"FIN_WAIT1": 3},
	What: "Data came for a socket whose process had closed it; the kernel answered with a RST. " +
		"close(2) ends both directions: the FIN says only that this end sends no more, but nobody is left to read either. What happens to data that comes then depends on how far the close has got. " +
		"If the FIN has been acknowledged, the socket has become a FIN_WAIT2 mini-socket: tcp_timewait_state_process returns TCP_TW_RST, the mini-socket is killed, and only OutRsts counts it (reason TCP_TIMEWAIT_SOCKET, 9). " +
		"If the FIN still waits behind data or for its acknowledgement (FIN_WAIT1), or tcp_fin_timeout or TCP_LINGER2 above 60 s keeps the full socket, tcp_rcv_state_process resets: TCPAbortOnData moves, the reason is TCP_ABORT_ON_DATA (8), and the rest of the send queue is thrown away. One byte at the wrong moment can cost megabytes. " +
		"After both FINs, a true TIME_WAIT answers with an ACK, not a RST. " +
		"The RST is a bare one. The sender is in CLOSE_WAIT, so its first write succeeds, its read gives 0 and its next write gives EPIPE with SIGPIPE: it never sees ECONNRESET unless it had not yet received the FIN.",
	Prove: "`tcpdump -nni any tcp port PORT` shows [F.] from the closing end, then data the other way, then [R] without ACK from the closing end. " +
		"`nstat -az TcpExtTCPAbortOnData TcpOutRsts` tells the two forms apart: only the second moves for a mini-socket. " +
		"`strace -f -e trace=network,write,close -p PID` at the closing end shows a close with no read that returned 0 before it.",
	Do:     "At the end that closes: shutdown(SHUT_WR), read to the end, then close(2) (tcpbye demo shutdown shows it). With pooled connections, let the end that sends requests give up idle ones before the other does.",
	Belief: "\"close() delivers everything and then says goodbye.\" \"Writing after the peer has closed fails.\"",
	Truth: "Only if nothing is unread and nothing comes in while data is still queued: then a single byte from the peer makes the kernel throw the rest away (measured: 1 byte cost 1.89 MB). " +
		"The first write succeeds, because the local kernel cannot know that the peer reads no more; the RST that it provokes makes the second one fail with EPIPE and SIGPIPE.",
	Refs: []string{"RFC 9293 3.6.1", "RFC 2525 2.17", "close(2)", "shutdown(2)", "signal(7)", "tcp_rcv_state_process", "tcp_timewait_state_process"},
}

func findDataAfterClose(a, b *facts, s Scope) *finding {
	x := &finding{}
	switch {
	case a.mini != none && event.State(a.at(a.mini).Arg2) == event.FinWait2 && payload(a.at(a.mini), b):
		x.a = []int{a.release, a.mini}
	case a.answer != none && a.closed != none && a.orphan(a.closed) &&
		(a.abandoned || a.end().State == event.FinWait2 && a.end().Err == 0):
		x.a = []int{a.release, a.closed, a.answer}
		if a.end().Has&event.HasSocket == 0 {
			x.needs = append(x.needs, event.HookClose) // TCP_LINGER2 may be below zero
		}
	case a.dead != none && a.closed != none && a.fin != none && a.finAcked && a.end().Err == 0 && payload(a.at(a.dead), b) &&
		(b != nil && b.rst || b == nil && a.peerFin == none && a.fresh(a.at(a.dead))):
		x.a = []int{a.release, a.miniEnd, a.dead}
		// It waited for the peer's FIN in a mini-socket. Where that ended was not
		// told: its time may have been up before, or the kernel made none
		// (tcp_max_tw_buckets).
		if x.likely = a.miniEnd == none; x.likely {
			x.needs = append(x.needs, event.HookTwskKill)
		}
	default:
		return nil
	}
	x.needs = append(x.needs, event.HookSendReset)
	if b != nil {
		x.b = []int{b.reset, b.closed}
		for i := range b.c.Events {
			if b.c.Events[i].Hook == event.HookStreamError {
				x.b = append(x.b, i)
			}
		}
	}
	return x.closedBy(a)
}

func describeDataAfterClose(t *trial) string {
	s := fmt.Sprintf("%s closed both directions%s%s.", t.who(), spaced(t.how()), t.when(t.a.goodbyeAct()))
	answer := t.a.at(t.a.mini)
	if answer == nil {
		answer = t.a.at(t.a.answer)
	}
	if answer == nil {
		answer = t.a.at(t.a.dead)
	}
	sent := "data"
	if answer != nil && answer.Has&event.HasSegment != 0 && answer.Segment.Len > 0 {
		sent = plural(uint64(answer.Segment.Len))
	}
	s += fmt.Sprintf(" What %s sent after that (%s) met a socket that nobody reads, so the closing end's kernel sent a RST.", t.other(), sent)
	if l := lostAt(t.a); l != "" {
		s += " The closing end lost " + l + "."
	}
	return s
}

// payload says whether the segment that a reset answered carried data: a FIN alone loses
// nothing. Where the segment was not seen, what its sender (b) had
// sent and not had acknowledged tells; nil: that is not known, and counts as none.
func payload(answer *event.Event, b *facts) bool {
	if answer.Has&event.HasSegment != 0 {
		return answer.Segment.Flags&event.SYN == 0 && answer.Segment.Len > 0
	}
	if b == nil || b.closed == none {
		return false
	}
	if b.end().Has&event.HasTCP == 0 {
		return b.fin == none // a classic tracepoint: nothing else can have been sent
	}
	sent, _ := b.unacknowledged(b.end())
	return sent > 0
}

// fresh says whether a segment carries what this end has not received yet: an old
// duplicate means nothing.
func (f *facts) fresh(e *event.Event) bool {
	return e.Has&event.HasSegment != 0 && f.end().Has&event.HasTCP != 0 && int32(e.Segment.Seq+e.Segment.Len-f.end().RcvNxt) > 0
}

var dataAfterShutdown = Rule{
	Cause: DataAfterShutdown, Class: Aborted, find: findDataAfterShutdown,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s shut down both directions%s and kept the descriptor. What %s sent after that was answered with a RST.", t.who(), spaced(t.how()), t.other())
	},
	symptoms: map[string]int{"ECONNRESET": 8, "EPIPE": 6, "SIGPIPE": 6, "TCP_ABORT_ON_DATA": 2, "TCPAbortOnData": 3, "OutRsts": 10},
	What: "Data came for a socket with both directions shut down whose descriptor was still open. " +
		"shutdown(SHUT_RDWR), or SHUT_RD and SHUT_WR one after the other, sends a FIN and sets RCV_SHUTDOWN. In FIN_WAIT1 and later, tcp_rcv_state_process answers new data on such a socket as if it had been closed: tcp_reset runs locally, although no RST came in, and a bare RST goes out. " +
		"TCPAbortOnData and OutRsts move; from 6.12 the reset reason is TCP_ABORT_ON_DATA (8). " +
		"The end that shut down reads ECONNRESET if it asks; the sender's write succeeded, its read gives 0 and its next write EPIPE.",
	Prove: "`strace -f -e trace=shutdown,close -p PID` shows shutdown with SHUT_RDWR and no close before the reset. " +
		"`tcpdump -nni any tcp port PORT` shows [F.], then data the other way, then [R] without ACK. " +
		"`nstat -az TcpExtTCPAbortOnData` moves by 1.",
	Do:     "Shut down the sending side only: shutdown(SHUT_WR), read to the end, then close(2).",
	Belief: "\"shutdown(SHUT_RD) tells the peer to stop, and drops what comes in.\" \"SHUT_RDWR is SHUT_RD plus SHUT_WR, and so the same as close().\"",
	Truth: "SHUT_RD alone sends nothing on Linux: later data is acknowledged, and even readable. " +
		"SHUT_RDWR sends a FIN and makes later input be answered with a RST, but the descriptor stays and must still be closed; and it acts on the socket for all its holders, in other processes too, while close(2) only gives up one reference.",
	Refs: []string{"shutdown(2)", "RFC 9293 3.6.1", "tcp_shutdown", "tcp_rcv_state_process", "tcp_reset"},
}

func findDataAfterShutdown(a, b *facts, s Scope) *finding {
	if a.answer == none || !a.abandoned || a.closed == none || a.orphan(a.closed) || a.fin == none {
		return nil
	}
	x := &finding{a: []int{a.finAct, a.closed, a.answer}, needs: []event.Hook{event.HookSendReset}}
	if a.end().Has&event.HasSocket == 0 {
		x.needs = append(x.needs, event.HookClose) // it may have been closed since
	}
	if b != nil {
		x.b = []int{b.reset, b.closed}
	}
	return x.did(a, a.actEvent(a.finAct))
}
