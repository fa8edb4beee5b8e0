package verdict

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// A reset came in, and its cause lies elsewhere.
const (
	NoSocket  Cause = "no-socket"  // a segment for a connection that is gone
	PortReuse Cause = "port-reuse" // a new SYN met an old twin of the same addresses and ports
	PathReset Cause = "path-reset" // a RST that the peer's stack did not send
	PeerAbort Cause = "peer-abort" // remote: the peer aborted (RST with ACK)
	PeerGone  Cause = "peer-gone"  // remote: the peer no longer knows the connection (bare RST)
)

var noSocket = Rule{
	Cause: NoSocket, Class: Aborted, find: findNoSocket,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s sent a segment to %s, and a kernel that knew no such connection answered with a RST.", end(t.a), t.a.c.Remote)
	},
	hint: moved,
	symptoms: map[string]int{"ECONNRESET": 7, "EPIPE": 5, "SIGPIPE": 5, "recv() failed (104": 6, "NOT_SPECIFIED": 1, "NO_SOCKET": 2, "TCP_FLAGS": 1, "ERROR": 1, "OutRsts": 1, "TCPTimeWaitOverflow": 4,
		"SyncookiesFailed": 1},
	What: "A segment met a kernel that no longer has such a connection, and a RST came back. " +
		"tcp_v4_rcv (tcp_v6_rcv) finds no socket for the addresses and ports, and tcp_v4_send_reset answers with a bare RST whose sequence number is the segment's acknowledgement number. An ACK that reaches a listener without a matching request gets the same. " +
		"The connection had ended there before: a restart, a FIN_WAIT2 that ran out (a late answer then finds nothing), a retransmission timeout that the other end never heard of, a connection moved away, or segments that lost their address translation and reached the wrong stack. " +
		"Only OutRsts counts it; from 6.12 the reset reason is NO_SOCKET (1), or TCP_FLAGS (6) at a listener. Up to 6.1 the tracepoint tcp_send_reset does not fire without a socket.",
	Prove: "`tcpdump -nni any tcp port PORT` on the host that answers shows a segment, then [R] without ACK. " +
		"`ss -tan` there has no such connection. " +
		"`bpftrace -e 'kprobe:tcp_v4_send_reset /arg0 == 0/ { printf(\"no socket\\n\"); }'` fires for each (tcp_v6_send_reset for IPv6).",
	Do:     "Look for what ended the connection at that host before: a restart, a timeout, an address translation that forgot it. The RST is only the echo.",
	Belief: "\"The RST in the capture is the cause.\"",
	Truth:  "It is often the echo: look for the earlier FIN, close, timeout or idle gap. After a complete and acknowledged exchange it is harmless.",
	Refs:   []string{"RFC 9293 3.5.2", "RFC 9293 3.10.7.1", "tcp_v4_rcv", "tcp_v4_send_reset", "tcp_check_req"},
}

func findNoSocket(a, b *facts, s Scope) *finding {
	if !a.rst || a.refusedFin(b) {
		return nil // of the latter nothing was lost: it is as if both had said goodbye
	}
	for _, state := range []event.State{0, event.Listen} {
		if i := a.resetElsewhere(state); i != none {
			// A listener of MPTCP also resets a subflow that it does not want: what
			// became of that is the other end's to tell.
			return &finding{by: byOther, a: []int{a.reset, a.closed}, elseA: []int{i}, needs: []event.Hook{event.HookSendReset},
				// A socket that was there by all that was told of it had been taken out
				// of the hash table before: by what was not seen.
				likely: state == event.Listen && a.at(a.reset).MPTCP || b != nil && (b.closed == none || b.at(b.closed).Time > a.c.Elsewhere[i].Time)}
		}
	}
	return nil
}

// moved: another network namespace of this machine, which has the address by now,
// answered for a connection that still stands in the first.
func moved(t *trial) (says, do string) {
	f, other := t.self, t.peer
	if other == nil || other.c.NetNS == 0 {
		return "", ""
	}
	i := f.resetElsewhere(0)
	if i == none {
		i = f.resetElsewhere(event.Listen)
	}
	if i == none {
		return "", ""
	}
	e := &f.c.Elsewhere[i]
	if e.NetNS == 0 || e.NetNS == other.c.NetNS || f.c.Host != other.c.Host || other.closed != none && other.at(other.closed).Time <= e.Time {
		return "", ""
	}
	return fmt.Sprintf("The RST came from the network namespace %d, which has the address %s now; the connection is still open in the namespace %d, at %s.",
			e.NetNS, f.c.Remote.Addr(), other.c.NetNS, end(other)),
		"The address has moved to another host or container, which does not know the old connections: after a failover clients have to connect again. Only keepalive tells the old end."
}

