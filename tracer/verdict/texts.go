package verdict

import "strings"

// Summary is the first sentence of What: the cause in one line.
func (t Text) Summary() string {
	if i := strings.Index(t.What, ". "); i >= 0 {
		return t.What[:i+1]
	}
	return t.What
}

// texts by cause. The rules for them, which the tests check: the first sentence
// of What stands alone in a list (90 columns), commands stand in backquotes,
// Do has at most two sentences because it is the verdict's advice too, and where
// Belief holds several beliefs, Truth answers them in the same order.
var texts = map[Cause]Text{
	// Graceful.
	OrderlyClose: {
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
	},
	HalfClose: {
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
	},
	SimultaneousClose: {
		What: "Both ends closed at the same moment, and their FINs crossed on the way. " +
			"Each end is in FIN_WAIT1 when the other's FIN comes in: tcp_fin moves it to CLOSING, and the acknowledgement of its own FIN makes tcp_time_wait build a TIME_WAIT mini-socket, at both ends. " +
			"Nobody was first, and nothing is lost. It usually means that both ends run the same idle timer, or react to the same event.",
		Prove: "`tcpdump -nni any tcp port PORT` shows two [F.] of which neither acknowledges the other. " +
			"`ss -tan state time-wait` lists the connection on both hosts (twice on a loopback connection), and `ss -tan state closing` shows it for the moment in between.",
		Belief: "\"TIME_WAIT is on the server.\" \"TIME_WAIT is always on both ends.\"",
		Truth:  "It is at whichever end closed first, client or server. It is at both only after a simultaneous close like this one.",
		Refs:   []string{"RFC 9293 3.6", "RFC 1337", "tcp(7)", "tcp_fin", "tcp_time_wait"},
	},

	// Aborted by a process.
	CloseUnread: {
		What: "A process closed while its socket still held data that it had not read. " +
			"__tcp_close empties the receive queue first. If it finds bytes after copied_seq there, it does not send a FIN: it goes straight to CLOSE and tcp_send_active_reset sends RST with ACK, because a goodbye would tell the peer that everything had been taken (RFC 2525). " +
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
	},
	LingerZero: {
		What: "A process closed with SO_LINGER on and a time of 0, which is an abort, not a close. " +
			"__tcp_close calls tcp_disconnect: the state becomes CLOSE, tcp_send_active_reset sends RST with ACK, and both queues are purged, so that everything not yet acknowledged is gone. No TIME_WAIT remains. " +
			"From LAST_ACK or CLOSING with everything sent, no RST goes out at all (tcp_need_reset), though the counter moves. " +
			"The counter is TCPAbortOnData, whatever its name suggests, with EstabResets when the state was ESTABLISHED or CLOSE_WAIT; from 6.12 the reset reason is TCP_STATE (14), or TCP_DISCONNECT_WITH_DATA (16) from LAST_ACK or CLOSING with data unsent. " +
			"If there was unread data as well, it is counted and reported as close-unread.",
		Prove: "`strace -f -e trace=setsockopt,close -p PID` shows SO_LINGER with {l_onoff=1, l_linger=0}, then the close. " +
			"`nstat -az TcpExtTCPAbortOnData` moves by 1. " +
			"`bpftrace -e 'kprobe:tcp_disconnect { printf(\"%d %s%s\\n\", pid, comm, kstack); }'` shows __tcp_close as the caller.",
		Do:     "Leave SO_LINGER off and close normally: shutdown(SHUT_WR), read to the end, then close(2). Keep the abort for peers that must not get any more.",
		Belief: "\"SO_LINGER 0 is the cure for TIME_WAIT.\" \"TCPAbortOnData counts unread data.\"",
		Truth: "It is an abort that avoids TIME_WAIT by destroying data in flight; TIME_WAIT costs little, and where ports run out net.ipv4.tcp_tw_reuse at the client helps without loss. " +
			"The names are the other way round: unread data at close(2) is TCPAbortOnClose, while TCPAbortOnData counts this abort and data that came after a close.",
		Refs: []string{"RFC 9293 3.10.5", "socket(7)", "close(2)", "__tcp_close", "tcp_disconnect", "tcp_need_reset"},
	},
	Disconnect: {
		What: "A process dissolved the connection with connect(2) to an address of family AF_UNSPEC. " +
			"__inet_stream_connect calls tcp_disconnect: the state becomes CLOSE, tcp_send_active_reset sends RST with ACK, the queues are purged, and addresses and counters are set back. " +
			"The descriptor stays open, and the same socket (with the same cookie) can be connected again. " +
			"The peer gets ECONNRESET. EstabResets and OutRsts move, but no TCPAbort counter; from 6.12 the reset reason is TCP_STATE (14).",
		Prove: "`strace -f -e trace=connect,close -p PID` shows connect with sa_family=AF_UNSPEC on a connected descriptor. " +
			"`bpftrace -e 'kprobe:tcp_disconnect { printf(\"%d %s%s\\n\", pid, comm, kstack); }'` shows __inet_stream_connect as the caller.",
		Do:   "If the abort was not meant, end the connection with shutdown(2) and close(2) and take a new socket for the next one.",
		Refs: []string{"connect(2)", "RFC 9293 3.10.5", "__inet_stream_connect", "tcp_disconnect"},
	},
	ListenerClosed: {
		What: "The listener was closed while this connection still waited in its accept queue. " +
			"The kernel completes handshakes by itself; a connection waits in the listener's queue until accept(2) takes it. When the listener goes (close, exit, shutdown, SOCK_DESTROY), inet_csk_listen_stop walks the queue and inet_child_forget calls tcp_disconnect for each child: RST with ACK. " +
			"A child that completes at that very moment gets the same from inet_csk_reqsk_queue_add. " +
			"From 5.14 net.ipv4.tcp_migrate_req can move the children to another listener of the same SO_REUSEPORT group (TCPMigrateReqSuccess). " +
			"EstabResets and OutRsts move once for each child; TCPAbortOnClose does not, even if the client's request was in the queue. From 6.12 the reset reason is TCP_STATE (14).",
		Prove: "`ss -ltn` just before shows Recv-Q above 0 for the listener: that many were waiting. " +
			"`bpftrace -e 'kprobe:inet_child_forget { printf(\"%d %s\\n\", pid, comm); }'` names the process that closed the listener. " +
			"`tcpdump -nni any tcp port PORT` shows a complete handshake, perhaps a request, then [R.] from the server.",
		Do:     "Take new connections away first (load balancer, readiness), accept(2) until the queue is empty, then close the listener. With SO_REUSEPORT and 5.14 or later, net.ipv4.tcp_migrate_req=1 hands the queue on.",
		Belief: "\"Retrying after a reset is always safe.\" \"Retrying after a reset is never safe.\"",
		Truth: "It depends on whether the request was read. A request that no process had read or even accepted, as here or when it met a closed socket, can be sent again. " +
			"One that was read may have been carried out although the answer is lost; tcpbye says which bytes were unread.",
		Refs: []string{"listen(2)", "accept(2)", "inet_csk_listen_stop", "inet_child_forget", "inet_csk_reqsk_queue_add"},
	},
	SockDestroy: {
		What: "Somebody destroyed the socket from outside; neither application closed it. " +
			"ss -K and other users of sock_diag send SOCK_DESTROY, which goes through tcp_diag_destroy to tcp_abort; from 6.5 the BPF function bpf_sock_destroy gets there too. " +
			"tcp_abort sends RST with ACK while the state is still live, sets sk_err to ECONNABORTED and ends the socket. The local process reads ECONNABORTED, the peer ECONNRESET. " +
			"5.10 passes over sockets that no process holds any more, and cannot destroy a TIME_WAIT; 6.1 and later do both. " +
			"EstabResets and OutRsts move, no TCPAbort counter does; from 6.12 the reset reason is TCP_STATE (14). The kernel needs CONFIG_INET_DIAG_DESTROY.",
		Prove: "`bpftrace -e 'kprobe:tcp_abort { printf(\"%d %s\\n\", pid, comm); }'` names the process. " +
			"`strace -f -e trace=read,recvfrom,write,sendto -p PID` at the victim shows ECONNABORTED, which nothing on the wire causes on an established connection. " +
			"`ss -E` prints sockets as they go.",
		Do:   "Find out why that process destroys sockets: a script with ss -K, a network manager, an agent of the load balancer or service mesh.",
		Refs: []string{"ss(8)", "sock_diag(7)", "capabilities(7)", "tcp_diag_destroy", "tcp_abort", "bpf_sock_destroy"},
	},
	RepairClose: {
		What: "The socket was closed in repair mode and vanished without any packet. " +
			"With TCP_REPAIR on, __tcp_close calls tcp_disconnect, which sends neither FIN nor RST, sets sk_err to ECONNABORTED and goes to CLOSE. " +
			"This is how checkpoint tools such as CRIU take a connection away from one host to bring it up on another. " +
			"If nothing brings it up again, the peer learns nothing until it sends: then it meets a kernel without that socket, and its segment is answered with a bare RST (reason NO_SOCKET).",
		Prove: "`strace -f -e trace=setsockopt,close -p PID` shows TCP_REPAIR set to 1 before the close. " +
			"`tcpdump -nni any tcp port PORT` shows nothing at that moment. " +
			"`nstat -az TcpEstabResets TcpOutRsts` shows the first moving without the second.",
		Do:   "Set TCP_REPAIR back to 0 before the close, unless the connection is really being moved to another socket.",
		Refs: []string{"capabilities(7)", "__tcp_close", "tcp_disconnect"},
	},
	MPTCPReset: {
		What: "MPTCP reset one of its subflows, or all of them at once (fastclose). " +
			"mptcp_do_fastclose, mptcp_subflow_reset and mptcp_check_fastclose send the RST with ACK while the subflow is still alive, often from a kernel worker, so that the process is not the one on the CPU. " +
			"A fastclose ends the whole connection; a subflow reset ends one path (a join that failed, a checksum or mapping that a middlebox damaged, a fallback that is not allowed any more) and the others may go on. " +
			"The subflow is closed through __tcp_close, past tcp_close. MPTcpExt counts it (MPRstTx, MPRstRx, MPFastcloseTx, MPFastcloseRx); from 6.12 the reset reason is TCP_ABORT_ON_CLOSE (11) for a fastclose and 17 to 23 for the others.",
		Prove: "`nstat -az 'MPTcpExtMP*'` shows which of the counters moved. " +
			"`ss -Mani` shows the MPTCP connection, `ss -tani` its subflows. " +
			"`tcpdump -nni any tcp port PORT` prints the MPTCP option of the RST with its reason.",
		Do:   "Tell a fastclose (the application aborted) from a subflow reset (the path failed) by the MPTcpExt counters. For the second, look for a middlebox that strips or changes MPTCP options.",
		Refs: []string{"RFC 8684 3.5", "RFC 8684 3.6", "mptcp_do_fastclose", "mptcp_subflow_reset", "__mptcp_close_ssk"},
	},

	// Aborted by a kernel, because of what came after.
	DataAfterClose: {
		What: "Data came for a socket whose process had closed it; the kernel answered with a RST. " +
			"close(2) ends both directions: the FIN says only that this end sends no more, but nobody is left to read either. What happens to data that comes then depends on how far the goodbye has got. " +
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
	},
	DataAfterShutdown: {
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
	},
	Linger2Negative: {
		What: "A process closed with TCP_LINGER2 below zero: its kernel keeps no FIN_WAIT2 at all. " +
			"If close(2) finds the socket in FIN_WAIT2, __tcp_close sends RST with ACK at once (TCPAbortOnLinger, from 6.12 reason TCP_ABORT_ON_LINGER, 12). If the FIN is still on its way, tcp_rcv_state_process answers the ACK for it with a bare RST (TCPAbortOnData, reason TCP_ABORT_ON_DATA, 8). " +
			"TCP_ABORT_ON_LINGER is about this option, not about SO_LINGER. " +
			"When all data had been acknowledged, the peer has read everything and then the end of file: the RST is harmless. It is not if the peer was still to answer.",
		Prove: "`strace -f -e trace=setsockopt,close -p PID` shows TCP_LINGER2 set to a negative value. " +
			"`nstat -az TcpExtTCPAbortOnLinger TcpExtTCPAbortOnData` shows one of them moving. " +
			"`tcpdump -nni any tcp port PORT` shows [F.], its ACK, and a RST from the same end right behind.",
		Do:   "Leave TCP_LINGER2 alone or set a time above zero, if the peer is to answer after the close.",
		Refs: []string{"tcp(7)", "RFC 9293 3.6", "__tcp_close", "tcp_rcv_state_process"},
	},
	OrphanLimit: {
		What: "The kernel reset a closed socket, because too many of them wait or TCP memory is short. " +
			"A socket that its process has closed, but whose goodbye is not finished, is an orphan. tcp_check_oom looks at net.ipv4.tcp_max_orphans and net.ipv4.tcp_mem at the close (__tcp_close), and again at each retransmit or probe timer (tcp_out_of_resources), where an orphan whose peer has long been silent, or that ICMP has spoken of, counts for more. " +
			"At close the RST always goes out, from the timer unless the socket has sent nothing for long; what was in the send queue is lost. " +
			"TCPAbortOnMemory moves, from 6.12 the reset reason is TCP_ABORT_ON_MEMORY (13), and the kernel log has \"too many orphaned sockets\" or \"out of memory -- consider tuning tcp_mem\".",
		Prove: "`nstat -az TcpExtTCPAbortOnMemory` moves. " +
			"`cat /proc/net/sockstat` shows orphan and mem (in pages), `sysctl net.ipv4.tcp_max_orphans net.ipv4.tcp_mem` the limits. " +
			"`dmesg | grep -e orphaned -e tcp_mem` shows what the kernel said.",
		Do:   "Find out which peers let closed sockets wait (ss -tan state fin-wait-1, state last-ack). Then raise net.ipv4.tcp_max_orphans or net.ipv4.tcp_mem if the load is legitimate.",
		Refs: []string{"tcp(7)", "__tcp_close", "tcp_check_oom", "tcp_out_of_resources"},
	},
	NoSocket: {
		What: "A segment met a kernel that has no such connection any more, and a RST came back. " +
			"tcp_v4_rcv (tcp_v6_rcv) finds no socket for the addresses and ports, and tcp_v4_send_reset answers with a bare RST whose sequence number is the segment's acknowledgement number. An ACK that reaches a listener without a matching request gets the same. " +
			"The connection had ended there before: a restart, a FIN_WAIT2 that ran out (a late answer then finds nothing), a retransmission timeout of which the other end was never told, a connection moved away, or segments that lost their address translation and reached the wrong stack. " +
			"Only OutRsts counts it; from 6.12 the reset reason is NO_SOCKET (1), or TCP_FLAGS (6) at a listener. Up to 6.1 the tracepoint tcp_send_reset does not fire without a socket.",
		Prove: "`tcpdump -nni any tcp port PORT` on the host that answers shows a segment, then [R] without ACK. " +
			"`ss -tan` there has no such connection. " +
			"`bpftrace -e 'kprobe:tcp_v4_send_reset /arg0 == 0/ { printf(\"no socket\\n\"); }'` fires for each (tcp_v6_send_reset for IPv6).",
		Do:     "Look for what ended the connection at that host before: a restart, a timeout, an address translation that forgot it. The RST is only the echo.",
		Belief: "\"The RST in the capture is the cause.\"",
		Truth:  "It is often the echo: look for the earlier FIN, close, timeout or idle gap. After a complete and acknowledged exchange it is harmless.",
		Refs:   []string{"RFC 9293 3.5.2", "RFC 9293 3.10.7.1", "tcp_v4_rcv", "tcp_v4_send_reset", "tcp_check_req"},
	},
	PortReuse: {
		What: "A new SYN came from the addresses and ports of an old connection that was still open. " +
			"The old end does not believe a SYN on an established connection: tcp_validate_incoming sends a challenge ACK (TCPSYNChallenge, TCPChallengeACK). The new end, in SYN_SENT, cannot use that ACK and its kernel answers with a bare RST that fits the old connection exactly, which ends it; the SYN is then sent again and succeeds. " +
			"The owner of the old end gets ECONNRESET. From 6.12 the RST's reason is TCP_INVALID_ACK_SEQUENCE (2). " +
			"It means that the other end lost the old connection without a goodbye: a crash, a machine restored from a snapshot, a NAT or load balancer that gave the port away again.",
		Prove: "`nstat -az TcpExtTCPSYNChallenge TcpExtTCPChallengeACK` moves at the host with the old end. " +
			"`tcpdump -nni any tcp port PORT` shows [S] on an open connection, [.] in answer, [R], then a second [S] and [S.].",
		Do:     "Find out why the other end forgot the old connection without closing it: a crash, a restored machine, a NAT that reuses ports early. Keepalive at this end clears such leftovers sooner.",
		Belief: "\"tcp_tw_recycle is a good tuning.\"",
		Truth:  "It was removed in 4.12, because it refused new connections of clients behind one NAT by their timestamps. A TIME_WAIT gives way to a new SYN with a newer timestamp or sequence number by itself.",
		Refs:   []string{"RFC 9293 3.5.1", "RFC 5961 4", "RFC 6191", "RFC 7323 5", "tcp_validate_incoming", "tcp_rcv_state_process"},
	},
	NamespaceRemoved: {
		What: "The process had closed; while the kernel waited for the peer's FIN, the namespace went. " +
			"A closed socket whose FIN is acknowledged is a FIN_WAIT2 mini-socket, which does not keep its namespace alive: when the last process and descriptor of it go (a container stops, `ip netns del`), cleanup_net purges it (inet_twsk_purge). " +
			"No packet is sent. The addresses vanish with the namespace, so what the peer sends now is answered by nobody, or by whoever gets the address next.",
		Prove: "`ip netns list` or the container's state shows that it is gone; at the peer `ss -tan state close-wait` still shows the connection.",
		Do:    "Nothing at this end: it had said goodbye. Let the peer close when it reads the end of the stream, before the container is removed.",
		Refs:  []string{"network_namespaces(7)", "ip-netns(8)", "inet_twsk_purge", "cleanup_net"},
	},
	PathReset: {
		What: "A RST came in the name of the peer, but the peer's TCP stack did not send it. " +
			"The receiver cannot tell: tcp_validate_incoming accepts any RST whose sequence number is exactly the next one, and tcp_reset ends the connection with ECONNRESET. " +
			"Senders of such segments are packet filters (nft reject with tcp reset, iptables REJECT --reject-with tcp-reset: nf_send_reset, nf_send_reset6), raw sockets, user-space stacks, and firewalls, load balancers and address translators on the path that gave the flow up. " +
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
	},
	PeerAbort: {
		What: "The peer, or something that answers for it, aborted the connection with RST and ACK. " +
			"A Linux stack puts an ACK on a RST that it sends of its own accord (tcp_send_active_reset): a close over unread data, SO_LINGER at zero, a listener closed with the connection in its queue, keepalive given up, ss -K. A RST that only answers a segment is bare. " +
			"Here tcp_validate_incoming checks the sequence number and tcp_reset sets sk_err: ECONNRESET, or EPIPE if the peer's FIN had come before. " +
			"The send queue is purged, but what was received stays readable. EstabResets moves at this end.",
		Prove: "`tcpdump -nni any tcp port PORT` shows [R.] that no segment of this end had provoked. " +
			"At the peer: `nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData TcpExtTCPAbortOnTimeout` says which kind of abort it was, and tcpbye there names the process.",
		Do:     "Trace at the peer to learn which process aborted and why; most often it closed with input unread. Here: after a failed write, still read what has arrived.",
		Belief: "\"send() succeeded, so the peer got it.\" \"ECONNRESET means that the peer crashed, or a firewall.\" \"A RST wipes what I have already received.\"",
		Truth: "It reached the local kernel, nothing more: a RST that comes later destroys what is unacknowledged (measured: 472,000 of 600,000 bytes), and even what is acknowledged need not have been read. " +
			"Most often a healthy program closed with input unread; a process that is killed with nothing unread says goodbye with a FIN. " +
			"On Linux queued bytes stay readable, then ECONNRESET comes once: after a write error, read what is left (other systems may discard it).",
		Refs: []string{"RFC 9293 3.5.2", "RFC 9293 3.5.3", "RFC 5961 3", "send(2)", "recv(2)", "tcp_send_active_reset", "tcp_reset"},
	},
	PeerGone: {
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
	},

	// Timed out.
	KeepaliveTimeout: {
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
	},
	RetransmitTimeout: {
		What: "The peer never acknowledged data that was sent again and again, so this kernel gave up. " +
			"tcp_retransmit_timer sends the first unacknowledged segment again with doubled waits, until net.ipv4.tcp_retries2 (15, about 15 minutes with the smallest timeout) is used up; then tcp_write_err, inlined into it, ends the socket. " +
			"No packet is sent: the peer may hold its end in ESTABLISHED for ever, and when it sends, it is answered with a RST for want of a socket. " +
			"The process gets ETIMEDOUT, or the error of an ICMP message that came in the meantime (sk_err_soft), such as EHOSTUNREACH. " +
			"TCPTimeouts and RetransSegs count the attempts, TCPAbortOnTimeout the end.",
		Prove: "`ss -tanoi` shows timer:(on,…,N) with N growing, and unacked and backoff. " +
			"`nstat -az TcpExtTCPTimeouts TcpRetransSegs TcpExtTCPAbortOnTimeout` moves. " +
			"`tcpdump -nni any tcp port PORT` shows the same segment leave at doubled intervals, and nothing come back.",
		Do:     "Look for what swallowed the segments: a host that is down, a route, or a NAT or firewall that dropped the idle flow. Set TCP_USER_TIMEOUT to learn of it sooner.",
		Belief: "\"When a connection times out, the peer is told.\"",
		Truth:  "Giving up after retransmissions sends nothing, and the peer stays ESTABLISHED until it sends or probes itself. Only the end by keepalive sends a RST.",
		Refs:   []string{"RFC 9293 3.8.3", "RFC 6298", "tcp(7)", "tcp_retransmit_timer", "tcp_write_timeout", "tcp_write_err"},
	},
	UserTimeout: {
		What: "Data stayed unacknowledged for longer than TCP_USER_TIMEOUT, so this kernel gave up. " +
			"The option (milliseconds, off by default) replaces net.ipv4.tcp_retries2 in tcp_retransmit_timer, and also limits how long tcp_write_timer_handler probes a zero window, even if the peer answers the probes. " +
			"No packet is sent: the peer may still think that the connection is open. The process gets ETIMEDOUT, or the error of an ICMP message that came in the meantime. " +
			"TCPAbortOnTimeout moves. Several runtimes and RPC libraries set the option without being asked.",
		Prove: "`strace -f -e trace=setsockopt -p PID` shows TCP_USER_TIMEOUT and its value. " +
			"`ss -tanoi` shows timer:(on,…) or timer:(persist,…) with the age of what is unacked. " +
			"`nstat -az TcpExtTCPAbortOnTimeout` moves by 1.",
		Do:     "Check whether the time fits the path: it must outlast the longest interruption that is to be survived. Then look for what swallowed the segments, or why the peer did not read.",
		Belief: "\"TCP_USER_TIMEOUT finds every dead peer.\"",
		Truth:  "By itself it runs only while data is unacknowledged or a window is closed. An idle connection to a dead peer stays open unless keepalive is on too.",
		Refs:   []string{"RFC 5482", "RFC 9293 3.8.3", "tcp(7)", "tcp_retransmit_timer", "tcp_write_timer_handler"},
	},
	ZeroWindowTimeout: {
		What: "The peer kept its receive window closed and then stopped answering the probes. " +
			"With data to send and nothing in flight, tcp_write_timer_handler runs the persist timer (tcp_probe_timer, inlined): a probe with doubled waits. An answer, even one that says zero again, sets the count back, so a peer that merely does not read is waited for without end. " +
			"After net.ipv4.tcp_retries2 (15) probes without any answer the kernel gives up. " +
			"No packet is sent. The process gets ETIMEDOUT, or the error of an ICMP message that came in the meantime; TCPAbortOnTimeout moves, and what was in the send queue is lost.",
		Prove: "`ss -tanoi` shows timer:(persist,…) with Send-Q above 0. " +
			"`tcpdump -nni any tcp port PORT` shows win 0 from the peer, then probes at growing intervals without an answer. " +
			"`nstat -az TcpExtTCPAbortOnTimeout TcpExtTCPWinProbe` moves.",
		Do:   "Find out why the peer's process stopped reading before its host fell silent. Set TCP_USER_TIMEOUT if this end must not wait that long.",
		Refs: []string{"RFC 9293 3.8.6.1", "tcp(7)", "tcp_write_timer_handler", "tcp_probe_timer"},
	},
	OrphanTimeout: {
		What: "The process had closed, and the peer never acknowledged the rest or the FIN. " +
			"close(2) has returned 0, and the socket without owner (FIN_WAIT1, CLOSING or LAST_ACK, SOCK_DEAD) goes on sending on its own, but with less patience: net.ipv4.tcp_orphan_retries attempts, where the default 0 means 8 while the waits are short. It gives up on a window that never opens, too, even if the probes are answered. " +
			"No packet is sent and no error is reported, since nobody is left to read it: this is the silent loss. " +
			"TCPAbortOnTimeout moves. If the peer still lives, its next segment is answered with a RST for want of a socket.",
		Prove: "`ss -tanoe state fin-wait-1` (or state last-ack, state closing) shows the socket with Send-Q above 0, a timer, and no process. " +
			"`nstat -az TcpExtTCPAbortOnTimeout` moves by 1. " +
			"`sysctl net.ipv4.tcp_orphan_retries` shows the limit.",
		Do:     "Where the data matters, do not let close(2) be the last word: shutdown(SHUT_WR), read to the end (the peer's FIN is its receipt), then close(2).",
		Belief: "\"SO_LINGER with a time guarantees delivery.\"",
		Truth:  "It waits for the acknowledgement of the peer's kernel, not for its process to read; when the time is over, close(2) returns without an error and the sending goes on in the background. Only an answer from the peer's application proves delivery.",
		Refs:   []string{"RFC 9293 3.8.3", "close(2)", "socket(7)", "tcp(7)", "tcp_orphan_retries", "tcp_write_timeout"},
	},
	FinWait2Timeout: {
		What: "The process had closed, and the peer never sent its FIN; the kernel stopped waiting. " +
			"A closed socket whose FIN is acknowledged becomes a FIN_WAIT2 mini-socket (tcp_time_wait) for net.ipv4.tcp_fin_timeout (60 s) or TCP_LINGER2, and then vanishes without a packet (inet_twsk_kill). " +
			"Above 60 s the full socket waits for the surplus first. Where the full socket had to be kept, because its lock was held as the ACK came, tcp_keepalive_timer ends it with a RST (from 6.12 reason TCP_STATE, 14). " +
			"The peer is still in CLOSE_WAIT: whatever it sends now is answered with a RST for want of a socket. No TCPAbort counter moves.",
		Prove: "`ss -tanoe state fin-wait-2` shows it with timer:(timewait,…) and without a process until it goes. " +
			"At the peer, `ss -tanp state close-wait` names the process that has not closed. " +
			"`sysctl net.ipv4.tcp_fin_timeout` shows the time.",
		Do:     "Look at the peer: its process has not closed (CLOSE_WAIT there). If it answers late on purpose, use shutdown(SHUT_WR) here and close only after its end.",
		Belief: "\"tcp_fin_timeout shortens TIME_WAIT.\"",
		Truth:  "It limits how long a closed socket stays in FIN_WAIT2, nothing else. TIME_WAIT is a fixed 60 s (TCP_TIMEWAIT_LEN).",
		Refs:   []string{"RFC 9293 3.6", "tcp(7)", "tcp_time_wait", "inet_twsk_kill", "tcp_keepalive_timer"},
	},
	SendFailed: {
		What: "This host could not send: a route, an address, a filter, a neighbor or a device failed. " +
			"Each time the retransmission timer, the window probe or the keepalive timer tried, tcp_retransmit_skb or tcp_write_wakeup returned an error, or the segment was thrown away because ARP (neighbor discovery) had no answer; nothing reached the wire, and the timers ran out. " +
			"EPERM is a packet filter of this host at output or postrouting (such as one that drops what conntrack calls INVALID after its table was flushed), or a BPF program of the cgroup; EHOSTUNREACH, ENETUNREACH, EACCES and EINVAL are its routes or a source address that is gone; ENETDOWN is the device; a positive number is a queueing discipline or tc. " +
			"send(2) does not tell: the data waits in the queue. The process gets ETIMEDOUT, or the routing error; the peer hears nothing and may hold its end for ever.",
		Prove: "`nstat -az TcpExtTCPRetransFail IpOutNoRoutes IpOutDiscards` moves at this host, and `tcpdump -nni any tcp port PORT` shows no segment leave. " +
			"`ip -s addr`, `ip route get ADDRESS from LOCAL`, `ip neigh` and `nft list ruleset` show what is missing; with `conntrack -E` a flow that vanishes shows.",
		Do:     "Mend this host, not the peer: its address, route, packet filter, neighbor or device, as the sentence says. Connections from an address that is gone must be opened again.",
		Belief: "\"Connection timed out, so the other side is down.\"",
		Truth:  "ETIMEDOUT says that no answer came. Whether a question ever left, TCP does not tell the application.",
		Refs:   []string{"tcp(7)", "ip-neighbour(8)", "nft(8)", "tcp_retransmit_skb", "tcp_write_wakeup", "ip_queue_xmit", "arp_error_report"},
	},
	ConnectTimeout: {
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
	},

	// Refused.
	PortClosed: {
		What: "Nobody listened on that address and port, and its kernel refused the SYN with a RST. " +
			"tcp_v4_rcv (tcp_v6_rcv) finds no socket, and tcp_v4_send_reset answers with RST and ACK, sequence number 0. Here the socket in SYN_SENT takes it in tcp_reset: connect(2) fails with ECONNREFUSED. " +
			"AttemptFails moves at the client, OutRsts at the host that refused; from 6.12 the reset reason there is NO_SOCKET (1). Up to 6.1 the tracepoint tcp_send_reset does not fire for it.",
		Prove: "`tcpdump -nni any tcp port PORT` shows [S], then [R.] with seq 0. " +
			"On the host, `ss -ltnp` shows what listens, and on which address: 127.0.0.1 is not reachable from outside, and in another network namespace the list is another. " +
			"`nstat -az TcpAttemptFails` moves at the client.",
		Do:     "Check with ss -ltnp on that host, in the right network namespace, that the server runs and listens on this address and port.",
		Belief: "\"ECONNREFUSED always comes from a RST.\"",
		Truth:  "An ICMP port unreachable, as packet filters send it, gives the same error without any RST. A capture tells them apart.",
		Refs:   []string{"connect(2)", "RFC 9293 3.10.7.1", "RFC 9293 3.5.2", "tcp_v4_rcv", "tcp_v4_send_reset", "tcp_reset"},
	},
	ConnectCancelled: {
		What: "The process gave up connecting by itself, before the handshake was complete. " +
			"close(2), shutdown(2), exit or a connect with AF_UNSPEC on a socket in SYN_SENT goes through __tcp_close or tcp_disconnect straight to CLOSE. No packet is sent. " +
			"If the server's SYN-ACK comes later, it finds no socket and is answered with a RST, which removes the half-open connection at the server. " +
			"Behind it is usually a connect timeout of the program or its library, or the race of IPv6 and IPv4 in which the slower attempt is dropped.",
		Prove: "`strace -f -e trace=connect,close,poll,ppoll,epoll_wait -p PID` shows connect with EINPROGRESS, a wait that times out, then close. " +
			"`tcpdump -nni any tcp port PORT` shows [S] without an answer, or an answer that is met with [R].",
		Do:   "If it was too soon, give the program a longer connect timeout. If not, look for why the SYN had no answer in that time (tcpbye explain connect-timeout).",
		Refs: []string{"connect(2)", "RFC 9293 3.10.4", "RFC 8305", "__tcp_close", "tcp_disconnect"},
	},
	Unreachable: {
		What: "The network or this host said that the address cannot be reached. " +
			"Either an ICMP message answered the SYN: tcp_v4_err (tcp_v6_err) ends a socket in SYN_SENT with its errno (EHOSTUNREACH, ENETUNREACH, ECONNREFUSED for port unreachable), unless the process holds the socket's lock at that instant; then the errno is only kept in sk_err_soft and reported if the attempt times out. " +
			"Or no SYN was sent at all: connect(2) found no route (ENETUNREACH), or no free local port (EADDRNOTAVAIL), or the address and port that it was bound to have such a connection already. " +
			"EHOSTUNREACH after about 3 s on the own network means that neighbour resolution failed (arp_error_report): the kernel then sends itself the ICMP message, and nothing left the host. A packet filter of this host that rejects does the same. AttemptFails moves when ICMP ended it.",
		Prove: "`ip route get ADDRESS` shows the route, `ip neigh` a neighbour that is FAILED. " +
			"`tcpdump -nni any 'icmp or icmp6 or tcp port PORT'` shows the message and who sent it. " +
			"`ss -tan state time-wait | wc -l` and `sysctl net.ipv4.ip_local_port_range` show whether ports ran out.",
		Do:   "Follow the errno: ENETUNREACH to the routing table, EHOSTUNREACH to the neighbour or the router that sent the ICMP, EADDRNOTAVAIL to the local ports.",
		Refs: []string{"RFC 9293 3.9.2.2", "RFC 5461", "connect(2)", "ip(7)", "icmp(7)", "tcp_v4_err", "inet_hash_connect"},
	},
	AcceptOverflow: {
		What: "The listener's accept queue was full, so the kernel would not complete the handshake. " +
			"The queue holds completed connections until accept(2) takes them; its length is the smaller of listen(2)'s backlog and net.core.somaxconn, plus one. When it is full, tcp_conn_request drops new SYNs without a word: the client tries again and hangs in SYN_SENT. " +
			"If it fills up between SYN and final ACK, that ACK is dropped as well and the client believes that it is connected. Only in that last case, and only with net.ipv4.tcp_abort_on_overflow=1, does tcp_check_req send a RST (from 6.12 with the misleading reason INVALID_SYN, 10). " +
			"ListenOverflows and ListenDrops move together.",
		Prove: "`ss -ltn` shows Recv-Q (waiting) above Send-Q (the limit) for the listener. " +
			"`nstat -az TcpExtListenOverflows TcpExtListenDrops` moves. " +
			"At the client, `ss -tano state syn-sent` shows the attempt with its timer.",
		Do:     "Find out why the server accepts too slowly; that is the cause. Then raise both listen(2)'s backlog and net.core.somaxconn.",
		Belief: "\"A full accept queue resets the clients.\"",
		Truth:  "SYNs are dropped and the clients hang in SYN_SENT. Switching net.ipv4.tcp_abort_on_overflow on changes nothing about that: it concerns only a handshake whose last ACK meets a full queue.",
		Refs:   []string{"listen(2)", "accept(2)", "tcp(7)", "tcp_conn_request", "tcp_check_req", "tcp_v4_syn_recv_sock"},
	},
	HandshakeReset: {
		What: "The peer reset the connection before the handshake was complete. " +
			"It sent a SYN, got the SYN-ACK, and answered with a RST. Usually only a request socket exists then: tcp_check_req drops it, there is no state change to see, and accept(2) never hears of it. A full socket in SYN_RECV (fast open, simultaneous open) goes to CLOSE. " +
			"EmbryonicRsts and AttemptFails move at the server. tcp_check_req of 6.1.192, 6.12.117 and 7.2 demands the exact sequence number of such a RST; that of 5.10 and 6.18.15 takes any within the window. " +
			"Port scans and health checks do this on purpose; a client that has given up, or lost its state, does it too.",
		Prove: "`nstat -az TcpExtEmbryonicRsts TcpAttemptFails` moves. " +
			"`tcpdump -nni any tcp port PORT` shows [S], [S.], then [R] from the client.",
		Do:   "Check whether the address belongs to a health check or a scan: those end so on purpose, and nothing was lost. If not, look at the client for a connect that it gave up.",
		Refs: []string{"RFC 9293 3.5.3", "RFC 9293 3.10.7.4", "tcp_check_req", "inet_csk_reqsk_queue_drop"},
	},

	// Open.
	CloseWaitLeak: {
		What: "The peer has finished, and the process at this end has not closed its socket. " +
			"The peer's FIN came in (tcp_fin): the state is CLOSE_WAIT, and read(2) returns 0 once everything before it has been read. From here on only this end's process can go further, with shutdown(2) or close(2); no timer exists for it (keepalive ends it only if the peer is gone). " +
			"A short stay is normal, and so is a long one while the answer is still being sent. Many of them that never go are a leak: the descriptors run out (EMFILE) sooner or later.",
		Prove: "`ss -tanp state close-wait` shows the process and descriptor; Recv-Q of 1 with no reader means that it has not even seen the FIN. " +
			"`ls /proc/PID/fd | wc -l` grows. " +
			"`strace -f -e trace=read,recvfrom,epoll_wait,close -p PID` shows whether it ever reads the 0 and what it does then.",
		Do:     "Make the process close the socket when read(2) returns 0. Look at the path that forgets it: an error return, a pool, a thread that hangs.",
		Belief: "\"CLOSE_WAIT and FIN_WAIT2 are a matter of the kernel or the network; tune the sysctls.\"",
		Truth:  "CLOSE_WAIT means that your process has not closed, and no sysctl has a timer for it. A FIN_WAIT2 that a process still holds has none either: tcp_fin_timeout is for closed sockets only.",
		Refs:   []string{"RFC 9293 3.6", "close(2)", "ss(8)", "tcp_fin"},
	},
	FinWait2Held: {
		What: "One end shut its sending side down and still holds the socket; the peer has not finished. " +
			"shutdown(2) sent the FIN and the peer acknowledged it: FIN_WAIT2. While a process holds the socket, no timer applies; net.ipv4.tcp_fin_timeout and TCP_LINGER2 count only after close(2). " +
			"For a half-close this is as it should be: the peer may send for as long as it likes. If nothing comes, the peer is in CLOSE_WAIT and its process has not closed, or the peer is gone and only keepalive would notice.",
		Prove: "`ss -tanpoe state fin-wait-2` shows the process and no timer; a closed one has no process and timer:(timewait,…). " +
			"At the peer, `ss -tanp state close-wait` names the process that is to close.",
		Do:   "Read to the end with a time limit of your own, then close(2): from then on the kernel limits the wait. If it lasts, look for the process in CLOSE_WAIT at the peer.",
		Refs: []string{"RFC 9293 3.6.1", "shutdown(2)", "tcp(7)", "tcp_shutdown", "tcp_time_wait"},
	},
	FinStuck: {
		What: "The goodbye has begun, but the FIN is not acknowledged: it may not even have been sent. " +
			"tcp_send_fin queues the FIN behind the data. In FIN_WAIT1 it waits for the congestion window, for the peer's receive window (persist timer, Send-Q above 0) or for its acknowledgement (retransmit timer). " +
			"The peer can still read everything that is queued, if it reads. After close(2) the socket has no owner, and if the peer answers nothing the kernel gives up in the end (orphan-timeout); any data from the peer makes it throw the queue away (data-after-close).",
		Prove: "`ss -tanoei state fin-wait-1` shows Send-Q, the timer (persist: window closed; on: retransmitting) and ino:0 once it is closed. " +
			"`tcpdump -nni any tcp port PORT` shows win 0 from the peer, or the same segment again and again.",
		Do:     "Look at the peer: with win 0 its process does not read, without answers the path or the host is gone.",
		Belief: "\"A non-blocking socket never blocks in close().\"",
		Truth:  "With SO_LINGER on and a time above 0, close(2) waits for the goodbye on a non-blocking socket too (measured: it blocked for 1.0 s).",
		Refs:   []string{"RFC 9293 3.6", "close(2)", "socket(7)", "tcp_send_fin", "tcp_write_timer_handler"},
	},
	DescriptorHeld: {
		What: "A process closed its descriptor, but others still refer to the socket: nothing was sent. " +
			"close(2) gives up one reference to the open file (filp_close up to 6.1, filp_flush from 6.12). Only when the last one goes does __fput reach sock_close, inet_release and tcp_close. " +
			"Holders are forked children, dup(2) copies, descriptors passed with SCM_RIGHTS (even in flight), io_uring's fixed files, and any thread inside a call on the socket. epoll holds none. " +
			"The connection stays ESTABLISHED and goes on acknowledging data. When the last holder exits with data unread, the peer gets a RST.",
		Prove: "`ss -tanpe` still shows ESTAB, and names every process that has the socket in its descriptor table. " +
			"`lsof -nP -iTCP:PORT` lists the copies; descriptors in flight and io_uring's do not show there. " +
			"`strace -f -e trace=close,dup,dup2,dup3,fork,clone,sendmsg -p PID` shows how they arose.",
		Do:     "Open sockets with SOCK_CLOEXEC (accept4 too) and close them in the child. To end a connection whoever holds it, or to wake a thread blocked on it, call shutdown(2) before close(2).",
		Belief: "\"Closing a descriptor wakes the threads that are blocked on it.\" \"The parent closed it, so it is closed.\"",
		Truth: "Not on Linux, and dup2(2) over it does not either: the thread keeps the socket alive, and the next data goes to it. shutdown(2) wakes it at once. " +
			"Not while a forked child holds it: data is still acknowledged, and a listener that a child holds even completes new handshakes.",
		Refs: []string{"close(2)", "shutdown(2)", "fork(2)", "dup(2)", "unix(7)", "filp_close", "filp_flush", "__fput"},
	},
	NeverAccepted: {
		What: "The kernel completed the handshake, but the application has not accepted the connection. " +
			"The three-way handshake needs no process: the new socket is ESTABLISHED and waits in the listener's accept queue. The client can send, and its data is acknowledged up to the receive buffer. " +
			"Until inet_csk_accept takes it the socket belongs to no descriptor, so no process is to be found for it. " +
			"If it stays there, the process is stuck, too busy, or has stopped accepting (often for want of descriptors, EMFILE). If the listener closes, the kernel resets it (listener-closed).",
		Prove: "`ss -ltnp` shows Recv-Q above 0: that many are waiting. " +
			"`ss -tanpe` shows the connection as ESTAB without a process. " +
			"`strace -f -e trace=accept,accept4 -p PID` shows whether the server accepts, and with which error.",
		Do:     "Find out why the server does not call accept(2): stuck, too busy, out of descriptors.",
		Belief: "\"connect() returned, so the server has accepted me.\" \"accept() fails if the client has already reset.\"",
		Truth: "The kernel alone completed it; the application may never accept. " +
			"Linux returns the dead connection: accept(2) succeeds, then recv(2) says ECONNRESET and getpeername(2) ENOTCONN.",
		Refs: []string{"listen(2)", "accept(2)", "getpeername(2)", "inet_csk_accept", "tcp_conn_request"},
	},
	StillOpen: {
		What: "The connection is open, and neither end has begun to close it. " +
			"No FIN and no RST has been seen in either direction. Without keepalive an idle connection costs no packet and has no time limit: it stays even if the peer's host has vanished. " +
			"Devices on the path are less patient: NAT, firewalls and load balancers forget idle flows after minutes.",
		Prove: "When a trace ends tcpbye asks the kernel's own table about what has not ended, in its network namespace; the verdict is certain only where that has it, too. `ss -tanpoei` shows the state ESTAB, the process, lastsnd and lastrcv in milliseconds, and the keepalive timer if there is one.",
		Refs:  []string{"RFC 9293 3.3.2", "tcp(7)", "ss(8)"},
	},

	// Unknown.
	UnknownCause: {
		What: "What was seen does not say how the connection ended. " +
			"Either it was open before the trace began and too little of it was seen, or events were lost, or a hook that tells two causes apart could not be attached on this kernel: the verdict names the missing ones. " +
			"The state, the error and the counters at the end are still true; only the cause is not concluded from them.",
		Prove: "Narrow it down with `tcpdump -nni any tcp port PORT` (who sent FIN or RST) and `nstat` before and after (which TcpExtTCPAbort counter moved).",
		Do:    "Trace from before the connection is opened, with every hook attached.",
		Refs:  []string{"tcp(7)", "nstat(8)", "tcpdump(8)", "inet_sk_state_store"},
	},
}
