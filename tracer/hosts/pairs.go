package hosts

import (
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// pair is an end and what another trace tells of the same connection: its other end, or
// that its kernel answered without having one.
type pair struct {
	a, b   *end          // a opened the connection, where that is known; b may be nil
	ta, tb int           // their traces
	delta  time.Duration // what makes a time of b's clock one of a's
	base   time.Duration // what makes a time of a's clock wall time
	clock  Clock
	bounds bounds
	strays []placed
}

// placed is a stray at the end that it concerns. Its time is in the clock of its host.
type placed struct {
	to    *end
	event event.Event
	b     bool // its host is b's
}

// pairUp finds the ends that are of one connection.
func (j *joiner) pairUp() {
	byKey := map[[2]uint32][]*end{}
	byReceived := map[uint32][]*end{}
	for _, e := range j.ends {
		if e.twice || e.Conn.Peer != nil {
			continue
		}
		for _, k := range e.numbers.Keys() {
			byKey[k] = append(byKey[k], e)
		}
		if rcv, ok := e.numbers.Received(); ok {
			byReceived[rcv] = append(byReceived[rcv], e)
		}
	}
	for _, e := range j.ends {
		if e.twice || e.Conn.Peer != nil || e.pair != nil {
			continue
		}
		for _, k := range e.numbers.Keys() {
			j.choose(e, byKey[[2]uint32{k[1], k[0]}])
		}
	}
	// An end whose SYN was not answered knows its own number only: half as much, so the
	// addresses must agree at one side at least.
	for _, e := range j.ends {
		snd, _, ok := e.numbers.Sent()
		if _, whole := e.numbers.Received(); e.twice || e.Conn.Peer != nil || e.pair != nil || whole || !ok {
			continue
		}
		j.choose(e, slices.DeleteFunc(slices.Clone(byReceived[snd]), func(o *end) bool {
			return o.Conn.Open != conn.OpenPassive || o.Conn.Local != e.Conn.Remote && o.Conn.Remote != e.Conn.Local
		}))
	}
}

// choose makes a pair of an end and that of the others which can be its other end: where
// several can, the one that the wall clocks put nearest.
func (j *joiner) choose(e *end, others []*end) {
	if e.pair != nil {
		return
	}
	var best *end
	var off time.Duration
	for _, o := range others {
		if o == e || o.pair != nil || o.trace == e.trace || o.Conn.Open == e.Conn.Open && e.Conn.Open == conn.OpenPassive {
			continue
		}
		d := (j.wallOf(e) - j.wallOf(o)).Abs()
		if best == nil || d < off {
			best, off = o, d
		}
	}
	if best != nil {
		j.marry(e, best)
	}
}

func (j *joiner) wallOf(e *end) time.Duration {
	return last(e.Conn) + j.traces[e.trace].wall(last(e.Conn))
}

func (j *joiner) marry(a, b *end) {
	if b.Conn.Open == conn.OpenActive && a.Conn.Open != conn.OpenActive || a.Conn.Open == conn.OpenPassive && b.Conn.Open == conn.OpenUnknown {
		a, b = b, a
	}
	p := &pair{a: a, b: b, ta: a.trace, tb: b.trace}
	a.pair, b.pair = p, p
	j.pairs = append(j.pairs, p)
}

// part takes a pair apart: what its ends tell cannot be of one time.
func (j *joiner) part(p *pair) {
	p.a.pair = nil
	if p.b != nil {
		p.b.pair = nil
	}
	j.pairs = slices.DeleteFunc(j.pairs, func(o *pair) bool { return o == p })
}
