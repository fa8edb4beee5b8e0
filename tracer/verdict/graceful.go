package verdict

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Both ends sent a FIN, and no RST ended the connection.
const (
	OrderlyClose      Cause = "orderly-close"      // one end closed, the other followed
	HalfClose         Cause = "half-close"         // one end shut down its sending side and went on reading
	SimultaneousClose Cause = "simultaneous-close" // the two FINs crossed
)

// bothSaid says whether both FINs were sent, and the end came without a reset.
func bothSaid(a, b *facts) bool {
	if !a.saidBoth() {
		return a.refusedFin(b)
	}
	if a.peerFin != none && a.finAcked && (b == nil || b.fin != none) {
		return true // what became of the other end after that is its own affair
	}
	if b == nil {
		return a.peerFin != none || a.lateFin()
	}
	return b.fin != none && !b.rst && !b.abandoned && b.active == none && b.answer == none && b.mini == none &&
		(b.closed == none || b.end().Err == 0) || b.refusedFin(a)
}

// saidBoth says whether both FINs were sent as far as this end can tell, and its
// own end came without a reset.
func (f *facts) saidBoth() bool {
	return f.closed != none && !f.rst && !f.abandoned && f.active == none && f.answer == none && f.mini == none &&
		f.fin != none && f.end().Err == 0 && !f.end().Repair
}

// lateFin says whether the peer's FIN came when there was no mini-socket to take
// it (tcp_max_tw_buckets), with nothing else in the segment.
func (f *facts) lateFin() bool {
	e := f.at(f.dead)
	return e != nil && e.Has&event.HasSegment != 0 && e.Segment.Flags&event.FIN != 0 && e.Segment.Len == 0 && f.finAcked
}

// refusedFin says whether a RST came in answer to this end's FIN alone, when the
// other end (b) had said goodbye and this one had nothing else to send: there
// was no mini-socket to take it. Nothing was lost by it.
func (f *facts) refusedFin(b *facts) bool {
	if f.closed == none || !f.rst || f.abandoned || f.peerFin == none || f.fin == none || f.end().State != event.LastAck || f.active != none {
		return false
	}
	e := f.at(f.reset)
	if e.Has&event.HasTCP == 0 || e.SndNxt != e.WriteSeq || e.SndNxt-e.SndUna != 1 {
		return false
	}
	if e.Has&event.HasSegment != 0 && e.Segment.Flags&event.ACK != 0 {
		return false // an abort of its own
	}
	return b == nil || b.saidBoth()
}

// first says whether this end said goodbye first.
func (f *facts) first(b *facts) bool {
	if b != nil && b.fin != none {
		return f.at(f.fin).Time <= b.at(b.fin).Time
	}
	return f.peerFin == none || f.fin < f.peerFin
}

func graceful(a, b *facts, want func(Act) bool) *finding {
	if !bothSaid(a, b) {
		return nil
	}
	x := &finding{a: []int{a.fin, a.closed}, harmless: lateReset(a, b)}
	if a.refusedFin(b) {
		x.harmless = true
		x.a = append(x.a, a.reset)
		x.likely = b == nil // the reset of an abort may have been lost before
	}
	if a.refusedFin(b) || b != nil && b.refusedFin(a) {
		// There was no mini-socket to take it: whether one had waited, and been ended
		// before, only its end tells.
		x.needs = append(x.needs, event.HookTwskKill)
	}
	x.doubtFIN(a, b)
	x.doubtFIN(b, a)
	if b != nil {
		x.b = []int{b.fin, b.closed}
	}
	if !a.first(b) {
		if b == nil && want(NoAct) {
			x.by = byPeer
			return x
		}
		return nil
	}
	x.did(a, a.actEvent(a.finAct))
	if !want(x.act) {
		return nil
	}
	// The other FIN is not acknowledged yet, and nothing shows that it arrived: this
	// end may have been gone by then.
	if b != nil && b.closed == none && !b.finAcked && a.peerFin == none {
		x.likely = true
		x.needs = append(x.needs, event.HookTwskSchedule, event.HookTwskKill)
	}
	return x
}

