package event

import (
	"bytes"
	"net/netip"
	"time"
)

// A Group says which fields of an Event were read. A zero in a group that was
// not read means nothing.
type Group uint8

const (
	HasTuple   Group = 1 << iota // Family, Local, Remote, NetNS, State
	HasTCP                       // sequence numbers, byte counts, timers
	HasSegment                   // Segment; with HookSetState to ESTABLISHED: that of the handshake
	HasTask                      // TaskFlags, ExitCode
	HasPreempt                   // Context was measured
	HasSyscall                   // Syscall
	HasSocket                    // Err, SkFlags, linger, shutdown, uid
	HasRefs                      // Refs
)

// Comm is a task's name as the kernel keeps it: up to 15 bytes, any bytes.
type Comm [16]byte

func (c Comm) String() string {
	if i := bytes.IndexByte(c[:], 0); i >= 0 {
		return string(c[:i])
	}
	return string(c[:])
}

// Is says whether that is how the name prints.
func (c *Comm) Is(name string) bool {
	n := len(name)
	return n <= len(c) && string(c[:n]) == name && (n == len(c) || c[n] == 0)
}

// Names are tasks' names as they print, each made once: a machine runs few programs.
type Names map[Comm]string

// maxNames bounds how many are kept.
const maxNames = 4096

// Of is how a name prints.
func (n Names) Of(c Comm) string {
	s, ok := n[c]
	if !ok {
		if len(n) >= maxNames {
			clear(n)
		}
		s = c.String()
		n[c] = s
	}
	return s
}

// CommOf makes a Comm of a name, cut to what the kernel keeps.
func CommOf(name string) (c Comm) {
	copy(c[:len(c)-1], name)
	return c
}

// Segment is the TCP segment that an event received or answered.
type Segment struct {
	Seq, Ack uint32   // as on the wire
	Len      uint32   // payload, bytes
	Flags    TCPFlags // as on the wire
	TTL      uint8    // TTL or hop limit, as received
	IPID     uint16   // IPv4 identification
	Window   uint16   // as on the wire, unscaled
}

// Timestamps are the TCP timestamps option (RFC 7323) of a reset and of the
// connection that it reached. The peer's clock, whose unit is its own.
type Timestamps struct {
	Agreed  bool          // both ends offered the option in their SYNs
	Carried bool          // the segment has it; told of an agreed connection only
	Value   uint32        // the segment's, when Carried
	Recent  uint32        // the last that came in before it (TS.Recent)
	Age     time.Duration // how long before, in whole seconds of the clock
}

