package fault

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// LeakAge is how long a process must have known that the other end was finished: one
// that exits sooner may have been about to close. A thousand right runs on a busy
// machine had a thread that came to its close only after 100 ms; none came to a second.
const LeakAge = time.Second

// Leak is the kind of a fault that is a connection which was never closed. The other
// kinds are causes, and verdict.UnansweredName.
const Leak = "leak"

// Place is in the source. The zero Place is not known.
type Place struct {
	File     string // as the program knows it
	Line     int
	Function string
}

// Fault is an ending that is a test's fault.
type Fault struct {
	Kind       string
	At         time.Duration // CLOCK_MONOTONIC
	Local      netip.AddrPort
	Remote     netip.AddrPort
	Actor      *conn.Process  // who made the ending; nil: not known, or on another machine
	actsAt     netip.AddrPort // the actor's own end
	Place      Place
	Test       string // that it happened in; "" not known
	Sentence   string
	Advice     string
	Lost       verdict.Lost
	Confidence verdict.Confidence
}

// Op is what a Call is.
type Op string

const (
	OpOpen  Op = "open"  // a connection was opened, or accepted
	OpClose Op = "close" // is about to be closed or shut down
	OpTest  Op = "test"  // a test began; there is no connection
	OpEnd   Op = "end"   // the last test was over; there is no connection
)

// Call is what a runtime noted.
type Call struct {
	Op            Op
	PID           uint32
	At            time.Duration // CLOCK_MONOTONIC
	Local, Remote netip.AddrPort
	Frames        []Place // the calls, the innermost first; of a test, where it is
	Test          string
}

// Options say what is a fault.
type Options struct {
	// Root is the directory of the tests' source.
	Root string
	// Wanted says whether an ending that could be a fault is one; nil: all are.
	Wanted func(*conn.Connection, *verdict.Verdict) bool
	// Leaks says whether leaks are.
	Leaks bool
	// Max is how many are kept; 0: DefaultMax.
	Max int
}

// DefaultMax bounds what is kept of a run that goes very wrong.
const DefaultMax = 10000

// Finder finds faults.
type Finder struct {
	o      Options
	faults []Fault
	late   []Fault         // leaks, if they were closed when the tests were over
	seen   map[socket]bool // peers of the ends that are counted
	Runs   Counts
}

// Counts are of connections.
type Counts struct {
	Connections int
	HeldAtExit  int // still open when their process exited, and no leak
	Dropped     int // faults that were too many
}

// socket is an end's identity, in several runs.
type socket struct {
	id  string
	gen uint64
}

// New makes a Finder.
func New(o Options) *Finder {
	if o.Max == 0 {
		o.Max = DefaultMax
	}
	return &Finder{o: o, seen: map[socket]bool{}}
}

// End looks at a judged end.
func (f *Finder) End(c *conn.Connection, v *verdict.Verdict) {
	if c == nil {
		return
	}
	me := socket{c.ID, c.Gen}
	second := f.seen[me]
	delete(f.seen, me)
	if c.Peer != nil && !second {
		f.seen[socket{c.Peer.ID, c.Peer.Gen}] = true
	}
	if !second {
		f.Runs.Connections++
	}
	leak, sure, leaks := f.leak(c, v)
	switch {
	case leaks && sure:
		f.add(leak)
	case leaks && len(f.late) < f.o.Max:
		f.late = append(f.late, leak)
	case v.LocalFin != nil && v.LocalFin.Act == verdict.ActExit:
		f.Runs.HeldAtExit++
	}
	if second {
		return
	}
	kind := f.kind(c, v)
	if kind == "" {
		return
	}
	x := f.fault(c, v, kind)
	f.add(x)
}

func (f *Finder) add(x Fault) {
	if len(f.faults) >= f.o.Max {
		f.Runs.Dropped++
		return
	}
	f.faults = append(f.faults, x)
}

// kind is what kind of fault an ending is; "" none.
func (f *Finder) kind(c *conn.Connection, v *verdict.Verdict) string {
	if c.Lossy || v.Confidence == verdict.NotKnown || f.o.Wanted != nil && !f.o.Wanted(c, v) {
		return ""
	}
	switch {
	case v.Unanswered != nil:
		return verdict.UnansweredName
	case v.Harmless || v.Probe:
		return ""
	case v.Class == verdict.Aborted || v.Class == verdict.TimedOut || f.o.Wanted != nil && v.Class == verdict.Refused:
		return string(v.Cause)
	}
	return ""
}

// leak finds a connection that its process held in CLOSE_WAIT when it exited, or holds
// at the end of the run. sure: else it is one if the tests were over when it was closed,
// as by the end of an interpreter.
func (f *Finder) leak(c *conn.Connection, v *verdict.Verdict) (x Fault, sure, ok bool) {
	if !f.o.Leaks || c.Lossy || v.PeerFin == nil {
		return x, false, false
	}
	var until time.Duration
	switch {
	case v.LocalFin != nil && (v.LocalFin.Act == verdict.ActExit || v.LocalFin.Act == verdict.ActKilled) && v.LocalFin.At > v.PeerFin.At:
		until, sure = v.LocalFin.At, true
	case v.LocalFin != nil && v.LocalFin.Act == verdict.ActClose && v.LocalFin.At > v.PeerFin.At:
		until = v.LocalFin.At
	case v.Class == verdict.Open && v.Cause == verdict.CloseWaitLeak && v.Confidence != verdict.NotKnown:
		until, sure = c.Last, true // what it was when the trace ended is not known here
		for i := range c.Elsewhere {
			until = max(until, c.Elsewhere[i].Time)
		}
	default:
		return x, false, false
	}
	if until-v.PeerFin.At < LeakAge {
		return x, false, false
	}
	x = f.fault(c, v, Leak)
	x.At, x.actsAt = until, c.Local
	if c.Owner != nil {
		x.Actor = c.Owner
	}
	x.Place = Place{} // where it exited says nothing of who forgot it
	x.Sentence = "The other end finished, and this one was never closed: its process held it until it exited."
	x.Advice = "Close the connection when a read returns end of file, or an error."
	return x, sure, true
}

