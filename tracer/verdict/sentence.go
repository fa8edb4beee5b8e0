package verdict

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// telling is what a sentence is made of.
type telling struct {
	v    *Verdict
	x    *finding
	a, b *facts // the causing end, and the other (nil: remote)
	mine bool   // the causing end is the judged one
}

// quoteName keeps a process's name from doing anything to a terminal.
func quoteName(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

func named(p *conn.Process) string {
	on := ""
	if p.Host != "" {
		on = " on " + quoteName(p.Host)
	}
	if event.Outside(p.PID) {
		return quoteName(p.Comm) + on + " (outside this PID namespace)"
	}
	return fmt.Sprintf("%s (pid %d%s)", quoteName(p.Comm), p.PID, on)
}

// end names an end: its process, where one is known, else its address.
func end(f *facts) string {
	switch {
	case f.c.Owner != nil:
		return named(f.c.Owner)
	case f.c.Local.IsValid():
		return f.c.Local.String()
	}
	return "this end"
}

// other names the end that is not a.
func (t *telling) other() string {
	if t.b != nil {
		return end(t.b)
	}
	return t.a.c.Remote.String()
}

// who names the actor, or the causing end.
func (t *telling) who() string {
	if t.x.actor != nil {
		return named(t.x.actor)
	}
	return end(t.a)
}

// when says how far into the connection an event was.
func (t *telling) when(e *event.Event) string {
	if e == nil {
		return ""
	}
	for _, f := range []*facts{t.a, t.b} {
		// A close is when the descriptor was given up.
		if f != nil && f.kept() != 0 && (e == f.at(f.release) || e == f.at(f.fin) && f.fin > f.release) {
			e = f.at(f.letGo)
		}
	}
	d := e.Time - since(t.a, t.b)
	if t.a.c.Open == conn.OpenUnknown || d < 0 {
		return "" // what was seen of its beginning came later
	}
	return " " + seconds(d) + " after it was opened"
}

// spaced and parted put a part behind what is said already; an unknown part leaves
// nothing behind.
func spaced(part string) string { return after(" ", part) }
func parted(part string) string { return after(", ", part) }

func after(mark, part string) string {
	if part == "" {
		return ""
	}
	return mark + part
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + " s"
}

// how says the act in words.
func (t *telling) how() string {
	switch t.x.act {
	case NoAct:
		if t.x.by == byProcess {
			return "with shutdown(2)"
		}
	case ActClose:
		return "with close(2)"
	case ActExit:
		return "by exiting"
	case ActKilled:
		return "when it was killed by " + signalName(t.x.signal)
	case ActExec:
		return "by exec (the descriptor was close-on-exec)"
	case ActDup2:
		return "with dup2(2) over its last descriptor"
	case ActThread:
		return "by the exit of a thread that had descriptors of its own (the process lives on)"
	case ActDiscard:
		return "by throwing it away in recvmsg(2) (MSG_CTRUNC: no descriptor was free, or there was no room for it)"
	case ActShutWr:
		return "with shutdown(SHUT_WR)"
	case ActShutRdWr:
		return "with shutdown(SHUT_RDWR)"
	case ActShutRd:
		return "with shutdown(SHUT_RD)"
	}
	return ""
}

var signals = map[int]string{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS",
	8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM"}

func signalName(n int) string {
	if s, ok := signals[n]; ok {
		return s
	}
	return "signal " + strconv.Itoa(n)
}

// heldOn says what held the socket of an end after its last descriptor was gone,
// with a space before it; "" nothing did.
func heldOn(f *facts) string {
	d := f.kept()
	if d == 0 {
		return ""
	}
	what := "a request in progress (io_uring) or a message in flight"
	switch r := f.at(f.release); {
	case r.Call == event.CallReceive || r.Call == event.CallSend:
		what = "a call in progress"
	case r.Call == event.CallIOUring:
		what = "a request in progress (io_uring)"
	}
	return fmt.Sprintf(" %s held the socket until %s later: only then did its kernel say anything.", strings.ToUpper(what[:1])+what[1:], span(d))
}

// above says at which ends TCP does not know what was read, with a space before
// it; "" at none.
func above(ends ...*facts) string {
	var all, last string
	for _, f := range ends {
		var s string
		switch {
		case f == nil:
		case f.subflow:
			s = fmt.Sprintf(" What %s read is not known: its queue is that of the MPTCP socket.", end(f))
		case f.aboveIn:
			s = fmt.Sprintf(" What %s read, and threw away, is not known: something above TCP (kTLS, sockmap) has its queue.", end(f))
		}
		if s != last { // one process may have both ends
			all += s
		}
		last = s
	}
	return all
}

func plural(n uint64) string {
	if n == 1 {
		return "1 byte"
	}
	return strconv.FormatUint(n, 10) + " bytes"
}

// lostAt says what an end lost, in words; "" nothing that is known of.
func lostAt(f *facts) string {
	if f == nil {
		return ""
	}
	l := f.lost()
	var parts []string
	if l.Unread != nil && *l.Unread > 0 {
		parts = append(parts, plural(*l.Unread)+" that it had received and not read")
	}
	if l.Unacked != nil && *l.Unacked > 0 {
		parts = append(parts, plural(*l.Unacked)+" that it had sent and that were never acknowledged")
	}
	if l.Unsent != nil && *l.Unsent > 0 {
		parts = append(parts, plural(*l.Unsent)+" that never left its send queue")
	}
	return strings.Join(parts, ", ")
}

func tellAcceptOverflow(t *telling) string {
	if t.v.Class == TimedOut {
		return fmt.Sprintf("The SYN of %s was dropped because the accept queue of the listener at %s was full; after %d more tries the kernel gave up.",
			end(t.a), t.a.c.Remote, t.a.end().Retransmits)
	}
	return fmt.Sprintf("The accept queue of the listener at %s was full when the handshake of %s was to be completed, and tcp_abort_on_overflow is set: the kernel reset the connection.",
		t.a.c.Remote, end(t.a))
}

func tellConnectCancelled(t *telling) string {
	s := fmt.Sprintf("%s gave up connecting to %s itself%s, before an answer to its SYN had come. Nothing was sent.", t.who(), t.a.c.Remote, spaced(t.how()))
	if t.a.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSynDrop }) != none {
		s += fmt.Sprintf(" There was none because the accept queue of the listener at %s was full: its kernel dropped the SYN.", t.a.c.Remote)
	}
	return s
}

