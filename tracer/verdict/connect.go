package verdict

import (
	"fmt"
	"net/netip"
	"strings"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// The connection was never established.
const (
	PortClosed       Cause = "port-closed"       // nobody listened, and a RST answered the SYN
	ConnectCancelled Cause = "connect-cancelled" // the process gave up connecting
	ConnectTimeout   Cause = "connect-timeout"   // the SYN was never answered
	Unreachable      Cause = "unreachable"       // ICMP, or no route
	HandshakeReset   Cause = "handshake-reset"   // a RST came before the handshake was complete
)

// neverEstablished says whether this end connected and was never established.
func neverEstablished(a *facts) bool {
	// The state tells, also of a connection whose beginning was not seen.
	return a.closed != none && (a.end().State == event.SynSent || a.end().State == event.SynRecv && a.c.Open == conn.OpenActive)
}

var portClosed = Rule{
	Cause: PortClosed, Class: Refused, find: findPortClosed, describe: describePortClosed, hint: listenElsewhere,
	symptoms: map[string]int{"ECONNREFUSED": 1, "NO_SOCKET": 1, "OutRsts": 2, "AttemptFails": 1},
	What: "Nobody listened on that address and port, and its kernel refused the SYN with a RST. " +
		"tcp_v4_rcv (tcp_v6_rcv) finds no socket, and tcp_v4_send_reset answers with RST and ACK, sequence number 0. Here the socket in SYN_SENT takes it in tcp_reset: connect(2) fails with ECONNREFUSED. " +
		"AttemptFails moves at the client, OutRsts at the host that refused; from 6.12 the reset reason there is NO_SOCKET (1). Up to 6.1 the tracepoint tcp_send_reset does not fire for it.",
	Prove: "`tcpdump -nni any tcp port PORT` shows [S], then [R.] with seq 0. " +
		"On the host, `ss -ltnp` shows what listens, and on which address: 127.0.0.1 is not reachable from outside, and in another network namespace the list is different. " +
		"`nstat -az TcpAttemptFails` moves at the client.",
	Do:     "Check with ss -ltnp on that host, in the right network namespace, that the server runs and listens on this address and port.",
	Belief: "\"ECONNREFUSED always comes from a RST.\"",
	Truth:  "An ICMP port unreachable, such as packet filters send, gives the same error without any RST. A capture tells them apart.",
	Refs:   []string{"connect(2)", "RFC 9293 3.10.7.1", "RFC 9293 3.5.2", "tcp_v4_rcv", "tcp_v4_send_reset", "tcp_reset"},
}

func findPortClosed(a, b *facts, s Scope) *finding {
	// From SYN_RECV (a simultaneous open) a RST refuses nothing: there was an
	// end that had sent a SYN of its own.
	if !neverEstablished(a) || !a.rst || a.end().State != event.SynSent {
		return nil
	}
	x := &finding{by: byPeer, a: []int{a.reset, a.closed}}
	for _, state := range []event.State{0, event.Listen} {
		if i := a.resetElsewhere(state); i != none {
			x.by, x.elseA = byOther, []int{i}
			return x
		}
	}
	// Nobody on this machine refused: the peer is remote, or a filter on the way
	// refused in its name. The RST looks the same.
	x.needsAll, x.likely = []event.Hook{event.HookSendReset}, true
	if a.c.Remote.Addr().IsLoopback() && s.all(event.HookSendReset) {
		return nil
	}
	return x
}

func describePortClosed(t *trial) string {
	s := fmt.Sprintf("Nobody listens on %s: its kernel answered the SYN of %s with a RST.", t.a.c.Remote, end(t.a))
	if t.a.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSendReset }) == none {
		s = fmt.Sprintf("%s, or something that answers for it, refused the SYN of %s with a RST.", t.a.c.Remote, end(t.a))
	}
	return s
}