// doubtFIN notes that the FIN of an end (f) may not have arrived. A
// process or an operator may drop a socket whose FIN is not acknowledged, and a
// kernel may give it up.
func (x *finding) doubtFIN(f, other *facts) {
	switch {
	case f == nil || f.finAcked || other != nil && other.peerFin != none:
	case f.closed == none || f.end().Has&event.HasTCP != 0:
		x.likely = x.likely || !x.harmless
	default:
		// A classic tracepoint does not tell.
		x.needs = append(x.needs, event.HookClose)
	}
}

// lateReset says whether a reset followed the complete exchange: an old segment met
// no socket any more.
func lateReset(a, b *facts) bool {
	reset := func(e *event.Event) bool { return e.Hook == event.HookSendReset }
	return a.dead != none || a.elsewhere(reset) != none || b != nil && (b.dead != none || b.elsewhere(reset) != none)
}

func describeGraceful(t *trial) string {
	var s string
	// From one end it is only seen that the other's FIN came later, not that it
	// was said later.
	first := "closed first"
	if t.b == nil {
		first = fmt.Sprintf("closed before the FIN of %s came", t.a.c.Remote)
	}
	switch {
	case t.x.by == byPeer:
		s = fmt.Sprintf("%s finished first (FIN)", t.a.c.Remote)
		if g := t.a.goodbye; g != nil && g.Actor != nil {
			s += fmt.Sprintf(", then %s", named(g.Actor))
		}
		s += "."
	case t.x.act == ActShutWr && t.a.closeAfterShutdown() != none:
		let := t.a.at(t.a.closeAfterShutdown())
		s = fmt.Sprintf("%s %s%s%s and %s %s later.", t.who(), first, parted(t.how()), t.when(t.a.at(t.a.fin)),
			how(act(let)), seconds(let.Time-t.a.at(t.a.fin).Time))
	case t.x.act == ActShutWr:
		s = fmt.Sprintf("%s finished sending%s%s and went on reading", t.who(), spaced(t.how()), t.when(t.a.at(t.a.fin)))
		if t.b == nil {
			s += fmt.Sprintf(" until the FIN of %s came", t.a.c.Remote)
		}
		s += "."
	case t.x.act == NoAct && t.x.by == byProcess:
		s = fmt.Sprintf("%s finished first%s, with shutdown(2); whether it went on reading was not seen.", t.who(), t.when(t.a.at(t.a.fin)))
	case t.x.act == NoAct:
		s = fmt.Sprintf("A kernel worker closed the side of %s first%s, for a process that had let go of it before.", end(t.a), t.when(t.a.at(t.a.fin)))
	default:
		s = fmt.Sprintf("%s %s%s%s.", t.who(), first, parted(t.how()), t.when(t.a.at(t.a.fin)))
	}
	if t.b != nil && t.x.by != byPeer {
		if g := t.b.goodbye; g != nil {
			name := end(t.b)
			if g.Actor != nil {
				name = named(g.Actor)
			}
			how := spaced(how(g.Act, g.Signal))
			if later := t.b.at(t.b.fin).Time - t.a.at(t.a.fin).Time; later >= 0 {
				s += fmt.Sprintf(" %s followed%s after %s.", name, how, seconds(later))
			} else {
				s += fmt.Sprintf(" %s finished%s, too.", name, how)
			}
		}
	}
	for i, f := range []*facts{t.a, t.b} {
		other := []*facts{t.b, t.a}[i]
		if f != nil && f.refusedFin(other) {
			s += fmt.Sprintf(" The FIN of %s was answered with a RST, because its peer's kernel kept no socket that could take it; both ends had finished.", end(f))
			if nothingLost(t.a, t.b) && t.a.lost.Unread != nil && (t.b == nil || t.b.lost.Unread != nil) {
				s += " No data was lost."
			}
			return s
		}
	}
	switch {
	case !nothingLost(t.a, t.b):
	case t.b == nil:
		s += " Both FINs were acknowledged and nothing was lost at this end."
	default:
		s += " Both FINs were acknowledged and nothing was lost."
	}
	return s
}