func tellPortClosed(t *telling) string {
	s := fmt.Sprintf("Nobody listens on %s: its kernel answered the SYN of %s with a RST.", t.a.c.Remote, end(t.a))
	if t.a.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSendReset }) == none {
		s = fmt.Sprintf("%s, or something that answers for it, refused the SYN of %s with a RST.", t.a.c.Remote, end(t.a))
	}
	return s
}

func tellConnectTimeout(t *telling) string {
	return fmt.Sprintf("The SYN of %s to %s was never answered; after %d more tries the kernel gave up.", end(t.a), t.a.c.Remote, t.a.end().Retransmits)
}

func tellUnreachable(t *telling) string {
	e := t.a.end()
	errno := e.Err
	if errno == 0 {
		errno = e.ErrSoft
	}
	if errno == 0 {
		return fmt.Sprintf("%s could not connect to %s: %s. No SYN was sent.", end(t.a), t.a.c.Remote, t.a.whyNotConnected())
	}
	failed := fmt.Sprintf("; connect(2) of %s failed (%s).", end(t.a), errno)
	if n, last := t.a.thrownAway(); last != none && errno == event.Errno(unix.EHOSTUNREACH) {
		what := "the SYN"
		if n > 1 {
			what = fmt.Sprintf("%d segments", n)
		}
		return fmt.Sprintf("The next hop to %s did not answer (ARP or neighbor discovery), so this kernel threw %s away and told itself that the host is unreachable. Nothing left this host, and no router said anything%s",
			t.a.c.Remote.Addr(), what, failed)
	}
	switch i := t.a.icmp(errno); {
	case i == none:
		return fmt.Sprintf("The network, or this host itself (its neighbor look-up, its packet filter), said that %s cannot be reached (ICMP)%s", t.a.c.Remote, failed)
	case t.a.at(i).Loopback:
		return fmt.Sprintf("This host itself rejected the SYN to %s: it answered with %s, as a packet filter does that rejects. No router said anything%s", t.a.c.Remote, ICMPText(t.a.at(i)), failed)
	default:
		return fmt.Sprintf("%s said that %s cannot be reached: %s%s", t.a.at(i).From.Addr(), t.a.c.Remote, ICMPText(t.a.at(i)), failed)
	}
}