// listenElsewhere names who listens on the port that was closed, on another address
// of the host that refused.
func listenElsewhere(t *trial) (says, do string) {
	f := t.self
	if f.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSendReset }) == none || len(f.c.Listeners) == 0 {
		return "", ""
	}
	var all []string
	for _, l := range f.c.Listeners {
		text := "a listener on " + l.Local.String()
		if l.Owner != nil {
			text += fmt.Sprintf(" (%s/%s)", event.Quote(l.Owner.Comm), event.PIDText(l.Owner.PID))
		}
		all = append(all, text)
	}
	verb, pronoun := "is", "it does"
	if len(all) > 1 {
		verb, pronoun = "are", "they do"
	}
	list := strings.Join(all, " and ")
	to := f.c.Remote.Addr()
	do = fmt.Sprintf("Let the service listen on %s, too, or let the client connect to %s.", to, f.c.Listeners[0].Local.Addr())
	if names := f.c.Listeners[0].Local.Addr(); names.IsLoopback() && to.IsLoopback() && names.Is4() != to.Is4() {
		do += " The name localhost stands for both 127.0.0.1 and ::1, and a client may try only one."
	}
	return fmt.Sprintf("There %s %s, but %s not accept connections to %s.", verb, list, pronoun, bracketed(to)), do
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

var connectCancelled = Rule{
	Cause: ConnectCancelled, Class: Refused, find: findConnectCancelled, describe: describeConnectCancelled, hint: answeredFromElsewhere,
	symptoms: map[string]int{"upstream timed out": 3, "i/o timeout": 1, "NO_SOCKET": 6, "EmbryonicRsts": 3, "SYN_SENT": 3, "SYN_RECV": 3},
	What: "The process gave up connecting by itself, before the handshake was complete. " +
		"close(2), shutdown(2), exit or a connect with AF_UNSPEC on a socket in SYN_SENT goes through __tcp_close or tcp_disconnect straight to CLOSE. No packet is sent. " +
		"If the server's SYN-ACK comes later, it finds no socket and is answered with a RST, which removes the half-open connection at the server. " +
		"The usual reason is a connect timeout of the program or its library, or the race between IPv6 and IPv4, which drops the slower attempt.",
	Prove: "`strace -f -e trace=connect,close,poll,ppoll,epoll_wait -p PID` shows connect with EINPROGRESS, a wait that times out, then close. " +
		"`tcpdump -nni any tcp port PORT` shows [S] without an answer, or an answer that is met with [R].",
	Do:   "If it was too soon, give the program a longer connect timeout. If not, find out why the SYN had no answer in that time (tcpbye explain connect-timeout).",
	Refs: []string{"connect(2)", "RFC 9293 3.10.4", "RFC 8305", "__tcp_close", "tcp_disconnect"},
}

func findConnectCancelled(a, b *facts, s Scope) *finding {
	if !neverEstablished(a) || a.rst {
		return nil
	}
	end := a.end()
	for _, i := range []int{a.release, a.disconn} {
		if before(i, a.closed) && a.at(i).TID == end.TID && a.at(i).State == event.SynSent {
			x := &finding{a: []int{i, a.closed}}
			return x.did(a, a.actEvent(i))
		}
	}
	if end.State == event.SynSent && end.Context != event.ContextSoftirq && end.Err == 0 &&
		(end.Call == event.CallClose || end.Exiting() || end.Call == event.CallShutdown) {
		x := &finding{a: []int{a.closed}, needs: []event.Hook{event.HookClose, event.HookDisconnect}}
		return x.did(a, end)
	}
	return nil
}

func describeConnectCancelled(t *trial) string {
	s := fmt.Sprintf("%s itself gave up connecting to %s%s before its SYN was answered. No packet was sent.", t.who(), t.a.c.Remote, spaced(t.how()))
	if t.a.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSynDrop }) != none {
		s += fmt.Sprintf(" No answer came because the accept queue of the listener at %s was full: its kernel dropped the SYN.", t.a.c.Remote)
	}
	return s
}

