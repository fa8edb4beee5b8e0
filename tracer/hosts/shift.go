package hosts

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// move puts an end's times onto another clock: that of its host plus d.
func (e *end) move(d time.Duration) {
	by := d - e.shift
	e.shift = d
	c := e.Conn
	for _, t := range []*time.Duration{&c.First, &c.Opened, &c.Established, &c.Ended, &c.Last} {
		if *t != 0 { // zero: there is no such time
			*t += by
		}
	}
	for _, list := range [][]event.Event{c.Events, e.own, c.Stacks} {
		for i := range list {
			list[i].Time += by
		}
	}
	// The other times of a verdict are lengths.
	for _, g := range []*verdict.Goodbye{e.Verdict.LocalFin, e.Verdict.PeerFin} {
		if g != nil {
			g.At += by
		}
	}
	if e.Verdict.Reset != nil {
		e.Verdict.Reset.At += by
	}
}

// last is when a connection ended, or was heard of last.
func last(c *conn.Connection) time.Duration {
	if c.Ended != 0 {
		return c.Ended
	}
	return c.Last
}