// whyNotConnected says why this kernel refused to connect before anything was sent.
func (f *facts) whyNotConnected() string {
	if f.c.Opener != nil && event.Any(f.c.Events, func(e *event.Event) bool { return e.Hook == event.HookConnect }) {
		return "its kernel could not send the SYN: the route or the source address is gone"
	}
	// inet_hash_connect: the route was found before (tcp_v4_connect).
	if f.end().Has&event.HasSocket == 0 {
		return "no local port was left for that, or the address and port that it was bound to are taken"
	}
	if f.c.Local.Port() == 0 {
		return "no local port was left for that (EADDRNOTAVAIL)"
	}
	return fmt.Sprintf("a connection from %s to there exists already, or is in TIME_WAIT (EADDRNOTAVAIL)", f.c.Local)
}

func tellHandshakeReset(t *telling) string {
	return fmt.Sprintf("%s reset the connection before the handshake was complete.", t.a.c.Remote)
}

func tellPortReuse(t *telling) string {
	return fmt.Sprintf("A new connection was opened from %s, an address and port that %s still held an old connection to. The old end challenged the SYN with an ACK, and the new one's kernel, which knew nothing of the old, reset it.",
		t.a.c.Remote, end(t.a))
}

func tellRepairClose(t *telling) string {
	return fmt.Sprintf("%s closed the socket in repair mode (TCP_REPAIR): it vanished without a FIN and without a RST. Whatever %s sends next is answered with a RST.", t.who(), t.other())
}

func tellSockDestroy(t *telling) string {
	if t.a.abort == none && t.a.early() != nil && t.x.actor != nil {
		return fmt.Sprintf("%s had closed, and its kernel waited for the FIN of %s; %s destroyed what was left of the connection from outside (SOCK_DESTROY, as ss -K does). No packet was sent.",
			end(t.a), t.other(), named(t.x.actor))
	}
	by := "somebody"
	if t.x.actor != nil {
		by = named(t.x.actor)
	}
	return fmt.Sprintf("%s destroyed the socket of %s from outside (SOCK_DESTROY, as ss -K does)%s. Neither application closed it.", by, end(t.a), t.when(t.a.at(t.a.abort)))
}

func tellLeftQueue(t *telling) string {
	left, _ := t.a.leaves()
	s := fmt.Sprintf("%s closed first%s%s: nobody had accepted the connection, which waited in the queue of the listener at %s.",
		t.who(), parted(t.how()), t.when(t.a.at(left)), t.a.c.Remote)
	if l := t.b.lost().Unread; l != nil && *l > 0 {
		s += fmt.Sprintf(" What it had sent (%s) nobody read.", plural(*l))
	}
	if t.b.active != none {
		s += fmt.Sprintf(" When the listener was closed, %s later, its kernel sent a RST that ended nothing any more.", span(t.b.end().Time-t.a.at(left).Time))
	}
	return s
}

func tellListenerClosed(t *telling) string {
	return fmt.Sprintf("The connection was complete and waited in the accept queue of the listener at %s. %s closed the listener, so the kernel reset it. The application never saw it: what %s had sent was not processed.",
		t.a.c.Local, t.who(), t.other())
}

func tellMPTCPReset(t *telling) string {
	return fmt.Sprintf("MPTCP reset this subflow between %s and %s (fastclose, or a subflow that could not go on).", end(t.a), t.other())
}

func tellLingerZero(t *telling) string {
	s := fmt.Sprintf("%s closed%s with SO_LINGER on and a time of 0%s: that is an abort, so its kernel sent a RST instead of a FIN.", t.who(), spaced(t.how()), t.when(t.a.at(t.a.release)))
	if l := lostAt(t.a); l != "" {
		s += " It threw away " + l + "."
	}
	return s
}

func tellCloseUnread(t *telling) string {
	s := fmt.Sprintf("%s closed%s%s while its receive queue still held data: ", t.who(), spaced(t.how()), t.when(t.a.at(t.a.release)))
	l := t.a.lost()
	switch lost := lostAt(t.a); {
	case l.Unread != nil && *l.Unread == 0:
		// tcp_close compares sequence numbers, and the urgent byte has one.
		s += "an urgent byte, which had been read with MSG_OOB and counts all the same"
		if lost != "" {
			s += "; it threw away " + lost
		}
		s += ". So"
	case lost == "":
		s += "how much of it nobody had read is not known. So"
	default:
		s += "it threw away " + lost + ", so"
	}
	return s + " its kernel sent a RST instead of a FIN."
}

func tellDisconnect(t *telling) string {
	sent := ""
	if t.a.active != none {
		sent = "its kernel sent a RST, and "
	}
	return fmt.Sprintf("%s dissolved the connection with connect(AF_UNSPEC)%s: %sthe socket can be used again.", t.who(), t.when(t.a.at(t.a.disconn)), sent)
}

