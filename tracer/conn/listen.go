package conn

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Side is one of the two ends of a connection, seen from one of them.
type Side uint8

const (
	NoSide Side = iota // not known
	ThisSide
	OtherSide
)

// Service is the side whose port is the service's: who sent the SYN tells, at
// either end, or else what listens on the port. NoSide: nothing told.
func (c *Connection) Service() Side {
	switch {
	case c.Open == OpenPassive:
		return ThisSide
	case c.Open == OpenActive:
		return OtherSide
	}
	if p := c.Peer; p != nil {
		switch p.Open {
		case OpenPassive:
			return OtherSide
		case OpenActive:
			return ThisSide
		}
	}
	return c.Serves
}

// Listener is a socket that waits for connections.
type Listener struct {
	NetNS uint32
	Local netip.AddrPort
	Owner *Process // nil: not known
}

// port is one of a network namespace.
type port struct {
	netns uint32
	port  uint16
}

// listeners are the sockets that listen, as the start of the trace and events
// told. Those of before the trace have no address of a socket yet: 0.
type listeners struct {
	on map[port][]listening
	// busy counts the connections of before the trace at an end: many have a
	// service's in common, and hardly any another.
	busy map[port]map[netip.Addr]int
}

type listening struct {
	Listener
	sock uint64
}

// maxOnPort is how many listeners of one port are kept: with SO_REUSEPORT each
// thread may have its own.
const maxOnPort = 64

func (l *listeners) add(x Listener, sock uint64) {
	if l.on == nil {
		l.on = map[port][]listening{}
	}
	k := port{x.NetNS, x.Local.Port()}
	list := l.on[k]
	for i := range list {
		// The same one may have been found and seen.
		if list[i].sock == sock && sock != 0 || list[i].sock == 0 && list[i].Local == x.Local {
			return
		}
	}
	if len(list) < maxOnPort {
		l.on[k] = append(list, listening{x, sock})
	}
}

// remove takes a listener away that has closed. One of before the trace is known
// by where it listened.
func (l *listeners) remove(netns uint32, local netip.AddrPort, sock uint64) {
	k := port{netns, local.Port()}
	list := l.on[k]
	i := slices.IndexFunc(list, func(x listening) bool { return x.sock == sock && sock != 0 })
	if i < 0 {
		i = slices.IndexFunc(list, func(x listening) bool { return x.sock == 0 && x.Local == local })
	}
	if i < 0 {
		return
	}
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(l.on, k)
	} else {
		l.on[k] = list
	}
}

// found notes what the start of the trace found.
func (l *listeners) found(s *Seed) {
	if s.State == event.Listen {
		l.add(Listener{s.NetNS, s.Local, s.Owner}, 0)
		return
	}
	if l.busy == nil {
		l.busy = map[port]map[netip.Addr]int{}
	}
	k := port{s.NetNS, s.Local.Port()}
	if l.busy[k] == nil {
		l.busy[k] = map[netip.Addr]int{}
	}
	l.busy[k][s.Local.Addr()]++
}

// take says whether a connection to an address and port would come to a listener.
func (x *Listener) take(to netip.AddrPort) bool {
	return x.Local.Port() == to.Port() && (x.Local.Addr() == to.Addr() || x.Local.Addr().IsUnspecified() && (x.Local.Addr().Is6() || to.Addr().Is4()))
}

// accepted notes who accepts: it need not be who listens.
func (l *listeners) accepted(netns uint32, local netip.AddrPort, who *Process) {
	if who == nil {
		return
	}
	list := l.on[port{netns, local.Port()}]
	for i := range list {
		if x := &list[i]; x.take(local) && (x.Owner == nil || x.Owner.PID != who.PID) {
			x.Owner = who
		}
	}
}

// acceptor is who accepts what comes to an address and port; nil: not known, or
// more than one does.
func (l *listeners) acceptor(netns uint32, local netip.AddrPort) *Process {
	var who *Process
	for _, x := range l.on[port{netns, local.Port()}] {
		switch {
		case !x.take(local):
		case x.Owner == nil, who != nil && who.PID != x.Owner.PID:
			return nil
		default:
			who = x.Owner
		}
	}
	return who
}

// Acceptor is who accepts what comes to an address and port, as far as the events
// told that have been placed; nil: not known, or more than one process does.
func (j *Joiner) Acceptor(netns uint32, local netip.AddrPort) *Process {
	return j.listeners.acceptor(netns, local)
}

