package verdict

import (
	"fmt"
	"slices"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// The kernel gives up: the peer did not answer.
const (
	RetransmitTimeout Cause = "retransmit-timeout"  // data was never acknowledged
	UserTimeout       Cause = "user-timeout"        // data was not acknowledged within TCP_USER_TIMEOUT
	ZeroWindowTimeout Cause = "zero-window-timeout" // probes of a closed window were not answered
	KeepaliveTimeout  Cause = "keepalive-timeout"   // keepalive probes were not answered
)

// gaveUp says whether this end's kernel ended it from a timer, without a
// packet.
func (f *facts) gaveUp() bool {
	if f.closed == none || f.rst || f.abandoned || f.active != none || f.timeWait != none && f.timeWait < f.closed || f.answer != none {
		return false
	}
	e := f.end()
	// tcp_write_err: the soft error that ICMP left, else ETIMEDOUT.
	if e.Err != event.Errno(unix.ETIMEDOUT) && (e.Err == 0 || e.Err != e.ErrSoft) {
		return false
	}
	return e.Context != event.ContextProcess && (e.Err != 0 || e.SkFlags&event.SockDead != 0) && e.WriteSeq != e.SndUna &&
		e.State != event.SynSent
}

// heardNothing completes a finding that says that the peer did not answer what
// this host sent: whether it was sent, the hooks on sending say.
func (f *facts) heardNothing(x *finding) *finding {
	e := f.end()
	x.likely = x.likely || f.heldBack() || f.neighborPending()
	if e.Retransmits > 0 {
		x.needs = append(x.needs, event.HookRetransmit)
	}
	if e.ProbesOut > 0 {
		x.needs = append(x.needs, event.HookProbe)
	}
	if e.ErrSoft != 0 {
		x.needs = append(x.needs, event.HookNeighbor, event.HookICMP)
		if i := f.icmp(e.ErrSoft); i != none {
			x.a = append(x.a, i)
			if !f.at(i).Loopback && x.advice == "" {
				x.advice = fmt.Sprintf("Ask %s, or whoever runs it, why it does not forward: it said %s.", f.at(i).From.Addr(), ICMPText(f.at(i)))
			}
		}
	}
	slices.Sort(x.needs)
	x.needs = slices.Compact(x.needs)
	return x
}

// jiffies is how much a kernel timer and the clock of the jiffies may differ.
const jiffies = 20 * time.Millisecond

// softly says which ICMP error was kept while the kernel went on trying, and by
// whom it was sent; it begins with a space.
func (f *facts) softly() string {
	e := f.end()
	if e.ErrSoft == 0 {
		return ""
	}
	i := f.icmp(e.ErrSoft)
	n, _ := f.thrownAway()
	switch {
	case n > 0:
		return fmt.Sprintf(" %d of its segments never left this host: the next hop did not answer, and the process was told %s instead of ETIMEDOUT.", n, e.ErrSoft)
	case i == none:
		return fmt.Sprintf(" Meanwhile an error was noted (ICMP, or this host's own routing), so the process was told %s instead of ETIMEDOUT.", e.ErrSoft)
	case f.at(i).Loopback:
		return fmt.Sprintf(" Meanwhile this host itself said %s (a packet filter that rejects, or its neighbor look-up), so the process was told %s instead of ETIMEDOUT.", ICMPText(f.at(i)), e.ErrSoft)
	}
	return fmt.Sprintf(" Meanwhile %s said %s, so the process was told %s instead of ETIMEDOUT.", f.at(i).From.Addr(), ICMPText(f.at(i)), e.ErrSoft)
}

var retransmitTimeout = Rule{
	Cause: RetransmitTimeout, Class: TimedOut, find: findRetransmitTimeout,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s never acknowledged data of %s although it was sent again %s, so this kernel gave up. No packet was sent: the peer may still think that the connection is open.", t.other(), end(t.a), t.a.sentAgain()) + t.a.softly() + t.a.blackHole()
	},
	resends: true, hint: onlyLarge,
	symptoms: map[string]int{"ETIMEDOUT": 2, "ECONNREFUSED": 5, "EHOSTUNREACH": 4, "ENETUNREACH": 4, "upstream timed out": 5, "NO_SOCKET": 5, "TCPAbortOnTimeout": 1, "EstabResets": 11, "TCPTimeouts": 1,
		"PAWSEstab": 1, "RetransSegs": 1, "TCPBacklogDrop": 1, "TCPRetransFail": 2, "OutOfWindowIcmps": 3, "TCPMD5NotFound": 2, "ESTABLISHED": 4},
	What: "The peer never acknowledged data that was sent again and again, so this kernel gave up. " +
		"tcp_retransmit_timer sends the first unacknowledged segment again with doubled waits, until net.ipv4.tcp_retries2 (15, about 15 minutes with the smallest timeout) is used up; then tcp_write_err, inlined into it, ends the socket. " +
		"No packet is sent: the peer may hold its end in ESTABLISHED forever, and when it sends, it is answered with a RST, because the socket is gone. " +
		"The process gets ETIMEDOUT, or the error of an ICMP message that came in the meantime (sk_err_soft), such as EHOSTUNREACH. " +
		"TCPTimeouts and RetransSegs count the attempts, TCPAbortOnTimeout the end.",
	Prove: "`ss -tanoi` shows timer:(on,…,N) with N growing, and unacked and backoff. " +
		"`nstat -az TcpExtTCPTimeouts TcpRetransSegs TcpExtTCPAbortOnTimeout` moves. " +
		"`tcpdump -nni any tcp port PORT` shows the same segment leave at doubled intervals, and nothing come back.",
	Do:     "Look for what swallowed the segments: a host that is down, a route, or a NAT or firewall that dropped the idle flow. Set TCP_USER_TIMEOUT to learn of it sooner.",
	Belief: "\"When a connection times out, the peer is told.\"",
	Truth:  "Giving up after retransmissions sends nothing, and the peer stays ESTABLISHED until it sends or probes itself. Only the end by keepalive sends a RST.",
	Refs:   []string{"RFC 9293 3.8.3", "RFC 6298", "tcp(7)", "tcp_retransmit_timer", "tcp_write_timeout", "tcp_write_err"},
}

func findRetransmitTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().SndNxt == a.end().SndUna || a.end().Retransmits == 0 {
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset}}
	if sure, may := a.tooLarge(); sure || may {
		x.advice = blackHoleAdvice
	}
	return a.heardNothing(x)
}

// sentAgain says how often data was sent again; some tries may not have left this host.
func (f *facts) sentAgain() string {
	e := f.end()
	n, refused, busy := int(e.Retransmits), f.refused(), int(e.BusyTries)
	s := fmt.Sprintf("%d times", max(0, n-refused-busy))
	if max(0, n-refused-busy) == 1 {
		s = "once"
	}
	if refused > 0 {
		s += fmt.Sprintf(", and in the last %d tries could not leave this host", refused)
	}
	if busy > 0 {
		s += fmt.Sprintf(" (%d more tries were put off, because an earlier copy was still queued in this host)", busy)
	}
	return s
}

// tooLarge says whether only full-size segments had no answer: what came behind
// them was acknowledged selectively, or all that ever was acknowledged was
// smaller.
func (f *facts) tooLarge() (sure, may bool) {
	e := f.end()
	if !e.WindowKnown || e.MSS == 0 || e.SndNxt-e.SndUna < e.MSS || f.refused() > 0 {
		return false, false
	}
	acked := f.bytes.Acked
	return e.Sacked > 0, acked != nil && *acked > 0 && *acked < uint64(e.MSS)
}

// blackHole is the hint at a path that swallows full-size segments; it begins with
// a space.
func (f *facts) blackHole() string {
	mss := f.end().MSS
	switch sure, may := f.tooLarge(); {
	case sure:
		return fmt.Sprintf(" Smaller segments behind it were acknowledged (SACK), the full-size one (%d bytes) never: this is what a path looks like that drops packets of that size without saying so (a path MTU black hole).", mss)
	case may:
		return fmt.Sprintf(" Only segments smaller than a full-size one (%d bytes) were ever acknowledged: the path may be dropping packets of that size without saying so (a path MTU black hole).", mss)
	}
	return ""
}

const blackHoleAdvice = "Try `ping -M do -s SIZE` along the path. Let ICMP \"fragmentation needed\" (IPv6: packet too big) pass there, clamp the MSS to the path MTU, or set net.ipv4.tcp_mtu_probing to 1."

// onlyLarge: what was never acknowledged fills a segment, and smaller ones had come
// through before. It is a hint, no more.
func onlyLarge(t *trial) (says, do string) {
	f := t.self
	if f.blackHole() != "" {
		return "", "" // it is in the sentence
	}
	e := f.end()
	if e.Has&event.HasTCP == 0 || e.ErrSoft == event.Errno(unix.EHOSTUNREACH) {
		return "", ""
	}
	flight, queued := f.unacknowledged(e)
	b := f.bytes
	if flight < large || flight+queued < large || b.Acked == nil || b.Received == nil || *b.Acked == 0 && *b.Received == 0 || *b.Acked >= large {
		return "", ""
	}
	return "Only small segments had come through before; the first full-size one did not. The path may be dropping full-size packets without saying so (a path MTU black hole).",
		fmt.Sprintf("Try full-size packets: ping -M do -s 1472 %s, then smaller ones until one comes back. Then let the ICMP \"fragmentation needed\" or \"packet too big\" through, lower the MTU or clamp the MSS at the tunnel; net.ipv4.tcp_mtu_probing=1 finds the size by itself.", f.c.Remote.Addr())
}

