package report

import (
	"io"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Pair is a connection as it is told by one of its ends, or by both; Second is nil
// where only one is known.
type Pair struct{ First, Second *Judged }

func (p Pair) story() *story { return &story{ends: [2]*Judged{p.First, p.Second}} }

// Main is the end whose verdict speaks for both: the one that was not graceful, and
// of two the more certain.
func (p Pair) Main() *Judged {
	st := p.story()
	main := st.main()
	if other := st.other(main); !ill(main) && ill(other) {
		return other
	}
	return main
}

// What names the cause, or says that an answer is missing.
func (p Pair) What() string {
	v := &p.Main().Verdict
	return whatOf(v.Cause, unanswered(v))
}

// Ill says whether tcpbye rst would explain it.
func (p Pair) Ill() bool { return ill(p.First) || ill(p.Second) }

// Ended is the time that its row shows (CLOCK_MONOTONIC).
func (p Pair) Ended() time.Duration {
	c := p.Main().Conn
	if c.Ended == 0 {
		return c.Last
	}
	return c.Ended
}

// Lost is how many bytes are known to be lost at its ends, and whether of some that
// is not known.
func (p Pair) Lost() (n uint64, unknown bool) {
	for _, j := range []*Judged{p.First, p.Second} {
		if j != nil {
			more, less := lostBytes(j.Verdict.Lost)
			n, unknown = n+more, unknown || less
		}
	}
	return n, unknown
}

// Blamed is the name of the process to which the table of tcpbye rst counts it; "-"
// for nobody. A process owns it: quote it.
func (p Pair) Blamed() string { return blamed(p.Main()) }

// Between names the two ends, the client first, for a terminal.
func (p Pair) Between(o Options) string {
	j := p.Main()
	s := sides(j)
	return s.between(pen{ascii: o.ASCII}, s.kind(j))
}

// Write writes all that is known of it: for one that did not end gracefully the
// answers of tcpbye rst, and for each the timeline and the verdict.
func (p Pair) Write(w io.Writer, o Options) error {
	a, b := p.First, p.Second
	if b != nil && servedHere(a.Conn) && !servedHere(b.Conn) {
		a, b = b, a
	}
	if p.Ill() {
		o.Verbose = true
		return NewResets(w, o).ended(a, b)
	}
	return NewTimeline(w, o).print(a, b)
}

// Clone is a pair that shares nothing with the one that it is made of which its
// owner may still change.
func (p Pair) Clone() Pair {
	made := map[*conn.Connection]*conn.Connection{}
	clone := func(j *Judged) *Judged {
		if j == nil {
			return nil
		}
		c := *j
		c.Conn = cloneConn(j.Conn, made)
		c.Verdict.Evidence = slices.Clone(c.Verdict.Evidence)
		for i := range c.Verdict.Evidence {
			c.Verdict.Evidence[i].Conn = cloneConn(c.Verdict.Evidence[i].Conn, made)
		}
		return &c
	}
	return Pair{clone(p.First), clone(p.Second)}
}

func cloneConn(c *conn.Connection, made map[*conn.Connection]*conn.Connection) *conn.Connection {
	if c == nil {
		return nil
	}
	if m := made[c]; m != nil {
		return m
	}
	m := new(conn.Connection)
	*m = *c
	made[c] = m
	for _, who := range []**conn.Process{&m.Opener, &m.Owner, &m.Acceptor} {
		if *who != nil {
			copied := **who
			*who = &copied
		}
	}
	m.Hands, m.Holders, m.Listeners = slices.Clone(c.Hands), slices.Clone(c.Holders), slices.Clone(c.Listeners)
	for _, events := range []*[]event.Event{&m.Events, &m.Elsewhere, &m.Stacks} {
		*events = slices.Clone(*events)
	}
	m.Peer = cloneConn(c.Peer, made)
	return m
}

// blamed is the name of the process that a table of causes counts an end to.
func blamed(j *Judged) string {
	who := j.Verdict.Actor
	if unanswered(&j.Verdict) {
		who = j.Verdict.Unanswered.Actor // however it was closed on the wire
	}
	if who == nil {
		who = headOf(j)
	}
	if who == nil {
		return "-"
	}
	return who.Comm
}
