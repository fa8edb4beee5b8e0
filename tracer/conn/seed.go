package conn

import (
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Seed is a connection, or a listener, that was there when the trace began. Nothing tells the
// address of its socket: its ends and its network namespace are its identity.
type Seed struct {
	Time   time.Duration // CLOCK_MONOTONIC at which it was found
	NetNS  uint32        // inode number
	Local  netip.AddrPort
	Remote netip.AddrPort
	State  event.State
	Owner  *Process // nil: nobody holds it, or nobody was found

	Holders []Process // all who hold it, by PID
}

type seedKey struct {
	netns uint32
	ends  ends
}

// Seed makes a connection known that was there before the trace. Its first
// event takes it up. Call it before any event is added.
func (j *Joiner) Seed(s Seed) {
	if j.listeners.found(&s); s.State != event.Listen {
		j.seeds[seedKey{s.NetNS, ends{s.Local, s.Remote}}] = s
	}
}

// Seeds visits the seeds of which nothing was heard yet, in no order.
func (j *Joiner) Seeds(visit func(Seed)) {
	for _, s := range j.seeds {
		visit(s)
	}
}

// Hold tells who holds a connection that is open still, and says which that is; nil:
// there is none.
func (j *Joiner) Hold(s Seed) *Connection {
	c := j.newest(ends{s.Local, s.Remote}, s.NetNS)
	if c == nil || c.judged || c.Ended != 0 {
		return nil
	}
	c.Holders = s.Holders
	return c.Connection
}

// adopt gives a connection, whose ends have just become known, what the start
// of the trace found of it. Live events win: what was seen to be opened after
// that is another connection, and an owner that acted is the owner.
func (j *Joiner) adopt(c *entry) {
	key := seedKey{c.NetNS, c.tuple}
	s, ok := j.seeds[key]
	if !ok {
		return
	}
	delete(j.seeds, key)
	if c.Open != OpenUnknown && c.First > s.Time {
		return
	}
	if c.Open == OpenUnknown {
		c.Before = s.State
		c.known = s.Time
	}
	switch {
	case s.Owner == nil:
	case c.Owner == nil:
		owner := *s.Owner
		c.Owner = &owner
	case c.Owner.PID == s.Owner.PID && c.Owner.Exe == "":
		// It was seen first when it exited: what it executed is not there any more.
		owner := *s.Owner
		owner.TID, owner.Comm = c.Owner.TID, c.Owner.Comm
		c.Owner = &owner
	}
}
