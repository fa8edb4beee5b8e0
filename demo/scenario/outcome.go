package scenario

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Outcome is what the oracle knows of one run.
type Outcome struct {
	Scenario string
	Family   Family
	NetNS    []uint32 // inode numbers; the first is where the story plays
	// Watched are the namespaces whose events a judge may use; the others are
	// another machine to it.
	Watched      []uint32
	Since, Until time.Duration     // CLOCK_MONOTONIC; what is later is the cleaning up
	Segments     []harness.Segment // by time
	// Counters are the increments of the namespaces' counters, by kernel name.
	Counters  map[string]int64
	Ends      map[string]*End
	Processes map[string]Process
	Calls     []Call
	// Problems are what the oracle could not see.
	Problems []string
	Notes    map[string]int64 // what the story measured for its own check
}

// outcome is the oracle's look at the World, at the end of the story.
func (w *World) outcome(s *Scenario) Outcome {
	o := Outcome{
		Scenario: s.Name, Family: w.family, Since: w.Since, Calls: w.calls, Notes: w.notes,
		Counters: make(map[string]int64), Ends: w.ends, Processes: make(map[string]Process),
	}
	for role, p := range w.procs {
		o.Processes[role] = *p
	}
	for _, ns := range w.Spaces {
		if ns.Capture == nil {
			continue
		}
		o.NetNS = append(o.NetNS, ns.Inode)
		moved, err := ns.Counters()
		if err != nil {
			o.Problems = append(o.Problems, err.Error())
		}
		for name, n := range moved {
			o.Counters[name] += n
		}
	}
	o.Watched = o.NetNS
	if s.Remote {
		o.Watched = o.NetNS[:1]
	}
	if w.transient != nil {
		o.Watched = append(slices.Clone(o.Watched), w.transient.Inode)
	}
	o.Segments = w.Segments()
	for _, t := range w.translated {
		o.Segments = t.seen(o.Segments)
	}
	o.Until = harness.Monotonic()
	slices.SortStableFunc(o.Segments, func(a, b harness.Segment) int { return int(a.Time - b.Time) })
	for _, e := range o.Ends {
		o.tell(e)
	}
	return o
}

// tell completes an end from the record and the capture.
func (o *Outcome) tell(e *End) {
	if e.Local.Port() == 0 {
		// A connect that failed leaves a socket without an address; its SYN had one.
		for _, s := range o.Segments {
			if s.Dst == e.Remote && s.Flags&(event.SYN|event.ACK) == event.SYN && !o.known(s.Src, s.Dst) {
				e.Local = s.Src
				break
			}
		}
	}
	saw := func(what string) {
		if !slices.Contains(e.AppSaw, what) {
			e.AppSaw = append(e.AppSaw, what)
		}
	}
	calls := slices.Clone(o.Calls)
	slices.SortStableFunc(calls, func(a, b Call) int { return int(a.End - b.End) })
	for _, c := range calls {
		if c.Conn != e.Name {
			continue
		}
		switch c.Op {
		case opSend, opFill, opSendPages, opFastOpen:
			e.Written += max(c.N, 0)
			if c.Signal == unix.SIGPIPE {
				saw("EPIPE")
				saw("SIGPIPE")
			}
		case opRecv, opDrain, opZeroCopy, opSplice:
			e.Read += max(c.N, 0)
			if c.Errno == 0 && c.Signal == 0 && (c.Op == opDrain || c.N == 0 && c.wanted > 0) {
				saw("EOF")
			}
		}
		switch c.Errno {
		case unix.ECONNRESET, unix.EPIPE, unix.ETIMEDOUT, unix.ECONNABORTED, unix.ECONNREFUSED,
			unix.EHOSTUNREACH, unix.ENETUNREACH:
			saw(unix.ErrnoName(c.Errno))
		}
	}
}

func (o *Outcome) known(src, dst netip.AddrPort) bool {
	for _, e := range o.Ends {
		if e.Local == src && e.Remote == dst {
			return true
		}
	}
	return false
}

// Flow is the direction that the end sends. Where the same addresses served
// several connections it is that of all of them.
func (o *Outcome) Flow(e *End) harness.Flow {
	return harness.FlowOf(o.Segments,
		func(s *harness.Segment) bool { return s.Src == e.Local && s.Dst == e.Remote },
		func(s *harness.Segment) bool { return s.Src == e.Remote && s.Dst == e.Local })
}

// Lost counts an end's payload bytes that did not get where they should.
type Lost struct {
	Unread  int64 // received, acknowledged, never read
	Unsent  int64 // accepted by send, never sent
	Unacked int64 // sent, never acknowledged
}

// Measured stands in an expectation for what the oracle measured in this run.
const Measured = math.MinInt64

// Lost is what the oracle says that the end lost.
func (o *Outcome) Lost(e *End) Lost {
	mine := o.Flow(e)
	theirs := o.Flow(&End{Local: e.Remote, Remote: e.Local})
	return Lost{
		Unread:  theirs.Acked - e.Read,
		Unsent:  e.Written - mine.Sent,
		Unacked: mine.Sent - mine.Acked,
	}
}
