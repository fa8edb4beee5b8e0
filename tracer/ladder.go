package tracer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Rung is one way to attach a hook.
type Rung string

const (
	RungFentry Rung = "fentry" // a function's entry or exit, with BTF types
	RungKprobe Rung = "kprobe"
	RungTyped  Rung = "tp_btf" // a raw tracepoint with BTF types
	// RungClassic reads nothing of a socket but what the tracepoint records.
	RungClassic Rung = "tracepoint"
)

// Rungs lists the rungs.
func Rungs() []Rung { return []Rung{RungFentry, RungKprobe, RungTyped, RungClassic} }

// ParseRung reads a rung's name; "" and "auto" are the best for each hook.
func ParseRung(name string) (Rung, error) {
	if name == "" || name == "auto" {
		return "", nil
	}
	if slices.Contains(Rungs(), Rung(name)) {
		return Rung(name), nil
	}
	var names []string
	for _, r := range Rungs() {
		names = append(names, string(r))
	}
	return "", fmt.Errorf("no way to attach is called %q: want auto, %s", name, strings.Join(names, ", "))
}

// A point is one place to attach one program.
type point struct {
	rung    Rung
	symbol  string // kernel function or tracepoint (RungClassic: GROUP:NAME)
	program string
	ret     bool // at the function's return
	aside   bool // the hook works without it, but tells less
}

// A way is a set of points of one rung that are all needed, except those aside.
type way []point

// A hook is attached by the first of its ways that works.
type hook struct {
	hook event.Hook
	ways []way
	lost string // what cannot be told without it
	// asked says whether the options want it; nil: it is always wanted.
	asked func(Options) bool

	minor bool // no verdict rests on it
}

// only keeps the ways of one rung; "" keeps all.
func (h hook) only(r Rung) hook {
	if r != "" {
		h.ways = slices.DeleteFunc(slices.Clone(h.ways), func(w way) bool { return w[0].rung != r })
	}
	return h
}

func fentry(symbol, program string) point {
	return point{rung: RungFentry, symbol: symbol, program: program}
}

func fexit(symbol, program string) point {
	return point{rung: RungFentry, symbol: symbol, program: program, ret: true}
}

func kprobe(symbol, program string) point {
	return point{rung: RungKprobe, symbol: symbol, program: program}
}

func kretprobe(symbol, program string) point {
	return point{rung: RungKprobe, symbol: symbol, program: program, ret: true}
}

func typed(symbol, program string) way {
	return way{{rung: RungTyped, symbol: symbol, program: program}}
}

func classic(symbol, program string) way {
	return way{{rung: RungClassic, symbol: symbol, program: program}}
}

// endingCalls are the system calls that can end a connection.
var endingCalls = []string{"close", "close_range", "dup2", "dup3", "shutdown", "connect", "execve", "execveat", "exit", "exit_group"}

