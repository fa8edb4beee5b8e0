package verdict

import (
	"fmt"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// The socket, or its network namespace, is taken away from outside.
const (
	SockDestroy      Cause = "sock-destroy"      // ss -K, SOCK_DESTROY
	RepairClose      Cause = "repair-close"      // TCP_REPAIR: the socket vanished without a packet
	NamespaceRemoved Cause = "namespace-removed" // the network namespace went, with the mini-socket in FIN_WAIT2
)

var sockDestroy = Rule{
	Cause: SockDestroy, Class: Aborted, find: findSockDestroy, describe: describeSockDestroy,
	symptoms: map[string]int{"ECONNRESET": 12, "ECONNABORTED": 1, "ENOTCONN": 6, "TCP_STATE": 3, "EstabResets": 6, "OutRsts": 9},
	What: "Somebody destroyed the socket from outside; neither application closed it. " +
		"ss -K and other users of sock_diag send SOCK_DESTROY, which goes through tcp_diag_destroy to tcp_abort; from 6.5 the BPF function bpf_sock_destroy gets there too. " +
		"tcp_abort sends RST with ACK while the state is still live, sets sk_err to ECONNABORTED and ends the socket. The local process reads ECONNABORTED, the peer ECONNRESET. " +
		"5.10 skips sockets that no process holds any more, and cannot destroy a TIME_WAIT; 6.1 and later do both. " +
		"EstabResets and OutRsts move, no TCPAbort counter does; from 6.12 the reset reason is TCP_STATE (14). The kernel needs CONFIG_INET_DIAG_DESTROY.",
	Prove: "`bpftrace -e 'kprobe:tcp_abort { printf(\"%d %s\\n\", pid, comm); }'` names the process. " +
		"`strace -f -e trace=read,recvfrom,write,sendto -p PID` at the victim shows ECONNABORTED, which nothing on the wire causes on an established connection. " +
		"`ss -E` prints sockets as they go.",
	Do:   "Find out why that process destroys sockets: a script with ss -K, a network manager, an agent of the load balancer or service mesh.",
	Refs: []string{"ss(8)", "sock_diag(7)", "capabilities(7)", "tcp_diag_destroy", "tcp_abort", "bpf_sock_destroy"},
}

func findSockDestroy(a, b *facts, s Scope) *finding {
	if e := a.early(); e != nil && e.Context == event.ContextProcess && !e.KernelThread() && e.Call == event.CallSend && a.closed != none && !a.rst {
		// A mini-socket has no tcp_abort (tcp_diag_destroy, 6.1 and later).
		return &finding{by: byAdmin, act: ActDestroy, a: []int{a.release, a.miniEnd},
			actor: a.task(e)}
	}
	if a.abort == none && !s.has(event.HookAbort) && a.closed != none && !a.rst && !a.abandoned {
		// Without the hook: only tcp_abort leaves ECONNABORTED, and it is
		// called for a netlink request.
		if end := a.end(); end.Err == event.Errno(unix.ECONNABORTED) && end.Call == event.CallSend && !end.Repair {
			x := &finding{by: byAdmin, act: ActDestroy, a: []int{a.active, a.closed}, needs: []event.Hook{event.HookAbort}}
			x.actor = a.task(end)
			return x
		}
	}
	if !before(a.abort, a.closed) || a.forget != none {
		return nil
	}
	e := a.at(a.abort)
	// tcp_abort may find nothing to do (5.10 leaves orphans alone), or the
	// process may close while it waits for the socket.
	if end := a.end(); e.TID != end.TID || end.Err != 0 && end.Err != event.Errno(e.Arg) {
		return nil
	}
	x := &finding{by: byAdmin, act: ActDestroy, actor: a.process(e), a: []int{a.abort, a.active, a.closed}}
	return x
}

func describeSockDestroy(t *trial) string {
	if t.a.abort == none && t.a.early() != nil && t.x.actor != nil {
		return fmt.Sprintf("%s had closed, and its kernel waited for the FIN of %s; %s destroyed what was left of the connection from outside (SOCK_DESTROY, as ss -K does). No packet was sent.",
			end(t.a), t.other(), named(t.x.actor))
	}
	by := "Somebody"
	if t.x.actor != nil {
		by = named(t.x.actor)
	}
	return fmt.Sprintf("%s destroyed the socket of %s from outside (SOCK_DESTROY, as ss -K does)%s. Neither application closed it.", by, end(t.a), t.when(t.a.at(t.a.abort)))
}

var repairClose = Rule{
	Cause: RepairClose, Class: Aborted, find: findRepairClose,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s closed the socket in repair mode (TCP_REPAIR): it vanished without a FIN or a RST. Whatever %s sends next is answered with a RST.", t.who(), t.other())
	},
	symptoms: map[string]int{"ECONNABORTED": 2, "NO_SOCKET": 4, "EstabResets": 9},
	What: "The socket was closed in repair mode and vanished without any packet. " +
		"With TCP_REPAIR on, __tcp_close calls tcp_disconnect, which sends neither FIN nor RST, sets sk_err to ECONNABORTED and goes to CLOSE. " +
		"This is how checkpoint tools such as CRIU move a connection from one host to another. " +
		"If nothing restores it there, the peer learns nothing until it sends: then it meets a kernel without that socket, and its segment is answered with a bare RST (reason NO_SOCKET).",
	Prove: "`strace -f -e trace=setsockopt,close -p PID` shows TCP_REPAIR set to 1 before the close. " +
		"`tcpdump -nni any tcp port PORT` shows nothing at that moment. " +
		"`nstat -az TcpEstabResets TcpOutRsts` shows the first moving without the second.",
	Do:   "Set TCP_REPAIR back to 0 before the close, unless the connection is really being moved to another socket.",
	Refs: []string{"capabilities(7)", "__tcp_close", "tcp_disconnect"},
}

