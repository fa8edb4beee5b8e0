package session

import (
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// people remembers what is known of processes, and from when on it holds.
type people struct {
	byPID map[uint32][]record.Process // by time
	order []uint32                    // PIDs, in the order in which they came
}

const (
	maxPeople   = 1 << 14
	generations = 64 // of one PID
	// superseded is how long what does not hold any more is kept for events
	// that come late.
	superseded = 5 * time.Second
)

func newPeople() *people { return &people{byPID: map[uint32][]record.Process{}} }

func (p *people) learn(r record.Process) {
	known, ok := p.byPID[r.PID]
	if !ok {
		if p.order = append(p.order, r.PID); len(p.order) > maxPeople {
			delete(p.byPID, p.order[0])
			p.order = p.order[1:]
		}
	}
	// Nearly always the last; events of other CPUs may be a little late.
	i := len(known)
	for i > 0 && known[i-1].Time > r.Time {
		i--
	}
	known = append(known, record.Process{})
	copy(known[i+1:], known[i:])
	known[i] = r
	for len(known) > generations || len(known) > 1 && known[len(known)-1].Time-known[1].Time > superseded {
		known = known[1:]
	}
	p.byPID[r.PID] = known
}

// complete adds to a process what is known of it at a time (CLOCK_MONOTONIC).
func (p *people) complete(who *conn.Process, at time.Duration) {
	known := p.byPID[who.PID]
	for i := len(known) - 1; i >= 0; i-- {
		if r := &known[i]; r.Time <= at {
			fill(who, r)
			return
		}
	}
}

func fill(who *conn.Process, r *record.Process) {
	who.Exe, who.Container, who.CgroupPath = string(r.Exe), string(r.Container), string(r.CgroupPath)
	who.NSPID, who.Leader, who.Ancestors = r.NSPID, string(r.Leader), r.Ancestors
	if r.UID == who.UID {
		who.User = string(r.User)
	}
}

// Name completes the actors of a verdict, which the judge takes from events,
// with what was known of them when they acted.
func Name(c *conn.Connection, v *verdict.Verdict) {
	where(c, v)
	for _, who := range []*conn.Process{v.Actor, actorOf(v.LocalFin), actorOf(v.PeerFin)} {
		if who == nil || who.Exe != "" {
			continue
		}
		// A PID is one host's own.
		if (who.Host != c.Host || !nameFrom(who, c)) && c.Peer != nil && who.Host == c.Peer.Host {
			nameFrom(who, c.Peer)
		}
	}
}

// where gives the actors the stacks of their acts, which were taken at the end at
// which they acted.
func where(c *conn.Connection, v *verdict.Verdict) {
	mine, theirs := c, c.Peer
	var at time.Duration
	for _, f := range []struct {
		fin *verdict.Goodbye
		end *conn.Connection
	}{{v.LocalFin, mine}, {v.PeerFin, theirs}} {
		if f.fin == nil || f.fin.Actor == nil {
			continue
		}
		f.fin.Actor.Stack = stackOf(f.end, f.fin.Actor, f.fin.Act, f.fin.At)
		if v.Actor != nil && v.Actor.PID == f.fin.Actor.PID && v.Act == f.fin.Act && (v.Ender == verdict.LocalProcess) == (f.end == mine) {
			at = f.fin.At
		}
	}
	if v.Actor == nil {
		return
	}
	end := mine
	if v.Ender != verdict.LocalProcess && theirs != nil {
		end = theirs
	}
	v.Actor.Stack = stackOf(end, v.Actor, v.Act, at)
}

// stackOf finds the stack of a process's act at an end: the one nearest to when
// the act took effect (at; 0: not known, then the last).
func stackOf(end *conn.Connection, who *conn.Process, act verdict.Act, at time.Duration) event.Stack {
	if end == nil {
		return ""
	}
	hooks := stackHooks(act)
	var found event.Stack
	var off time.Duration
	for i := len(end.Stacks) - 1; i >= 0; i-- {
		e := &end.Stacks[i]
		if e.PID != who.PID || !slices.Contains(hooks, event.Hook(e.Arg)) {
			continue
		}
		if at == 0 {
			return e.Stack
		}
		if d := (at - e.Time).Abs(); found == "" || d < off {
			found, off = e.Stack, d
		}
	}
	return found
}

// stackHooks lists where the stack of an act is taken. An exec has none: when it
// closes, the program that called it is gone.
func stackHooks(act verdict.Act) []event.Hook {
	switch act {
	case verdict.ActShutWr, verdict.ActShutRd, verdict.ActShutRdWr:
		return []event.Hook{event.HookShutdown, event.HookSetState}
	case verdict.ActExit, verdict.ActKilled, verdict.ActThread:
		return []event.Hook{event.HookExit}
	case verdict.NoAct, verdict.ActExec, verdict.ActDiscard:
		return nil
	}
	return []event.Hook{event.HookCloseEntry, event.HookSetState}
}

func actorOf(g *verdict.Goodbye) *conn.Process {
	if g == nil {
		return nil
	}
	return g.Actor
}

func nameFrom(who *conn.Process, c *conn.Connection) bool {
	for i := len(c.Hands) - 1; i >= 0; i-- {
		h := &c.Hands[i]
		if h.PID != who.PID {
			continue
		}
		who.Exe, who.Container, who.CgroupPath, who.NSPID, who.Leader, who.Ancestors = h.Exe, h.Container, h.CgroupPath, h.NSPID, h.Leader, h.Ancestors
		if h.UID == who.UID {
			who.User = h.User
		}
		return true
	}
	return false
}

// Recordings hold seeds in a form of their own.

func seedRecord(s conn.Seed) record.Seed {
	r := record.Seed{Time: s.Time, NetNS: s.NetNS, Local: s.Local, Remote: s.Remote, State: s.State}
	if s.Owner != nil {
		o := ownerRecord(s.Time, s.Owner)
		r.Owner = &o
	}
	return r
}

func ownerRecord(at time.Duration, o *conn.Process) record.Owner {
	return record.Owner{TID: o.TID, Comm: record.Text(o.Comm), Cgroup: o.Cgroup, Process: record.Process{
		Time: at, PID: o.PID, NSPID: o.NSPID, UID: o.UID, Leader: record.Text(o.Leader), Exe: record.Text(o.Exe),
		Container: record.Text(o.Container), CgroupPath: record.Text(o.CgroupPath), User: record.Text(o.User), Ancestors: o.Ancestors,
	}}
}

func seedOf(r record.Seed) conn.Seed {
	s := conn.Seed{Time: r.Time, NetNS: r.NetNS, Local: r.Local, Remote: r.Remote, State: r.State}
	if r.Owner != nil {
		s.Owner = ownerOf(r.Owner)
	}
	for i := range r.Holders {
		s.Holders = append(s.Holders, *ownerOf(&r.Holders[i]))
	}
	return s
}

func ownerOf(o *record.Owner) *conn.Process {
	who := &conn.Process{PID: o.PID, TID: o.TID, Comm: string(o.Comm), UID: o.UID, Cgroup: o.Cgroup}
	fill(who, &o.Process)
	return who
}