// large is a segment that no path is too narrow for; the least that IPv6 asks of each
// link, with the headers off.
const large = 1220

var userTimeout = Rule{
	Cause: UserTimeout, Class: TimedOut, find: findUserTimeout, describe: describeUserTimeout, resends: true,
	symptoms: map[string]int{"ETIMEDOUT": 5, "ECONNREFUSED": 6, "EHOSTUNREACH": 6, "TCPAbortOnTimeout": 5, "TCPTimeouts": 3, "TCPWinProbe": 3, "PAWSEstab": 4, "RetransSegs": 3, "TCPBacklogDrop": 2},
	What: "Data stayed unacknowledged for longer than TCP_USER_TIMEOUT, so this kernel gave up. " +
		"The option (milliseconds, off by default) replaces net.ipv4.tcp_retries2 in tcp_retransmit_timer, and also limits how long tcp_write_timer_handler probes a zero window, even if the peer answers the probes. " +
		"No packet is sent: the peer may still think that the connection is open. The process gets ETIMEDOUT, or the error of an ICMP message that came in the meantime. " +
		"TCPAbortOnTimeout moves. Several runtimes and RPC libraries set the option without being asked.",
	Prove: "`strace -f -e trace=setsockopt -p PID` shows TCP_USER_TIMEOUT and its value. " +
		"`ss -tanoi` shows timer:(on,…) or timer:(persist,…) with the age of what is unacked. " +
		"`nstat -az TcpExtTCPAbortOnTimeout` moves by 1.",
	Do:     "Check whether the time fits the path: it must outlast the longest interruption that the connection should survive. Then look for what swallowed the segments, or why the peer did not read.",
	Belief: "\"TCP_USER_TIMEOUT finds every dead peer.\"",
	Truth:  "By itself it runs only while data is unacknowledged or a window is closed. An idle connection to a dead peer stays open unless keepalive is on too.",
	Refs:   []string{"RFC 5482", "RFC 9293 3.8.3", "tcp(7)", "tcp_retransmit_timer", "tcp_write_timer_handler"},
}

func findUserTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().UserTimeout == 0 {
		return nil
	}
	// tcp_retransmit_timer looks at nothing else then; tcp_probe_timer ends
	// earlier where the probes have run out.
	e := a.end()
	if limit := time.Duration(e.UserTimeout) * time.Millisecond; e.Retransmits == 0 && e.SinceProbing != 0 && e.SinceProbing < limit-jiffies {
		return nil
	}
	return a.heardNothing(&finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset}})
}

func describeUserTimeout(t *trial) string {
	closed := ""
	if t.a.orphan(t.a.closed) {
		closed = ", which had closed,"
	}
	return fmt.Sprintf("%s left data of %s%s unacknowledged for longer than TCP_USER_TIMEOUT (%d ms), so this kernel gave up. No packet was sent: the peer may still think that the connection is open.",
		t.other(), end(t.a), closed, t.a.end().UserTimeout) + t.a.softly() + t.a.blackHole()
}

var zeroWindowTimeout = Rule{
	Cause: ZeroWindowTimeout, Class: TimedOut, find: findZeroWindowTimeout, describe: describeZeroWindowTimeout, resends: true,
	symptoms: map[string]int{"ETIMEDOUT": 6, "ECONNREFUSED": 8, "EHOSTUNREACH": 7, "TCPAbortOnTimeout": 6, "TCPWinProbe": 2, "TCPToZeroWindowAdv": 3},
	What: "The peer kept its receive window closed and then stopped answering the probes. " +
		"With data to send and nothing in flight, tcp_write_timer_handler runs the persist timer (tcp_probe_timer, inlined): a probe with doubled waits. An answer, even one that says zero again, starts the count anew, so the kernel waits without limit for a peer that merely does not read. " +
		"After net.ipv4.tcp_retries2 (15) probes without any answer the kernel gives up. " +
		"No packet is sent. The process gets ETIMEDOUT, or the error of an ICMP message that came in the meantime; TCPAbortOnTimeout moves, and what was in the send queue is lost.",
	Prove: "`ss -tanoi` shows timer:(persist,…) with Send-Q above 0. " +
		"`tcpdump -nni any tcp port PORT` shows win 0 from the peer, then probes at growing intervals without an answer. " +
		"`nstat -az TcpExtTCPAbortOnTimeout TcpExtTCPWinProbe` moves.",
	Do:   "Find out why the peer's process stopped reading before its host fell silent. Set TCP_USER_TIMEOUT if this end must not wait that long.",
	Refs: []string{"RFC 9293 3.8.6.1", "tcp(7)", "tcp_write_timer_handler", "tcp_probe_timer"},
}

func findZeroWindowTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().ProbesOut == 0 {
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset}}
	// An open window that a whole segment fits into is not why it was probed.
	if e := a.end(); e.WindowKnown && a.room() >= max(1, e.MSS) {
		return nil
	} else if !e.WindowKnown {
		x.likely = true
	}
	return a.heardNothing(x)
}

func describeZeroWindowTimeout(t *trial) string {
	window := "at zero"
	if n := t.a.room(); n > 0 && t.a.end().WindowKnown {
		window = fmt.Sprintf("at %s, too few for a segment,", plural(uint64(n)))
	}
	return fmt.Sprintf("%s kept its receive window %s and did not answer %d probes, so this kernel gave up. No packet was sent.", t.other(), window, t.a.end().ProbesOut) + t.a.softly()
}

// room is how many more bytes the peer's window takes at the end.
func (f *facts) room() uint32 {
	e := f.end()
	if left := e.SndUna + e.SndWnd - e.SndNxt; int32(left) > 0 {
		return left
	}
	return 0
}

var keepaliveTimeout = Rule{
	Cause: KeepaliveTimeout, Class: TimedOut, find: findKeepaliveTimeout, describe: describeKeepaliveTimeout,
	symptoms: map[string]int{"ECONNRESET": 11, "ETIMEDOUT": 4, "ECONNREFUSED": 7, "EHOSTUNREACH": 5, "ENETUNREACH": 5, "NOT_SPECIFIED": 5, "TCP_KEEPALIVE_TIMEOUT": 1, "TCPAbortOnTimeout": 4,
		"TCPAbortFailed": 4, "EstabResets": 10, "OutRsts": 7, "TCPKeepAlive": 1, "TCPMD5NotFound": 3, "ESTABLISHED": 5},
	What: "The peer answered none of the keepalive probes, so this kernel gave up and sent a RST. " +
		"With SO_KEEPALIVE on, tcp_keepalive_timer probes after TCP_KEEPIDLE seconds without traffic (default 7200), then every TCP_KEEPINTVL (75), and gives up after TCP_KEEPCNT probes (9) without an answer; if TCP_USER_TIMEOUT is set, that time decides instead once a probe is out. " +
		"tcp_send_active_reset then sends RST with ACK, which the peer may or may not get, and the process reads ETIMEDOUT, or the error of an ICMP message that came in the meantime. " +
		"TCPKeepAlive counts the probes, TCPAbortOnTimeout the end; from 6.12 the reset reason is TCP_KEEPALIVE_TIMEOUT (15). No data was under way.",
	Prove: "`ss -tano` shows timer:(keepalive,…) and the number of unanswered probes before the end. " +
		"`nstat -az TcpExtTCPKeepAlive TcpExtTCPAbortOnTimeout` moves. " +
		"`tcpdump -nni any tcp port PORT` shows ACKs without data at the interval, no answers, then [R.].",
	Do:     "Find out where the peer went: its host, or a NAT or firewall that dropped the idle flow without a word. Probe more often than the shortest idle limit on the path (TCP_KEEPIDLE).",
	Belief: "\"Keepalive protects all connections.\"",
	Truth:  "It is off unless the program turns it on, waits 2 hours by default, and is silent while data is unacknowledged: there retransmission decides, for about 15 minutes unless TCP_USER_TIMEOUT is set.",
	Refs:   []string{"RFC 9293 3.8.4", "tcp(7)", "socket(7)", "tcp_keepalive_timer", "tcp_send_active_reset"},
}

func findKeepaliveTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUpProbing(s) {
		return nil
	}
	return a.heardNothing(&finding{by: byKernel, a: []int{a.active, a.closed}, needs: []event.Hook{event.HookSendActiveReset, event.HookProbe}})
}

func describeKeepaliveTimeout(t *trial) string {
	e := t.a.at(t.a.active)
	if e == nil {
		e = t.a.end()
	}
	return fmt.Sprintf("%s did not answer %d keepalive probes of %s, so this kernel gave up and sent a RST.", t.other(), e.ProbesOut, end(t.a)) + t.a.softly()
}

// gaveUpProbing says whether keepalive probes ran out.
func (f *facts) gaveUpProbing(s Scope) bool {
	if f.closed == none || f.rst {
		return false
	}
	e := f.at(f.active)
	if e == nil {
		if s.has(event.HookSendActiveReset) {
			return false
		}
		e = f.end()
	}
	return e.Context != event.ContextProcess && e.SkFlags&event.SockKeepOpen != 0 && e.SkFlags&event.SockDead == 0 &&
		e.WriteSeq == e.SndUna && e.ProbesOut != 0
}
