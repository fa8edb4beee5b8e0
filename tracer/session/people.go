package session

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
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
	who.Leader, who.Ancestors = string(r.Leader), r.Ancestors
	if r.UID == who.UID {
		who.User = string(r.User)
	}
}

// each visits the last that is known of every process.
func (p *people) each(visit func(record.Process) error) error {
	for _, pid := range p.order {
		if known := p.byPID[pid]; len(known) > 0 {
			if err := visit(known[len(known)-1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// name completes the actors of a verdict, which the judge takes from events,
// with what was known of them when they acted.
func name(c *conn.Connection, v *verdict.Verdict) {
	for _, who := range []*conn.Process{v.Actor, actorOf(v.LocalFin), actorOf(v.PeerFin)} {
		if who == nil || who.Exe != "" {
			continue
		}
		if !nameFrom(who, c) && c.Peer != nil {
			nameFrom(who, c.Peer)
		}
	}
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
		who.Exe, who.Container, who.CgroupPath, who.Leader, who.Ancestors = h.Exe, h.Container, h.CgroupPath, h.Leader, h.Ancestors
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
	if o := s.Owner; o != nil {
		r.Owner = &record.Owner{TID: o.TID, Comm: record.Text(o.Comm), Cgroup: o.Cgroup, Process: record.Process{
			Time: s.Time, PID: o.PID, UID: o.UID, Leader: record.Text(o.Leader), Exe: record.Text(o.Exe),
			Container: record.Text(o.Container), CgroupPath: record.Text(o.CgroupPath), User: record.Text(o.User), Ancestors: o.Ancestors,
		}}
	}
	return r
}

func seedOf(r record.Seed) conn.Seed {
	s := conn.Seed{Time: r.Time, NetNS: r.NetNS, Local: r.Local, Remote: r.Remote, State: r.State}
	if o := r.Owner; o != nil {
		s.Owner = &conn.Process{PID: o.PID, TID: o.TID, Comm: string(o.Comm), UID: o.UID, Cgroup: o.Cgroup}
		fill(s.Owner, &o.Process)
	}
	return s
}