var connectTimeout = Rule{
	Cause: ConnectTimeout, Class: TimedOut, find: findConnectTimeout,
	describe: func(t *trial) string {
		return fmt.Sprintf("The SYN of %s to %s was never answered; after %d more tries the kernel gave up.", end(t.a), t.a.c.Remote, t.a.end().Retransmits)
	},
	resends: true, hint: answeredFromElsewhere,
	symptoms: map[string]int{"ETIMEDOUT": 1, "EHOSTUNREACH": 3, "ENETUNREACH": 3, "i/o timeout": 2, "TCPAbortOnTimeout": 2, "AttemptFails": 2, "ListenDrops": 2, "TCPTimeouts": 2, "TCPSynRetrans": 1,
		"PAWSEstab": 2, "RetransSegs": 2, "TCPReqQFullDrop": 1, "TCPRetransFail": 3, "OutOfWindowIcmps": 2, "TCPMD5NotFound": 1, "SYN_SENT": 1},
	What: "The SYN was never answered, so this kernel gave up connecting. " +
		"tcp_retransmit_timer sends it again net.ipv4.tcp_syn_retries (6) times: up to 6.4 with doubled waits from 1 s, which ends after 127 s; from 6.5 the first net.ipv4.tcp_syn_linear_timeouts (4) repeats come 1 s apart and in addition, which ends after 131 s. " +
		"connect(2) fails with ETIMEDOUT, or with the error of an ICMP message that came in the meantime, such as EHOSTUNREACH. " +
		"TCPTimeouts, TCPSynRetrans, AttemptFails and TCPAbortOnTimeout move. Silence means that something drops the SYN or its answer; a host without a listener would have refused.",
	Prove: "`ss -tanop state syn-sent` shows timer:(on,…,N) with N growing. " +
		"`tcpdump -nni any tcp port PORT` shows [S] again and again and no [S.] or [R.]. " +
		"`nstat -az TcpExtTCPSynRetrans TcpAttemptFails` moves. " +
		"At the server, `nstat -az TcpExtListenDrops` says whether a full queue dropped the SYN.",
	Do:     "Look for what drops the SYN or the answer: a packet filter, a route, a host that is down, a full accept queue at the server.",
	Belief: "\"Connection timed out means that nobody listens there.\"",
	Truth:  "Where nobody listens, the host refuses at once with a RST. A timeout means that no answer came at all.",
	Refs:   []string{"connect(2)", "tcp(7)", "RFC 9293 3.8.3", "tcp_retransmit_timer", "tcp_write_timeout"},
}

func findConnectTimeout(a, b *facts, s Scope) *finding {
	if !neverEstablished(a) || a.rst {
		return nil
	}
	end := a.end()
	// What an ICMP error said on the way stands in the error (sk_err_soft).
	told := end.Err != 0 && end.Err != event.Errno(unix.ETIMEDOUT) || end.ErrSoft != 0
	if a.gaveUpConnecting() && !told {
		// Whether the SYN ever left this host, the hook on the repetitions says.
		x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookRetransmit}, likely: a.heldBack()}
		if a.c.Remote.Addr().IsLoopback() {
			x.needs = append(x.needs, event.HookSynDrop) // a full accept queue looks the same from here
		}
		return x
	}
	return nil
}

// gaveUpConnecting says whether the repetitions of the SYN ran out.
func (f *facts) gaveUpConnecting() bool {
	if !neverEstablished(f) || f.rst {
		return false
	}
	e := f.end()
	return e.State == event.SynSent && e.Retransmits > 0 && e.Context != event.ContextProcess
}