// hooks is the ladder: every hook with its ways, best first.
//
// A function is traced by fentry where that is safe, since it costs least, else
// by a kprobe. Where a tracepoint says the same as a function, it comes first:
// it is there by agreement, the function by chance.
func hooks(k *kernel) []hook {
	// call is the two ways to trace a function, in the order for this kernel.
	call := func(entry, probe way) []way {
		if k.fentryFirst {
			return []way{entry, probe}
		}
		return []way{probe, entry}
	}
	one := func(symbol, entry, probe string) []way {
		return call(way{fentry(symbol, entry)}, way{kprobe(symbol, probe)})
	}
	first := func(w way, rest []way) []way { return append([]way{w}, rest...) }
	last := func(rest []way, w ...way) []way { return append(rest, w...) }

	resetEntry := way{fentry("tcp_reset", bpf.TypedProgEntryTcpReset)}
	resetProbe := way{kprobe("tcp_reset", bpf.ProbeProgProbeTcpReset)}
	if !k.resetHasSegment {
		// Before 6.1 the segment is only known one function earlier.
		resetEntry = append(resetEntry, fentry("tcp_validate_incoming", bpf.TypedProgEntryTcpValidateIncoming))
		resetProbe = append(resetProbe, kprobe("tcp_validate_incoming", bpf.ProbeProgProbeTcpValidateIncoming))
	}
	// close(2) calls filp_flush and not filp_close from 6.6 on.
	fileClose := []way{{kprobe("filp_flush", bpf.ProbeProgProbeFilpFlush)}, {kprobe("filp_close", bpf.ProbeProgProbeFilpClose)}}
	if k.sockFromFile {
		fileClose = append(
			one("filp_flush", bpf.TypedProgEntryFilpFlush, bpf.ProbeProgProbeFilpFlush),
			one("filp_close", bpf.TypedProgEntryFilpClose, bpf.ProbeProgProbeFilpClose)...)
	}
	state := classic("sock:inet_sock_set_state", bpf.ClassicProgClassicInetSockSetState)
	if !k.taskRegs {
		// Nothing else tells the act here.
		for _, name := range endingCalls {
			state = append(state,
				point{rung: RungClassic, symbol: "syscalls:sys_enter_" + name, program: bpf.ClassicProgClassicSysEnter, aside: true},
				point{rung: RungClassic, symbol: "syscalls:sys_exit_" + name, program: bpf.ClassicProgClassicSysExit, aside: true})
		}
		state = append(state, point{rung: RungClassic, symbol: "sched:sched_process_free", program: bpf.ClassicProgClassicSchedProcessFree, aside: true})
	}
	// A segment is read by address only.
	var handshake []way
	if k.probeRead {
		handshake = call(
			way{fentry("tcp_finish_connect", bpf.TypedProgEntryTcpFinishConnect), fentry("tcp_child_process", bpf.TypedProgEntryTcpChildProcess)},
			way{kprobe("tcp_finish_connect", bpf.ProbeProgProbeTcpFinishConnect), kprobe("tcp_child_process", bpf.ProbeProgProbeTcpChildProcess)})
	}
	var icmp []way
	if k.probeRead {
		icmp = call(
			way{fentry("tcp_v4_err", bpf.TypedProgEntryTcpV4Err), {rung: RungFentry, symbol: "tcp_v6_err", program: bpf.TypedProgEntryTcpV6Err, aside: true}},
			way{kprobe("tcp_v4_err", bpf.ProbeProgProbeTcpV4Err), {rung: RungKprobe, symbol: "tcp_v6_err", program: bpf.ProbeProgProbeTcpV6Err, aside: true}})
	}
	// Before it was given the error it told of successes only.
	var retransmitted []way
	if k.retransmitArgs == 3 {
		retransmitted = append(retransmitted, typed("tcp_retransmit_skb", bpf.TypedProgTypedTcpRetransmitSkb))
	}
	sendReset, sendActiveReset := bpf.ClassicProgClassicTcpSendReset, bpf.ClassicProgClassicTcpSendActiveReset
	if !k.sendResetRecord {
		sendReset, sendActiveReset = bpf.ClassicProgClassicTcpSendResetOld, bpf.ClassicProgClassicTcpSendActiveResetOld
	}
	return []hook{
		{hook: event.HookSetState, ways: last(first(
			typed("inet_sock_set_state", bpf.TypedProgTypedInetSockSetState),
			call(way{fentry("inet_sk_state_store", bpf.TypedProgEntryInetSkStateStore), fentry("inet_sk_set_state", bpf.TypedProgEntryInetSkSetState)},
				way{kprobe("inet_sk_state_store", bpf.ProbeProgProbeInetSkStateStore), kprobe("inet_sk_set_state", bpf.ProbeProgProbeInetSkSetState)})), state),
			lost: "nothing can be told: it is the spine of every timeline"},
		{hook: event.HookDestroy, ways: last(first(
			typed("tcp_destroy_sock", bpf.TypedProgTypedTcpDestroySock),
			one("tcp_v4_destroy_sock", bpf.TypedProgEntryTcpV4DestroySock, bpf.ProbeProgProbeTcpV4DestroySock)),
			classic("tcp:tcp_destroy_sock", bpf.ClassicProgClassicTcpDestroySock)),
			lost: "when a socket's address is used again"},
		{hook: event.HookConnect, ways: one("tcp_connect", bpf.TypedProgEntryTcpConnect, bpf.ProbeProgProbeTcpConnect),
			lost: "the local port of a connection that is refused at once", asked: func(o Options) bool { return !o.Story }},
		{hook: event.HookAccept, ways: call(
			way{fexit("inet_csk_accept", bpf.TypedProgExitInetCskAccept)},
			way{kretprobe("inet_csk_accept", bpf.ProbeProgProbeInetCskAccept)}),
			lost: "which process accepted"},
		{hook: event.HookCloseEntry, ways: one("tcp_close", bpf.TypedProgEntryTcpClose, bpf.ProbeProgProbeTcpClose),
			lost: "when close(2) had to wait for the socket's lock"},
		{hook: event.HookClose, ways: one("__tcp_close", bpf.TypedProgEntryTcpCloseLocked, bpf.ProbeProgProbeTcpCloseLocked),
			lost: "who closed, and what was unread at that moment"},
		{hook: event.HookShutdown, ways: one("tcp_shutdown", bpf.TypedProgEntryTcpShutdown, bpf.ProbeProgProbeTcpShutdown),
			lost: "who shut down, and which direction"},
		{hook: event.HookSendFin, ways: one("tcp_send_fin", bpf.TypedProgEntryTcpSendFin, bpf.ProbeProgProbeTcpSendFin),
			lost: "when the FIN was queued"},
		{hook: event.HookSendActiveReset, ways: last(
			one("tcp_send_active_reset", bpf.TypedProgEntryTcpSendActiveReset, bpf.ProbeProgProbeTcpSendActiveReset),
			typed("tcp_send_reset", bpf.TypedProgTypedTcpSendActiveReset),
			classic("tcp:tcp_send_reset", sendActiveReset)),
			lost: "a reset that this kernel sent of its own accord"},
		{hook: event.HookSendReset, ways: last(
			call(way{fentry("tcp_v4_send_reset", bpf.TypedProgEntryTcpV4SendReset), fentry("tcp_v6_send_reset", bpf.TypedProgEntryTcpV6SendReset)},
				way{kprobe("tcp_v4_send_reset", bpf.ProbeProgProbeTcpV4SendReset), kprobe("tcp_v6_send_reset", bpf.ProbeProgProbeTcpV6SendReset)}),
			typed("tcp_send_reset", bpf.TypedProgTypedTcpSendReset),
			classic("tcp:tcp_send_reset", sendReset)),
			lost: "a reset that this kernel sent in answer to a segment"},
		{hook: event.HookReset, ways: last(
			call(resetEntry, resetProbe),
			typed("tcp_receive_reset", bpf.TypedProgTypedTcpReceiveReset),
			classic("tcp:tcp_receive_reset", bpf.ClassicProgClassicTcpReceiveReset)),
			lost: "a reset that came in"},
		{hook: event.HookDisconnect, ways: one("tcp_disconnect", bpf.TypedProgEntryTcpDisconnect, bpf.ProbeProgProbeTcpDisconnect),
			lost: "linger-zero from other aborts"},
		{hook: event.HookAbort, ways: one("tcp_abort", bpf.TypedProgEntryTcpAbort, bpf.ProbeProgProbeTcpAbort),
			lost: "sock-destroy from other aborts"},
		{hook: event.HookChildForget, ways: one("inet_child_forget", bpf.TypedProgEntryInetChildForget, bpf.ProbeProgProbeInetChildForget),
			lost: "listener-closed from disconnect"},
		{hook: event.HookTimeWait, ways: one("tcp_time_wait", bpf.TypedProgEntryTcpTimeWait, bpf.ProbeProgProbeTcpTimeWait),
			lost: "which end keeps TIME_WAIT"},
		{hook: event.HookTwskKill, ways: call(
			way{fentry("inet_twsk_kill", bpf.TypedProgEntryInetTwskKill), fentry("inet_twsk_deschedule_put", bpf.TypedProgEntryInetTwskDeschedulePut)},
			way{kprobe("inet_twsk_kill", bpf.ProbeProgProbeInetTwskKill), kprobe("inet_twsk_deschedule_put", bpf.ProbeProgProbeInetTwskDeschedulePut)}),
			lost: "when TIME_WAIT ended, and whether its time was over"},
		{hook: event.HookTwskSchedule, ways: one("__inet_twsk_schedule", bpf.TypedProgEntryInetTwskSchedule, bpf.ProbeProgProbeInetTwskSchedule),
			lost: "when the peer's FIN reached a closed socket"},
		{hook: event.HookErrorReport, ways: last(first(
			typed("inet_sk_error_report", bpf.TypedProgTypedInetSkErrorReport),
			one("sk_error_report", bpf.TypedProgEntrySkErrorReport, bpf.ProbeProgProbeSkErrorReport)),
			classic("sock:inet_sk_error_report", bpf.ClassicProgClassicInetSkErrorReport)),
			lost: "when the error was reported to the process", minor: true},
		{hook: event.HookStreamError, ways: one("sk_stream_error", bpf.TypedProgEntrySkStreamError, bpf.ProbeProgProbeSkStreamError),
			lost: "what a failed send(2) told the process"},
		{hook: event.HookSignal, ways: last(first(
			typed("signal_generate", bpf.TypedProgTypedSignalGenerate),
			one("send_sig", bpf.TypedProgEntrySendSig, bpf.ProbeProgProbeSendSig)),
			classic("signal:signal_generate", bpf.ClassicProgClassicSignalGenerate)),
			lost: "SIGPIPE"},
		{hook: event.HookExec, ways: last(first(
			typed("sched_process_exec", bpf.TypedProgTypedSchedProcessExec),
			one("proc_exec_connector", bpf.TypedProgEntryProcExecConnector, bpf.ProbeProgProbeProcExecConnector)),
			classic("sched:sched_process_exec", bpf.ClassicProgClassicSchedProcessExec)),
			lost: "exec"},
		{hook: event.HookExit, ways: last(first(
			typed("sched_process_exit", bpf.TypedProgTypedSchedProcessExit),
			one("taskstats_exit", bpf.TypedProgEntryTaskstatsExit, bpf.ProbeProgProbeTaskstatsExit)),
			classic("sched:sched_process_exit", bpf.ClassicProgClassicSchedProcessExit)),
			lost: "when and how a process ended"},
		{hook: event.HookFileClose, ways: fileClose,
			lost: "a close(2) that did not end the connection, because another descriptor holds it, nor whether a sockmap had its queue"},
		{hook: event.HookSynDrop, ways: one("tcp_conn_request", bpf.TypedProgEntryTcpConnRequest, bpf.ProbeProgProbeTcpConnRequest),
			lost: "a SYN dropped for want of room in the accept queue"},
		{hook: event.HookReceive, ways: call(
			way{fexit("tcp_recvmsg", bpf.TypedProgExitTcpRecvmsg)},
			way{kprobe("tcp_recvmsg", bpf.ProbeProgProbeTcpRecvmsg), kretprobe("tcp_recvmsg", bpf.ProbeProgProbeTcpRecvmsgReturn)}),
			lost: "whether the process read to the end", asked: func(o Options) bool { return o.Receive }},
		{hook: event.HookHandshake, ways: handshake,
			lost: "what the peer's segments looked like, to compare a reset with", minor: true},
		{hook: event.HookRetransmit, ways: last(call(
			way{fexit("tcp_retransmit_skb", bpf.TypedProgExitTcpRetransmitSkb)},
			way{kprobe("tcp_retransmit_skb", bpf.ProbeProgProbeTcpRetransmitSkb), kretprobe("tcp_retransmit_skb", bpf.ProbeProgProbeTcpRetransmitSkbReturn)}),
			retransmitted...),
			lost: "whether a segment that was sent again left this host"},
		{hook: event.HookProbe, ways: call(
			way{fexit("tcp_write_wakeup", bpf.TypedProgExitTcpWriteWakeup)},
			way{kprobe("tcp_write_wakeup", bpf.ProbeProgProbeTcpWriteWakeup), kretprobe("tcp_write_wakeup", bpf.ProbeProgProbeTcpWriteWakeupReturn)}),
			lost: "whether a window or keepalive probe left this host"},
		{hook: event.HookICMP, ways: icmp,
			lost: "who said by ICMP that the peer cannot be reached: this kernel, or a host on the path"},
		{hook: event.HookNeighbor, ways: call(
			way{fentry("arp_error_report", bpf.TypedProgEntryArpErrorReport), {rung: RungFentry, symbol: "ndisc_error_report", program: bpf.TypedProgEntryNdiscErrorReport, aside: true}},
			way{kprobe("arp_error_report", bpf.ProbeProgProbeArpErrorReport), {rung: RungKprobe, symbol: "ndisc_error_report", program: bpf.ProbeProgProbeNdiscErrorReport, aside: true}}),
			lost: "a segment thrown away because its neighbor does not answer (ARP, NDP)"},
		{hook: event.HookAddress, ways: call(
			way{fentry("fib_del_ifaddr", bpf.TypedProgEntryFibDelIfaddr), {rung: RungFentry, symbol: "__ipv6_ifa_notify", program: bpf.TypedProgEntryIpv6IfaNotify, aside: true}},
			way{kprobe("fib_del_ifaddr", bpf.ProbeProgProbeFibDelIfaddr), {rung: RungKprobe, symbol: "__ipv6_ifa_notify", program: bpf.ProbeProgProbeIpv6IfaNotify, aside: true}}),
			lost: "when an address of this host was taken away"},
		{hook: event.HookStack, ways: last(call(
			way{fentry("tcp_close", bpf.TypedProgEntryStackClose), fentry("tcp_shutdown", bpf.TypedProgEntryStackShutdown), fentry("do_group_exit", bpf.TypedProgEntryStackExit)},
			way{kprobe("tcp_close", bpf.ProbeProgProbeStackClose), kprobe("tcp_shutdown", bpf.ProbeProgProbeStackShutdown), kprobe("do_group_exit", bpf.ProbeProgProbeStackExit)}),
			typed("inet_sock_set_state", bpf.TypedProgTypedStackState),
			classic("sock:inet_sock_set_state", bpf.ClassicProgClassicStackState)),
			lost: "where in a program it closed, shut down or exited", minor: true, asked: func(o Options) bool { return o.Stack }},
	}
}
