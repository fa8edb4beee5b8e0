package verdict_test

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// settled says whether all that this end sent but the FIN was acknowledged, and
// all that came was read, or can be.
func (e *wireEnd) settled() bool {
	return int32(e.finSeq-e.tcp.SndUna) <= 0 && (!e.dead || e.unread() == 0)
}

var chances = flag.Uint64("chances", 1200, "how many stories of chance are played with every hook; a quarter with each poorer rung")

// sound holds the verdict of one end against what is known to have ended it; "" it
// is not refuted.
func sound(x *judged, e *wireEnd) string {
	v := x.v
	if v.Confidence != verdict.Certain {
		return ""
	}
	if e.cause == "" || e.cause != "" && v.Class == verdict.Open {
		if (e.cause == "") != (v.Class == verdict.Open) {
			return "whether it has ended"
		}
		return ""
	}
	other := e.w.ends[1-e.side]
	if v.Class == verdict.Graceful && e.finSaid && other.finSaid && e.settled() && other.settled() {
		return "" // both had said goodbye and had everything: what came then did no harm
	}
	// Whatever took the mini-socket away before: what came for a closed socket was
	// refused.
	if v.Cause == verdict.DataAfterClose && (e.refusedData || other.refusedData) {
		return ""
	}
	if e.cause == verdict.OrderlyClose {
		if v.Class != verdict.Graceful {
			return "it was graceful"
		}
		return ""
	}
	if v.Cause != e.cause {
		return "the cause"
	}
	local := v.Ender == verdict.LocalProcess || v.Ender == verdict.LocalKernel
	if v.Cause != verdict.SockDestroy && v.Cause != verdict.PathReset && local != e.mine {
		return "who ended it"
	}
	return ""
}

// ordered says what in a verdict breaks the order of cause and effect: an act at
// the peer that came after this end, or an abort of which nothing arrived.
func ordered(x *judged) string {
	v := x.v
	if v.Class == verdict.Open || v.Cause == verdict.NeverAccepted || v.Class == verdict.Graceful || v.Ender != verdict.PeerProcess && v.Ender != verdict.PeerKernel || x.c.Ended == 0 {
		return ""
	}
	over := x.c.Ended
	arrived := false
	for i := range x.c.Events {
		e := &x.c.Events[i]
		switch {
		case e.Hook == event.HookReset && (e.Segment.Flags&event.RST != 0 || e.Has&event.HasSegment == 0):
			arrived = true
		case e.Hook == event.HookTwskKill && event.State(e.Arg) == event.FinWait2:
			over, arrived = e.Time, true
		}
	}
	if !arrived {
		return "no RST arrived"
	}
	for _, p := range v.Evidence {
		e := p.Event()
		if p.Conn == x.c.Peer && !p.Elsewhere && e.Hook.Acting() && e.Time > over {
			return "it rests on " + e.Hook.String() + " at the peer, which came after"
		}
	}
	return ""
}

// TestHostile plays stories of chance on a wire that delays, drops and adds
// segments: what is told as certain is what happened, each end joined with the
// other and alone, and by what each rung tells.
func TestHostile(t *testing.T) {
	for name, rung := range rungsOfViews() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := *chances / 4
			if name == "every hook" {
				n = *chances
			}
			certain, all, bad := 0, 0, 0
			causes := map[verdict.Cause]int{}
			for seed := range n {
				w, said := randomWire(seed)
				ends := w.judge(rung.of, rung.scope)
				for side, x := range ends {
					if x == nil {
						t.Fatalf("story %d: no connection of end %d", seed, side)
					}
					e, other := w.ends[side], ends[1-side]
					one := &judged{alone(x.c), verdict.Judge(alone(x.c), rung.scope)}
					all++
					causes[e.cause]++
					if x.v.Confidence == verdict.Certain {
						certain++
					}
					for _, y := range []struct {
						what string
						x    *judged
						why  string
					}{{"joined", x, sound(x, e)}, {"joined", x, ordered(x)}, {"alone", one, sound(one, e)}, {"joined", x, certainly(x, other)}} {
						if y.why == "" {
							continue
						}
						if bad++; bad <= 5 {
							t.Errorf("story %d, %s end %d: %s: judged %s %s by %q, %s, but it was %q, its own doing %v\n%s\nother end: %s %s\n%s", seed, y.what, side, y.why,
								y.x.v.Class, y.x.v.Cause, y.x.v.Ender, y.x.v.Sentence, e.cause, e.mine, strings.Join(said, "\n"), other.v.Cause, other.v.Sentence, listed(x.c.Events))
						}
					}
				}
			}
			t.Logf("%d of %d ends are certain; %d verdicts refuted; the ends were ended by %v", certain, all, bad, causes)
		})
	}
}

// certainly is strangers where both are certain: not to know is no contradiction.
func certainly(x, y *judged) string {
	if x.v.Confidence != verdict.Certain || y.v.Confidence != verdict.Certain {
		return ""
	}
	return strangers(x, y)
}

func listed(events []event.Event) string {
	var b strings.Builder
	for _, e := range slices.Clone(events) {
		b.WriteString("  " + e.Time.String() + " " + e.Hook.String() + " " + e.State.String() + " " + e.ToState.String() + " " + e.Err.String() + " " + e.Segment.Flags.String() + "\n")
	}
	return b.String()
}
