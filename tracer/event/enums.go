package event

import (
	"fmt"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/linux"
)

// Hook is where in the kernel an event was seen.
type Hook uint8

// The numbers are the contract with the kernel half (bpf/event.h).
const (
	HookNone            Hook = iota
	HookSetState             // State → ToState, before the kernel stores it
	HookConnect              // the SYN is about to be built
	HookAccept               // accept(2) got this socket
	HookCloseEntry           // tcp_close, socket lock not yet held
	HookClose                // __tcp_close, socket lock held, nothing purged
	HookShutdown             // Arg: mask, 1 RCV, 2 SEND, 3 both
	HookSendFin              // the FIN is about to be queued
	HookSendActiveReset      // Arg: enum sk_rst_reason, -1 where there is none
	HookSendReset            // Arg: likewise; Arg2: TIME_WAIT substate or -1
	HookReset                // tcp_reset: see Segment.Flags for whether a RST came
	HookDisconnect           // tcp_disconnect
	HookAbort                // tcp_abort; Arg: errno
	HookChildForget          // inet_child_forget; Other: the listener
	HookTimeWait             // tcp_time_wait; Arg: substate; Arg2: how long, ms, 0 not told
	HookTwskKill             // inet_twsk_kill; Arg: substate; Arg2: a TwskEnd
	HookDestroy              // the socket's memory is about to be used again
	HookErrorReport          // the error was reported to the process
	HookStreamError          // send(2) fails; Arg: negative errno; Arg2: what became of SIGPIPE, as PipeDelivered
	HookSignal               // Arg: signal; Arg2: PID that gets it. All but SIGPIPE: told by tracefs, of no connection
	HookExec
	HookExit         // a process's last thread; Arg: OOMVictim, OOMNone
	HookFileClose    // a reference to the socket's file is dropped; Refs: how many there were
	HookSynDrop      // a SYN meets a full accept queue
	HookTwskSchedule // a mini-socket's time starts again; Arg: substate
	HookReceive      // recv(2) told the end; Arg: 0 (end of input) or a negative errno; or it looked (MSG_PEEK): bytes
	HookStack        // where in its program a thread acts; Arg: the hook of the act
	// HookHandshake has no events of its own: it gives the change to ESTABLISHED
	// the segment that made it.
	HookHandshake
	// HookRetransmit and HookProbe have none, either: they give the change to CLOSE
	// UnsentTries and UnsentErr.
	HookRetransmit
	HookProbe
	HookICMP     // an ICMP error about a segment of the connection; Arg: type; Arg2: code
	HookNeighbor // a segment is thrown away, since its neighbor does not answer
	HookAddress  // an address of this host is taken away: Local, NetNS
	hookLast

	// HookStory is no event: a socket's story so far (package story).
	HookStory = hookLast
	// HookProcess comes from no function of its own: a process acts on a TCP socket
	// for the first time. It tells the task alone.
	HookProcess = HookStory + 1
)

var hookNames = [...]string{
	HookNone: "none", HookSetState: "inet_sock_set_state", HookConnect: "tcp_connect",
	HookAccept: "inet_csk_accept", HookCloseEntry: "tcp_close", HookClose: "__tcp_close",
	HookShutdown: "tcp_shutdown", HookSendFin: "tcp_send_fin",
	HookSendActiveReset: "tcp_send_active_reset", HookSendReset: "tcp_send_reset",
	HookReset: "tcp_reset", HookDisconnect: "tcp_disconnect", HookAbort: "tcp_abort",
	HookChildForget: "inet_child_forget", HookTimeWait: "tcp_time_wait",
	HookTwskKill: "inet_twsk_kill", HookDestroy: "tcp_destroy_sock",
	HookErrorReport: "inet_sk_error_report", HookStreamError: "sk_stream_error",
	HookSignal: "signal_generate", HookExec: "sched_process_exec", HookExit: "sched_process_exit",
	HookFileClose: "filp_close", HookSynDrop: "tcp_conn_request",
	HookTwskSchedule: "__inet_twsk_schedule", HookReceive: "tcp_recvmsg",
	HookStack: "user_stack", HookHandshake: "tcp_finish_connect",
	HookRetransmit: "tcp_retransmit_skb", HookProbe: "tcp_write_wakeup", HookICMP: "tcp_v4_err",
	HookNeighbor: "arp_error_report", HookAddress: "fib_del_ifaddr",
	HookStory: "story", HookProcess: "process",
}

