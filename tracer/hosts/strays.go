package hosts

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// route is a connection's addresses as a trace has them.
type route struct {
	trace         int
	local, remote netip.AddrPort
}

// anyTrace stands for all.
const anyTrace = -1

// takeStrays gives what a host's kernel answered, or dropped, without having an end of
// its own, to the end at another host that it concerns.
func (j *joiner) takeStrays() {
	byRoute := map[route][]*end{} // whoever has an end at the other side of these
	bySent := map[uint32][]*end{}
	for _, p := range j.pairs {
		for _, e := range [][2]*end{{p.a, p.b}, {p.b, p.a}} {
			r := route{e[0].trace, e[0].Conn.Local, e[0].Conn.Remote}
			byRoute[r] = append(byRoute[r], e[1])
		}
	}
	for _, e := range j.ends {
		if e.pair != nil || e.twice || e.Conn.Peer != nil {
			continue
		}
		r := route{anyTrace, e.Conn.Remote, e.Conn.Local}
		byRoute[r] = append(byRoute[r], e)
		if isn, _, ok := e.numbers.Sent(); ok && e.Conn.Open == conn.OpenActive {
			bySent[isn] = append(bySent[isn], e)
		}
	}
	for n, t := range j.traces {
		for i := range t.Strays {
			s := &t.Strays[i]
			e := &s.Event
			to := slices.Concat(byRoute[route{n, e.Local, e.Remote}], byRoute[route{anyTrace, e.Local, e.Remote}])
			if syn(e) {
				to = append(to, bySent[e.Segment.Seq]...)
			}
			j.give(s, n, to)
		}
	}
}

// syn says whether the event is about a SYN whose number was seen.
func syn(e *event.Event) bool {
	return e.Has&event.HasSegment != 0 && e.Segment.Flags&(event.SYN|event.ACK) == event.SYN
}

// give gives a stray of a trace to the end that can have sent what it is about: of those
// whose other end is known there, the youngest at that time, else one that is alone.
func (j *joiner) give(s *Stray, trace int, to []*end) {
	var found *end
	var since time.Duration
	for _, e := range to {
		if e.trace == trace || !carries(e, &s.Event) {
			continue
		}
		begun := -never
		if p := e.pair; p != nil && p.b != nil {
			m := p.other(e).Conn
			if m.First > s.Event.Time+sloppy || m.NetNS != s.Event.NetNS && m.NetNS != 0 && s.Event.NetNS != 0 {
				continue // it came later, or is in another network
			}
			if m == s.Own {
				return // the other end has it, and the judge looks there
			}
			begun = m.First
		}
		if found == nil || begun > since {
			found, since = e, begun
		}
	}
	if found == nil {
		return
	}
	if found.pair == nil {
		found.pair = &pair{a: found, ta: found.trace, tb: trace}
		j.pairs = append(j.pairs, found.pair)
	}
	p := found.pair
	switch trace {
	case p.tb:
		p.strays = append(p.strays, placed{found, s.Event, true})
	case p.ta:
		p.strays = append(p.strays, placed{found, s.Event, false})
	}
}

// unproven are the pairs of an end that only its addresses join with what another host's
// kernel did, for the segment was not seen: it counts if it was within the end's life, by
// clocks that something better has set.
func (j *joiner) unproven() (out []*pair) {
	for _, p := range j.pairs {
		if p.b != nil {
			continue
		}
		p.strays = slices.DeleteFunc(p.strays, func(s placed) bool {
			if s.event.Has&event.HasSegment != 0 || p.clock.By == SameClock {
				return false
			}
			at, c := s.event.Time+p.delta, p.a.Conn
			return p.clock.By == WallClocks || at < c.First-sloppy || at > last(c)+sloppy
		})
		if len(p.strays) == 0 {
			out = append(out, p)
		}
	}
	return out
}

func (p *pair) other(e *end) *end {
	if p.a == e {
		return p.b
	}
	return p.a
}

// carries says whether an end can have sent the segment that an event is about, by the
// sequence numbers of its whole life.
func carries(e *end, x *event.Event) bool {
	if x.Has&event.HasSegment == 0 {
		return true
	}
	snd, doubt, ok := e.numbers.Sent()
	if !ok {
		return false
	}
	if x.Segment.Flags&event.SYN != 0 {
		return x.Segment.Seq == snd || doubt && x.Segment.Seq == snd-1
	}
	rcv, whole := e.numbers.Received()
	if !whole {
		return false // it was not answered, so it sent nothing but its SYN
	}
	sent, received := e.reach()
	const more = 1 << 16 // what was sent since it was looked at
	return x.Segment.Seq-snd <= sent+more && (x.Segment.Flags&event.ACK == 0 || x.Segment.Ack-rcv <= received+more)
}

// reach is how far beyond its initial numbers an end has sent and received, modulo 2^32.
func (e *end) reach() (sent, received uint32) {
	snd, _, _ := e.numbers.Sent()
	rcv, _ := e.numbers.Received()
	for i := range e.Conn.Events {
		x := &e.Conn.Events[i]
		if x.Has&event.HasTCP == 0 || !locked(x.Hook) || x.State == event.SynSent || x.State == event.Listen || x.State == event.Close {
			continue
		}
		sent, received = x.SndNxt-snd, x.RcvNxt-rcv
	}
	return sent, received
}

// merge gives the ends of a pair what the other host told of them.
func (p *pair) merge() {
	for _, e := range []*end{p.a, p.b} {
		if e == nil {
			continue
		}
		e.Conn.Elsewhere = e.own
		for i := range p.strays {
			s := &p.strays[i]
			if s.to != e {
				continue
			}
			x := s.event
			x.Time += p.base
			if s.b {
				x.Time += p.delta
			}
			if len(e.Conn.Elsewhere) == len(e.own) {
				e.Conn.Elsewhere = slices.Clone(e.own)
			}
			e.Conn.Elsewhere = append(e.Conn.Elsewhere, x)
		}
		if len(e.Conn.Elsewhere) > len(e.own) {
			slices.SortStableFunc(e.Conn.Elsewhere, func(a, b event.Event) int { return cmp.Compare(a.Time, b.Time) })
		}
	}
}

// place puts both ends, and what is told of them elsewhere, onto the wall clock of a's host.
func (p *pair) place(delta time.Duration) {
	p.delta = delta
	p.a.move(p.base)
	if p.b != nil {
		p.b.move(p.base + delta)
	}
	p.merge()
}