var portReuse = Rule{
	Cause: PortReuse, Class: Aborted, own: true, find: findPortReuse,
	describe: func(t *trial) string {
		return fmt.Sprintf("A new connection was opened from %s, and %s still had an old connection to that address and port. The old end challenged the SYN with an ACK, and the kernel of the new one, which did not know the old connection, reset it.", t.a.c.Remote, end(t.a))
	},
	hint: neverClosed,
	symptoms: map[string]int{"ECONNRESET": 10, "TCP_INVALID_ACK_SEQUENCE": 1, "TCP_RFC7323_PAWS": 1, "TCP_TOO_OLD_ACK": 2, "TCP_ACK_UNSENT_DATA": 2, "TCP_OLD_ACK": 2, "TCP_TIMEWAIT_SOCKET": 2,
		"OutRsts": 11, "TCPChallengeACK": 1, "TCPSYNChallenge": 1, "PAWSEstab": 3},
	What: "A new SYN came from the addresses and ports of an old connection that was still open. " +
		"The old end does not believe a SYN on an established connection: tcp_validate_incoming sends a challenge ACK (TCPSYNChallenge, TCPChallengeACK). The new end, in SYN_SENT, cannot use that ACK and its kernel answers with a bare RST that fits the old connection exactly, which ends it; the SYN is then sent again and succeeds. " +
		"The owner of the old end gets ECONNRESET. From 6.12 the RST's reason is TCP_INVALID_ACK_SEQUENCE (2). " +
		"It means that the other end lost the old connection without closing it: a crash, a machine restored from a snapshot, a NAT or load balancer that reused the port.",
	Prove: "`nstat -az TcpExtTCPSYNChallenge TcpExtTCPChallengeACK` moves at the host with the old end. " +
		"`tcpdump -nni any tcp port PORT` shows [S] on an open connection, [.] in answer, [R], then a second [S] and [S.].",
	Do:     "Find out why the other end forgot the old connection without closing it: a crash, a restored machine, a NAT that reuses ports early. Keepalive at this end clears such leftovers sooner.",
	Belief: "\"tcp_tw_recycle is a good tuning.\"",
	Truth:  "It was removed in 4.12, because it refused new connections of clients behind one NAT by their timestamps. A TIME_WAIT gives way to a new SYN with a newer timestamp or sequence number by itself.",
	Refs:   []string{"RFC 9293 3.5.1", "RFC 5961 4", "RFC 6191", "RFC 7323 5", "tcp_validate_incoming", "tcp_rcv_state_process"},
}

// findPortReuse: the other side opened a new connection from the same address and
// port; our challenge ACK made its kernel reset this old one.
func findPortReuse(a, b *facts, s Scope) *finding {
	if !a.rst {
		return nil
	}
	if i := a.resetElsewhere(event.SynSent); i != none {
		return &finding{by: byOther, a: []int{a.reset, a.closed}, elseA: []int{i}}
	}
	return nil
}

// neverClosed: the old connection that a new one met was over for the other end long
// before, but this end's process had not closed.
func neverClosed(t *trial) (says, do string) {
	f := t.self
	if !before(f.peerFin, f.reset) || f.at(f.reset).State != event.CloseWait {
		return "", ""
	}
	return fmt.Sprintf("%s itself had finished the old connection %s before, and %s never closed its end (CLOSE_WAIT); that is why it still existed.",
			f.c.Remote, span(f.at(f.reset).Time-f.at(f.peerFin).Time), end(f)),
		fmt.Sprintf("Close the connection in %s when its peer has finished (recv(2) returns 0); `ss -tanp state close-wait` lists those that are left.", end(f))
}