var orderlyClose = Rule{
	Cause: OrderlyClose, Class: Graceful, find: findOrderlyClose, describe: describeGraceful,
	symptoms: map[string]int{"EADDRINUSE": 1, "EADDRNOTAVAIL": 2, "unanswered": 1, "EOF": 1, "read() = 0": 1, "upstream prematurely closed connection": 2, "client prematurely closed connection": 1,
		"TCPTimeWaitOverflow": 1, "TW": 1, "TIME_WAIT": 1, "LAST_ACK": 2},
	What: "Both ends closed, each with a FIN that the other end acknowledged. " +
		"When the last reference to the first closer's socket goes (close(2), exit, exec or dup2), __tcp_close finds nothing unread, tcp_close_state moves ESTABLISHED to FIN_WAIT1, and tcp_send_fin queues the FIN behind whatever is still to be sent. " +
		"Its acknowledgement makes that FIN_WAIT2. At the other end tcp_fin turns ESTABLISHED into CLOSE_WAIT and lets read(2) return 0; that end's own close sends the second FIN from LAST_ACK. " +
		"The first closer's kernel keeps the addresses and ports for 60 s in a TIME_WAIT mini-socket (tcp_time_wait, inet_twsk_alloc), which belongs to no process and never appears in inet_sock_set_state: there the full socket goes from FIN_WAIT2 to CLOSE. " +
		"No error counter moves, and a process that is killed with nothing unread ends its connections in just this way.",
	Prove: "`tcpdump -nni any tcp port PORT` shows [F.] from both ends, an ACK for each, and no [R]. " +
		"`ss -tan state time-wait` lists the connection for 60 s at the end that closed first. " +
		"`strace -f -e trace=close,shutdown -p PID` shows the calls.",
	Belief: "\"read() returned 0, so the transfer is complete.\" \"SO_REUSEADDR on the new listener is enough to get the port back.\"",
	Truth: "A 0 means that the peer sent a FIN (or that another call has already collected the error of a RST); whether everything came, only the protocol above can say: a length, a last chunk, a close_notify. " +
		"On Linux a port that TIME_WAIT still holds is free for bind(2) only if the old listener had SO_REUSEADDR too, since accepted sockets and their TIME_WAIT inherit it.",
	Refs: []string{"RFC 9293 3.6", "close(2)", "socket(7)", "tcp(7)", "__tcp_close", "tcp_send_fin", "tcp_fin", "tcp_time_wait"},
}

func findOrderlyClose(a, b *facts, s Scope) *finding {
	return graceful(a, b, func(act Act) bool { return b == nil || act != ActShutWr || a.closeAfterShutdown() != none })
}

var halfClose = Rule{
	Cause: HalfClose, Class: Graceful, find: findHalfClose, describe: describeGraceful,
	symptoms: map[string]int{"unanswered": 2, "EOF": 3, "read() = 0": 2, "client prematurely closed connection": 2, "TW": 2, "CLOSE_WAIT": 2, "FIN_WAIT2": 3, "TIME_WAIT": 2},
	What: "One end shut down its sending side and went on reading; later the other end closed. " +
		"shutdown(SHUT_WR) goes through inet_shutdown and tcp_shutdown: it sets SEND_SHUTDOWN only, moves ESTABLISHED to FIN_WAIT1 and sends the FIN behind the queued data. " +
		"The other end reads 0, is in CLOSE_WAIT and may send as long as it likes: its data is acknowledged and readable here. " +
		"While a process holds the socket no timer limits FIN_WAIT2. When the other FIN comes, tcp_time_wait replaces the socket although the descriptor is still open, so the close(2) that follows finds the state CLOSE and sends nothing.",
	Prove: "`tcpdump -nni any tcp port PORT` shows [F.] from one end, then data from the other, then its [F.]. " +
		"`strace -f -e trace=shutdown,close -p PID` shows shutdown(FD, SHUT_WR), then reads until 0, then close. " +
		"In between, `ss -tanp state fin-wait-2` shows the socket with its process.",
	Belief: "\"A FIN means that the peer no longer wants my data.\" \"POLLHUP means that the peer closed.\"",
	Truth: "A FIN says only that the peer will not send any more: answering a half-closed connection is legal, although many proxies and frameworks cut it off. " +
		"The peer's FIN alone raises POLLIN and POLLRDHUP; POLLHUP needs both directions shut, and a RST adds POLLERR.",
	Refs: []string{"RFC 9293 3.6.1", "shutdown(2)", "poll(2)", "tcp_shutdown", "tcp_fin", "tcp_time_wait"},
}

// findHalfClose and orderlyClose share what is graceful. Of a peer on another machine
// it is not known whether its FIN crossed this end's, nor whether it shut its
// sending side down or closed: then both said goodbye, and no more is claimed.
func findHalfClose(a, b *facts, s Scope) *finding {
	if b == nil {
		return nil
	}
	return graceful(a, b, func(act Act) bool { return act == ActShutWr && a.closeAfterShutdown() == none })
}