func tellLinger2Negative(t *telling) string {
	return fmt.Sprintf("%s closed%s with TCP_LINGER2 below zero: its kernel does not wait for the peer's FIN, and sent a RST as soon as its own was acknowledged.", t.who(), spaced(t.how()))
}

func tellOrphanLimit(t *telling) string {
	return fmt.Sprintf("%s had closed, and this machine has too many closed sockets that still wait for their peer (tcp_max_orphans), or too little TCP memory (tcp_mem): the kernel reset the connection.", end(t.a))
}

func tellKeepaliveTimeout(t *telling) string {
	e := t.a.at(t.a.active)
	if e == nil {
		e = t.a.end()
	}
	return fmt.Sprintf("%s did not answer %d keepalive probes of %s, so this kernel gave up and sent a RST.", t.other(), e.ProbesOut, end(t.a)) + t.a.softly()
}

func tellDataAfterClose(t *telling) string {
	s := fmt.Sprintf("%s closed both directions%s%s.", t.who(), spaced(t.how()), t.when(t.a.ours()))
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

func tellDataAfterShutdown(t *telling) string {
	return fmt.Sprintf("%s shut both directions down%s and kept the descriptor. What %s sent after that was answered with a RST.", t.who(), spaced(t.how()), t.other())
}

func tellOrphanTimeout(t *telling) string {
	return fmt.Sprintf("%s had closed; the rest of its data, or its FIN, was never acknowledged by %s, and this kernel gave up without a packet.", end(t.a), t.other()) + t.a.softly()
}

func tellUserTimeout(t *telling) string {
	closed := ""
	if t.a.orphan(t.a.closed) {
		closed = ", which had closed,"
	}
	return fmt.Sprintf("%s left data of %s%s unacknowledged for longer than TCP_USER_TIMEOUT (%d ms), so this kernel gave up. No packet was sent: the peer may still think that the connection is open.",
		t.other(), end(t.a), closed, t.a.end().UserTimeout) + t.a.softly() + t.a.blackHole()
}

func tellRetransmitTimeout(t *telling) string {
	return fmt.Sprintf("%s never acknowledged data of %s although it was sent again %s, so this kernel gave up. No packet was sent: the peer may still think that the connection is open.",
		t.other(), end(t.a), t.a.sentAgain()) + t.a.softly() + t.a.blackHole()
}

func tellZeroWindowTimeout(t *telling) string {
	window := "at zero"
	if n := t.a.room(); n > 0 && t.a.end().WindowKnown {
		window = fmt.Sprintf("at %s, too few for a segment,", plural(uint64(n)))
	}
	return fmt.Sprintf("%s kept its receive window %s and did not answer %d probes, so this kernel gave up. No packet was sent.", t.other(), window, t.a.end().ProbesOut) + t.a.softly()
}

func tellFinWait2Timeout(t *telling) string {
	return fmt.Sprintf("%s had closed, and %s never sent its FIN: the kernel stopped waiting%s.", end(t.a), t.other(), t.a.waitText())
}

func tellNoSocket(t *telling) string {
	return fmt.Sprintf("%s sent a segment to %s, and a kernel that knew no such connection answered with a RST.", end(t.a), t.a.c.Remote)
}

func tellPathReset(t *telling) string {
	r := t.a.incoming()
	if t.b == nil && r.Elsewhere() {
		return fmt.Sprintf("%s received a RST in the name of %s that another machine is likely to have sent: %s. A firewall, a load balancer or a NAT on the path does so%s.%s",
			end(t.a), t.a.c.Remote, r.differs(t.a.c.Family), r.orElse(), r.reading(t))
	}
	if t.b == nil && r.Unprompted() {
		return fmt.Sprintf("%s received a bare RST in the name of %s, the form that answers a segment, when there was nothing to answer: everything had been acknowledged. A firewall or a load balancer on the path is likely to have sent it; a machine that opens a new connection from the same port looks the same.%s",
			end(t.a), t.a.c.Remote, r.reading(t))
	}
	where := "is on this machine"
	if t.b != nil && t.b.c.Host != t.a.c.Host {
		where = "was traced on " + quoteName(t.b.c.Host)
	}
	text := fmt.Sprintf("%s received a RST in the name of %s, but the TCP stack of that end, which %s, never sent it: a packet filter (REJECT with tcp-reset), a raw socket or something else on the path did.", end(t.a), t.a.c.Remote, where)
	if r.Elsewhere() {
		text += " Indeed " + r.differs(t.a.c.Family) + "."
	}
	return text + r.reading(t)
}

// differs says in what the RST is not like what the peer had sent before.
func (r *Reset) differs(family event.Family) string {
	var all []string
	if r.Hops() > nearHops {
		name := "TTL"
		if family == event.IPv6 {
			name = "hop limit"
		}
		all = append(all, fmt.Sprintf("it came with %s %d, the peer's segment of the handshake with %d", name, r.Segment.TTL, r.Handshake.TTL))
	}
	if r.Backwards() != 0 {
		all = append(all, fmt.Sprintf("its timestamp (%d) is older than one that the peer had sent before (%d)", r.Timestamps.Value, r.Timestamps.Recent))
	}
	return strings.Join(all, ", and ")
}

// orElse says what else would look like a RST that differs so.
func (r *Reset) orElse() string {
	if r.Backwards() != 0 {
		return "; so does whoever forges a RST and guesses the timestamp"
	}
	return "; a route that changed, or a stack that gives its resets a TTL of their own, looks the same"
}

// reading says when a reset came, in answer to what, and to which sequence
// number; it begins with a space.
func (r *Reset) reading(t *telling) string {
	if r == nil {
		return ""
	}
	var b strings.Builder
	if r.AfterFin != nil {
		fmt.Fprintf(&b, " It came %s after its FIN.", span(*r.AfterFin))
	}
	if r.Offset != nil && *r.Offset != 0 {
		fmt.Fprintf(&b, " Its sequence number was %+d bytes from the one that %s expected.", *r.Offset, end(t.a))
	}
	if r.Behind != nil {
		if *r.Behind == 0 {
			fmt.Fprintf(&b, " Its ACK covers all that %s had sent.", end(t.a))
		} else {
			fmt.Fprintf(&b, " Its ACK does not cover the last %s that %s had sent.", plural(uint64(*r.Behind)), end(t.a))
		}
	}
	if r.Text != "" {
		fmt.Fprintf(&b, " It carried a text, as some firewalls and load balancers write it and Linux never does: %s.", strconv.QuoteToASCII(r.Text))
	}
	return b.String()
}

// answered says what a RST was an answer to.
func (r *Reset) answered(t *telling) string {
	what := map[Answer]string{AnswerData: "data", AnswerFIN: "the FIN", AnswerACK: "an acknowledgement", AnswerProbe: "a probe", AnswerSYN: "the SYN"}[r.Answers]
	if what == "" {
		return "a segment of " + end(t.a)
	}
	what += " of " + end(t.a)
	if r.After != nil {
		what += ", sent " + span(*r.After) + " before,"
	}
	return what
}

// span is a short time in the unit that suits it.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "less than 1 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	}
	return seconds(d)
}