var pathReset = Rule{
	Cause: PathReset, Class: Aborted, find: findPathReset, describe: describePathReset,
	symptoms: map[string]int{"ECONNRESET": 9, "ECONNREFUSED": 2, "EstabResets": 8, "TCPChallengeACK": 2},
	What: "A RST came in the name of the peer, but the peer's TCP stack did not send it. " +
		"The receiver cannot tell: tcp_validate_incoming accepts any RST whose sequence number is exactly the next one, and tcp_reset ends the connection with ECONNRESET. " +
		"Senders of such segments are packet filters (nft reject with tcp reset, iptables REJECT --reject-with tcp-reset: nf_send_reset, nf_send_reset6), raw sockets, user-space stacks, and firewalls, load balancers and address translators on the path that dropped the flow. " +
		"nf_send_reset goes past the TCP stack: OutRsts does not move, and the tracepoint tcp_send_reset does not fire. " +
		"With both ends on this machine that is proof. Of a remote peer, tcpbye compares the TTL (or hop limit) of the RST with that of the peer's segment of the handshake: more than two hops apart, another machine is the likely sender. The same holds for a timestamp option (RFC 7323) of a RST with an ACK that is older than one that the peer had sent before: its clock never runs backwards. It says no more than likely, because a route can change, and some stacks give their resets a TTL of their own. A RST without the option says nothing: an answer for a socket that is not there has none.",
	Prove: "`tcpdump -nnvi any tcp port PORT` prints ttl and id: compare those of the RST with those of the peer's other segments. " +
		"`nft list ruleset | grep -n reset` and `iptables-save | grep tcp-reset` show local rules. " +
		"`bpftrace -e 'kprobe:nf_send_reset { printf(\"reject\\n\"); }'` fires if the filter did it (the function lives in the module nf_reject_ipv4). " +
		"Capture at both ends: a RST that one end receives and the other never sent was made in between.",
	Do:     "Look for reject rules on this host, then for firewalls, load balancers and NAT between the two; keepalive below their idle limit keeps the flow known to them.",
	Belief: "\"The source address of the RST is the guilty host.\"",
	Truth:  "Devices on the path put the peer's address on the resets that they make, and sometimes a third stack, reached by a segment without its address translation, answers in good faith. Only a tcp_send_reset event (or OutRsts) on that host proves that it sent the RST.",
	Refs:   []string{"RFC 5961 3", "RFC 9293 3.5.3", "nft(8)", "iptables-extensions(8)", "nf_send_reset", "tcp_validate_incoming", "tcp_reset"},
}

func findPathReset(a, b *facts, s Scope) *finding {
	if !a.rst {
		return nil
	}
	// What came from as far as the handshake did, came from where it did.
	if b == nil && !neverEstablished(a) && (a.incoming().Elsewhere() || a.incoming().unprompted()) {
		return &finding{by: byPath, a: []int{a.established, a.reset, a.closed}, likely: true}
	}
	loopback := a.c.Remote.Addr().IsLoopback()
	if b == nil && !(loopback && neverEstablished(a)) {
		return nil
	}
	if a.resetSent(b) {
		return nil
	}
	x := &finding{by: byPath, a: []int{a.reset, a.closed}, needs: []event.Hook{event.HookSendReset, event.HookSendActiveReset, event.HookReset}}
	if neverEstablished(a) {
		x.class = Refused
	}
	// With the other end still there its silence is proof. With none, it may
	// live elsewhere under other addresses (NAT).
	x.likely = b == nil || (b.closed != none || b.destroy != none) && !b.rst
	// A classic tracepoint does not record to whom a listener's reset went.
	if x.likely && a.end().Has&event.HasSocket == 0 {
		return nil
	}
	// "Nobody here sent it" is only as good as the view of everything sent.
	for _, h := range []event.Hook{event.HookSendReset, event.HookSendActiveReset} {
		if !s.all(h) && x.likely || !s.has(h) {
			return nil
		}
	}
	if a.c.Lossy || b != nil && b.c.Lossy {
		return nil
	}
	return x
}

