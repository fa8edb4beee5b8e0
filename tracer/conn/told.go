package conn

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Room is a place for the events of a story: whoever fills it gives it to AddStory.
func (j *Joiner) Room() []event.Event { return j.pages.take(largePage) }

// AddStory takes what the kernel half kept of a socket until now, in the order of
// its times. It has its place among the other events by when it was told; what it
// tells is older. The events are the Joiner's from then on.
func (j *Joiner) AddStory(told time.Duration, events []event.Event) {
	if len(events) == 0 {
		return
	}
	a := j.waiting.room()
	j.arrived++
	a.Time, a.Sock, a.Conn, a.story, a.order = told, events[0].Sock, events[0].Conn, events, j.arrived
	if told < j.now {
		j.late++
		a.late = true
		j.heedLoss(told)
	}
	j.waiting.put(a)
}

// placeStory places a story's events, and what happened to its connection while
// nobody knew of it.
func (j *Joiner) placeStory(a *arrival) {
	j.coming = min(len(a.story)+4, largePage) // and what is told step by step
	for i := range a.story {
		j.place(&a.story[i])
	}
	j.coming = 0
	c := j.bySock[a.Sock]
	if c == nil || c.Gen != a.Conn {
		// A final story has taken its socket's address out.
		if c = j.lastTouched(a.Sock, a.Conn); c == nil {
			return
		}
	}
	if c.judged {
		return
	}
	c.Storied, c.early = true, c.early || a.story[len(a.story)-1].Hook != event.HookDestroy
	if c.tuple == (ends{}) {
		// Of a socket that is connecting the kernel half tells the port that was
		// chosen since.
		e := a.story[len(a.story)-1]
		e.Hook = event.HookNone
		if j.address(c, &e); c.tuple != (ends{}) {
			j.placeWaiting(c)
			j.adopt(c)
		}
	}
	before := len(c.Elsewhere)
	j.passed.visit(c.First, a.Time, func(e *event.Event) {
		switch {
		case e.Hook == event.HookICMP:
			if (ends{e.Local, e.Remote}) == c.tuple && (e.NetNS == 0 || e.NetNS == c.NetNS) {
				j.insert(c, e)
			}
		case e.Hook == event.HookAddress:
			if c.Local.Addr() == e.Local.Addr() && c.NetNS == e.NetNS && (c.Ended == 0 || e.Time <= c.Ended) {
				j.insert(c, e)
			}
		}
	})
	j.passedOwners.visit(c.First, a.Time, func(e *event.Event) {
		if c.Owner != nil && c.Owner.PID == e.PID {
			j.aside(c, e)
		}
	})
	if len(c.Elsewhere) > before {
		slices.SortStableFunc(c.Elsewhere, byTime)
	}
}

func byTime(a, b event.Event) int { return int(min(1, max(-1, a.Time-b.Time))) }

func (j *Joiner) lastTouched(sock, gen uint64) *entry {
	for i := len(j.touched) - 1; i >= 0; i-- {
		if c := j.touched[i]; c.Sock == sock && c.Gen == gen {
			return c
		}
	}
	return nil
}

// insert gives a connection an event of its own that is older than its last.
func (j *Joiner) insert(c *entry, e *event.Event) {
	i := len(c.Events)
	for i > 0 && c.Events[i-1].Time > e.Time {
		i--
	}
	c.Events = slices.Insert(c.Events, i, *e)
	j.touch(c)
}

// passed are the last events that were about connections by what those had: an
// address, an owner. A connection whose story is told later may be one of them.
type passed struct {
	events []event.Event // a ring
	next   int
}

// maxPassed is how many are kept.
const maxPassed = 1024

func (p *passed) add(e *event.Event) {
	if len(p.events) < maxPassed {
		p.events = append(p.events, *e)
	} else {
		p.events[p.next] = *e
		p.next = (p.next + 1) % maxPassed
	}
	// One that came late goes before those that are younger.
	for i := len(p.events) - 1; i > 0 && p.at(i).Time < p.at(i-1).Time; i-- {
		*p.at(i), *p.at(i - 1) = *p.at(i - 1), *p.at(i)
	}
}

// at is the event at a place in the order of their times.
func (p *passed) at(i int) *event.Event { return &p.events[(p.next+i)%len(p.events)] }

// visit visits those of a time, in their order.
func (p *passed) visit(from, to time.Duration, visit func(*event.Event)) {
	first := len(p.events)
	for first > 0 && p.at(first-1).Time >= from {
		first--
	}
	for i := first; i < len(p.events); i++ {
		if e := p.at(i); e.Time <= to {
			visit(e)
		}
	}
}

// KnowsPair says whether an end is followed that has these initial sequence numbers,
// either way round.
func (j *Joiner) KnowsPair(a, b uint32) bool {
	return len(j.bySeq[isnKey{a, b}])+len(j.bySeq[isnKey{b, a}]) > 0
}

// MayLack says whether something was lost since a time that may have been of what
// began then.
func (j *Joiner) MayLack(born time.Duration) bool {
	return j.lossyUntil != 0 && born <= j.lossyUntil
}

// Rest is how long after the end of its socket a connection with these ends may
// still be told of. A story is told at its end, so that of an end's peer may come
// after the end's own: where the peer is on this machine, it is waited for.
func (j *Joiner) Rest(local, remote netip.AddrPort, paired bool) time.Duration {
	if !paired && (local.Addr().IsLoopback() || local.Addr() == remote.Addr()) {
		return j.opts.Grace
	}
	return j.opts.Rest
}

// Number is the next connection's ID: they count in the order of first sight.
func (j *Joiner) Number() int {
	j.n++
	return j.n
}

// isAlone puts a connection among those that are alone. Nobody need ask for them: those
// that were judged go before there is more room.
func (j *Joiner) isAlone(c *entry) {
	if len(j.alone) == cap(j.alone) {
		j.alone = slices.DeleteFunc(j.alone, func(c *entry) bool { return c.judged })
	}
	j.alone = append(j.alone, c)
}

// Alone visits, once each, the connections that have ended before a time, or wait in a
// mini-socket, and whose other end was not heard of. Where that is on this machine and
// its life is plain so far, the kernel half will tell of it if it is asked to. They
// are visited with their initial sequence numbers, the peer's second, where both are known.
func (j *Joiner) Alone(before time.Duration, visit func(c *Connection, isn [2]uint32, known bool)) {
	j.alone = slices.DeleteFunc(j.alone, func(c *entry) bool {
		if c.judged || c.peer != nil {
			return true
		}
		if c.ended() > before {
			return false
		}
		visit(c.Connection, [2]uint32{c.isn.snd, c.isn.rcv}, c.isn.whole())
		return true
	})
}
