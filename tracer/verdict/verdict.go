package verdict

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
)

// Class is the kind of ending.
type Class string

const (
	Graceful Class = "graceful"  // both FINs, nothing lost that is known of
	Aborted  Class = "aborted"   // a RST ended it
	TimedOut Class = "timed-out" // this kernel gave up
	Refused  Class = "refused"   // never established
	Open     Class = "open"      // not ended
	Unknown  Class = "unknown"
)

// Ender is who ended it, seen from the end that is judged.
type Ender string

const (
	LocalProcess Ender = "local-process"
	LocalKernel  Ender = "local-kernel"
	PeerProcess  Ender = "peer-process"
	PeerKernel   Ender = "peer-kernel"
	Peer         Ender = "peer" // remote: cannot tell further
	Path         Ender = "path" // a RST that the peer's stack did not send
	Admin        Ender = "admin"
	NoEnder      Ender = "" // not ended, or not known
)

// Act is what a process did.
type Act string

const (
	NoAct         Act = ""
	ActClose      Act = "close"
	ActShutRd     Act = "shutdown-rd"
	ActShutWr     Act = "shutdown-wr"
	ActShutRdWr   Act = "shutdown-rdwr"
	ActExit       Act = "exit"
	ActKilled     Act = "killed"
	ActExec       Act = "exec"
	ActDup2       Act = "dup2"
	ActDisconnect Act = "disconnect"
	ActListener   Act = "listener-close"
	ActDestroy    Act = "sock-destroy"
	ActThread     Act = "thread-exit" // of a thread with descriptors of its own; the process lives on
	ActDiscard    Act = "discard"     // a descriptor that was passed on (SCM_RIGHTS) was thrown away with its message
)

// Confidence is how sure the verdict is.
type Confidence string

const (
	Certain  Confidence = "certain"
	Likely   Confidence = "likely"
	NotKnown Confidence = "unknown"
)

// Cause is the stable identifier of a rule. Once released, an identifier never
// changes its meaning.
type Cause string

const (
	// Graceful.
	OrderlyClose      Cause = "orderly-close"      // one end closed, the other followed
	HalfClose         Cause = "half-close"         // one end shut down its sending side and went on reading
	SimultaneousClose Cause = "simultaneous-close" // the two FINs crossed
	// Aborted by a process.
	CloseUnread    Cause = "close-unread"    // close with unread bytes in the receive queue
	LingerZero     Cause = "linger-zero"     // close with SO_LINGER on and time 0
	Disconnect     Cause = "disconnect"      // connect(AF_UNSPEC)
	ListenerClosed Cause = "listener-closed" // the listener went away with this connection still in its queue
	SockDestroy    Cause = "sock-destroy"    // ss -K, SOCK_DESTROY
	RepairClose    Cause = "repair-close"    // TCP_REPAIR: the socket vanished without a packet
	MPTCPReset     Cause = "mptcp-reset"     // MPTCP: fastclose or subflow reset
	// Aborted by a kernel, because of what came after.
	DataAfterClose    Cause = "data-after-close"    // data for a socket that was closed
	DataAfterShutdown Cause = "data-after-shutdown" // data for a socket whose both directions were shut down
	Linger2Negative   Cause = "linger2-negative"    // TCP_LINGER2 below zero: no FIN_WAIT2 wait at all
	OrphanLimit       Cause = "orphan-limit"        // too many orphans, or no TCP memory
	NoSocket          Cause = "no-socket"           // a segment for a connection that is gone
	PortReuse         Cause = "port-reuse"          // a new SYN met an old twin of the same addresses and ports
	PathReset         Cause = "path-reset"          // a RST that the peer's stack did not send
	PeerAbort         Cause = "peer-abort"          // remote: the peer aborted (RST with ACK)
	PeerGone          Cause = "peer-gone"           // remote: the peer no longer knows the connection (bare RST)
	NamespaceRemoved  Cause = "namespace-removed"   // the network namespace went, with the mini-socket in FIN_WAIT2
	// Timed out.
	KeepaliveTimeout  Cause = "keepalive-timeout"
	RetransmitTimeout Cause = "retransmit-timeout"
	UserTimeout       Cause = "user-timeout"
	ZeroWindowTimeout Cause = "zero-window-timeout"
	OrphanTimeout     Cause = "orphan-timeout"    // closed, and the peer never acknowledged the rest
	FinWait2Timeout   Cause = "fin-wait2-timeout" // closed, and the peer never sent its FIN
	SendFailed        Cause = "send-failed"       // this host could not send: route, address, filter, neighbor, device
	ConnectTimeout    Cause = "connect-timeout"
	// Refused.
	PortClosed       Cause = "port-closed"
	ConnectCancelled Cause = "connect-cancelled"
	Unreachable      Cause = "unreachable" // ICMP, or no route
	AcceptOverflow   Cause = "accept-overflow"
	HandshakeReset   Cause = "handshake-reset"
	// Open.
	CloseWaitLeak  Cause = "close-wait-leak"
	FinWait2Held   Cause = "fin-wait2-held"
	FinStuck       Cause = "fin-stuck"
	DescriptorHeld Cause = "descriptor-held"
	NeverAccepted  Cause = "never-accepted"
	StillOpen      Cause = "still-open"
	// Unknown.
	UnknownCause Cause = "unknown"
)