func tellPeerAbort(t *telling) string {
	if t.a.resetInFinWait2() {
		_, lived := t.a.waitTimes()
		return fmt.Sprintf("%s had closed and waited for the FIN of %s; a RST came instead, %s later, and answered nothing: there the connection was aborted, or something on the path did it.", end(t.a), t.other(), seconds(lived))
	}
	return fmt.Sprintf("%s aborted the connection: its RST came on its own, not in answer to a segment.%s", t.a.c.Remote, t.a.incoming().reading(t))
}

func tellPeerGone(t *telling) string {
	r := t.a.incoming()
	if r != nil && r.AfterFin != nil && r.Answers == AnswerData && t.a.sentAfterFin() {
		text := fmt.Sprintf("%s finished first (FIN)", t.a.c.Remote)
		quiet := idle(t.a, nil)
		if quiet != nil && *quiet >= time.Second {
			text += ", after " + seconds(*quiet) + " without payload either way"
		}
		text += fmt.Sprintf("; data that %s sent after that was answered with a bare RST, %s after the FIN: nobody read it.", end(t.a), span(*r.AfterFin))
		if quiet != nil && *quiet >= time.Second && *r.AfterFin < time.Second {
			text += " So does a keep-alive timeout look that meets the next request on its way."
		}
		r.AfterFin = nil // it is said
		return text + r.reading(t)
	}
	return fmt.Sprintf("%s, or something that answers for it, no longer takes part in the connection: it answered %s with a bare RST.%s", t.a.c.Remote, r.answered(t), r.reading(t))
}