func (l *listeners) at(netns uint32, local netip.AddrPort) bool {
	return slices.ContainsFunc(l.on[port{netns, local.Port()}], func(x listening) bool { return x.take(local) })
}

// serves says by what listens, and then by how many connections an end has, which
// end is the service.
func (l *listeners) serves(c *Connection) Side {
	there := c.NetNS
	if c.Peer != nil {
		there = c.Peer.NetNS
	}
	switch here, there := l.at(c.NetNS, c.Local), l.at(there, c.Remote); {
	case here && !there:
		return ThisSide
	case there && !here:
		return OtherSide
	}
	here, remote := l.busy[port{c.NetNS, c.Local.Port()}][c.Local.Addr()], l.busy[port{there, c.Remote.Port()}][c.Remote.Addr()]
	switch {
	case here > 1 && remote <= 1:
		return ThisSide
	case remote > 1 && here <= 1:
		return OtherSide
	}
	return NoSide
}

// instead lists who listens on a port in a network namespace, but not so that a
// connection to that address comes to it.
func (l *listeners) instead(netns uint32, to netip.AddrPort) []Listener {
	const most = 4
	var all []Listener
	for _, x := range l.on[port{netns, to.Port()}] {
		if x.take(to) && !(x.Local.Addr().IsUnspecified() && x.Local.Addr().Is6() && to.Addr().Is4()) || slices.ContainsFunc(all, func(y Listener) bool { return x.Local == y.Local }) {
			continue
		}
		all = append(all, x.Listener)
	}
	slices.SortStableFunc(all, func(a, b Listener) int { return cmp.Or(a.Local.Compare(b.Local)) })
	return all[:min(len(all), most)]
}

// Listeners visits what listens, in no order, until the visitor says false.
func (j *Joiner) Listeners(visit func(Listener) bool) {
	for _, list := range j.listeners.on {
		for _, x := range list {
			if !visit(x.Listener) {
				return
			}
		}
	}
}

// listens follows a listener's state.
func (j *Joiner) listens(c *entry, e *event.Event) {
	switch {
	case e.Has&event.HasTuple == 0:
	case e.ToState == event.Listen:
		j.listeners.add(Listener{e.NetNS, e.Local, j.actor(e)}, e.Sock)
	case e.State == event.Listen && e.ToState == event.Close:
		j.listeners.remove(e.NetNS, e.Local, e.Sock)
	case e.State == event.SynSent && e.ToState == event.Close:
		// Who listens elsewhere on the port, in the namespace that refused.
		netns := e.NetNS
		for i := range c.Elsewhere {
			if x := &c.Elsewhere[i]; x.Hook == event.HookSendReset {
				netns = x.NetNS
			}
		}
		c.Listeners = j.listeners.instead(netns, c.Remote)
	}
}

// answersSYN says whether a reset answers a SYN-ACK.
func answersSYN(e *event.Event) bool {
	return e.Hook == event.HookSendReset && e.Has&event.HasSegment != 0 &&
		e.Segment.Flags&(event.SYN|event.ACK|event.RST) == event.SYN|event.ACK
}

// dials notes a connection whose SYN is not answered yet.
func (j *Joiner) dials(c *entry, e *event.Event) {
	if e.State != event.SynSent && e.ToState != event.SynSent {
		return
	}
	if j.dialing == nil {
		j.dialing = map[netip.AddrPort]*entry{}
	}
	j.dialing[c.Local] = c
}

// hangsUp forgets it.
func (j *Joiner) hangsUp(c *entry) {
	if j.dialing[c.Local] == c {
		delete(j.dialing, c.Local)
	}
}

// strayAnswer gives a connection the reset of a SYN-ACK that answered its SYN from an
// address that it had not called: this kernel knows no connection with that one.
func (j *Joiner) strayAnswer(e *event.Event) bool {
	if !answersSYN(e) {
		return false
	}
	c := j.dialing[e.Local]
	if c == nil || !c.strayAnswer(e) {
		return false
	}
	j.aside(c, e)
	return true
}

func (c *entry) strayAnswer(e *event.Event) bool {
	return answersSYN(e) && e.Local == c.Local && e.Remote != c.Remote && (e.NetNS == c.NetNS || e.NetNS == 0) &&
		!c.judged && c.Established == 0 && c.Open == OpenActive
}
