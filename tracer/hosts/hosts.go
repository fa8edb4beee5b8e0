package hosts

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Host is a machine, as its recordings name it.
type Host struct {
	ID   string // the same in all of its recordings, and no other's
	Boot string // names its boot, and with it the clock of the events; "" not known
	Name string // for people; any bytes
}

// Trace is what one run of tcpbye at a host told. Its times are in CLOCK_MONOTONIC of
// that host.
type Trace struct {
	Host     Host
	Scenario string // the demo's name; "" outside a demo
	Scope    verdict.Scope
	// From and To are the first and the last time that it told anything of.
	From, To time.Duration
	// Offset is the wall clock minus CLOCK_MONOTONIC, and Set how it was set later.
	Offset time.Duration
	Set    []Setting
	// Ends are the ends that were shown, each with the verdict that this trace alone
	// gives. Join changes them.
	Ends   []End
	Strays []Stray
}

// Setting is a new offset of the wall clock from a time on.
type Setting struct{ From, Offset time.Duration }

// End is one end of a connection with its verdict.
type End struct {
	Conn    *conn.Connection
	Verdict verdict.Verdict
}

// Stray is a reset that a host sent, or a SYN that it dropped, which concerns an end that
// is not known there.
type Stray struct {
	Event event.Event
	Own   *conn.Connection // whose own event it also is; nil: nobody's
}

// wall is the offset of the wall clock that held at a time.
func (t *Trace) wall(at time.Duration) time.Duration {
	for _, s := range slices.Backward(t.Set) {
		if s.From <= at {
			return s.Offset
		}
	}
	return t.Offset
}

// clock names the clock of the trace's times.
func (t *Trace) clock() string { return cmp.Or(t.Host.Boot, t.Host.ID) }

// Outcome is what the other end's events did to the verdict on an end.
type Outcome string

const (
	Kept      Outcome = "kept"      // it stays as this end alone has it
	Confirmed Outcome = "confirmed" // it was likely and is certain
	Learned   Outcome = "learned"   // more is known: a cause where there was none, one that says more, or another that is likely, too
	Refuted   Outcome = "refuted"   // it was likely, and another is certain
	Disputed  Outcome = "disputed"  // it was certain, and both ends together say otherwise with certainty
	Uncovered Outcome = "uncovered" // the other end's recording does not cover the end of this one
)

// Joint is what the join adds to the verdict on an end.
type Joint struct {
	Outcome Outcome
	Host    string // the name of the other host
	// Alone is the verdict without the other host.
	Alone verdict.Verdict
	Clock Clock
	// Path is what the path did to segments of this connection, either way.
	Path []Loss
}

// Ending is one end, as the join has it. Its times are in Unix time, as the host of the
// connection's client has it.
type Ending struct {
	End
	Scenario string
	Joint    *Joint // nil: no other host told of it
}

// Count is what is known of a host's connections.
type Count struct {
	Name        string // the one that is shown
	Connections int    // ends, but of one within the host only one
}

// Result is what the join made of the traces.
type Result struct {
	Hosts []Count  // in the order of the traces
	Ends  []Ending // in the order in which they ended; what has not comes last

	Joined    int // connections of which two recordings told
	Uncovered int // of those: one recording does not cover the end of the other's end
	Confirmed int // connections of which a verdict that was likely became certain
	Refuted   int // connections of which one was refuted
	Disputed  int // connections of which one that was certain was
	Lost      int // connections of which the path lost something
}

// Join pairs the ends of the traces and judges them.
func Join(traces []*Trace) *Result {
	j := joiner{traces: traces, res: &Result{}}
	j.label()
	j.collect()
	j.pairUp()
	j.takeStrays()
	j.align()
	for _, p := range j.pairs {
		j.judge(p)
	}
	j.finish()
	return j.res
}

// joiner is a join at work.
type joiner struct {
	traces []*Trace
	labels []string // of the traces: the host's name as it is shown
	ends   []*end
	byConn map[*conn.Connection]*end
	pairs  []*pair
	judger verdict.Judger
	res    *Result
}

// end is an end at work.
type end struct {
	*End
	trace   int
	numbers *conn.Numbers
	pair    *pair // nil: no other trace tells of it
	joint   *Joint
	own     []event.Event // Elsewhere, without what another host told
	shift   time.Duration // by which its times were moved
	twice   bool          // another recording of the host has it, and tells more
	n       int           // its place in the order of reading
}

// label finds a name for each host that no other one has.
func (j *joiner) label() {
	names := map[string]string{} // of hosts, by ID
	taken := map[string]int{}
	for _, t := range j.traces {
		if _, ok := names[t.Host.ID]; ok {
			continue
		}
		label := cmp.Or(t.Host.Name, "host")
		if taken[label]++; taken[label] > 1 {
			label += "#" + strconv.Itoa(taken[label])
		}
		names[t.Host.ID] = label
		j.res.Hosts = append(j.res.Hosts, Count{Name: label})
	}
	for _, t := range j.traces {
		j.labels = append(j.labels, names[t.Host.ID])
	}
}