func describePathReset(t *trial) string {
	r := t.a.incoming()
	if t.b == nil && r.Elsewhere() {
		return fmt.Sprintf("%s received a RST in the name of %s that another machine is likely to have sent: %s. Firewalls, load balancers and NATs on the path do so%s.%s",
			end(t.a), t.a.c.Remote, r.differs(t.a.c.Family), r.orElse(), r.reading(t))
	}
	if t.b == nil && r.unprompted() {
		return fmt.Sprintf("%s received a bare RST in the name of %s, the form that answers a segment, when there was nothing to answer: everything had been acknowledged. A firewall or a load balancer on the path is likely to have sent it; a machine that opens a new connection from the same port looks the same.%s",
			end(t.a), t.a.c.Remote, r.reading(t))
	}
	where := "is on this machine"
	if t.b != nil && t.b.c.Host != t.a.c.Host {
		where = "was traced on " + event.Quote(t.b.c.Host)
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
	if r.hops() > nearHops {
		name := "TTL"
		if family == event.IPv6 {
			name = "hop limit"
		}
		all = append(all, fmt.Sprintf("it came with %s %d, the peer's segment of the handshake with %d", name, r.Segment.TTL, r.Handshake.TTL))
	}
	if r.backwards() != 0 {
		all = append(all, fmt.Sprintf("its timestamp (%d) is older than one that the peer had sent before (%d)", r.Timestamps.Value, r.Timestamps.Recent))
	}
	return strings.Join(all, ", and ")
}

// orElse says what else would look like a RST that differs so.
func (r *Reset) orElse() string {
	if r.backwards() != 0 {
		return "; so does whoever forges a RST and guesses the timestamp"
	}
	return "; a changed route, or a stack that gives its resets a TTL of their own, looks the same"
}

var peerAbort = Rule{
	Cause: PeerAbort, Class: Aborted, own: true, find: findPeerAbort, describe: describePeerAbort, probe: acceptedAndReset,
	symptoms: map[string]int{"ECONNRESET": 2, "EPIPE": 4, "ENOTCONN": 1, "SIGPIPE": 4, "recv() failed (104": 4, "EstabResets": 1},
	What: "The peer, or something that answers for it, aborted the connection with RST and ACK. " +
		"A Linux stack puts an ACK on a RST that it sends of its own accord (tcp_send_active_reset): a close over unread data, SO_LINGER at zero, a listener closed with the connection in its queue, keepalive given up, ss -K. A RST that only answers a segment is bare. " +
		"Here tcp_validate_incoming checks the sequence number and tcp_reset sets sk_err: ECONNRESET, or EPIPE if the peer's FIN had come before. " +
		"The send queue is purged, but what was received stays readable. EstabResets moves at this end.",
	Prove: "`tcpdump -nni any tcp port PORT` shows [R.] that no segment of this end had provoked. " +
		"At the peer: `nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData TcpExtTCPAbortOnTimeout` says which kind of abort it was, and tcpbye there names the process.",
	Do:     "Trace at the peer to learn which process aborted and why; most often it closed with input unread. Here: after a failed write, still read what has arrived.",
	Belief: "\"send() succeeded, so the peer got it.\" \"ECONNRESET means that the peer crashed, or a firewall.\" \"A RST wipes what I have already received.\"",
	Truth: "It reached the local kernel, nothing more: a RST that comes later destroys what is unacknowledged (measured: 472,000 of 600,000 bytes), and even what is acknowledged need not have been read. " +
		"Most often a healthy program closed with input unread; a process that is killed with nothing unread sends a FIN. " +
		"On Linux queued bytes stay readable, then ECONNRESET comes once: after a write error, read what is left (other systems may discard it).",
	Refs: []string{"RFC 9293 3.5.2", "RFC 9293 3.5.3", "RFC 5961 3", "send(2)", "recv(2)", "tcp_send_active_reset", "tcp_reset"},
}

// acceptedAndReset: it came from a listener here, and whoever had connected reset it.
func acceptedAndReset(t *trial) bool { return t.self.c.Open == conn.OpenPassive }

func findPeerAbort(a, b *facts, s Scope) *finding {
	if b == nil && a.closed != none && a.resetInFinWait2() {
		// Everything was acknowledged, so it answered nothing.
		return &finding{by: byPeer, a: []int{a.release, a.miniEnd}, likely: true}
	}
	if !a.rst || b != nil || neverEstablished(a) {
		return nil
	}
	// Without the segment the two kinds of reset cannot be told apart.
	e := a.at(a.reset)
	if e.Has&event.HasSegment == 0 || e.Segment.Flags&event.ACK == 0 {
		return nil
	}
	// Middleboxes send this form, too.
	return &finding{by: byPeer, a: []int{a.reset, a.closed}, needs: []event.Hook{event.HookSendActiveReset}, likely: true}
}

func describePeerAbort(t *trial) string {
	if t.a.resetInFinWait2() {
		_, lived := t.a.waitTimes()
		return fmt.Sprintf("%s had closed and waited for the FIN of %s; a RST came instead, %s later, and was no answer to anything: the other end aborted the connection, or something on the path did.", end(t.a), t.other(), seconds(lived))
	}
	return fmt.Sprintf("%s aborted the connection: its RST came on its own, not in answer to a segment.%s", t.a.c.Remote, t.a.incoming().reading(t))
}

var peerGone = Rule{
	Cause: PeerGone, Class: Aborted, own: true, find: findPeerGone, describe: describePeerGone, probe: acceptedAndReset,
	symptoms: map[string]int{"ECONNRESET": 3, "EPIPE": 2, "SIGPIPE": 2, "EOF": 4, "read() = 0": 6, "upstream prematurely closed connection": 3, "recv() failed (104": 5, "EstabResets": 2},
	What: "The peer, or something that answers for it, no longer takes part: a bare RST came back. " +
		"A RST without ACK answers a segment: its sequence number is taken from that segment's acknowledgement number. A Linux peer sends it when the process has closed and data still comes, or when its kernel has no such connection any more (a restart, a timeout); a device on the path does so when it has forgotten the flow. " +
		"From this end alone these look the same. What the answered segment carried was read by nobody. " +
		"tcp_reset sets sk_err: EPIPE if the peer's FIN had come before (CLOSE_WAIT), else ECONNRESET. EstabResets moves at this end.",
	Prove: "`tcpdump -nni any tcp port PORT` shows a segment of this end, then [R] without ACK. A [F.] from the peer before it means that the peer had closed; a long silence before it points to a timeout or to the path. " +
		"`ss -tan` at the peer says whether the connection still exists there: if it does, the RST came from the path.",
	Do:     "Look at what came before the RST: with a FIN, the peer's close is the cause; after long silence, shorten keepalive or the pool's idle time. Tracing at the peer decides it.",
	Belief: "\"A reset always shows as ECONNRESET.\"",
	Truth:  "After the peer's FIN it shows as end of file on read and as EPIPE on write. Once another call has collected the error (a failed write, SO_ERROR), it shows as a clean end of file, and some runtimes and TLS libraries hide it altogether.",
	Refs:   []string{"RFC 9293 3.5.1", "RFC 9293 3.5.2", "recv(2)", "send(2)", "tcp_v4_send_reset", "tcp_reset"},
}

func findPeerGone(a, b *facts, s Scope) *finding {
	if !a.rst || b != nil || neverEstablished(a) || a.at(a.reset).Has&event.HasSegment == 0 {
		return nil
	}
	// A filter on the path answers in just the same way.
	return &finding{by: byPeer, a: []int{a.reset, a.closed}, needs: []event.Hook{event.HookSendReset}, likely: true}
}

func describePeerGone(t *trial) string {
	r := t.a.incoming()
	if r != nil && r.AfterFin != nil && r.Answers == AnswerData && t.a.sentAfterFin() {
		text := fmt.Sprintf("%s finished first (FIN)", t.a.c.Remote)
		quiet := idle(t.a, nil, age(t.a, nil))
		if quiet != nil && *quiet >= time.Second {
			text += ", after " + seconds(*quiet) + " without payload either way"
		}
		text += fmt.Sprintf("; data that %s sent after that was answered with a bare RST, %s after the FIN: nobody read it.", end(t.a), span(*r.AfterFin))
		if quiet != nil && *quiet >= time.Second && *r.AfterFin < time.Second {
			text += " This is what a keep-alive timeout looks like when it meets the next request on its way."
		}
		rest := *r
		rest.AfterFin = nil // it is said
		return text + rest.reading(t)
	}
	return fmt.Sprintf("%s, or something that answers for it, no longer takes part in the connection: it answered %s with a bare RST.%s", t.a.c.Remote, r.answered(t), r.reading(t))
}

// sentAfterFin says whether this end sent payload between the peer's FIN and the
// reset. Sequence numbers tell that more exactly than jiffies.
func (f *facts) sentAfterFin() bool {
	fin, rst := f.at(f.peerFin), f.at(f.reset)
	return before(f.peerFin, f.reset) && fin.Has&rst.Has&event.HasTCP != 0 && f.fin == none && int32(rst.SndNxt-fin.SndNxt) > 0
}

// answered says what a RST was an answer to.
func (r *Reset) answered(t *trial) string {
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

// reading says when a reset came, in answer to what, and to which sequence
// number; it begins with a space.
func (r *Reset) reading(t *trial) string {
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
		fmt.Fprintf(&b, " It carried a text, which some firewalls and load balancers write and Linux never does: %s.", strconv.QuoteToASCII(r.Text))
	}
	return b.String()
}