// answeredFromElsewhere: SYN-ACKs came for this end's SYN from an address that it
// had not called, and this kernel reset them.
func answeredFromElsewhere(t *trial) (says, do string) {
	f := t.self
	n, from := 0, netip.AddrPort{}
	for i := range f.c.Elsewhere {
		e := &f.c.Elsewhere[i]
		if e.Hook == event.HookSendReset && e.Has&event.HasSegment != 0 && e.Segment.Flags&(event.SYN|event.ACK|event.RST) == event.SYN|event.ACK &&
			e.Local == f.c.Local && e.Remote != f.c.Remote {
			n, from = n+1, e.Remote
		}
	}
	if n == 0 {
		return "", ""
	}
	times := "once"
	if n > 1 {
		times = fmt.Sprintf("%d times", n)
	}
	return fmt.Sprintf("A SYN-ACK did come %s, but from %s; this kernel had sent nothing to that address and reset it: an address translation is not undone on the way back.", times, from),
		fmt.Sprintf("Find where %s is translated to %s (DNAT, a load balancer): the answers must come back through there. Within one subnet they bypass it unless the source is translated, too (SNAT, masquerade).", f.c.Remote, from)
}

var unreachable = Rule{
	Cause: Unreachable, Class: Refused, find: findUnreachable, describe: describeUnreachable, hint: answeredFromElsewhere,
	symptoms: map[string]int{"ECONNREFUSED": 3, "EHOSTUNREACH": 1, "ENETUNREACH": 1, "EADDRNOTAVAIL": 1, "AttemptFails": 3, "TCPSynRetrans": 3, "TCPRetransFail": 4, "OutOfWindowIcmps": 1, "SYN_SENT": 4},
	What: "The network or this host said that the address cannot be reached. " +
		"Either an ICMP message answered the SYN: tcp_v4_err (tcp_v6_err) ends a socket in SYN_SENT with its errno (EHOSTUNREACH, ENETUNREACH, ECONNREFUSED for port unreachable), unless the process holds the socket's lock at that instant; then the errno is only kept in sk_err_soft and reported if the attempt times out. " +
		"Or no SYN was sent at all: connect(2) found no route (ENETUNREACH), or no free local port (EADDRNOTAVAIL), or the address and port that it was bound to have such a connection already. " +
		"EHOSTUNREACH after about 3 s on the own network means that neighbor resolution failed (arp_error_report): the kernel then sends itself the ICMP message, and nothing left the host. A packet filter of this host that rejects does the same. AttemptFails moves when ICMP ended it.",
	Prove: "`ip route get ADDRESS` shows the route, `ip neigh` a neighbor that is FAILED. " +
		"`tcpdump -nni any 'icmp or icmp6 or tcp port PORT'` shows the message and who sent it. " +
		"`ss -tan state time-wait | wc -l` and `sysctl net.ipv4.ip_local_port_range` show whether ports ran out.",
	Do:   "Follow the errno: ENETUNREACH to the routing table, EHOSTUNREACH to the neighbor or the router that sent the ICMP, EADDRNOTAVAIL to the local ports.",
	Refs: []string{"RFC 9293 3.9.2.2", "RFC 5461", "connect(2)", "ip(7)", "icmp(7)", "tcp_v4_err", "inet_hash_connect"},
}

func findUnreachable(a, b *facts, s Scope) *finding {
	if !neverEstablished(a) || a.rst {
		return nil
	}
	end := a.end()
	if end.Err == event.Errno(unix.ECONNABORTED) {
		return nil // tcp_abort
	}
	x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset, event.HookDisconnect}}
	if end.Err == 0 && end.ErrSoft == 0 && end.Call == event.CallConnect {
		return x // this kernel, before anything was sent: tcp_v4_connect
	}
	errno := end.Err
	if errno == 0 {
		errno = end.ErrSoft
	}
	if errno == 0 {
		return nil
	}
	if _, last := a.thrownAway(); last != none && errno == event.Errno(unix.EHOSTUNREACH) {
		x.a = append(x.a, last)
		return x // its own neighbor look-up, reported to itself by ICMP
	}
	switch i := a.icmp(errno); {
	case i == none && !s.has(event.HookICMP):
		// This kernel says so to itself in the same way as the network does.
		x.by = byNobody
		x.needs = append(x.needs, event.HookICMP, event.HookNeighbor)
	case i == none:
		x.by, x.likely = byNobody, true
	case a.at(i).Loopback:
		x.a = append(x.a, i) // a packet filter of this host rejects
		x.needs = append(x.needs, event.HookNeighbor)
	default:
		x.by, x.a = byPath, append(x.a, i)
	}
	return x
}

