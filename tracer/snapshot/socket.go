package snapshot

import (
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Socket is one end of a connection that is open.
type Socket struct {
	Time   time.Duration // CLOCK_MONOTONIC at which it was seen
	NetNS  uint32        // inode number; 0 not known
	Family event.Family
	State  event.State
	Local  netip.AddrPort // IPv4-mapped addresses are unmapped
	Remote netip.AddrPort
	Inode  uint64 // of the socket; 0: it has none, as no process has it (yet, or any more)
	UID    uint32

	Unread  uint32 // bytes that the process has not read
	Unacked uint32 // bytes that it sent and that were not acknowledged, sent or not
	Timer   Timer
	Tries   uint8 // of what the timer is about
	Mini    bool  // a mini-socket (FIN_WAIT2): no process, and it goes by itself
	Info    *Info // nil: /proc/net/tcp does not tell, nor does a mini-socket

	Holders  []Holder // by PID and descriptor
	Listener *Holder  // of a connection that waits to be accepted; nil: not known
	Peer     *Socket  // the other end, when it was found on this machine
	// Alone: the other end must be on this machine, and there is no such socket.
	Alone bool
}

// Timer is the timer that runs for a socket (inet_csk_diag_fill).
type Timer uint8

const (
	TimerNone Timer = iota
	TimerRetransmit
	TimerKeepalive
	TimerTimeWait
	TimerProbe // of a zero window
)

// Info are the times and counts of tcp_info that tell something of an end.
type Info struct {
	LastDataSent     time.Duration // ago
	LastDataReceived time.Duration // ago; the peer's FIN alone is no data
	LastAckReceived  time.Duration // ago: any segment that is in order, nearly
	Retransmits      uint8
	Probes           uint8
}

// Holder is a process that has a descriptor of the socket, or else a thread inside
// a call on it that was begun before its last descriptor was closed: the call
// keeps the socket open.
type Holder struct {
	conn.Process
	FD     int  // InCall: -1
	InCall bool // TID is the thread
	Halt   Halt
	// Full is how many descriptors the process may have, where it has that many
	// and none is left; 0: some are, or that is not known.
	Full int
}

// Owner is the process to name for a socket: that of the lowest PID, which in a
// family of processes is the parent. nil: nobody has it.
func (s *Socket) Owner() *Holder {
	if len(s.Holders) == 0 {
		return nil
	}
	return &s.Holders[0]
}

// Seed is the socket as a trace needs it.
func (s *Socket) Seed() conn.Seed {
	seed := conn.Seed{Time: s.Time, NetNS: s.NetNS, Local: s.Local, Remote: s.Remote, State: s.State}
	if o := s.Owner(); o != nil {
		who := o.Process
		seed.Owner = &who
	}
	for _, h := range s.Holders {
		if n := len(seed.Holders); n == 0 || seed.Holders[n-1].PID != h.PID {
			seed.Holders = append(seed.Holders, h.Process)
		}
	}
	return seed
}

// Connection is the socket as a filter needs it.
func (s *Socket) Connection() *conn.Connection {
	c := &conn.Connection{Local: s.Local, Remote: s.Remote, NetNS: s.NetNS, Family: s.Family, Before: s.State}
	for _, h := range s.Holders {
		c.Hands = append(c.Hands, h.Process)
	}
	if o := s.Owner(); o != nil {
		c.Owner = &o.Process
	} else if s.Listener != nil {
		c.Owner = &s.Listener.Process
	}
	return c
}

// Snapshot is what was there.
type Snapshot struct {
	Sockets []Socket // connections, by namespace and ends
	// Listening are the sockets that wait for connections.
	Listening []Socket
	TimeWait  int // ends in TIME_WAIT, which are not among Sockets
	// Skipped says which namespaces could not be looked at, and why.
	Skipped []error
}

// Options says how to look.
type Options struct {
	Procfs string // "/proc"
	// Who adds to a process what is known of it: executable, container, user.
	// nil: nothing is added.
	Who func(*conn.Process)
}
