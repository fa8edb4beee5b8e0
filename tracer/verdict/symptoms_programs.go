package verdict

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// symptoms are all of them: those that the kernel gives, and below those of programs,
// statuses of proxies, settings and segments.
var symptoms = alsoCalled(slices.Concat(kernelSymptoms, programSymptoms), map[string][]string{
	"ECONNRESET":   {"ERR_CONNECTION_RESET", "net::ERR_CONNECTION_RESET", "PR_CONNECT_RESET_ERROR", "an existing connection was forcibly closed by the remote host"},
	"ECONNREFUSED": {"ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_REFUSED"},
	"ECONNABORTED": {"ERR_CONNECTION_ABORTED", "net::ERR_CONNECTION_ABORTED"},
	"ETIMEDOUT":    {"ERR_CONNECTION_TIMED_OUT", "net::ERR_CONNECTION_TIMED_OUT"},
	"EOF":          {"ERR_CONNECTION_CLOSED", "net::ERR_CONNECTION_CLOSED", "end-of-file on communication channel", "ORA-03113"},
	UnansweredName: {"ERR_EMPTY_RESPONSE", "net::ERR_EMPTY_RESPONSE", "NoHttpResponseException", "failed to respond", "the server closed the connection without sending any data"},
})

// Symptoms lists all of them.
func Symptoms() []Symptom { return slices.Clone(symptoms) }

// alsoCalled gives symptoms more names.
func alsoCalled(all []Symptom, names map[string][]string) []Symptom {
	for i := range all {
		all[i].Names = slices.Concat(all[i].Names, names[all[i].Names[0]])
	}
	return all
}

// setting are the names of a sysctl or of a socket option.
func setting(names ...string) []string {
	for _, n := range slices.Clone(names) {
		if strings.HasPrefix(n, "tcp_") {
			names = append(names, "net.ipv4."+n)
		}
	}
	return names
}

