package session

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
)

// Program is the name that recordings carry.
var Program = "tcpbye"

// left asks the kernel's own table about the connections that have not ended by
// what was told: only together do they prove that one is open. A replay is told what
// the table said.
func (s *Session) left(open []*conn.Connection) {
	if s.cfg.Sockets != nil && len(open) > 0 {
		s.look(open)
	}
	for _, l := range s.looked {
		gone := make(map[uint64]bool, len(l.Gone))
		for _, gen := range l.Gone {
			gone[gen] = true
		}
		for _, c := range open {
			c.Found = c.Found || c.NetNS == l.NetNS && c.Gen != 0 && c.First < l.Time && !gone[c.Gen]
		}
	}
}

// look compares the table with what was told.
func (s *Session) look(open []*conn.Connection) {
	netns, sockets, err := s.cfg.Sockets()
	if err != nil || netns == 0 || len(sockets) == 0 {
		return // nothing is proven then
	}
	table := make(map[tuple]*snapshot.Socket, len(sockets))
	for i := range sockets {
		x := &sockets[i]
		table[tuple{netns, x.Local, x.Remote}] = x
	}
	l := record.Look{Time: sockets[0].Time, NetNS: netns}
	for _, c := range open {
		if c.NetNS != netns || c.Gen == 0 {
			continue
		}
		if x := table[tuple{netns, c.Local, c.Remote}]; x == nil || x.State != c.State() || differs(x.Inode, inodeOf(c)) {
			l.Gone = append(l.Gone, c.Gen)
		}
	}
	if len(l.Gone) > maxGone {
		return // the trace was late for its own end
	}
	s.looked = append(s.looked, l)
	if s.err == nil {
		s.err = s.writeLook(l)
	}
}

// maxGone bounds what a recording says of a look.
const maxGone = 512

// writeLook records what the table said.
func (s *Session) writeLook(l record.Look) error {
	switch {
	case s.ledger != nil:
		s.ledger.always(record.Append(nil, l))
	case s.cfg.Record != nil:
		return s.cfg.Record.Look(l)
	}
	return nil
}

// Look takes what the table said when the run that is replayed was over.
func (s *Session) Look(l record.Look) error {
	s.looked = append(s.looked, l)
	return s.writeLook(l)
}

// inodeOf is the inode of a connection's socket, as it was told last; 0: it was not.
func inodeOf(c *conn.Connection) uint64 {
	for i := len(c.Events) - 1; i >= 0; i-- {
		if e := &c.Events[i]; e.Sock == c.Sock && e.Inode != 0 {
			return e.Inode
		}
	}
	return 0
}

// differs says whether two inodes are known and of two sockets.
func differs(a, b uint64) bool { return a != 0 && b != 0 && a != b }

// waits says whether somebody is to be told the time although nothing happens.
func (s *Session) waits() bool {
	if s.cfg.Waits != nil {
		return s.cfg.Waits()
	}
	return s.cfg.Time != nil
}

// pulse is what a live run knows of the clocks.
type pulse struct {
	wall  time.Duration // wall clock minus CLOCK_MONOTONIC
	wound time.Duration // when it was so last

	said time.Duration // when Behind was called last
	lost uint64        // what it was told
}
