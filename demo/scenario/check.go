package scenario

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// alwaysCounted are the counters that tell how connections end. Each must have
// moved by exactly what the scenario says, or not at all.
var alwaysCounted = []string{
	"TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnMemory", "TCPAbortOnTimeout", "TCPAbortOnLinger",
	"TCPAbortFailed", "TCPTimeWaitOverflow", "EstabResets", "OutRsts", "AttemptFails",
	"ListenOverflows", "ListenDrops",
}

// expectOf is what is due to an end.
func (s *Scenario) expectOf(name string) (Expect, bool) {
	if x, ok := s.Ends[name]; ok {
		return x, true
	}
	base, _, _ := strings.Cut(name, "#")
	x, ok := s.Ends[base]
	return x, ok
}

// CheckOutcome says what in a run is not as the story tells it. It knows of no
// tracer: an ending that was not provoked is found here.
func (s Scenario) CheckOutcome(o Outcome) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, p := range o.Problems {
		bad("the oracle is incomplete: %s", p)
	}
	want := make(map[string]int64)
	for _, name := range alwaysCounted {
		want[name] = 0
	}
	maps.Copy(want, s.Counters)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got := o.Counters[name]; got != want[name] {
			bad("the counter %s moved by %d, not by %d", name, got, want[name])
		}
	}
	for name := range s.Ends {
		if !strings.Contains(name, "#") && o.Ends[name] == nil && o.Ends[name+"#1"] == nil {
			bad("there is no end %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Ends)) {
		x, ok := s.expectOf(name)
		if !ok {
			bad("nothing is said of the end %s", name)
			continue
		}
		for _, err := range o.checkEnd(o.Ends[name], x) {
			bad("%s: %w", name, err)
		}
	}
	if s.Verify != nil {
		if err := s.Verify(&o); err != nil {
			bad("%w", err)
		}
	}
	return errs
}

// checkEnd holds the oracle's own sources against what is due to an end.
func (o *Outcome) checkEnd(e *End, x Expect) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Equal(e.AppSaw, x.AppSaw) {
		bad("its process was told %v, not %v", e.AppSaw, x.AppSaw)
	}
	if x.Shared {
		return errs
	}
	f := o.Flow(e)
	if f.FINs != x.FIN {
		bad("%d FINs left, not %d", f.FINs, x.FIN)
	}
	if f.RSTs != x.RST {
		bad("%d RSTs left, not %d", f.RSTs, x.RST)
	}
	if x.Class == verdict.Open || x.Deaf {
		return errs
	}
	got, due := o.Lost(e), o.dueLost(e, x)
	if got != due {
		bad("lost %+v, not %+v", got, due)
	}
	return errs
}

// dueLost is the expectation with the measured values filled in.
func (o *Outcome) dueLost(e *End, x Expect) Lost {
	due, got := x.Lost, o.Lost(e)
	fill := func(p *int64, v int64) {
		if *p == Measured {
			*p = v
		}
	}
	fill(&due.Unread, got.Unread)
	fill(&due.Unsent, got.Unsent)
	fill(&due.Unacked, got.Unacked)
	return due
}

// JudgedEnd is one connection as the tracer joined and judged it.
type JudgedEnd struct {
	*conn.Connection
	Verdict verdict.Verdict
}

// CheckVerdicts holds a judge's verdicts on the run against what is due, exactly.
// Connections of other namespaces are ignored.
func (s Scenario) CheckVerdicts(o Outcome, judged []JudgedEnd) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	mine := slices.DeleteFunc(slices.Clone(judged), func(j JudgedEnd) bool {
		return j.Connection == nil || !slices.Contains(o.Watched, j.NetNS)
	})
	slices.SortStableFunc(mine, func(a, b JudgedEnd) int { return int(a.First - b.First) })
	matched, left := o.match(mine)
	for _, j := range left {
		bad("a connection that the story does not know: %v > %v, %s/%s", j.Local, j.Remote, j.Verdict.Class, j.Verdict.Cause)
	}
	errs = append(errs, s.checkResets(&o, matched)...)
	errs = append(errs, o.checkReceived(matched)...)
	for _, name := range slices.Sorted(maps.Keys(o.Ends)) {
		e := o.Ends[name]
		if !slices.Contains(o.Watched, e.NetNS) {
			continue
		}
		x, _ := s.expectOf(name)
		j, ok := matched[name]
		if !ok {
			bad("%s: no verdict", name)
			continue
		}
		for _, err := range o.checkVerdict(e, x, j) {
			bad("%s: %w", name, err)
		}
	}
	return errs
}

// match assigns judged connections, sorted by time, to the story's ends.
func (o *Outcome) match(judged []JudgedEnd) (byName map[string]JudgedEnd, left []JudgedEnd) {
	byName = make(map[string]JudgedEnd)
	// Ends on the same addresses are told apart by their order in the story.
	names := slices.SortedFunc(maps.Keys(o.Ends), func(a, b string) int { return int(o.born(a) - o.born(b)) })
next:
	for _, j := range judged {
		for _, name := range names {
			e := o.Ends[name]
			if _, taken := byName[name]; !taken && j.NetNS == e.NetNS && j.Local == e.Local && j.Remote == e.Remote {
				byName[name] = j
				continue next
			}
		}
		left = append(left, j)
	}
	return byName, left
}

// born is when the story first spoke of an end.
func (o *Outcome) born(name string) time.Duration {
	for _, c := range o.Calls {
		if c.Conn == name {
			return c.Start
		}
	}
	return o.Until
}