var programSymptoms = []Symptom{
	// Messages.
	{
		Names:   []string{"MySQL server has gone away", "ERROR 2006", "2006 (HY000)", "server has gone away"},
		Kind:    "message",
		Meaning: "The MySQL client sent a statement on a connection that the server had already closed. The statement was not executed.",
		Causes:  []Cause{DataAfterClose, PeerGone, OrderlyClose, NoSocket, CloseUnread},
		Note: "After a long silence it is the server's wait_timeout (28800 s by default) or a device on the path that forgot the connection; the first shows a FIN from the server (data-after-close), the second none. " +
			"During a large statement it is max_allowed_packet: the server closes with the rest unread (close-unread). After a restart of the server the connection is not known there (peer-gone). A pool that tests or renews its connections before wait_timeout ends the first.",
	},
	{
		Names:   []string{"Lost connection to MySQL server", "Lost connection to MySQL server during query", "lost connection to server during query", "ERROR 2013", "2013 (HY000)"},
		Kind:    "message",
		Meaning: "The connection ended while the MySQL client waited for an answer: the statement had been sent and may have been executed.",
		Causes:  []Cause{OrderlyClose, CloseUnread, PeerAbort, PeerGone, RetransmitTimeout, StillOpen},
		Note: "With \"at 'reading initial communication packet'\" the handshake did not get through: a filter, skip-name-resolve, or max_connections. In the middle of a query the server's process died (`tcpbye trace --port 3306` at the server tells close, exit and signal apart), KILL ended it, or net_read_timeout or net_write_timeout ran out. " +
			"Whether it can be sent again is a question of the statement, not of TCP.",
	},
	{
		Names: []string{"kex_exchange_identification", "ssh_exchange_identification", "kex_exchange_identification: Connection closed by remote host", "kex_exchange_identification: read: Connection reset by peer",
			"ssh_exchange_identification: Connection closed by remote host", "ssh_exchange_identification: read: Connection reset by peer", "kex_exchange_identification: client sent invalid protocol identifier", "banner exchange"},
		Kind:    "message",
		Meaning: "The TCP connection to sshd was established, and ended before the two had exchanged their versions. No key and no password was looked at.",
		Causes:  []Cause{OrderlyClose, CloseUnread, PeerAbort, PathReset, HandshakeReset},
		Note: "\"Connection closed by remote host\" is a FIN, \"Connection reset by peer\" a RST. At the server sshd's log tells: MaxStartups or PerSourcePenalties dropped it (many unauthenticated connections at once), hosts.deny, or sshd could not start a process. " +
			"With nothing in the log something before sshd answered: a load balancer without a healthy server, or a filter.",
	},
	{
		Names: []string{"SSL_ERROR_SYSCALL", "SSL_connect: SSL_ERROR_SYSCALL", "OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to", "SSL_read: SSL_ERROR_SYSCALL, errno 104", "SSL_ERROR_SYSCALL, errno 104", "SSL_ERROR_SYSCALL, errno 0",
			"SSL handshake failed: SSL_ERROR_SYSCALL"},
		Kind:    "message",
		Meaning: "OpenSSL read or wrote and the socket said that the connection had ended, where TLS expected a record. TLS itself found no fault. With errno 104 a RST came, with errno 0 a FIN without close_notify.",
		Causes:  []Cause{CloseUnread, OrderlyClose, PeerAbort, PathReset, DataAfterClose, LingerZero},
		Note: "During the handshake the other end did not like what it read and closed: no certificate for that name, a plain-text server, a health check's limit, or a filter that looks at the name (path-reset). " +
			"After the handshake it is as EOF or ECONNRESET without TLS.",
	},
	{
		Names:   []string{"use of closed network connection", "ErrNetClosing", "net.ErrClosed", "use of closed connection", "Socket is closed", "java.net.SocketException: Socket closed", "bad file descriptor"},
		Kind:    "message",
		Meaning: "This program itself had closed the socket before it used it: a goroutine or thread closed while another read or wrote. Nothing that the peer or the network does gives this error.",
		Causes:  []Cause{OrderlyClose, CloseUnread, DataAfterClose, ConnectCancelled},
		Note:    "`tcpbye trace --stack -p PID` shows where in the program the close was. A timeout, a cancelled context or a shutdown is the usual reason. If bytes were unread then, the peer got a RST (close-unread).",
	},
	{
		Names:   []string{"Connection aborted", "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))", "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))", "Connection aborted BrokenPipeError"},
		Kind:    "message",
		Meaning: "Python's urllib3 and requests put this before whatever ended the connection while a request was under way; what stands in the brackets after it is the error itself.",
		Causes:  []Cause{DataAfterClose, OrderlyClose, CloseUnread, PeerGone, PeerAbort},
		Note:    "RemoteDisconnected is a FIN before any answer: on a reused connection the keep-alive race (data-after-close), on a fresh one a server that closed without an answer. ConnectionResetError is a RST, BrokenPipeError a write after one. A Retry of urllib3 sends idempotent requests again.",
	},
	{
		Names:   []string{"transport is closing", "the connection is draining", "error reading from server: EOF", "code = Unavailable", "connection error: desc", "Unavailable desc = transport is closing"},
		Kind:    "message",
		Meaning: "A gRPC call was under way when its HTTP/2 connection ended; the status is Unavailable. All calls on that connection fail together.",
		Causes:  []Cause{OrderlyClose, DataAfterClose, PeerGone, PeerAbort, KeepaliveTimeout, UserTimeout, CloseUnread},
		Note: "The server's MaxConnectionAge or a rollout ends with GOAWAY and a FIN: calls that the server had not begun are tried again by themselves. \"too_many_pings\" is the server's answer to a client whose keepalive is too eager. " +
			"A proxy's or load balancer's idle timeout shows as silence of always the same length (`tcpbye rst` says so). grpc-go sets TCP_USER_TIMEOUT with its keepalive.",
	},
	{
		Names:   []string{"server closed idle connection", "http: server closed idle connection", "idle connection", "keep-alive race", "Unsolicited response received on idle HTTP channel"},
		Kind:    "message",
		Meaning: "A client's pool sent a request on a connection just as the server's idle timeout closed it. The server read nothing of it.",
		Causes:  []Cause{DataAfterClose, OrderlyClose, PeerGone},
		Note:    "Idempotent requests are sent again by most clients. The lasting cure is a client whose idle time is shorter than the server's; with a proxy between them, shorter than the proxy's, and the proxy's shorter than the server's.",
	},
	{
		Names:   []string{"too many open files", "EMFILE", "ENFILE", "accept: too many open files", "accept4: too many open files"},
		Kind:    "message",
		Meaning: "The process has as many descriptors as it may have. Connections are still accepted by the kernel, and wait in the queue of the listener: their clients see an open connection without an answer.",
		Causes:  []Cause{CloseWaitLeak, NeverAccepted, AcceptOverflow, DescriptorHeld},
		Note:    "`tcpbye trace --open -p PID` tells what they are: many in CLOSE_WAIT are a leak, and a higher limit only delays it. `ls /proc/PID/fd | wc -l` against `prlimit -n -p PID`.",
	},
	{
		Names:   []string{"nf_conntrack", "conntrack", "nf_conntrack: table full, dropping packet", "nf_conntrack_max", "nf_conntrack_tcp_timeout_established", "nf_conntrack_tcp_timeout_close_wait", "conntrack table full"},
		Kind:    "message",
		Meaning: "The table in which the kernel tracks connections for NAT and stateful filters. When it is full, packets of new connections are dropped without a word. When it forgets an idle connection, what is sent on it later is dropped, or answered with a RST by whoever gets it untranslated.",
		Causes:  []Cause{ConnectTimeout, RetransmitTimeout, PeerGone, NoSocket, KeepaliveTimeout, PathReset},
		Note: "`conntrack -S` (drop, early_drop, insert_failed) and `sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max` on the host that translates. Half-closed connections are forgotten after 60 s (nf_conntrack_tcp_timeout_close_wait), established ones after 5 days, unless that was shortened. " +
			"TCP keepalive below the timeout keeps an entry alive.",
	},
	{
		Names:   []string{"possible SYN flooding", "SYN flooding on port", "request_sock_TCP: Possible SYN flooding", "SYN flood", "Sending cookies", "Dropping request"},
		Kind:    "message",
		Meaning: "The kernel's log: the queue of half-open connections of a listener was full, and it sent SYN cookies or dropped SYNs. It need not be an attack: a process that does not accept fast enough looks the same.",
		Causes:  []Cause{AcceptOverflow, ConnectTimeout, HandshakeReset},
		Note:    "`ss -ltn` shows the accept queue (Recv-Q) against its limit (Send-Q). ListenOverflows moves when it is the accept queue that is full: then the process is slow, or its backlog too small.",
	},

	// Statuses that a proxy gives.
	{
		Names:   []string{"502", "502 Bad Gateway", "Bad Gateway", "HTTP 502", "status 502"},
		Kind:    "status",
		Meaning: "A proxy had no usable answer from its backend: the backend refused the connection, or ended it before the answer's head was complete.",
		Causes:  []Cause{PortClosed, DataAfterClose, OrderlyClose, CloseUnread, LingerZero, PeerGone, ListenerClosed},
		Note: "The proxy's error log has the error itself (\"upstream prematurely closed connection\", \"recv() failed\", \"connect() failed\"): explain that one. Now and then and only on reused connections: the backend's idle timeout is shorter than the proxy's (data-after-close). In a rollout: the backend's listener is gone before the proxy knows (port-closed, listener-closed). " +
			"`tcpbye rst --comm nginx` on the proxy's host names the cause of each.",
	},
	{
		Names:   []string{"503", "503 Service Unavailable", "Service Unavailable", "HTTP 503", "no healthy upstream", "upstream connect error or disconnect/reset before headers"},
		Kind:    "status",
		Meaning: "A proxy has no backend that it would ask, or (Envoy's \"upstream connect error or disconnect/reset before headers\") the connection to it failed or ended before the answer began.",
		Causes:  []Cause{PortClosed, ConnectTimeout, DataAfterClose, PeerAbort, OrderlyClose, CloseUnread},
		Note:    "Envoy's response flags tell: UF is a connection that failed, UC one that the backend ended, UH no healthy backend, UO a limit. UC now and then is the keep-alive race.",
	},
	{
		Names:   []string{"504", "504 Gateway Timeout", "504 Gateway Time-out", "Gateway Timeout", "Gateway Time-out", "HTTP 504"},
		Kind:    "status",
		Meaning: "A proxy's timer ran out before its backend had answered. No connection need have failed: the proxy closes it when it gives up.",
		Causes:  []Cause{StillOpen, ConnectCancelled, NeverAccepted, AcceptOverflow, RetransmitTimeout, ConnectTimeout},
		Note:    "If the backend had the request, it is slow, and its answer later meets a closed socket (data-after-close there). If the connection waits in the backend's accept queue (`ss -ltn`, Recv-Q), the process does not accept. If the SYN had no answer, it is a filter or the route.",
	},

	// Settings.
	{
		Names:   setting("keepalive", "keep-alive", "SO_KEEPALIVE", "tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"),
		Kind:    "setting",
		Meaning: "Two things have this name. TCP keepalive (SO_KEEPALIVE) sends empty probes on an idle connection and ends it when they have no answer: first after tcp_keepalive_time (7200 s), then every tcp_keepalive_intvl (75 s), tcp_keepalive_probes times (9). HTTP keep-alive means that a connection is used for several requests, and its timeout is how long an idle one is kept.",
		Causes:  []Cause{KeepaliveTimeout, DataAfterClose, PeerGone, UserTimeout, RetransmitTimeout},
		Note:    "timer:(keepalive,…) in `ss -tano` is TCP's. Without the socket option a dead peer of an idle connection is not noticed at all. An HTTP idle timeout ends connections with a FIN; requests that cross it are data-after-close.",
	},
	{
		Names:   setting("tcp_retries2", "tcp_retries1", "tcp_rto_max_ms"),
		Kind:    "setting",
		Meaning: "How often data is sent again without an answer before the kernel gives up: 15 by default, which is 924.6 s or more, as the wait doubles up to 120 s. The same limit holds for the probes of a closed window that are not answered.",
		Causes:  []Cause{RetransmitTimeout, ZeroWindowTimeout, UserTimeout, SendFailed},
		Note:    "timer:(on,TIME,N) in `ss -tano` shows how often it has been. TCP_USER_TIMEOUT sets a limit in time for one socket, in place of this one. Orphans have tcp_orphan_retries, SYNs tcp_syn_retries.",
	},
	{
		Names:   setting("tcp_syn_retries", "tcp_synack_retries", "TCP_SYNCNT", "tcp_syn_linear_timeouts"),
		Kind:    "setting",
		Meaning: "How often a SYN (tcp_syn_retries, 6) or a SYN-ACK (tcp_synack_retries, 5) is sent again before the kernel gives up; with 6 a connect(2) fails after about two minutes.",
		Causes:  []Cause{ConnectTimeout, AcceptOverflow, ConnectCancelled},
		Note:    "Most programs give up sooner by a timer of their own, which is connect-cancelled. Since Linux 6.5 the first four are sent again a second apart (tcp_syn_linear_timeouts).",
	},
	{
		Names:   setting("tcp_fin_timeout", "TCP_LINGER2"),
		Kind:    "setting",
		Meaning: "How long an end that its process has closed waits in FIN_WAIT2 for the peer's FIN: 60 s by default, TCP_LINGER2 for one socket. It has nothing to do with TIME_WAIT, which always lasts 60 s.",
		Causes:  []Cause{FinWait2Timeout, DataAfterClose, FinWait2Held, Linger2Negative},
		Note:    "FIN_WAIT2 of a socket that a process still holds (after shutdown) has no timer at all. Data that comes within the time is answered with a RST; after it the connection is not known any more. A lower value makes that RST come sooner and helps no one who leaks.",
	},
	{
		Names:   setting("tcp_tw_reuse", "tcp_tw_recycle", "tcp_max_tw_buckets", "tcp_timestamps"),
		Kind:    "setting",
		Meaning: "Who may use the port of a connection in TIME_WAIT again. tcp_tw_reuse lets connect(2) take it after a second, where both ends have timestamps; by default (2) on loopback only. tcp_tw_recycle broke clients behind NAT and is gone since Linux 4.12.",
		Causes:  []Cause{OrderlyClose, PortReuse, ConnectTimeout},
		Note:    "TIME_WAIT is the sign of an orderly end and costs little. Only a client that runs out of ports (EADDRNOTAVAIL) needs this, and connections that are kept open are the better cure.",
	},
	{
		Names:   setting("tcp_orphan_retries", "tcp_max_orphans", "tcp_mem"),
		Kind:    "setting",
		Meaning: "What the kernel allows connections that no process holds any more: how often their last data is sent again (tcp_orphan_retries, 0 means 8), how many there may be (tcp_max_orphans), and how much memory TCP may have in all (tcp_mem).",
		Causes:  []Cause{OrphanTimeout, OrphanLimit, FinStuck},
		Note:    "Beyond the second and third an orphan is reset at once (\"too many orphaned sockets\", \"out of memory -- consider tuning tcp_mem\" in the kernel's log; TCPAbortOnMemory).",
	},
	{
		Names:   []string{"TCP_USER_TIMEOUT"},
		Kind:    "setting",
		Meaning: "How many milliseconds data of one socket may stay unacknowledged before the kernel ends the connection with ETIMEDOUT, in place of tcp_retries2; it also bounds keepalive and the wait for a closed window.",
		Causes:  []Cause{UserTimeout, KeepaliveTimeout, ZeroWindowTimeout, RetransmitTimeout},
		Note:    "`strace -f -e trace=setsockopt -p PID` shows who sets it; grpc-go and grpc-java do with their keepalive.",
	},
	{
		Names:   []string{"SO_LINGER", "linger", "setSoLinger", "SetLinger", "lingering_close"},
		Kind:    "setting",
		Meaning: "What close(2) does with data that is not acknowledged yet. Off, the default: close returns, and the kernel goes on sending. On with time 0: all of it is thrown away, and a RST goes out. On with a time: close waits that long, and then the kernel goes on all the same.",
		Causes:  []Cause{LingerZero, CloseUnread, OrphanTimeout},
		Note:    "It is not what keeps an answer from being lost: that is shutdown(SHUT_WR) and reading to the end before close(2); nginx calls it lingering_close. `strace -f -e trace=setsockopt -p PID` shows linger0.",
	},
	{
		Names:   setting("somaxconn", "tcp_max_syn_backlog", "tcp_abort_on_overflow", "tcp_syncookies", "listen backlog", "accept queue", "net.core.somaxconn"),
		Kind:    "setting",
		Meaning: "How many connections may wait for accept(2): the backlog given to listen(2), at most net.core.somaxconn (4096). Beyond that SYNs, and the last ACK of handshakes, are dropped: the client thinks it is connected, or waits. With tcp_abort_on_overflow=1 it is reset instead.",
		Causes:  []Cause{AcceptOverflow, NeverAccepted, ConnectTimeout, ListenerClosed},
		Note:    "`ss -ltn`: Recv-Q is how many wait, Send-Q the limit. `nstat -az TcpExtListenOverflows TcpExtListenDrops` counts. A queue that is full because the process does not accept is not cured by a longer one.",
	},

	// Segments, and what people call them.
	{
		Names:   []string{"RST", "TCP RST", "RST flag", "reset", "TCP reset", "RST ACK"},
		Kind:    "segment",
		Meaning: "A segment that ends a connection at once: what is on its way is lost, and the other end is told ECONNRESET (ECONNREFUSED if it answers a SYN). A kernel sends it when its process aborts, when data comes for a socket that nobody reads, or when it does not know the connection. A process that dies with everything read sends a FIN, and no RST.",
		Causes:  []Cause{CloseUnread, DataAfterClose, LingerZero, NoSocket, PortClosed, PeerAbort, PeerGone, PathReset, PortReuse, KeepaliveTimeout, ListenerClosed, SockDestroy},
		Note: "`tcpbye rst` watches them and says why each was sent. In a capture: [R.] with an acknowledgement comes from an end that had the connection and aborts it, or refuses a SYN; [R] without one answers a segment for which there is no connection. " +
			"One with another TTL than the peer's other segments comes from the path.",
	},
	{
		Names:   []string{"FIN", "TCP FIN", "FIN flag", "FIN ACK", "half-close", "half close", "half closed", "shutdown(SHUT_WR)"},
		Kind:    "segment",
		Meaning: "A segment that says that this end sends no more; it may go on reading. A connection ends in order when both ends have sent one and both are acknowledged. It does not tell whether the process has only finished sending (shutdown) or reads no more either (close).",
		Causes:  []Cause{OrderlyClose, HalfClose, SimultaneousClose, DataAfterClose, CloseWaitLeak, FinWait2Timeout},
		Note:    "`tcpbye trace` tells close, shutdown, exit and signal apart. After a close, data from the other end is answered with a RST (data-after-close); after a shutdown it is read. The end whose process does not follow stays in CLOSE_WAIT.",
	},
	{
		Names:   []string{"half-open", "half open", "half-open connection", "dead peer", "dead connection", "stale connection"},
		Kind:    "segment",
		Meaning: "One end is gone without a word (power, network, a device that forgot the connection), and the other does not know: its socket stays ESTABLISHED.",
		Causes:  []Cause{KeepaliveTimeout, RetransmitTimeout, UserTimeout, PeerGone, StillOpen, FinWait2Timeout},
		Note:    "It is noticed only by sending: data ends in retransmit-timeout, or in a RST from a host that has come back (peer-gone). On an idle connection only keepalive or the program's own heartbeat finds it.",
	},
}

