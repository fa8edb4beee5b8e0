package verdict

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Class is the kind of ending.
type Class string

const (
	Graceful Class = "graceful"  // both FINs, nothing known to be lost
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
	Certain  Confidence = "certain" // no event of a second end could refute it
	Likely   Confidence = "likely"  // another cause cannot be excluded, or something was missed
	NotKnown Confidence = "unknown" // the cause is unknown, too
)

// Cause is the stable identifier of a rule. Once released, an identifier never
// changes its meaning.
type Cause string

// Lost counts payload bytes that did not reach an application; nil: not known.
type Lost struct {
	Unread  *uint64 // received, acknowledged, never read by the process
	Unsent  *uint64 // accepted by send, never sent
	Unacked *uint64 // sent, never acknowledged
}

// Bytes counts payload bytes, SYN and FIN not counted; nil: not known.
type Bytes struct {
	Sent     *uint64 // by this end
	Acked    *uint64 // of those, by the peer
	Received *uint64 // by this end
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

// Event is the event that the evidence points at.
func (p Evidence) Event() *event.Event {
	if p.Elsewhere {
		return &p.Conn.Elsewhere[p.Index]
	}
	return &p.Conn.Events[p.Index]
}
