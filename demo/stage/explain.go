package stage

import (
	"fmt"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Explain writes down what is known of a run, for whoever looks for what went
// wrong: the last segments, the verdicts, and the events that they were made of.
func Explain(segments []harness.Segment, ends []scenario.JudgedEnd, since time.Duration) string {
	var b strings.Builder
	if n := len(segments) - 60; n > 0 {
		fmt.Fprintf(&b, "%d segments before these\n", n)
		segments = segments[n:]
	}
	ms := func(at time.Duration) float64 { return float64(at-since) / 1e6 }
	for _, s := range segments {
		fmt.Fprintf(&b, "%9.3f ms  %v\n", ms(s.Time), s)
	}
	number := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	line := func(kind string, e *event.Event) {
		fmt.Fprintf(&b, "  %s%9.3f ms  %v %v>%v %v ctx %v call %v %q/%d fl %#x err %v arg %d/%d una %d nxt %d wr %d rcv %d cop %d skfl %#x sk %v refs %d seg %v len %d\n",
			kind, ms(e.Time), e.Hook, e.State, e.ToState, e.Local, e.Context, e.Call, e.Comm, e.PID, e.TaskFlags, e.Err, e.Arg, e.Arg2,
			e.SndUna, e.SndNxt, e.WriteSeq, e.RcvNxt, e.CopiedSeq, e.SkFlags, e.HasSk, e.Refs, e.Segment.Flags, e.Segment.Len)
	}
	for _, j := range ends {
		v := j.Verdict
		fmt.Fprintf(&b, "%v > %v: %s, ender %s, lost %s/%s/%s, saw %v, %s %v: %s %s\n", j.Local, j.Remote, Summary(v), v.Ender,
			number(v.Lost.Unread), number(v.Lost.Unsent), number(v.Lost.Unacked), v.AppSaw, v.Confidence, v.Missing, v.Sentence, v.Advice)
		for i := range j.Events {
			line("", &j.Events[i])
		}
		for i := range j.Elsewhere {
			line("elsewhere ", &j.Elsewhere[i])
		}
	}
	return b.String()
}

// Summary is a verdict in a few words: class, cause, act and actor.
func Summary(v verdict.Verdict) string {
	s := fmt.Sprintf("%s: %s", v.Class, v.Cause)
	if v.Harmless {
		s += " (harmless)"
	}
	if v.Act != verdict.NoAct {
		s += ", " + string(v.Act)
		if v.Signal != 0 {
			s += fmt.Sprintf("(%d)", v.Signal)
		}
	}
	if v.Actor != nil {
		s += fmt.Sprintf(" by %s[%d]", v.Actor.Comm, v.Actor.PID)
	}
	return s
}
