package session

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
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
