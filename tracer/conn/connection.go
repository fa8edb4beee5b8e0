package conn

import (
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Open is how a connection began, from this end.
type Open uint8

const (
	OpenUnknown Open = iota // older than the trace
	OpenActive              // connect(2)
	OpenPassive             // accepted from a listener
)

func (o Open) String() string {
	switch o {
	case OpenActive:
		return "active"
	case OpenPassive:
		return "passive"
	}
	return "unknown"
}

// Process is a task that was seen doing something to a socket.
type Process struct {
	PID, TID  uint32 // in the PID namespace of tcpbye, or event.Outside it
	Comm      string // of the thread, at that moment; any bytes: quote before printing
	UID       uint32
	Cgroup    uint64 // cgroup v2 id
	Exe       string // path of the executable; "" not known
	Container string // "" none or not known

	NSPID      uint32   // PID in the process's own PID namespace; 0 not known
	Leader     string   // name of the process, where the thread has another; "" not known
	User       string   // name of UID, as the process sees it; "" not known
	CgroupPath string   // in the hierarchy that tells most; "" not known
	Ancestors  []uint32 // PIDs: parent, its parent, and so on; nil not known

	Stack event.Stack // where in its program it acted; "" not taken

	Host string // its host's name, where several hosts are told of; "" this one
}

// Connection is one socket's life seen from one end.
type Connection struct {
	ID     string // unique in the run
	Host   string // its host's name, where several hosts are told of; "" this one
	Sock   uint64 // address of the socket: an identity only
	Gen    uint64 // CLOCK_MONOTONIC ns of its first sight
	Family event.Family
	Local  netip.AddrPort // invalid while not known
	Remote netip.AddrPort
	NetNS  uint32
	Open   Open

	First       time.Duration // CLOCK_MONOTONIC of the first event
	Opened      time.Duration // of the first SYN; 0 where Open is unknown
	Established time.Duration // 0: never, or older than the trace
	Ended       time.Duration // of → CLOSE; 0: not ended
	Last        time.Duration // of the last event

	Opener *Process // who called connect(2); nil: not seen
	Owner  *Process // who held the socket last; nil: not seen
	// Hands are all processes that were seen acting on it, each as it then was.
	Hands []Process
	// Before is the state in which the start of the trace found it; 0: younger
	// than the trace, or not found.
	Before event.State

	// Events of this socket and of its mini-socket, in time order.
	Events []event.Event
	// Elsewhere are events that concern this connection but belong to no
	// socket of its own: resets that this machine's kernel sent to this end
	// for want of a socket, the exit of its processes, SIGPIPE.
	Elsewhere []event.Event

	// Holders are the processes that held it when the trace ended, asked for where
	// one had let go of it and another had not; nil: not known.
	Holders []Process
	// Stacks are where in its program a process acted on it (HookStack).
	Stacks []event.Event

	// Acceptor is who accepts, or listens, where this end waited when its peer left
	// before it was accepted; nil: it did not wait, or that is not known.
	Acceptor *Process

	// Serves is the side whose port something listens on, or, of those of before
	// the trace, more than one connection has: see Service.
	Serves Side
	// Listeners are, where connect(2) failed, those who listened then on the
	// port, in the namespace that answered, on other addresses.
	Listeners []Listener

	Peer *Connection // the other end, when it lives on this machine
	// Proven: the initial sequence numbers say so, and not the addresses alone.
	Proven bool
	// Key is the same at both ends, on whatever hosts, and no other connection's:
	// the hash of the initial sequence numbers; zero: not known.
	Key [16]byte
	// Lossy: events were lost somewhere in this connection's life, or came too
	// late, or may be another's.
	Lossy bool
	// Found: when the trace had ended, the kernel's own table of sockets had it, as
	// what was told says.
	Found bool
	// Storied: its life, or the beginning of it, was told at once, as a story, and not
	// step by step.
	Storied bool
	// Replaced: the address of its socket was used again, and its own end was
	// never told: it is not open any more, and how it ended was not seen.
	Replaced bool
}

// State is the state after the last event; 0 when no event told.
func (c *Connection) State() event.State {
	for i := len(c.Events) - 1; i >= 0; i-- {
		e := &c.Events[i]
		if e.Hook == event.HookSetState {
			return e.ToState
		}
	}
	for i := range c.Events {
		if c.Events[i].Has&event.HasTuple != 0 {
			return c.Events[i].State
		}
	}
	return 0
}