// collect lists the ends, and gives them and their processes their host's name. Of an end
// that two recordings of one host tell of, the one that tells most remains.
func (j *joiner) collect() {
	known := map[identity]*end{}
	j.byConn = map[*conn.Connection]*end{}
	for n, t := range j.traces {
		for i := range t.Ends {
			e := &end{End: &t.Ends[i], trace: n, numbers: t.Ends[i].Conn.Numbers(never), own: t.Ends[i].Conn.Elsewhere, n: len(j.ends)}
			mark(e.Conn, j.labels[n])
			j.ends = append(j.ends, e)
			j.byConn[e.Conn] = e
			for _, id := range e.identities(t.clock()) {
				other := known[id]
				switch {
				case other == nil:
					known[id] = e
				case other.trace == n: // the join of one host's events has told them apart
				case tells(e.Conn) > tells(other.Conn):
					other.twice, known[id] = true, e
				default:
					e.twice = true
				}
			}
		}
	}
}

// identity is what is the same of an end in all recordings of its host.
type identity struct {
	clock         string
	netns         uint32
	local, remote netip.AddrPort
	isn           uint32
	own           bool // isn is the end's own
}

func (e *end) identities(clock string) (all []identity) {
	id := identity{clock, e.Conn.NetNS, e.Conn.Local, e.Conn.Remote, 0, false}
	if rcv, ok := e.numbers.Received(); ok {
		id.isn = rcv
		all = append(all, id)
	}
	if snd, doubt, ok := e.numbers.Sent(); ok && !doubt {
		id.isn, id.own = snd, true
		all = append(all, id)
	}
	return all
}

// tells is how much a trace knows of a connection: both ends are taken from one.
func tells(c *conn.Connection) (n int) {
	for _, c := range []*conn.Connection{c, c.Peer} {
		if c == nil {
			continue
		}
		n += len(c.Events)
		if c.Ended != 0 {
			n += 1 << 20
		}
		if c.Opened != 0 {
			n += 1 << 19
		}
	}
	return n
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// mark gives a connection and its processes their host's name.
func mark(c *conn.Connection, host string) {
	c.Host = host
	for _, who := range []*conn.Process{c.Opener, c.Owner, c.Acceptor} {
		if who != nil {
			who.Host = host
		}
	}
	for _, list := range [][]conn.Process{c.Hands, c.Holders} {
		for i := range list {
			list[i].Host = host
		}
	}
	for i := range c.Listeners {
		if who := c.Listeners[i].Owner; who != nil {
			who.Host = host
		}
	}
}

// finish puts everything on the wall clock, in order, and counts.
func (j *joiner) finish() {
	for _, e := range j.ends {
		if e.pair == nil && e.shift == 0 {
			// Both ends of a connection within a host have one clock.
			d := j.traces[e.trace].wall(last(e.Conn))
			e.move(d)
			if x := j.byConn[e.Conn.Peer]; x != nil {
				x.move(d)
			}
		}
	}
	for _, e := range j.ends {
		if e.twice {
			continue
		}
		if e.pair == nil {
			hosted(&e.Verdict, e.Conn)
		}
		j.res.Ends = append(j.res.Ends, Ending{*e.End, j.traces[e.trace].Scenario, e.joint})
		if x := j.byConn[e.Conn.Peer]; x == nil || x.trace != e.trace || e.n < x.n {
			i := slices.IndexFunc(j.res.Hosts, func(c Count) bool { return c.Name == e.Conn.Host })
			j.res.Hosts[i].Connections++
		}
	}
	slices.SortStableFunc(j.res.Ends, func(a, b Ending) int {
		x, y := a.Conn, b.Conn
		if (x.Ended == 0) != (y.Ended == 0) {
			if x.Ended == 0 {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(x.Ended, y.Ended), cmp.Compare(x.First, y.First))
	})
	order := make([]*conn.Connection, len(j.res.Ends))
	for i := range j.res.Ends {
		order[i] = j.res.Ends[i].Conn
	}
	slices.SortStableFunc(order, func(a, b *conn.Connection) int { return cmp.Compare(a.First, b.First) })
	for i, c := range order {
		c.ID = strconv.Itoa(i + 1)
	}
	for _, p := range j.pairs {
		p.count(j.res)
	}
}

// hosted gives the processes of a verdict that was given before the hosts had names
// theirs.
func hosted(v *verdict.Verdict, c *conn.Connection) {
	actors := []*conn.Process{v.Actor}
	for _, g := range []*verdict.Goodbye{v.LocalFin, v.PeerFin} {
		if g != nil {
			actors = append(actors, g.Actor)
		}
	}
	if v.Unanswered != nil {
		actors = append(actors, v.Unanswered.Actor)
	}
	for _, who := range actors {
		if who != nil {
			who.Host = c.Host
		}
	}
}
