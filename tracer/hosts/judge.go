package hosts

import (
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// judge judges the ends of a pair, each alone and with all that is known.
func (j *joiner) judge(p *pair) {
	p.place(p.delta)
	ends := slices.DeleteFunc([]*end{p.a, p.b}, func(e *end) bool { return e == nil })
	for _, e := range ends {
		// Again: it is to name hosts.
		e.Conn.Elsewhere = e.own
		e.Verdict = j.judger.Judge(e.Conn, j.traces[e.trace].Scope)
	}
	p.link()
	p.merge()
	scope := union(j.traces[p.ta].Scope, j.traces[p.tb].Scope)
	sure := p.certainOrder(j, ends, scope)
	for _, e := range ends {
		e.joint = &Joint{Host: j.labels[p.tb], Alone: e.Verdict, Clock: p.clock}
		if e == p.b {
			e.joint.Host, e.joint.Clock = j.labels[p.ta], p.clock.flip()
		}
		e.joint.Alone.Evidence = moved(e, e.joint.Alone.Evidence)
		if !j.covers(p, e) {
			e.joint.Outcome = Uncovered
			e.Verdict = e.joint.Alone
			continue
		}
		both := j.judger.Judge(e.Conn, scope)
		if !sure && both.Confidence == verdict.Certain {
			both.Confidence = verdict.Likely
		}
		e.Verdict = e.joint.weigh(both)
	}
	p.path(j)
}

// link makes the ends each other's.
func (p *pair) link() {
	if p.b == nil {
		return
	}
	a, b := p.a.Conn, p.b.Conn
	a.Peer, b.Peer = b, a
	rcv, one := p.a.numbers.Received()
	snd, two := p.b.numbers.Received()
	if one && two {
		a.Proven, b.Proven = true, true
		a.Key = conn.KeyOf(snd, rcv)
		b.Key = a.Key
	}
	// Only the end's own host knows who listens there.
	switch {
	case a.Serves == conn.NoSide && b.Serves == conn.ThisSide:
		a.Serves = conn.OtherSide
	case b.Serves == conn.NoSide && a.Serves == conn.ThisSide:
		b.Serves = conn.OtherSide
	}
}

// union is what two traces together could see for certain: what either lacks may be
// missing. A verdict that one end gives with certainty does not need the other's hooks:
// see weigh.
func union(a, b verdict.Scope) verdict.Scope {
	s := verdict.Scope{Missing: slices.Clone(a.Missing), Partial: slices.Clone(a.Partial)}
	for _, h := range b.Missing {
		if !slices.Contains(s.Missing, h) {
			s.Missing = append(s.Missing, h)
		}
	}
	for _, h := range b.Partial {
		if !slices.Contains(s.Partial, h) {
			s.Partial = append(s.Partial, h)
		}
	}
	return s
}

// covers says whether the other host's recording tells all that it can of how an end
// ended.
func (j *joiner) covers(p *pair, e *end) bool {
	mine, other := j.traces[e.trace], j.traces[p.tb]
	myShift, shift := e.shift, p.base+p.delta
	if e == p.b {
		other, shift = j.traces[p.ta], p.base
	}
	c, peer := e.Conn, e.Conn.Peer
	if peer == nil {
		return true // it answered: what it did is told
	}
	if c.Ended == 0 {
		// What is open is so until its recording ends: the other one must tell as much,
		// and not of what came later.
		until := mine.To + myShift
		return peer.Ended != 0 && peer.Ended <= until || peer.Ended == 0 && other.To+shift >= until-lived
	}
	over := c.Ended
	if waits(c) {
		over = max(over, c.Last)
	}
	if peer.Open == conn.OpenUnknown && other.From+shift > over-lived {
		return false // its recording began later
	}
	return peer.Ended != 0 || other.To+shift >= over+lived
}

// waits says whether an end became a mini-socket in FIN_WAIT2, which may still be reset.
func waits(c *conn.Connection) bool {
	return event.Any(c.Events, func(e *event.Event) bool {
		return e.Hook == event.HookTimeWait && event.State(e.Arg) == event.FinWait2
	})
}

// sloppy is how far apart two orders of events may be that are told at two hosts before
// it can matter for the judge.
const sloppy = 20 * time.Millisecond

// oneWay is how long a segment is on its way at most, as a rule, where only that bounds
// the clocks.
const oneWay = 200 * time.Millisecond

// certainOrder says whether the verdicts do not depend on where within its bounds the
// offset of the clocks is. Where nothing but the time of day is known, they do.
func (p *pair) certainOrder(j *joiner, ends []*end, s verdict.Scope) bool {
	if p.clock.By == SameClock {
		return true
	}
	low, high := p.bounds.low, p.bounds.high
	switch {
	case low == -far && high == far:
		return false
	case high == far:
		high = low + oneWay
	case low == -far:
		low = high - oneWay
	}
	if high-low < sloppy {
		return true
	}
	type fact struct {
		cause verdict.Cause
		class verdict.Class
		ender verdict.Ender
	}
	facts := func() (all []fact) {
		for _, e := range ends {
			v := j.judger.Judge(e.Conn, s)
			all = append(all, fact{v.Cause, v.Class, v.Ender})
		}
		return all
	}
	middle := p.delta
	want, sure := facts(), true
	for _, delta := range []time.Duration{low + time.Microsecond, high - time.Microsecond} {
		p.place(delta)
		sure = sure && slices.Equal(facts(), want)
	}
	p.place(middle)
	return sure
}

// weigh holds the verdict of both ends against that of one, and says which holds.
func (x *Joint) weigh(both verdict.Verdict) verdict.Verdict {
	alone := x.Alone
	refuted := len(alone.Refuted(&both)) > 0
	switch {
	case both.Confidence != verdict.Certain && alone.Confidence == verdict.Certain:
		// No other end and no lost event can refute it. What both say is less certain for
		// what the other host did not see, or because it is more.
		x.Outcome = Kept
		switch hole := both.Unseen != "" || len(both.Missing) > len(alone.Missing); {
		case refuted || both.Cause != alone.Cause:
			return alone
		case both.Ender == alone.Ender && both.Act == alone.Act && both.Unseen == "":
			both.Confidence, both.Missing = alone.Confidence, alone.Missing
		case hole:
			return alone
		}
	case both.Confidence == verdict.NotKnown && alone.Confidence != verdict.NotKnown:
		x.Outcome = Kept
		return alone
	case alone.Confidence == verdict.NotKnown && both.Confidence != verdict.NotKnown:
		x.Outcome = Learned
	case refuted && alone.Confidence == verdict.Certain:
		x.Outcome = Disputed
	case refuted && both.Confidence == verdict.Certain:
		x.Outcome = Refuted
	case refuted, alone.Cause != both.Cause:
		x.Outcome = Learned
	case both.Confidence == verdict.Certain && alone.Confidence == verdict.Likely:
		x.Outcome = Confirmed
	default:
		x.Outcome = Kept
	}
	return both
}

// moved is evidence that was found before the other host's events were there.
func moved(e *end, list []verdict.Evidence) []verdict.Evidence {
	list = slices.Clone(list)
	for i := range list {
		if ev := &list[i]; ev.Elsewhere && ev.Conn == e.Conn && ev.Index < len(e.own) {
			ev.Index = slices.IndexFunc(e.Conn.Elsewhere, func(x event.Event) bool { return x == e.own[ev.Index] })
		}
	}
	return list
}

// count adds a pair to what is told at the end.
func (p *pair) count(r *Result) {
	r.Joined++
	any := func(o Outcome) bool {
		return p.a.joint.Outcome == o || p.b != nil && p.b.joint.Outcome == o
	}
	for _, x := range []struct {
		o Outcome
		n *int
	}{{Uncovered, &r.Uncovered}, {Confirmed, &r.Confirmed}, {Refuted, &r.Refuted}, {Disputed, &r.Disputed}} {
		if any(x.o) {
			*x.n++
		}
	}
	if len(p.a.joint.Path) > 0 {
		r.Lost++
	}
}
