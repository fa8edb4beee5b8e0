package verdict

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Symptom is what a person sees of an ending before any trace: an error, a
// signal, a line in a log, a counter, a state in ss.
type Symptom struct {
	Names   []string // how a person may type it; the first is its title
	Kind    string   // "errno", "signal", "message", "reset reason", "counter", "state", "status", "setting", "segment"
	Meaning string   // what it says, and what it does not
	Causes  []Cause  // what may be behind it, most likely first
	Note    string   // how to tell the causes apart
}

// ofKind gives symptoms their kind.
func ofKind(kind string, all []Symptom) []Symptom {
	for i := range all {
		all[i].Kind = kind
	}
	return all
}

// withCauses gives each symptom its causes, which know their places among them.
func withCauses(all []Symptom) []Symptom {
	for i := range all {
		s := &all[i]
		for _, r := range Rules() {
			if r.symptoms[s.Names[0]] > 0 {
				s.Causes = append(s.Causes, r.Cause)
			}
		}
		slices.SortStableFunc(s.Causes, func(a, b Cause) int {
			return cmp.Compare(ruleOf(a).symptoms[s.Names[0]], ruleOf(b).symptoms[s.Names[0]])
		})
	}
	return all
}

// Explain is the whole of what is known of a symptom, as plain text.
func (s Symptom) Explain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)\n", s.Names[0], s.Kind)
	fmt.Fprintf(&b, "\nWhat it means\n%s\n", wrap(s.Meaning, 76, "  "))
	b.WriteString("\nWhat may be behind it, most likely first\n")
	for _, c := range s.Causes {
		fmt.Fprintf(&b, "  %s\n%s\n", c, wrap(ruleOf(c).Summary(), 76, "    "))
	}
	fmt.Fprintf(&b, "\nHow to tell them apart\n%s\n", wrap(s.Note, 76, "  "))
	b.WriteString("\nMore on each: tcpbye explain CAUSE\n")
	return b.String()
}

// FindSymptom finds what a person typed or pasted: the longest name that the
// query contains as a whole, whatever the case and the punctuation.
func FindSymptom(query string) (Symptom, bool) {
	q := words(query)
	for trimmed := true; trimmed; {
		trimmed = false
		for _, n := range noise {
			if rest, ok := strings.CutPrefix(q, " "+n+" "); ok && rest != "" {
				q, trimmed = " "+rest, true
			}
		}
	}
	for _, full := range []string{words(query), q} {
		for _, n := range symptomNames {
			if full == n.words || !wholeOnly(n.words) && strings.Contains(full, n.words) {
				return symptoms[n.symptom], true
			}
		}
	}
	return Symptom{}, false
}

// everyday are names that are also everyday words: they count only when they are
// all that was asked.
var everyday = map[string]bool{"error": true, "closing": true, "established": true, "estab": true, "paws": true, "tw": true}

// noise are words that programs put before an error.
var noise = []string{"error", "fatal", "warning", "java net socketexception", "java net connectexception", "java io ioexception", "exception", "caused by", "oserror", "what"}

// words reduces text to lower-case words with one space between them and at
// either end, so that a name is found as a whole by a plain search.
func words(s string) string {
	return " " + strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}), " ") + " "
}

// wholeOnly says whether a name counts only as the whole query: a bare number,
// or an everyday word.
func wholeOnly(name string) bool {
	name = strings.TrimSpace(name)
	_, err := strconv.Atoi(name)
	return err == nil || everyday[name]
}

// symptomName is a name of a symptom, reduced to words.
type symptomName struct {
	words   string
	symptom int
}

// symptomNames are the names of all symptoms, longest first.
var symptomNames = func() []symptomName {
	var names []symptomName
	for i := range symptoms {
		for _, n := range symptoms[i].Names {
			names = append(names, symptomName{words(n), i})
		}
	}
	slices.SortStableFunc(names, func(a, b symptomName) int { return cmp.Compare(len(b.words), len(a.words)) })
	return names
}()

// errno are the names of an error: its symbol, its number as people and
// programs write it, then its texts.
func errno(symbol string, number int, texts ...string) []string {
	n := strconv.Itoa(number)
	return append([]string{symbol, n, "errno " + n, "error " + n, "failed (" + n}, texts...)
}

// reason are the names of a kernel reset reason: with and without the enum's
// prefix, and its number.
func reason(number int, name string) []string {
	n := strconv.Itoa(number)
	return []string{name, "SK_RST_REASON_" + name, "reset reason " + n, "rst reason " + n, "reason " + n}
}

// counter are the names of a counter: the kernel's, the one that nstat prints,
// and the sentence of netstat -s.
func counter(table, name string, netstat ...string) []string {
	return append([]string{name, table + name}, netstat...)
}