func (o *Outcome) checkVerdict(e *End, x Expect, j JudgedEnd) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	v := j.Verdict
	differ := func(what string, got, want any) {
		if got != want {
			bad("%s is %q, not %q", what, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	confidence := x.Confidence
	if confidence == "" {
		confidence = verdict.Certain
	}
	differ("class", v.Class, x.Class)
	differ("cause", v.Cause, x.Cause)
	differ("ender", v.Ender, x.Ender)
	differ("act", v.Act, x.Act)
	differ("signal", v.Signal, x.Signal)
	differ("harmless", v.Harmless, x.Harmless)
	differ("TIME_WAIT", v.TimeWait, x.TimeWait)
	differ("half-close", v.HalfClose != nil, x.HalfClose)
	if x.Class == verdict.Graceful {
		differ("unanswered", v.Unanswered != nil, x.Unanswered)
	}
	differ("confidence", v.Confidence, confidence)
	differ("family", j.Family, e.Family)
	saw := x.AppSaw
	if x.Layered {
		saw = nil
	}
	if !slices.Equal(v.AppSaw, saw) {
		bad("the application saw %v, not %v", v.AppSaw, saw)
	}
	errs = append(errs, o.checkActor(x, v.Actor)...)
	errs = append(errs, o.checkLost(e, x, v.Lost)...)
	if x.HalfClose && v.HalfClose != nil && !x.Shared {
		mine, theirs := o.Flow(e), o.Flow(&End{Local: e.Remote, Remote: e.Local})
		wire := (mine.FirstFIN - theirs.FirstFIN).Abs()
		// The capture stamps a FIN when it leaves, the kernel's hook when it is queued.
		if mine.FINs > 0 && theirs.FINs > 0 && (*v.HalfClose-wire).Abs() > 200*time.Millisecond {
			bad("the half-close took %v, the capture says %v", *v.HalfClose, wire)
		}
	}
	if v.Sentence == "" {
		bad("the verdict has no sentence")
	}
	for _, part := range x.Says {
		if !strings.Contains(v.Sentence+" "+v.Advice, part) {
			bad("%q is not in %q, nor in the advice %q", part, v.Sentence, v.Advice)
		}
	}
	return errs
}

func (o *Outcome) checkActor(x Expect, got *conn.Process) []error {
	if x.Actor == "" {
		if got != nil {
			return []error{fmt.Errorf("the actor is %q (%d), but nobody acted", got.Comm, got.PID)}
		}
		return nil
	}
	p, ok := o.Processes[x.Actor]
	if !ok {
		return []error{fmt.Errorf("the story has no process %s", x.Actor)}
	}
	if got == nil {
		return []error{fmt.Errorf("no actor, but it was %s", x.Actor)}
	}
	name := x.ActorComm
	if name == "" {
		name = comm(x.Actor)
	}
	if int(got.PID) != p.PID || got.Comm != name {
		return []error{fmt.Errorf("the actor is %q (%d), not %q (%d)", got.Comm, got.PID, name, p.PID)}
	}
	return nil
}

func (o *Outcome) checkLost(e *End, x Expect, got verdict.Lost) []error {
	var errs []error
	check := func(what string, got *uint64, want int64) {
		switch {
		case x.hides(what) && got != nil:
			errs = append(errs, fmt.Errorf("%s is %d, which TCP cannot tell", what, *got))
		case x.hides(what):
		case x.Class == verdict.Open && got != nil:
			errs = append(errs, fmt.Errorf("%s is %d on a connection that has not ended", what, *got))
		case x.Class == verdict.Open:
		case got == nil:
			errs = append(errs, fmt.Errorf("%s is not known, but it was %d", what, want))
		case *got != uint64(want):
			errs = append(errs, fmt.Errorf("%s is %d, not %d", what, *got, want))
		}
	}
	due := o.dueLost(e, x)
	check("unread", got.Unread, due.Unread)
	check("unsent", got.Unsent, due.Unsent)
	check("unacked", got.Unacked, due.Unacked)
	return errs
}

// checkResets holds the events that tell of resets sent against the RSTs on the
// wire: the kernel's hooks must have seen each one, and no more. Where a hook was
// not attached, that cannot be asked.
func (s *Scenario) checkResets(o *Outcome, matched map[string]JudgedEnd) []error {
	type sight struct {
		at   time.Duration
		cpu  uint32
		hook event.Hook
	}
	seen := make(map[sight]bool) // both ends of a pair may carry the same event
	graceful := true
	for _, j := range matched {
		if len(j.Verdict.Missing) > 0 {
			return nil
		}
		graceful = graceful && j.Verdict.Class == verdict.Graceful && !j.Verdict.Harmless
		for _, e := range slices.Concat(j.Events, j.Elsewhere) {
			switch {
			case e.Hook != event.HookSendActiveReset && e.Hook != event.HookSendReset:
			case e.Hook == event.HookSendActiveReset && j.Verdict.Cause == verdict.SendFailed:
				// As little as anything else could be sent.
			case e.Has&event.HasSegment != 0 && e.Segment.Flags&event.RST != 0:
				// The hook stands before the kernel's own check: a RST is not answered.
			default:
				seen[sight{e.Time, e.CPU, e.Hook}] = true
			}
		}
	}
	rsts := -s.Forged
	for _, seg := range o.Segments {
		if seg.Flags&event.RST != 0 && !seg.Again && slices.Contains(o.Watched, seg.NetNS) && (o.known(seg.Src, seg.Dst) || o.known(seg.Dst, seg.Src)) {
			rsts++
		}
	}
	var errs []error
	if len(seen) != rsts {
		errs = append(errs, fmt.Errorf("events tell of %d resets sent, but TCP sent %d", len(seen), rsts))
	}
	if graceful && rsts > 0 {
		errs = append(errs, errors.New("every verdict is graceful, and no reset is called harmless, but TCP sent some"))
	}
	return errs
}
