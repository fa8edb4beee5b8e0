package scenario

import (
	"slices"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Pick takes a run's events out of those of the whole machine. Classic
// tracepoints do not record a socket's namespace: such an event is the run's if
// the story has its addresses, or if it is of a connection that has one.
func (o *Outcome) Pick(all []event.Event) []event.Event {
	spaces := make(map[uint64]uint32) // by connection
	for _, e := range all {
		if ns := o.space(e); ns != 0 && e.Conn != 0 {
			spaces[uint64(e.Conn)] = ns
		}
	}
	var pids []uint32
	for _, p := range o.Processes {
		pids = append(pids, uint32(p.PID))
	}
	var mine []event.Event
	for _, e := range all {
		if e.Has&event.HasTuple == 0 {
			if slices.Contains(pids, e.PID) {
				mine = append(mine, e)
			}
			continue
		}
		ns := o.space(e)
		if ns == 0 && e.Conn != 0 {
			ns = spaces[uint64(e.Conn)]
		}
		if slices.Contains(o.Watched, ns) {
			e.NetNS = ns
			mine = append(mine, e)
		}
	}
	return mine
}

// space is the namespace that an event happened in; 0: the story does not know
// its addresses.
func (o *Outcome) space(e event.Event) uint32 {
	if e.NetNS != 0 || e.Has&event.HasTuple == 0 {
		return e.NetNS
	}
	for _, end := range o.Ends {
		if e.Local == end.Local && e.Remote == end.Remote {
			return end.NetNS
		}
	}
	// It happened to an end that the story does not have: the other one of a
	// connection, without a socket.
	for _, end := range o.Ends {
		if e.Local == end.Remote && e.Remote == end.Local {
			return o.across(end.NetNS)
		}
	}
	return 0
}

// across is the namespace of the other end of a connection.
func (o *Outcome) across(ns uint32) uint32 {
	for _, other := range o.NetNS {
		if other != ns {
			return other
		}
	}
	return ns
}