func describeUnreachable(t *trial) string {
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
		return fmt.Sprintf("The next hop to %s did not answer (ARP or neighbor discovery), so this kernel threw %s away and reported to itself that the host is unreachable. Nothing left this host, and no router said anything%s",
			t.a.c.Remote.Addr(), what, failed)
	}
	switch i := t.a.icmp(errno); {
	case i == none:
		return fmt.Sprintf("The network, or this host itself (its neighbor look-up, its packet filter), said that %s cannot be reached (ICMP)%s", t.a.c.Remote, failed)
	case t.a.at(i).Loopback:
		return fmt.Sprintf("This host itself rejected the SYN to %s: it answered with %s, as a packet filter with a reject rule does. No router said anything%s", t.a.c.Remote, ICMPText(t.a.at(i)), failed)
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
		return "no local port was left for this destination, or the address and port it is bound to are taken"
	}
	if f.c.Local.Port() == 0 {
		return "no local port was left for this destination (EADDRNOTAVAIL)"
	}
	return fmt.Sprintf("a connection from %s to it already exists or is in TIME_WAIT (EADDRNOTAVAIL)", f.c.Local)
}

var handshakeReset = Rule{
	Cause: HandshakeReset, Class: Refused, find: findHandshakeReset,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s reset the connection before the handshake was complete.", t.a.c.Remote)
	},
	unaccepted: true, probe: acceptedAndReset,
	symptoms: map[string]int{"TCP_TOO_OLD_ACK": 1, "TCP_ACK_UNSENT_DATA": 1, "TCP_FLAGS": 2, "TCP_OLD_ACK": 1, "INVALID_SYN": 2, "ERROR": 2, "AttemptFails": 4, "EmbryonicRsts": 1, "TCPReqQFullDrop": 3,
		"SyncookiesFailed": 2, "SYN_RECV": 2},
	What: "The peer reset the connection before the handshake was complete. " +
		"It sent a SYN, got the SYN-ACK, and answered with a RST. Usually only a request socket exists then: tcp_check_req drops it, there is no state change to see, and accept(2) never hears of it. A full socket in SYN_RECV (fast open, simultaneous open) goes to CLOSE. " +
		"EmbryonicRsts and AttemptFails move at the server. tcp_check_req of 6.1.192, 6.12.117 and 7.2 demands the exact sequence number of such a RST; that of 5.10 and 6.18.15 takes any within the window. " +
		"Port scans and health checks do this on purpose; a client that has given up, or lost its state, does it too.",
	Prove: "`nstat -az TcpExtEmbryonicRsts TcpAttemptFails` moves. " +
		"`tcpdump -nni any tcp port PORT` shows [S], [S.], then [R] from the client.",
	Do:   "Check whether the address belongs to a health check or a scan: those end this way on purpose, and nothing was lost. If not, look at the client for a connect that it gave up.",
	Refs: []string{"RFC 9293 3.5.3", "RFC 9293 3.10.7.4", "tcp_check_req", "inet_csk_reqsk_queue_drop"},
}

func findHandshakeReset(a, b *facts, s Scope) *finding {
	if a.c.Established != 0 || a.closed == none || !a.rst || a.c.Open != conn.OpenPassive && a.end().State != event.SynRecv {
		return nil
	}
	// An end that is here tells why it sent the RST; who did elsewhere is not known.
	if b != nil {
		return nil
	}
	return &finding{by: byPeer, a: []int{a.reset, a.closed}, likely: true}
}
