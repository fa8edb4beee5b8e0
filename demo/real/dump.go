package real

import (
	"fmt"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// dump writes down all that is known of a run.
func dump(w *World, segs []segment, ends []JudgedEnd, since time.Duration) string {
	var b strings.Builder
	if len(segs) > 60 {
		fmt.Fprintf(&b, "%d segments, the last 60:\n", len(segs))
		segs = segs[len(segs)-60:]
	}
	for _, s := range segs {
		fmt.Fprintf(&b, "%v\n", s)
	}
	number := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	line := func(kind string, e *event.Event) {
		fmt.Fprintf(&b, "  %s%9.3f ms  %v %v>%v %v ctx %v call %v %q/%d fl %#x err %v arg %d/%d una %d nxt %d wr %d rcv %d cop %d skfl %#x sk %v refs %d seg %v len %d\n",
			kind, float64(e.Time-since)/1e6, e.Hook, e.State, e.ToState, e.Local, e.Context, e.Call, e.Comm, e.PID, e.TaskFlags, e.Err, e.Arg, e.Arg2,
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
	for _, p := range w.programs {
		if text := strings.TrimSpace(p.Output()); text != "" {
			if len(text) > 2000 {
				text = text[:2000] + "…"
			}
			fmt.Fprintf(&b, "%s (%d) said:\n%s\n", p.role, p.pid, text)
		}
	}
	return b.String()
}