// findHalfClose measures how long one direction outlived the other, when the
// first FIN was a shutdown of the sending side alone.
func (t *trial) halfClose(first, second *Goodbye) *time.Duration {
	if first == nil || second == nil {
		return nil
	}
	shut := t.self
	if second.At < first.At {
		first, second, shut = second, first, t.peer
	}
	if first.Act != ActShutWr || shut != nil && shut.closeAfterShutdown() != none {
		return nil
	}
	d := second.At - first.At
	return &d
}

var simultaneousClose = Rule{
	Cause: SimultaneousClose, Class: Graceful, find: findSimultaneousClose, describe: describeSimultaneousClose,
	symptoms: map[string]int{"EADDRINUSE": 3, "EOF": 5, "read() = 0": 3, "TCPTimeWaitOverflow": 2, "TW": 3, "TIME_WAIT": 3, "CLOSING": 1},
	What: "Both ends closed at the same moment, and their FINs crossed on the way. " +
		"Each end is in FIN_WAIT1 when the other's FIN comes in: tcp_fin moves it to CLOSING, and the acknowledgement of its own FIN makes tcp_time_wait build a TIME_WAIT mini-socket, at both ends. " +
		"Nobody was first, and nothing is lost. It usually means that both ends run the same idle timer, or react to the same event.",
	Prove: "`tcpdump -nni any tcp port PORT` shows two [F.], neither acknowledging the other. " +
		"`ss -tan state time-wait` lists the connection on both hosts (twice on a loopback connection), and `ss -tan state closing` shows it for the moment in between.",
	Belief: "\"TIME_WAIT is on the server.\" \"TIME_WAIT is always on both ends.\"",
	Truth:  "It is at whichever end closed first, client or server. It is at both only after a simultaneous close like this one.",
	Refs:   []string{"RFC 9293 3.6", "RFC 1337", "tcp(7)", "tcp_fin", "tcp_time_wait"},
}

func findSimultaneousClose(a, b *facts, s Scope) *finding {
	if !bothSaid(a, b) || !a.crossed && (b == nil || !b.crossed) {
		return nil
	}
	x := &finding{a: []int{a.fin, a.closed}}
	if b != nil {
		x.b = []int{b.fin, b.closed}
	}
	x.doubtFIN(a, b)
	x.doubtFIN(b, a)
	return x.did(a, a.actEvent(a.finAct))
}

func describeSimultaneousClose(t *trial) string {
	s := fmt.Sprintf("Both ends closed at the same time: the FINs of %s and %s crossed. Both keep TIME_WAIT.", end(t.a), t.other())
	if nothingLost(t.a, t.b) {
		s += " Nothing was lost."
	}
	return s
}

// Orderly is an orderly close with close(2) in which everything was acknowledged. Its
// sentence is the one that Judge writes, for callers that have no events.
type Orderly struct {
	First, Second *conn.Process  // who closed, in this order; nil: at another machine
	Remote        netip.AddrPort // of the only end that lives here
	At            time.Duration  // when the first FIN was queued, since it was opened
	Later         time.Duration  // how much later the second was
}

// Append appends the sentence.
func (o *Orderly) Append(b []byte) []byte {
	switch {
	case o.First == nil:
		b = append(o.Remote.AppendTo(b), " finished first (FIN), then "...)
		b = append(appendNamed(b, o.Second), '.')
	default:
		b = appendNamed(b, o.First)
		if o.Second != nil {
			b = append(b, " closed first"...)
		} else {
			b = append(o.Remote.AppendTo(append(b, " closed before the FIN of "...)), " came"...)
		}
		b = append(b, ", with close(2) "...)
		b = append(appendSeconds(b, o.At), " after it was opened."...)
	}
	if o.First != nil && o.Second != nil {
		b = appendNamed(append(b, ' '), o.Second)
		if o.Later >= 0 {
			b = append(appendSeconds(append(b, " followed with close(2) after "...), o.Later), '.')
		} else {
			b = append(b, " finished with close(2), too."...)
		}
		return append(b, " Both FINs were acknowledged and nothing was lost."...)
	}
	return append(b, " Both FINs were acknowledged and nothing was lost at this end."...)
}