// Lost counts payload bytes that did not get where they should; nil: not known.
type Lost struct {
	Unread  *uint64 // received, acknowledged, never read by the process
	Unsent  *uint64 // accepted by send, never sent
	Unacked *uint64 // sent, never acknowledged
}

// Bytes counts payload bytes, SYN and FIN not counted; nil: not known.
type Bytes struct {
	Sent     *uint64
	Acked    *uint64
	Received *uint64
}

// Evidence is an event that proves the verdict.
type Evidence struct {
	Conn      *conn.Connection // the judged end or its peer
	Elsewhere bool             // index counts in Conn.Elsewhere, else in Conn.Events
	Index     int
}

// Goodbye is how one direction of a connection was ended.
type Goodbye struct {
	Act    Act
	Signal int           // with ActKilled
	Actor  *conn.Process // nil: not known
	At     time.Duration // CLOCK_MONOTONIC
	Acked  bool          // the other end acknowledged the FIN
}

// Verdict is a judged ending.
type Verdict struct {
	Class      Class
	Cause      Cause
	Ender      Ender
	Act        Act
	Signal     int           // the signal that killed the actor, with ActKilled
	Actor      *conn.Process // who did the act; nil: nobody, or not known
	Sentence   string        // who, how, why; full sentences
	Advice     string        // what to do; "" nothing
	AppSaw     []string      // what this end's process was told: EOF, ECONNRESET, EPIPE, SIGPIPE, …; nil: not known
	Harmless   bool          // a RST after a complete exchange
	Confidence Confidence
	Missing    []string // hooks, by their kernel names, whose absence lowers the confidence
	Unseen     string   // what must have been and was not seen, a noun phrase; "": nothing is known to be missing

	Lost  Lost
	Bytes Bytes

	Age      *time.Duration // when the ending began, since the SYN; nil: not known, or not ended
	Idle     *time.Duration // no payload had gone either way for so long when the ending began; nil: not known
	Retry    Retry          // whether what was asked can be asked again
	RetryWhy string         // half a sentence; "" there is nothing to say
	Reset    *Reset         // the RST that came in; nil: none
	Probe    bool           // the opener aborted at once, before any payload: a health check or a scan

	HalfClose *time.Duration // from the first FIN, by shutdown, to the other; nil: no half-close
	TimeWait  bool           // this end kept the TIME_WAIT
	// Unanswered: the service ended it while what the client had sent last had no
	// answer; nil: it did not, or that is not known. Both ends have it.
	Unanswered *Unanswered
	LocalFin   *Goodbye   // nil: this end sent no FIN
	PeerFin    *Goodbye   // nil: no FIN came; Actor only when the peer is local
	Evidence   []Evidence // in time order
}