// Nearest are what may be meant by something that is not known: names of causes and of
// symptoms, the likeliest first, at most n of them.
func Nearest(query string, n int) []string {
	asked := strings.Fields(words(query))
	if len(asked) == 0 {
		return nil
	}
	type candidate struct {
		name  string
		score float64 // from 0, unlike, to 1
	}
	best := map[string]candidate{} // by what it is a name of
	consider := func(of, name string) {
		if score := likeness(asked, strings.Fields(words(name))); score > best[of].score {
			best[of] = candidate{name, score}
		}
	}
	for _, r := range Rules() {
		consider(string(r.Cause), string(r.Cause))
	}
	for i := range symptoms {
		for _, name := range symptoms[i].Names {
			consider(symptoms[i].Names[0], name)
		}
	}
	const enough = 0.6
	found := slices.Collect(maps.Values(best))
	found = slices.DeleteFunc(found, func(c candidate) bool { return c.score < enough })
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.name, b.name)) })
	var names []string
	for _, c := range found[:min(n, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// likeness compares words: as a whole, and by how many of those that were asked are,
// nearly, among the name's.
func likeness(asked, name []string) float64 {
	a, b := strings.Join(asked, " "), strings.Join(name, " ")
	whole := 1 - float64(levenshtein.ComputeDistance(a, b))/float64(max(len(a), len(b)))
	found, letters := 0.0, 0
	for _, w := range asked {
		near := 0.0
		for _, x := range name {
			if like := 1 - float64(levenshtein.ComputeDistance(w, x))/float64(max(len(w), len(x))); like >= 0.7 {
				near = max(near, like)
			}
		}
		found += near * float64(len(w))
		letters += len(w)
	}
	// Of a long name a word or two are little.
	part := found / float64(max(letters, len(b)*2/3))
	return max(whole, part)
}