func findRepairClose(a, b *facts, s Scope) *finding {
	if a.released() && a.at(a.release).Repair {
		x := &finding{a: []int{a.release, a.closed}, needs: []event.Hook{event.HookSendReset, event.HookReset}}
		return x.did(a, a.actEvent(a.release))
	}
	return nil
}

var namespaceRemoved = Rule{
	Cause: NamespaceRemoved, Class: Aborted, find: findNamespaceRemoved, describe: describeNamespaceRemoved,
	symptoms: map[string]int{"FIN_WAIT2": 5},
	What: "The process had closed, and its namespace was removed before the peer's FIN came. " +
		"A closed socket whose FIN is acknowledged is a FIN_WAIT2 mini-socket, which does not keep its namespace alive: when the last process and descriptor of it go (a container stops, `ip netns del`), cleanup_net purges it (inet_twsk_purge). " +
		"No packet is sent. The addresses vanish with the namespace, so what the peer sends now is answered by nobody, or by whoever gets the address next.",
	Prove: "`ip netns list` or the container's state shows that it is gone; at the peer `ss -tan state close-wait` still shows the connection.",
	Do:    "Nothing at this end: it had finished. Let the peer close when it reads the end of the stream, before the container is removed.",
	Refs:  []string{"network_namespaces(7)", "ip-netns(8)", "inet_twsk_purge", "cleanup_net"},
}

func findNamespaceRemoved(a, b *facts, s Scope) *finding {
	e := a.early()
	// inet_twsk_purge, from a worker (cleanup_net): a mini-socket does not keep
	// its namespace alive.
	if e == nil || e.Context != event.ContextProcess || !e.KernelThread() || a.closed == none || a.rst {
		return nil
	}
	return &finding{by: byKernel, a: []int{a.release, a.miniEnd}}
}

func describeNamespaceRemoved(t *trial) string {
	_, lived := t.a.waitTimes()
	s := fmt.Sprintf("%s had closed, and its kernel waited for the FIN of %s; then the network namespace of this end was removed", end(t.a), t.other())
	if lived > 0 {
		s += ", " + seconds(lived) + " into the wait"
	}
	return s + ", and what was left of the connection with it. No packet was sent: the peer is not told, and nobody answers it any more."
}

// What MPTCP does to its subflows.
const (
	MPTCPReset Cause = "mptcp-reset" // MPTCP: fastclose or subflow reset
)

var mptcpReset = Rule{
	Cause: MPTCPReset, Class: Aborted, find: findMptcpReset,
	describe: func(t *trial) string {
		return fmt.Sprintf("MPTCP reset this subflow between %s and %s (fastclose, or a subflow that could not go on).", end(t.a), t.other())
	},
	symptoms: map[string]int{"ECONNRESET": 14, "TCP_ABORT_ON_CLOSE": 2, "MPTCP_RST": 1, "MPRstTx": 1},
	What: "MPTCP reset one of its subflows, or all of them at once (fastclose). " +
		"mptcp_do_fastclose, mptcp_subflow_reset and mptcp_check_fastclose send the RST with ACK while the subflow is still alive, often from a kernel worker, so that the process is not the one on the CPU. " +
		"A fastclose ends the whole connection; a subflow reset ends one path (a join that failed, a checksum or mapping that a middlebox damaged, a fallback that is no longer allowed) and the others may go on. " +
		"The subflow is closed through __tcp_close, past tcp_close. MPTcpExt counts it (MPRstTx, MPRstRx, MPFastcloseTx, MPFastcloseRx); from 6.12 the reset reason is TCP_ABORT_ON_CLOSE (11) for a fastclose and 17 to 23 for the others.",
	Prove: "`nstat -az 'MPTcpExtMP*'` shows which of the counters moved. " +
		"`ss -Mani` shows the MPTCP connection, `ss -tani` its subflows. " +
		"`tcpdump -nni any tcp port PORT` prints the MPTCP option of the RST with its reason.",
	Do:   "Tell a fastclose (the application aborted) from a subflow reset (the path failed) by the MPTcpExt counters. For the second, look for a middlebox that strips or changes MPTCP options.",
	Refs: []string{"RFC 8684 3.5", "RFC 8684 3.6", "mptcp_do_fastclose", "mptcp_subflow_reset", "__mptcp_close_ssk"},
}

func findMptcpReset(a, b *facts, s Scope) *finding {
	// A join that is not wanted is reset by the listener.
	if b != nil && b.rst && b.at(b.reset).MPTCP && a.dead != none && a.at(a.dead).State == event.Listen {
		return &finding{by: byKernel, a: []int{a.dead}, b: []int{b.reset, b.closed}, needs: []event.Hook{event.HookSendReset}}
	}
	if a.rst && a.reset < a.active {
		return nil // MPTCP answers a reset of a subflow with one of its own
	}
	if a.active == none || !a.at(a.active).MPTCP || a.forget != none {
		return nil
	}
	e := a.at(a.active)
	// A subflow's own close goes the way of every socket; what is MPTCP's own
	// is a reset while the subflow is still alive (mptcp_do_fastclose,
	// mptcp_subflow_reset).
	if e.State == event.Close || a.abort != none {
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.active, a.closed}}
	// One that answers a segment may answer a reset that was not seen: also in a
	// worker, which takes what came while it had the socket.
	x.likely = e.Context == event.ContextSoftirq || e.KernelThread()
	if p := a.process(e); p != nil {
		x.by, x.actor = byProcess, p
		x.act, x.signal = act(e)
	}
	return x
}