// kernelSymptoms are errors, signals, messages, reset reasons in the order of enum
// sk_rst_reason, counters, states.
var kernelSymptoms = withCauses(slices.Concat(
	// Errors of system calls.
	ofKind("errno", []Symptom{
		{Names: errno("ECONNRESET", 104, "connection reset by peer", "connection reset", "ConnectionResetError", "recv failure connection reset", "WSAECONNRESET"),
			Meaning: "A RST came in before a FIN had been seen, and this call is the first to collect the error. " +
				"What had been received before is still readable; what was sent and not acknowledged is lost. " +
				"It does not say that the peer crashed: a process that dies with nothing unread sends a FIN.",
			Note: "Look at the RST in `tcpdump -nni any tcp port PORT`: [R.] out of nowhere is an abort at the peer (there TCPAbortOnClose means unread input, TCPAbortOnData SO_LINGER 0, neither of them a listener that closed, ss -K or connect(AF_UNSPEC)); " +
				"[R] right after a segment of this end is an answer (a close before it, or no such connection). " +
				"After long silence suspect a device on the path; if the peer's stack never sent the RST, it is one. " +
				"If your own end had shut down both directions, the RST is your own kernel's (data-after-shutdown)."},
		{Names: errno("EPIPE", 32, "broken pipe", "BrokenPipeError"),
			Meaning: "This end wrote although it can no longer send: a RST came after the peer's FIN, or an earlier call has already collected the error of a RST, or this end itself has shut down its sending side. " +
				"The write before it had succeeded, and what it carried was not read. SIGPIPE comes with it unless MSG_NOSIGNAL is given or the signal is ignored.",
			Note: "A [F.] from the peer, then data of this end, then [R] is data-after-close: the peer had closed before you wrote. " +
				"An ECONNRESET earlier in the same program's log means a plain reset, and this is the second report of it. " +
				"shutdown(FD, SHUT_WR) in strace of this process means that it forbade itself to write. Read what is left before you give up: the peer's answer may be there."},
		{Names: errno("ETIMEDOUT", 110, "connection timed out", "operation timed out", "WSAETIMEDOUT"),
			Meaning: "This kernel gave up, because nobody answered; no RST came in. " +
				"On connect(2) the SYN had no answer; on an open connection data, window probes or keepalive probes had none. " +
				"The peer may still think that the connection is open.",
			Note: "If connect(2) failed, it is connect-timeout (or accept-overflow: ListenDrops moves at the server). Otherwise look at the timer of `ss -tano`: on is retransmission, keepalive is keepalive, persist is a closed window; " +
				"TCP_USER_TIMEOUT in strace of setsockopt shortens all of them. Only the end by keepalive sends a RST. " +
				"If an ICMP error came during the wait, its errno is reported instead of this one."},
		{Names: errno("ECONNREFUSED", 111, "connection refused", "ConnectionRefusedError", "WSAECONNREFUSED"),
			Meaning: "connect(2) was refused at once: a RST answered the SYN, or an ICMP port unreachable did. Nothing was sent on this connection. " +
				"On an open connection it is an ICMP port unreachable that came while this kernel sent again without an answer; it is reported in place of ETIMEDOUT when the kernel gives up.",
			Note: "[R.] in the capture: if the host's own stack sent it (OutRsts there), nobody listens on that address, port and network namespace; if not, a packet filter rejects with tcp reset. " +
				"An ICMP message in the capture names the host that refuses. " +
				"A full accept queue refuses only with net.ipv4.tcp_abort_on_overflow=1, and rarely then."},
		{Names: errno("ECONNABORTED", 103, "software caused connection abort", "ConnectionAbortedError"),
			Meaning: "This host ended the connection itself: somebody destroyed the socket from outside, or it was closed in repair mode. Nothing that comes over the wire gives this error on Linux.",
			Note:    "`bpftrace -e 'kprobe:tcp_abort { printf(\"%d %s\\n\", pid, comm); }'` names who destroys sockets. A [R.] on the wire is sock-destroy; no packet at all is repair-close."},
		{Names: errno("EHOSTUNREACH", 113, "no route to host"),
			Meaning: "A router, a packet filter or this host's own neighbor resolution said (ICMP host unreachable) that the address cannot be reached. On an open connection it is the last ICMP error before this kernel gave up, in place of ETIMEDOUT.",
			Note:    "From connect(2) within milliseconds: the ICMP message in `tcpdump -nni any icmp or icmp6` names the sender. After about 3 s: the neighbor does not answer (`ip neigh` says FAILED). On an open connection, or after minutes: it is a timeout, see its timer in `ss -tano`."},
		{Names: errno("ENETUNREACH", 101, "network is unreachable"),
			Meaning: "This host has no route to the address, or a router said so by ICMP.",
			Note:    "If `ip route get ADDRESS` fails too, it is the local table, and no packet was sent (an IPv6 address on a host without IPv6 is the usual case). Otherwise look for the ICMP message; after minutes on an open connection it stands for a timeout."},
		{Names: errno("EADDRINUSE", 98, "address already in use"),
			Meaning: "bind(2) or listen(2) met another holder of the port: a listener, a TIME_WAIT of a connection that this end closed first, or a child process that inherited the socket. No packet is involved.",
			Note:    "`ss -tanp sport = :PORT` shows which: LISTEN with another process is a survivor or a forked child (descriptor-held), TIME-WAIT means that SO_REUSEADDR was not set on the old listener (it must be on both the old and the new one), other states are connections that have not ended."},
		{Names: errno("EADDRNOTAVAIL", 99, "cannot assign requested address", "can't assign requested address"),
			Meaning: "connect(2) found no free local port for that destination, or a connection with the same four numbers exists already (or is in TIME_WAIT), or bind(2) was given an address that this host does not have. No packet was sent.",
			Note:    "`ss -tan state time-wait dst ADDRESS | wc -l` near the size of net.ipv4.ip_local_port_range means that closed connections hold the ports: keep connections open and reuse them, or set net.ipv4.tcp_tw_reuse=1. Many in CLOSE-WAIT instead are a leak. If bind(2) failed, check `ip address`."},
		{Names: errno("ENOTCONN", 107, "transport endpoint is not connected", "socket is not connected"),
			Meaning: "The socket has no connection any more. getpeername(2) or shutdown(2) right after accept(2) says so when the client had reset before: Linux still hands out the dead connection, and recv(2) on it says ECONNRESET.",
			Note:    "Directly after accept(2): a client that connected and reset, typically a health check with SO_LINGER 0; it is harmless. The longer connections wait in the accept queue, the more of these. Later in a connection's life: an error of an earlier call on the same socket was passed over."},
	}),
	ofKind("signal", []Symptom{
		{Names: []string{"SIGPIPE", "signal 13", "exit status 141", "exit code 141", "code 141", "status 141", "141", "killed by signal 13", "signal: broken pipe"},
			Meaning: "The process wrote to a connection that can no longer send, and did not ignore SIGPIPE: the signal killed it without a message. A shell reports 128 + 13 = 141. " +
				"The first write after the peer's close had succeeded; this was a later one.",
			Note: "The connection ended as with EPIPE; see there for the causes. To survive it, ignore the signal (or give MSG_NOSIGNAL) and handle EPIPE. `bpftrace -e 'tracepoint:signal:signal_generate /args->sig == 13/ { printf(\"%d %s\\n\", args->pid, args->comm); }'` shows who gets it. If the process only wrote to a pipe, it is not about TCP at all."},
	}),
	ofKind("message", []Symptom{
		{Names: []string{UnansweredName, "without an answer", "no answer", "no response", "empty reply", "empty reply from server", "empty response", "ended without an answer",
			"remote end closed connection without response", "RemoteDisconnected", "server closed the connection unexpectedly"},
			Meaning: "The service had received payload since it sent last, and then closed, exited or was killed: the client reads the end of input where an answer was due. " +
				"On the wire it is a clean end: every byte was acknowledged, no counter moves, and no capture shows a fault.",
			Note: "`tcpbye rst` shows each one, and how the service's process ended: by a signal, by the OOM killer, or with an exit status. If it lived on and closed with close(2), look in its log for a rule, a limit or a caught error. " +
				"`tcpbye trace --fail-on unanswered -- COMMAND` fails if there was one. A client that closes once it has its answer, or that has said its last word, is not counted."},
		{Names: []string{"EOF", "unexpected EOF", "premature close", "end of file", "socket hang up", "UND_ERR_SOCKET other side closed", "other side closed",
			"IncompleteRead", "transfer closed with", "connection unexpectedly closed", "connection closed by remote host", "connection closed by peer",
			"unexpected end of file", "EOF occurred in violation of protocol", "unexpected eof while reading"},
			Meaning: "The peer sent a FIN where the protocol still expected something (an answer, the rest of a body, a close_notify). TCP itself ended cleanly. " +
				"It can also be a RST whose error another call, or the runtime, has already taken.",
			Note: "On a connection that was idle before: the peer's idle timeout closed it and your request met the closed socket (data-after-close); the request was not read. " +
				"In the middle of an answer: the peer's process ended or gave up; tcpbye at the peer tells close, exit and signal apart. " +
				"Right after this end sent its own FIN: a proxy or server that does not know half-close."},
		{Names: []string{"read() = 0", "read()==0", "read() returned 0", "read() returns 0", "recv() = 0", "recv()==0", "recv() returned 0", "recv() returns 0"},
			Meaning: "Everything before the peer's FIN has been read, and no more will come; or another call has already collected the error of a RST. It does not say that the transfer was complete, and it does not say that the peer no longer reads.",
			Note:    "A [F.] in the capture with nothing after it is a plain close. A [R] or [R.] means that the error went to somebody else, for instance to a failed write or SO_ERROR. If this end does not close now, it stays in CLOSE_WAIT."},
		{Names: []string{"upstream prematurely closed connection"},
			Meaning: "nginx had sent a request and read 0 from the backend before an answer: the backend's FIN came first.",
			Note: "On a reused connection it is usually the keep-alive race: the backend's idle timeout closed just as the request left, and the request met a closed socket (data-after-close). It was not read, so it can be sent again. Give the backend the longer idle time. " +
				"On a fresh connection the backend's process closed or died with the request read (orderly-close)."},
		{Names: []string{"recv() failed (104", "recv() failed (104: Connection reset by peer)", "readv() failed (104", "readv() failed (104: Connection reset by peer)"},
			Meaning: "nginx was reset by the backend before any FIN: the request was already in the backend's receive queue when its process closed or died, or the backend aborts its connections.",
			Note:    "At the backend TCPAbortOnClose means that it closed with the request unread, TCPAbortOnData with no FIN before it SO_LINGER 0; if neither moves but EstabResets does, its listener closed with the request waiting. A bare [R] means that the backend's host does not know the connection (restart, path)."},
		{Names: []string{"upstream timed out", "upstream timed out (110", "upstream timed out (110: Connection timed out)"},
			Meaning: "nginx's own timer (proxy_read_timeout, proxy_connect_timeout and the like) ran out, and nginx closed the connection. It prints the errno 110, but the kernel had not given up.",
			Note:    "\"while connecting\" is a SYN without an answer that nginx cancelled; \"while reading response header\" means that the backend has the request and has not answered, or that it is still in its accept queue (`ss -ltn` there, Recv-Q)."},
		{Names: []string{"client prematurely closed connection", "client closed connection while waiting for request", "epoll_wait() reported that client prematurely closed connection", "499"},
			Meaning: "nginx saw the client's FIN before the answer was complete, and by default cancels the request upstream (status 499).",
			Note:    "A client that only half-closed (shutdown(SHUT_WR), then reading) still waits for the answer: proxy_ignore_client_abort makes nginx give it. A client that gave up has closed; what nginx sends then is answered with a RST."},
		{Names: []string{"i/o timeout", "context deadline exceeded", "connect timeout", "ConnectTimeoutError", "connection attempt timed out", "SocketTimeoutException", "read timed out", "TimeoutError", "timed out"},
			Meaning: "A timer of the program or its library ran out; the kernel had not given up. The program then closes the connection itself, which ends it in another way than ETIMEDOUT does.",
			Note:    "While connecting: SYN_SENT, and the socket is closed before an answer came (connect-cancelled). While reading: the connection was open and the peer had not answered; if the answer comes after the close, it is met with a RST. errno 110 with the message says that it was the kernel after all."},
	}),
	// Kernel reset reasons (enum sk_rst_reason, tracepoint tcp_send_reset from 6.12).
	ofKind("reset reason", []Symptom{
		{Names: reason(0, "NOT_SPECIFIED"),
			Meaning: "The code that sent the RST gave no reason. In 6.10 and 6.11 that is so for nearly all of them; the reasons were filled in with 6.12.",
			Note:    "tcpbye does not need the reason: state, socket flags and the calling function give the cause on every version. By hand, the counters tell most of them apart: `nstat -az 'TcpExtTCPAbort*'`."},
		{Names: reason(1, "NO_SOCKET"),
			Meaning: "A segment came for addresses and ports for which this kernel has no socket, neither a connection nor a listener.",
			Note:    "If the segment was a SYN, nobody listens. If it was data or an ACK, the connection had ended here before without the peer's knowledge: look for its end (restart, timeout, FIN_WAIT2 that ran out). A SYN-ACK belongs to a connect that was cancelled."},
		{Names: reason(2, "TCP_INVALID_ACK_SEQUENCE"),
			Meaning: "A socket in SYN_SENT got a segment whose acknowledgement number does not fit its SYN. The socket stays in SYN_SENT; the RST is meant for the old connection that the segment belongs to.",
			Note:    "TCPChallengeACK and TCPSYNChallenge move at the host that holds the old connection. The new connect usually succeeds right after."},
		{Names: reason(3, "TCP_RFC7323_PAWS"),
			Meaning: "A socket in SYN_SENT got a segment whose echoed timestamp it cannot have sent (PAWSActive). The socket stays in SYN_SENT.",
			Note:    "An old segment, or an old connection with the same ports, answered; a NAT that mixes hosts does it too."},
		{Names: reason(4, "TCP_TOO_OLD_ACK"),
			Meaning: "A socket in SYN_RECV (fast open, simultaneous open) got an ACK older than anything it can have sent.",
			Note:    "A stray segment of an older connection with the same ports; in later states such an ACK is answered with an ACK, not a RST."},
		{Names: reason(5, "TCP_ACK_UNSENT_DATA"),
			Meaning: "A socket in SYN_RECV (fast open, simultaneous open) got an ACK for something that it has not sent.",
			Note:    "A stray segment of another connection with the same ports, or a forged one."},
		{Names: reason(6, "TCP_FLAGS"),
			Meaning: "A listener got a segment that starts no connection and belongs to none: an ACK or data without a matching request, a syncookie that does not check out, a wrong acknowledgement number during the handshake.",
			Note:    "If the client had been connected before, the server lost the connection (restart) while the same port is served again. During floods, failed syncookies (SyncookiesFailed) are the reason."},
		{Names: reason(7, "TCP_OLD_ACK"),
			Meaning: "A socket in SYN_RECV (fast open, simultaneous open) got an ACK that acknowledges nothing new.",
			Note:    "A stray or duplicated segment during the handshake. The reset by itself does not end the socket."},
		{Names: reason(8, "TCP_ABORT_ON_DATA"),
			Meaning: "New data came for a socket that had finished both directions and whose FIN was still on its way, or kept as a full socket; or TCP_LINGER2 is below zero. TCPAbortOnData counts it too.",
			Note:    "Is there still a process that holds the descriptor? Then it was shutdown(SHUT_RDWR). If the RST answers a pure ACK, it is TCP_LINGER2 below zero. Otherwise the process had closed. SO_LINGER 0 moves the same counter but has reason 14."},
		{Names: reason(9, "TCP_TIMEWAIT_SOCKET"),
			Meaning: "Data, or an unexpected SYN, came for a mini-socket of a connection that this end has closed and whose peer had not yet sent its FIN (FIN_WAIT2). A true TIME_WAIT does not reset.",
			Note:    "Data with [P.] or [.]: the peer answered after this end had closed, the commonest case. A SYN: the peer used the ports again before it had closed the old connection."},
		{Names: reason(10, "INVALID_SYN"),
			Meaning: "A SYN within the window met a half-open request, which is dropped; or, misleadingly, the accept queue was full at the last ACK with net.ipv4.tcp_abort_on_overflow=1.",
			Note:    "ListenOverflows moves with it in the second case only."},
		{Names: reason(11, "TCP_ABORT_ON_CLOSE"),
			Meaning: "A process closed with data unread in the receive queue, or MPTCP did a fastclose.",
			Note:    "TCPAbortOnClose moves in the first case, MPFastcloseTx in the second."},
		{Names: reason(12, "TCP_ABORT_ON_LINGER"),
			Meaning: "close(2) found the socket in FIN_WAIT2 with TCP_LINGER2 below zero. It is not about SO_LINGER.",
			Note:    "SO_LINGER with a time of 0 has the reason TCP_STATE (14)."},
		{Names: reason(13, "TCP_ABORT_ON_MEMORY"),
			Meaning: "A closed socket was given up, because there are too many of them or TCP memory is short.",
			Note:    "The kernel log says which limit: \"too many orphaned sockets\" or \"out of memory -- consider tuning tcp_mem\"."},
		{Names: reason(14, "TCP_STATE"),
			Meaning: "The connection was torn down in a state in which the peer must be told. This one reason covers at least five causes.",
			Note: "TCPAbortOnData moves for SO_LINGER 0 only. The local process gets ECONNABORTED for ss -K only. connect with AF_UNSPEC in strace is a disconnect. Several at once from one port: its listener closed. From a timer (comm swapper or ksoftirqd) in FIN_WAIT2: that wait ran out. " +
				"tcpbye tells them apart by the functions tcp_disconnect, tcp_abort and inet_child_forget."},
		{Names: reason(15, "TCP_KEEPALIVE_TIMEOUT"),
			Meaning: "The peer answered none of the keepalive probes, and this kernel gave up.",
			Note:    "TCPKeepAlive counted the probes; the local process gets ETIMEDOUT."},
		{Names: reason(16, "TCP_DISCONNECT_WITH_DATA"),
			Meaning: "tcp_disconnect met a socket in CLOSING or LAST_ACK that still had data to send: that data is lost.",
			Note:    "TCPAbortOnData moves for SO_LINGER 0 only. With everything sent, no RST would have gone out from these states."},
		{Names: slices.Concat(
			[]string{"MPTCP_RST", "SK_RST_REASON_MPTCP_RST"},
			reason(17, "MPTCP_RST_EUNSPEC"), reason(18, "MPTCP_RST_EMPTCP"), reason(19, "MPTCP_RST_ERESOURCE"), reason(20, "MPTCP_RST_EPROHIBIT"),
			reason(21, "MPTCP_RST_EWQ2BIG"), reason(22, "MPTCP_RST_EBADPERF"), reason(23, "MPTCP_RST_EMIDDLEBOX")),
			Meaning: "MPTCP reset a subflow, with a reason of RFC 8684: EUNSPEC (17) none given, EMPTCP (18) an MPTCP error such as a mapping that does not fit, ERESOURCE (19) a lack of resources, EPROHIBIT (20) forbidden by policy, " +
				"EWQ2BIG (21) too much data outstanding, EBADPERF (22) a path too slow, EMIDDLEBOX (23) a middlebox changed the data.",
			Note: "The peer finds the same reason in the MPTCP option of the RST. The other subflows may go on."},
		{Names: reason(24, "ERROR"),
			Meaning: "The kernel met an error for which it has no reset reason of its own, such as a drop reason with no counterpart.",
			Note:    "Look at the segment that the RST answers and at the state of the socket."},
	}),
	ofKind("counter", []Symptom{
		{Names: counter("TcpExt", "TCPAbortOnData", "connections reset due to unexpected data"),
			Meaning: "Counts aborts with SO_LINGER at zero, and data for sockets that were already closing. It does not count unread data at close(2): that is TCPAbortOnClose.",
			Note:    "From 6.12 the reset reason decides: 14 (or 16) is SO_LINGER 0, 8 is data. A [F.] from the same end before the RST means data; [R.] without one means SO_LINGER 0. From LAST_ACK or CLOSING, SO_LINGER 0 counts here without sending a RST."},
		{Names: counter("TcpExt", "TCPAbortOnClose", "connections reset due to early user close"),
			Meaning: "Counts closes with data unread in the receive queue; each sent a RST instead of a FIN.",
			Note:    "The process that closes is at this host. Exit and signals count as well as close(2). Unread data outranks SO_LINGER 0."},
		{Names: counter("TcpExt", "TCPAbortOnMemory", "connections aborted due to memory pressure"),
			Meaning: "Counts closed sockets given up because of net.ipv4.tcp_max_orphans or net.ipv4.tcp_mem.",
			Note:    "`cat /proc/net/sockstat` shows orphan and mem; the kernel log says which limit it was."},
		{Names: counter("TcpExt", "TCPAbortOnTimeout", "connections aborted due to timeout"),
			Meaning: "Counts connections on which this kernel gave up: retransmission, zero-window and keepalive probes, TCP_USER_TIMEOUT, SYNs without an answer, closed sockets whose rest was never acknowledged.",
			Note:    "AttemptFails moves with it for a connect, TCPKeepAlive and OutRsts for keepalive. For the rest look at the timer in `ss -tano` before the end: on or persist, with or without a process."},
		{Names: counter("TcpExt", "TCPAbortOnLinger", "connections aborted after user close in linger timeout"),
			Meaning: "Counts closes that found the socket in FIN_WAIT2 with TCP_LINGER2 below zero. SO_LINGER is not counted here.",
			Note:    "The variant in which the FIN was still under way counts as TCPAbortOnData."},
		{Names: counter("TcpExt", "TCPAbortFailed", "times unable to send RST due to no memory"),
			Meaning: "Counts RSTs that could not be sent, because memory was short or because the IP layer refused them. The connection ended here, and the peer was not told.",
			Note:    "The other TCPAbort counter that moved at the same time names the cause. With keepalive it is often a missing route to the dead peer."},
		{Names: counter("Tcp", "EstabResets", "connection resets received"),
			Meaning: "Counts connections that went from ESTABLISHED or CLOSE_WAIT straight to CLOSE, whoever reset: incoming RSTs and this host's own aborts alike.",
			Note:    "netstat -s calls it \"connection resets received\", which is only half of it. OutRsts moving with it means that this host sent the RST."},
		{Names: counter("Tcp", "OutRsts", "resets sent"),
			Meaning: "Counts RSTs that this host's TCP stack sent, its own aborts and its answers to segments. RSTs of a packet filter's reject are not in it.",
			Note:    "With a TCPAbort counter: that one names the cause. Alone: an answer to a segment that met no socket, or to data for a FIN_WAIT2 mini-socket. With EstabResets and no TCPAbort counter: a listener closed, ss -K, or connect(AF_UNSPEC)."},
		{Names: counter("Tcp", "AttemptFails", "failed connection attempts"),
			Meaning: "Counts handshakes that failed at either end: from SYN_SENT or SYN_RECV to CLOSE.",
			Note:    "EmbryonicRsts with it: a client reset its own attempt at this server. TCPAbortOnTimeout with it: no answer to our SYN. Alone: refused, or ICMP."},
		{Names: counter("TcpExt", "ListenOverflows", "times the listen queue of a socket overflowed"),
			Meaning: "Counts SYNs and last ACKs of handshakes that met a full accept queue.",
			Note:    "`ss -ltn` shows the listener: Recv-Q above Send-Q. The clients hang in SYN_SENT; hardly any is reset."},
		{Names: counter("TcpExt", "ListenDrops", "SYNs to LISTEN sockets dropped"),
			Meaning: "Counts SYNs and last ACKs that a listener dropped for any reason; a full accept queue is the usual one.",
			Note:    "If ListenOverflows moves by the same number, it is the accept queue. If not: the SYN queue (TCPReqQFullDrop), memory, or a missing route back."},
		{Names: counter("TcpExt", "TCPTimeWaitOverflow", "time wait bucket table overflow"),
			Meaning: "Counts connections that should have gone to TIME_WAIT or to a FIN_WAIT2 mini-socket, and went to CLOSE at once, because net.ipv4.tcp_max_tw_buckets was reached or memory was short.",
			Note:    "The close itself was orderly. What comes late for such a connection finds no socket and is answered with a RST (NO_SOCKET)."},
		{Names: counter("TcpExt", "EmbryonicRsts", "resets received for embryonic SYN_RECV sockets"),
			Meaning: "Counts half-open connections that were dropped by a RST of the client, a SYN in the window, or a full accept queue with net.ipv4.tcp_abort_on_overflow=1. accept(2) never heard of them.",
			Note:    "Regular ones from few addresses are health checks or scans. ListenOverflows moving with it means a full queue."},
		{Names: counter("TcpExt", "TCPChallengeACK"),
			Meaning: "Counts ACKs sent instead of believing a RST or SYN that might be forged (RFC 5961): a RST within the window but not at the exact place, a SYN on an open connection, an acknowledgement far out of place. It ends nothing by itself.",
			Note:    "With TCPSYNChallenge: a SYN on an open connection (port-reuse). Without it: most often a RST at the wrong place, which a peer with data under way or a device on the path can send."},
		{Names: counter("TcpExt", "TCPSYNChallenge"),
			Meaning: "Counts SYNs that came on an open connection and were answered with a challenge ACK.",
			Note:    "If the sender really opens a new connection, its kernel answers with a RST that ends the old one."},
		{Names: counter("TcpExt", "TCPKeepAlive"),
			Meaning: "Counts keepalive probes sent. Answered ones are normal life; only TCPAbortOnTimeout with OutRsts says that a connection was given up.",
			Note:    "`ss -tano` shows timer:(keepalive,…) and, as its last number, how many probes are unanswered."},
		{Names: counter("TcpExt", "TCPTimeouts", "other TCP timeouts"),
			Meaning: "Counts retransmission timers that ran out, SYNs and SYN-ACKs among them. Each is one more attempt; the end, if it comes, is TCPAbortOnTimeout.",
			Note:    "`ss -tano` shows timer:(on,…,N) for those concerned: SYN-SENT is a connect, no process means closed."},
		{Names: counter("TcpExt", "TCPSynRetrans"),
			Meaning: "Counts SYNs and SYN-ACKs sent again, because no answer came within a second or more.",
			Note:    "The connect succeeds late or not at all. ListenDrops at the server means a full accept queue; otherwise a filter, a route, or loss."},
		{Names: counter("TcpExt", "TCPWinProbe"),
			Meaning: "Counts probes of a closed receive window: the peer does not read, and data waits here.",
			Note:    "`ss -tano` shows timer:(persist,…) and the Send-Q that waits. As long as the peer answers the probes, a socket that a process holds waits without end."},
		{Names: counter("TcpExt", "PAWSEstab", "PAWS", "PAWSActive", "TcpExtPAWSActive", "PAWSOldAck", "TcpExtPAWSOldAck", "PAWSTimewait", "TcpExtPAWSTimewait", "packets rejected in established connections because of timestamp", "active connections rejected because of time stamp"),
			Meaning: "Counts segments dropped because their timestamp is older than one seen before (protection against wrapped sequence numbers, RFC 7323). The segment is dropped and answered with an ACK; only PAWSActive, a wrong echo in SYN_SENT, provokes a RST (reason TCP_RFC7323_PAWS).",
			Note:    "A few are reordering. Many at once mean that several hosts share an address (NAT) or a device rewrites timestamps; the sender's connections then end by timeout."},
		{Names: counter("Tcp", "RetransSegs", "segments retransmitted"),
			Meaning: "Counts segments sent again. Loss is normal; it ends a connection only when nothing comes through any more.",
			Note:    "`ss -tani` shows retrans:NOW/TOTAL for each connection."},
		{Names: counter("MPTcpExt", "MPRstTx", "MPRstRx", "MPTcpExtMPRstRx", "MPFastcloseTx", "MPTcpExtMPFastcloseTx", "MPFastcloseRx", "MPTcpExtMPFastcloseRx"),
			Meaning: "Count MPTCP's own resets, sent (Tx) and received (Rx): MPRst of one subflow, MPFastclose of the whole connection.",
			Note:    "MPFastclose means that an application aborted, MPRst that a path could not go on."},
		{Names: counter("TcpExt", "TCPReqQFullDrop", "TCPReqQFullDoCookies", "TcpExtTCPReqQFullDoCookies", "SYN cookies sent", "SyncookiesSent", "TcpExtSyncookiesSent"),
			Meaning: "Counts SYNs that met a listener with too many half-open requests: dropped, or answered with a syncookie where net.ipv4.tcp_syncookies allows it. Which listener it was, the kernel log says (\"Possible SYN flooding\").",
			Note:    "Many SYN-RECV in `ss -tan state syn-recv` from many addresses are a flood, or the way back is broken. With ListenOverflows moving too, the application accepts too slowly."},
		{Names: counter("TcpExt", "SyncookiesFailed", "invalid SYN cookies received"),
			Meaning: "Counts ACKs to a listener that belong to no request and carry no valid syncookie. The listener answers them with a RST (reason TCP_FLAGS).",
			Note:    "During a flood they are late or forged ones. Without one, they are segments of connections that this host has forgotten, for instance by a restart, while the port is served again."},
		{Names: counter("TcpExt", "TCPMigrateReqSuccess", "TCPMigrateReqFailure", "TcpExtTCPMigrateReqFailure"),
			Meaning: "Count connections that still waited for accept(2) when their listener closed, and that net.ipv4.tcp_migrate_req moved (or failed to move) to another listener of the same SO_REUSEPORT group.",
			Note:    "Those that failed were reset. Both stay at 0 while the sysctl is 0, whatever is reset."},
		{Names: counter("TcpExt", "TCPToZeroWindowAdv", "TCPWantZeroWindowAdv", "TcpExtTCPWantZeroWindowAdv", "TCPFromZeroWindowAdv", "TcpExtTCPFromZeroWindowAdv"),
			Meaning: "Count how often this host closed its receive window, wanted to, and opened it again: a process here does not read, or not fast enough. It ends nothing by itself.",
			Note:    "`ss -tanp` shows Recv-Q and the process. If that process closes now, what is unread makes it a RST; the sender waits with its data, and its FIN, behind the closed window."},
		{Names: counter("TcpExt", "TCPBacklogDrop", "TCPRcvQDrop", "TcpExtTCPRcvQDrop", "TCPZeroWindowDrop", "TcpExtTCPZeroWindowDrop", "PruneCalled", "TcpExtPruneCalled", "RcvPruned", "TcpExtRcvPruned", "packets pruned from receive queue because of socket buffer overrun"),
			Meaning: "Count segments that this host dropped, or memory that it took back, because a socket's receive queue or backlog was full. The sender sends again, and gives up when nothing comes through for long.",
			Note:    "`ss -tanm` shows the queues and their limits; the process with a large Recv-Q is the one that does not read."},
		{Names: counter("TcpExt", "TCPMemoryPressures", "TCPMemoryPressuresChrono", "TcpExtTCPMemoryPressuresChrono", "times the TCP stack detected memory pressure"),
			Meaning: "Count how often, and for how many milliseconds, TCP used more memory than the middle number of net.ipv4.tcp_mem. Beyond the last number, closed sockets are given up.",
			Note:    "`cat /proc/net/sockstat` shows mem in pages; TCPAbortOnMemory moves when sockets are given up."},
		{Names: counter("TcpExt", "TCPRetransFail", "TCPSpuriousRtxHostQueues", "TcpExtTCPSpuriousRtxHostQueues"),
			Meaning: "Count segments that could not be sent again: the IP layer refused (no route, a packet filter, no memory), or the first copy still waits in this host's own queues.",
			Note:    "`ip route get ADDRESS` and `nft list ruleset` say whether this host can send at all; a long queue of the device shows in `tc -s qdisc`."},
		{Names: counter("TcpExt", "OutOfWindowIcmps", "LockDroppedIcmps", "TcpExtLockDroppedIcmps"),
			Meaning: "Count ICMP errors for a TCP connection that were passed over, because they did not fit its sequence numbers, or came while a process was in a call on the socket.",
			Note:    "The first may be forged. What an ICMP error would have said at once then shows as a timeout."},
		{Names: counter("TcpExt", "TCPMD5NotFound", "TCPMD5Unexpected", "TcpExtTCPMD5Unexpected", "TCPMD5Failure", "TcpExtTCPMD5Failure",
			"TCPAOBad", "TcpExtTCPAOBad", "TCPAORequired", "TcpExtTCPAORequired", "TCPAOKeyNotFound", "TcpExtTCPAOKeyNotFound"),
			Meaning: "Count segments dropped without a word because their signature (TCP-MD5 of RFC 2385, TCP-AO of RFC 5925) is missing, not expected or wrong. A RST without the right signature is among them: the connection does not hear of it.",
			Note:    "The two ends (usually of a BGP session) have different keys, or one of them has none. The kernel log names the addresses."},
		{Names: counter("TcpExt", "TW", "TWRecycled", "TcpExtTWRecycled", "TWKilled", "TcpExtTWKilled", "TCP sockets finished time wait in fast timer", "TCP sockets finished time wait in slow timer"),
			Meaning: "Count mini-sockets whose time ran out, or that ended before it: TIME_WAIT after an orderly close, and FIN_WAIT2 of closed sockets.",
			Note:    "They are a sign of normal ends. If ports run out, see EADDRNOTAVAIL."},
	}),
	// States in ss.
	ofKind("state", []Symptom{
		{Names: []string{"CLOSE_WAIT", "CLOSE-WAIT", "CLOSEWAIT"},
			Meaning: "The peer has finished (FIN); this end's process has not closed. No timer ends it, and no sysctl.",
			Note:    "`ss -tanp state close-wait` names the process. It is a leak if it lasts and grows. Without a process: still in the accept queue. With several processes: one has closed and another still holds it. If the process is still sending its answer, all is well."},
		{Names: []string{"FIN_WAIT2", "FIN-WAIT-2", "FIN_WAIT_2", "FINWAIT2"},
			Meaning: "This end has finished and the peer has acknowledged it; the peer's FIN is missing.",
			Note:    "With a process in `ss -tanpo`: held, no timer. Without one: closed, and timer:(timewait,…) runs for net.ipv4.tcp_fin_timeout; data that comes in that time is answered with a RST. Either way the peer is in CLOSE_WAIT."},
		{Names: []string{"TIME_WAIT", "TIME-WAIT", "TIMEWAIT"},
			Meaning: "Both ends have finished; this end closed first and keeps addresses and ports for 60 s, so that late segments do no harm. It is the sign of an orderly end and belongs to no process.",
			Note:    "It is at the end that closed first, and at both after a simultaneous close. tcp_fin_timeout does not shorten it. Only a client that opens very many connections to one address and port runs out of ports by it."},
		{Names: []string{"FIN_WAIT1", "FIN-WAIT-1", "FIN_WAIT_1", "FINWAIT1", "FIN_WAIT1 with Send-Q"},
			Meaning: "This end has finished, but its FIN is not acknowledged. With Send-Q above 0, data waits before it.",
			Note:    "Look at the timer in `ss -tano`: persist means that the peer's window is closed (its process does not read), on that the peer does not answer; that one ends in orphan-timeout. Data from the peer in this state destroys the rest of the send queue."},
		{Names: []string{"LAST_ACK", "LAST-ACK", "LASTACK"},
			Meaning: "The peer finished first, this end has closed too, and the acknowledgement of its FIN is missing.",
			Note:    "It should last one round trip. If it lasts, the peer's host is gone, or its TIME_WAIT or FIN_WAIT2 has been forgotten by a device on the path; the kernel gives up after net.ipv4.tcp_orphan_retries."},
		{Names: []string{"CLOSING"},
			Meaning: "Both ends closed at the same time; the acknowledgement of this end's FIN is missing.",
			Note:    "It should last one round trip. If it lasts, the peer does not answer any more."},
		{Names: []string{"SYN_SENT", "SYN-SENT", "SYNSENT"},
			Meaning: "connect(2) has sent its SYN, and no answer has come.",
			Note:    "timer:(on,…,N) in `ss -tano` shows how often it was sent again. ListenDrops at the server means that the SYN got there and met a full queue; if it never got there, a filter or the route is the place to look."},
		{Names: []string{"SYN_RECV", "SYN-RECV", "SYN_RECEIVED", "SYN-RECEIVED"},
			Meaning: "The SYN-ACK has been sent, and the client's ACK has not come, or was dropped because the accept queue is full.",
			Note:    "ListenOverflows moves in the second case. Many from many addresses are a flood, or the way back is broken."},
		{Names: []string{"ESTABLISHED", "ESTAB", "still ESTABLISHED", "state ESTABLISHED", "stays ESTABLISHED"},
			Meaning: "As far as this end knows the connection is open. It says nothing about the peer, which may be gone without a word.",
			Note:    "`ss -tanpoe`: without a process it waits in an accept queue; with more than one process, a close(2) by one of them sends nothing. Send-Q above 0 with timer:(on,…) means that the peer does not answer. No timer at all: without keepalive a dead peer is not noticed."},
	})))