// fault fills in who and where.
func (f *Finder) fault(c *conn.Connection, v *verdict.Verdict, kind string) Fault {
	x := Fault{Kind: kind, At: c.Ended, Local: c.Local, Remote: c.Remote, Sentence: v.Sentence, Advice: v.Advice, Lost: v.Lost, Confidence: v.Confidence}
	if x.At == 0 {
		x.At = c.Last
	}
	actors := []*conn.Process{v.Actor}
	x.actsAt = c.Local
	if v.Ender == verdict.PeerProcess || v.Ender == verdict.PeerKernel {
		x.actsAt = c.Remote
	}
	if u := v.Unanswered; u != nil {
		actors = []*conn.Process{u.Actor, v.Actor}
		if x.actsAt = c.Local; c.Service() == conn.OtherSide {
			x.actsAt = c.Remote
		}
	}
	for _, g := range []*verdict.Goodbye{v.LocalFin, v.PeerFin} {
		if g != nil {
			actors = append(actors, g.Actor)
		}
	}
	for _, a := range actors {
		if a == nil {
			continue
		}
		if x.Actor == nil {
			x.Actor = a
		}
		// The same process's act at its end may have the stack.
		if a.PID == x.Actor.PID && x.Place == (Place{}) {
			x.Place, x.Test = f.place(a.Stack)
		}
	}
	return x
}

// place finds the innermost call in the tests' source, and the test that made it.
func (f *Finder) place(s event.Stack) (at Place, test string) {
	frames, err := s.Frames()
	if err != nil {
		return at, ""
	}
	for _, x := range frames {
		name := x.Function[strings.LastIndexByte(x.Function, '/')+1:]
		_, name, _ = strings.Cut(name, ".")
		// Go's tests: package.TestName, or a closure in it.
		if base, _, _ := strings.Cut(name, "."); test == "" && strings.HasSuffix(x.File, "_test.go") && isTest(base) {
			test = base
		}
		if at == (Place{}) && x.Line > 0 && f.below(x.File) {
			at = Place{File: x.File, Line: x.Line, Function: x.Function}
		}
	}
	return at, test
}

// isTest says whether a function's name is that of a Go test.
func isTest(name string) bool {
	for _, p := range []string{"Test", "Benchmark", "Fuzz", "Example"} {
		if rest, ok := strings.CutPrefix(name, p); ok && (rest == "" || rest[0] < 'a' || rest[0] > 'z') {
			return true
		}
	}
	return false
}

// below says whether a file is one of the tests' source, and no copy of a library in it.
func (f *Finder) below(file string) bool {
	rel, ok := f.Relative(file)
	return ok && !slices.ContainsFunc(strings.Split(rel, "/"), func(dir string) bool {
		return dir == "vendor" || dir == "node_modules" || dir == "site-packages" || dir == ".venv" || dir == "venv"
	})
}

// Relative is a file's path below the root; ok: it is below.
func (f *Finder) Relative(file string) (rel string, ok bool) {
	if f.o.Root == "" || !filepath.IsAbs(file) {
		return file, false
	}
	rel, err := filepath.Rel(f.o.Root, file)
	return rel, err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// Calls adds what a runtime noted: of the calls of the actor on the same connection the
// last before the end (of a leak, the one that opened it), or else the test that ran then.
func (f *Finder) Calls(calls []Call) {
	slices.SortStableFunc(calls, func(a, b Call) int { return cmp.Compare(a.At, b.At) })
	over := map[uint32]time.Duration{}
	for _, c := range calls {
		if c.Op == OpEnd {
			over[c.PID] = c.At
		}
	}
	for _, x := range f.late {
		if x.Actor != nil && over[x.Actor.PID] != 0 && over[x.Actor.PID] <= x.At {
			f.add(x)
		}
	}
	f.late = nil
	for i := range f.faults {
		x := &f.faults[i]
		if x.Actor == nil {
			continue
		}
		op := OpClose
		if x.Kind == Leak {
			op = OpOpen
		}
		var test, act *Call
		for k := range calls {
			c := &calls[k]
			if c.At > x.At {
				break // it is noted before the call
			}
			switch {
			case c.PID != x.Actor.PID:
			case c.Op == OpTest:
				test = c
			case c.Op == op && c.Local == x.actsAt && (c.Remote == x.Local || c.Remote == x.Remote):
				act = c
			}
		}
		for _, c := range []*Call{test, act} {
			if c == nil {
				continue
			}
			if x.Test = c.Test; len(c.Frames) == 0 {
				continue
			}
			if n := slices.IndexFunc(c.Frames, func(p Place) bool { return f.below(p.File) }); n >= 0 {
				x.Place = c.Frames[n]
			}
		}
	}
}

// Faults are those that were found, in the order of their times.
func (f *Finder) Faults() []Fault {
	slices.SortStableFunc(f.faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return f.faults
}