func tellSimultaneousClose(t *telling) string {
	s := fmt.Sprintf("Both ends closed at the same time: the FINs of %s and %s crossed. Both keep TIME_WAIT.", end(t.a), t.other())
	if complete(t.a, t.b) {
		s += " Nothing was lost."
	}
	return s
}

func tellGraceful(t *telling) string {
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
		if g := t.a.goodbye(); g != nil && g.Actor != nil {
			s += fmt.Sprintf(", then %s", named(g.Actor))
		}
		s += "."
	case t.x.act == ActShutWr && t.a.cut() != none:
		let := t.a.at(t.a.cut())
		how := finding{}
		how.act, how.signal = act(let)
		s = fmt.Sprintf("%s %s%s%s and %s %s later.", t.who(), first, parted(t.how()), t.when(t.a.at(t.a.fin)),
			(&telling{x: &how}).how(), seconds(let.Time-t.a.at(t.a.fin).Time))
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
		if g := t.b.goodbye(); g != nil {
			other := finding{act: g.Act, signal: g.Signal}
			name := end(t.b)
			if g.Actor != nil {
				name = named(g.Actor)
			}
			how := spaced((&telling{x: &other}).how())
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
			s += fmt.Sprintf(" The FIN of %s was answered with a RST, because its peer's kernel kept nothing that could take it: both had said goodbye.", end(f))
			if complete(t.a, t.b) && t.a.lost().Unread != nil && (t.b == nil || t.b.lost().Unread != nil) {
				s += " No data was lost."
			}
			return s
		}
	}
	switch {
	case !complete(t.a, t.b):
	case t.b == nil:
		s += " Both FINs were acknowledged and nothing was lost at this end."
	default:
		s += " Both FINs were acknowledged and nothing was lost."
	}
	return s
}

func tellDescriptorHeld(t *telling) string {
	e := t.a.at(t.a.held)
	if who := t.a.c.Holders; len(who) > 0 {
		names := make([]string, len(who))
		for i := range who {
			names[i] = named(&who[i])
		}
		last := len(names) - 1
		list := names[last]
		if last > 0 {
			list = strings.Join(names[:last], ", ") + " and " + list
		}
		return fmt.Sprintf("%s closed its descriptor%s, but %s still held the socket when the trace ended: nothing was sent, and the connection is open.",
			t.who(), t.when(e), list)
	}
	return fmt.Sprintf("%s closed its descriptor%s, but %d more reference(s) to the socket exist (a forked child, dup, a descriptor passed on, or a thread inside a call): nothing was sent, and the connection is open.",
		t.who(), t.when(e), e.Refs-1)
}

func tellNeverAccepted(t *telling) string {
	return fmt.Sprintf("The kernel completed the handshake with %s, but the application that listens on %s has not accepted it.", t.a.c.Remote, t.a.c.Local)
}

func tellCloseWaitLeak(t *telling) string {
	return fmt.Sprintf("%s has finished (FIN), and %s has not closed its end. No timer will: only the process can.", t.other(), end(t.a))
}

func tellFinWait2Held(t *telling) string {
	return fmt.Sprintf("%s shut its sending side down and still holds the descriptor; %s has not sent its FIN. No timer applies while a process holds the socket.", end(t.a), t.other())
}

func tellFinStuck(t *telling) string {
	return fmt.Sprintf("%s closed, but its FIN has not been acknowledged by %s yet: it waits behind data in the send queue, or for its acknowledgement.", t.who(), t.other())
}

func tellStillOpen(t *telling) string {
	if !t.a.c.Found {
		return fmt.Sprintf("The connection between %s and %s is open, as far as was told: the kernel was not asked, or did not have it as it was told.", end(t.a), t.other())
	}
	return fmt.Sprintf("The connection between %s and %s is open.", end(t.a), t.other())
}

func tellUnknown(t *telling) string {
	if r := t.a.incoming(); r != nil && t.b == nil {
		return fmt.Sprintf("%s, or something that answers for it, reset the connection of %s. The RST itself was not seen here, so whether it came on its own or in answer to a segment is not known.%s",
			t.a.c.Remote, end(t.a), r.reading(t))
	}
	s := "How this connection ended could not be told from what was seen"
	if t.a.c.Replaced {
		return "The end of this connection was not seen: the kernel has used the memory of its socket for another connection since."
	}
	if t.a.closed != none {
		s += fmt.Sprintf(" (%s → CLOSE, %s)", t.a.end().State, t.a.end().Err)
	}
	return s + "."
}