// Event is one kernel observation. It is comparable. Fields are meaningful only
// where Has says that their group was read. The rec tag is the field's number
// in a recording; a number is never used again for something else.
type Event struct {
	Time time.Duration `rec:"1"` // CLOCK_MONOTONIC
	Hook Hook          `rec:"2"`
	Has  Group         `rec:"3"`
	CPU  uint32        `rec:"4"`

	Sock  uint64 `rec:"5"` // address of the socket or mini-socket: an identity only
	Conn  uint64 `rec:"6"` // CLOCK_MONOTONIC ns of the socket's first sight; 0 unknown
	Other uint64 `rec:"7"` // a second object: the listener, the file

	Context   Context `rec:"8"`
	PID       uint32  `rec:"9"`  // thread group id in the tracer's PID namespace, or one that is Outside
	TID       uint32  `rec:"10"` // thread id, likewise
	UID       uint32  `rec:"11"` // of the task on the CPU
	Comm      Comm    `rec:"12"` // of the thread on the CPU
	Cgroup    uint64  `rec:"13"` // cgroup v2 id of the task on the CPU
	TaskFlags uint32  `rec:"14"` // PF_*
	ExitCode  uint32  `rec:"15"` // low 7 bits: signal; from bit 8: status
	Syscall   int32   `rec:"16"` // number, by the architecture; -1 none

	Family   Family         `rec:"17"`
	Local    netip.AddrPort `rec:"18"` // IPv4-mapped addresses are unmapped
	Remote   netip.AddrPort `rec:"19"`
	NetNS    uint32         `rec:"20"` // inode number
	State    State          `rec:"21"` // at the hook; for HookSetState the old state
	ToState  State          `rec:"22"`
	Protocol uint16         `rec:"23"`

	WriteSeq      uint32 `rec:"24"`
	SndUna        uint32 `rec:"25"`
	SndNxt        uint32 `rec:"26"`
	RcvNxt        uint32 `rec:"27"`
	CopiedSeq     uint32 `rec:"28"`
	BytesSent     uint64 `rec:"29"` // retransmissions included
	BytesAcked    uint64 `rec:"30"` // the active opener's SYN and an acked FIN included
	BytesReceived uint64 `rec:"31"` // the peer's FIN included
	Retransmits   uint8  `rec:"32"`
	ProbesOut     uint8  `rec:"33"`
	UserTimeout   uint32 `rec:"34"` // ms
	Linger2       int32  `rec:"35"` // jiffies; -1: TCP_LINGER2 below zero
	Repair        bool   `rec:"36"`
	MPTCP         bool   `rec:"37"`

	Err           Errno   `rec:"38"` // sk_err
	ErrSoft       Errno   `rec:"39"` // sk_err_soft
	SkFlags       SkFlags `rec:"40"`
	LingerTime    uint64  `rec:"41"` // jiffies
	Shutdown      uint8   `rec:"42"` // sk_shutdown: 1 RCV, 2 SEND
	HasSk         bool    `rec:"43"` // sk_socket is set: a process can hold it
	Inode         uint64  `rec:"44"` // socket inode; 0 none
	SockUID       uint32  `rec:"45"` // sk_uid
	AckBacklog    uint32  `rec:"46"`
	MaxAckBacklog uint32  `rec:"47"`
	Refs          int32   `rec:"48"` // references to the file, this one included

	Arg  int32 `rec:"49"` // by hook, see Hook
	Arg2 int32 `rec:"50"`

	Segment Segment `rec:"51"`

	Call Call `rec:"52"` // Syscall, told apart the same on every architecture

	// How long ago payload was last sent and received, by the kernel's jiffies;
	// the handshake counts as both. With HasTCP; 0: not told.
	SinceSent     time.Duration `rec:"53"`
	SinceReceived time.Duration `rec:"54"`

	Text  string `rec:"55"` // HookReset: what the RST carried, any bytes, cut at 64
	Stack Stack  `rec:"56"` // HookStack

	Timestamps Timestamps `rec:"57"` // HookReset, with HasTCP

	// With HasTCP.
	SndWnd       uint32        `rec:"58"` // the peer's window beyond SndUna, bytes
	WindowKnown  bool          `rec:"59"` // SndWnd and MSS were read
	MSS          uint32        `rec:"60"` // payload of a full-size segment, bytes
	Sacked       uint16        `rec:"61"` // segments that the peer acknowledged selectively
	SinceProbing time.Duration `rec:"62"` // since the first probe without an answer; 0 not told

	// HookSetState to CLOSE: how often in a row, up to then, this host's own
	// layers refused to send a segment again, or a probe; and the last refusal: a
	// negative errno, or a positive NET_XMIT_*.
	UnsentTries uint32 `rec:"63"`
	UnsentErr   int32  `rec:"64"`
	// BusyTries were not made: an earlier copy was still held in this host, in a
	// queue, or by its receiver over loopback or veth.
	BusyTries uint32 `rec:"67"`

	From     netip.AddrPort `rec:"65"` // HookICMP: who sent the message; no port
	Loopback bool           `rec:"66"` // HookICMP: this kernel made it

	Queue   Queue    `rec:"70"` // whose the socket's queues are, with HasTCP or HookFileClose
	UrgSeq  uint32   `rec:"71"` // of the last urgent byte that came; 0: none did
	UrgData uint16   `rec:"72"` // what became of it: UrgentWaits, UrgentRead, or 0, passed over
	Task    TaskFlag `rec:"73"`
	CallOn  Family   `rec:"74"` // HookClose: of the socket that the call is on; 0 none, or not known

	// Full is how many descriptors the process may have that accepts where this
	// connection waits, if all of them were in use (RLIMIT_NOFILE) when it was looked
	// up: told where the peer of a connection leaves that nobody has accepted.
	Full uint32 `rec:"75"`
}

// Queue says who fills and empties a socket's queues (enum queue, bpf/event.h).
type Queue uint8

const (
	QueueUnsure Queue = 1 << iota // whether the next two hold was not found out
	QueueReads                    // reads do not go through tcp_recvmsg: kTLS, sockmap
	QueueWrites                   // writes do not go through tcp_sendmsg
	QueueULP                      // an upper layer protocol is set: tls, mptcp, espintcp
)