// String is the kernel's name of the hook.
func (h Hook) String() string {
	if int(h) < len(hookNames) {
		return hookNames[h]
	}
	return fmt.Sprintf("hook(%d)", uint8(h))
}

// Valid says whether the hook is one that this version knows.
func (h Hook) Valid() bool { return h > HookNone && h < hookLast || h == HookProcess }

// What HookExit's Arg says; 0: not known.
const (
	OOMVictim = 1 // the kernel killed the process to get its memory back
	OOMNone   = 2
)

// Hooks lists every hook that is attached to something.
func Hooks() []Hook {
	var all []Hook
	for h := HookNone + 1; h < hookLast; h++ {
		all = append(all, h)
	}
	return all
}

// Acting says whether only a task that wants it gets to this hook, so that the
// task on the CPU is the actor (kernel threads apart).
func (h Hook) Acting() bool {
	switch h {
	case HookConnect, HookAccept, HookCloseEntry, HookClose, HookShutdown, HookAbort,
		HookStreamError, HookReceive, HookSignal, HookExec, HookExit, HookFileClose, HookStack, HookProcess:
		return true
	}
	return false
}

// TwskEnd is what ended a mini-socket.
type TwskEnd int32

const (
	TwskUnknown TwskEnd = iota
	TwskEarly           // a segment, a call, or the end of its namespace
	TwskTimer           // its time was over
)

// Context is what the CPU was doing.
type Context uint8

const (
	ContextUnknown Context = iota
	ContextProcess         // a system call, or a task that exits
	ContextSoftirq         // a packet or a timer: the task on the CPU has no part in it
	ContextHardirq
)

func (c Context) String() string {
	switch c {
	case ContextProcess:
		return "process"
	case ContextSoftirq:
		return "softirq"
	case ContextHardirq:
		return "hardirq"
	}
	return "unknown"
}

// ContextOf reads a kernel's preempt_count (include/linux/preempt.h): bit 8 is
// set while a softirq is served, bits 16 to 19 count hard interrupts.
func ContextOf(preemptCount uint32) Context {
	switch {
	case preemptCount&0x000f0000 != 0:
		return ContextHardirq
	case preemptCount&0x100 != 0:
		return ContextSoftirq
	}
	return ContextProcess
}

// State is a TCP state, spelt and numbered as the kernel does
// (include/net/tcp_states.h).
type State uint8

const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
)

var stateNames = [...]string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
	"TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}

func (s State) String() string {
	if s > 0 && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Family is the address family that the socket has.
type Family uint16

const (
	IPv4 Family = linux.AF_INET
	IPv6 Family = linux.AF_INET6
)

func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return fmt.Sprintf("family(%d)", uint16(f))
}

// Errno is a positive error number of the kernel; 0 is none.
type Errno int32

// String is the errno's name, such as ECONNRESET.
func (e Errno) String() string {
	if e == 0 {
		return "none"
	}
	if n := linux.ErrnoName(linux.Errno(e)); n != "" {
		return n
	}
	return fmt.Sprintf("errno %d", int32(e))
}

// SkFlags is the low half of a socket's sk_flags (enum sock_flags).
type SkFlags uint32

const (
	SockDead      SkFlags = 1 << 0 // an orphan: no process holds it
	SockDone      SkFlags = 1 << 1 // the peer's FIN has arrived
	SockUrgInline SkFlags = 1 << 2 // SO_OOBINLINE
	SockKeepOpen  SkFlags = 1 << 3 // SO_KEEPALIVE
	SockLinger    SkFlags = 1 << 4 // SO_LINGER is on
	SockDestroyed SkFlags = 1 << 5
)

// TCPFlags are the flags of a segment, as on the wire.
type TCPFlags uint8

const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

func (f TCPFlags) String() string {
	var names []string
	for i, n := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if f&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if names == nil {
		return "-"
	}
	return strings.Join(names, "|")
}