// What became of an urgent byte (TCP_URG_VALID, TCP_URG_READ, include/net/tcp.h).
const (
	UrgentWaits = 0x100 // nobody has read it
	UrgentRead  = 0x400 // with MSG_OOB
)

// TaskFlag is more of the task on the CPU (enum task, bpf/event.h).
type TaskFlag uint8

const (
	TaskCompat TaskFlag = 1 << iota // in a 32-bit system call, whose numbers are others
	TaskThread                      // exits alone: its process lives on
	TaskX32                         // in an x32 call
)

// What became of the SIGPIPE of a send(2) that failed: Arg2 of HookStreamError.
const (
	PipeNone      = 0 // none was raised
	PipeDelivered = 1
	PipeHeld      = 2 // ignored, or blocked
	PipeRaised    = 3 // whether it was delivered is not known
)

// Any says whether one of the events is such. An event is large: none is copied.
func Any(events []Event, such func(*Event) bool) bool {
	for i := range events {
		if such(&events[i]) {
			return true
		}
	}
	return false
}

// Peeked says whether the event is a look at what came, with MSG_PEEK.
func (e *Event) Peeked() bool { return e.Hook == HookReceive && e.Arg > 0 }

// ThreadExits says whether a thread exits whose process lives on: what it closes
// is a table of descriptors of its own (unshare(2), CLONE_FILES).
func (e *Event) ThreadExits() bool { return e.Exiting() && e.Task&TaskThread != 0 }

// Signal is the signal that is killing the task, or 0.
func (e *Event) Signal() int {
	if e.Has&HasTask == 0 {
		return 0
	}
	return int(e.ExitCode & 0x7f)
}

// Inherited says whether the event shows a child that is just being copied from
// its listener: up to 6.17 the copy is told of first and made the child's own
// afterwards (inet_csk_clone_lock), so that what the listener is, its child may
// yet not be. A listener of MPTCP has MPTCP set; a child whose peer does not
// speak it is plain TCP from then on (subflow_ulp_fallback, net/mptcp/subflow.c).
func (e *Event) Inherited() bool {
	return e.Hook == HookSetState && e.State == Listen && e.ToState == SynRecv
}

// LeavesQueue says whether the event shows the peer leaving a connection that nobody
// has accepted yet: by its FIN, or by a RST.
func (e *Event) LeavesQueue() bool {
	return e.Hook == HookSetState && e.State == Established && (e.ToState == CloseWait || e.ToState == Close && e.Context == ContextSoftirq) &&
		e.Has&HasSocket != 0 && !e.HasSk && e.SkFlags&SockDead == 0
}

// Exiting says whether the task on the CPU is in do_exit (PF_EXITING).
func (e *Event) Exiting() bool { return e.Has&HasTask != 0 && e.TaskFlags&PFExiting != 0 }

// KernelThread says whether the task on the CPU is a kernel thread (PF_KTHREAD).
func (e *Event) KernelThread() bool { return e.Has&HasTask != 0 && e.TaskFlags&PFKthread != 0 }

// ByProcess says whether the task on the CPU is the actor.
//
// Process context alone does not make it one: a segment that came while a
// system call held the socket waits in the backlog, and is processed by
// release_sock inside that call. So a state change counts only where no segment
// can have made it.
func (e *Event) ByProcess() bool {
	if e.Context != ContextProcess && e.Context != ContextUnknown || e.KernelThread() {
		return false
	}
	switch e.Hook {
	case HookSetState:
		switch e.ToState {
		case SynSent, FinWait1, LastAck, Listen:
			return true
		case Close:
			// On loopback the peer's close(2) can be the call that carries a
			// segment here: only a measured context excludes that.
			return e.Context == ContextProcess && (e.Exiting() || e.Call.Ends())
		}
		return false
	case HookDisconnect, HookChildForget, HookSendFin, HookSendActiveReset:
		return e.Context == ContextProcess || e.Exiting() || e.Call.Ends()
	}
	return e.Hook.Acting()
}

// Flags of a task, as the kernel has them (include/linux/sched.h).
const (
	PFExiting = 0x00000004 // it is in do_exit
	PFKthread = 0x00200000 // it is a kernel thread
)
