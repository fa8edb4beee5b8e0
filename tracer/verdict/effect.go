package verdict

import (
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// endedBy says whether what a rule found at the other end (a) can have ended this
// one: a cause comes before its effect, and an abort has to arrive. Otherwise this
// end's own process or kernel ended it.
func (f *facts) endedBy(a *facts, r *Rule, x *finding, s Scope) bool {
	if r.Class == Graceful || x.class == Graceful || x.both || f.closed == none {
		return true // both ends were looked at; or this one has not ended
	}
	last := f.end()
	switch {
	case f.waited():
		last = f.at(f.miniEnd)
	case f.rst:
		last = f.at(f.reset)
	}
	by := last.Time
	// The kernel's last steps may be reported in another order: one of them suffices.
	step, rst := never, never
	for _, i := range x.a {
		e := a.at(i)
		if e == nil {
			continue
		}
		at, resets := e.Time, true
		switch {
		case e.Hook == event.HookSendActiveReset:
			at = effectTime(e, last)
		case e.Hook == event.HookSetState && e.ToState == event.Close:
			at, resets = effectTime(e, last), false
		case e.Hook == event.HookSendReset:
		case e.Time > by:
			return false
		default:
			continue
		}
		step = min(step, at)
		if resets && (!f.rst || fits(f.at(f.reset), e)) { // else it did not arrive, or later
			rst = min(rst, at)
		}
	}
	if step != never && step > by && !f.answeredWhileClosed(a) {
		return false
	}
	switch {
	case f.waited():
		// Its mini-socket went when that RST can have come, and not by a reset of
		// its own.
		own := f.mini != none && f.at(f.mini).Time+sameStep > by
		return rst != never && by-rst < longestFlight && !own
	case f.rst && rst == never:
		// It went without a packet: what came answered a later segment.
		x.needsAll = append(x.needsAll, event.HookSendReset)
		return !s.all(event.HookSendReset) || f.resetSent(a)
	case f.rst:
		return by-rst < longestFlight
	}
	return f.reset == none && (f.c.Lossy || !s.has(event.HookReset)) && f.resetError()
}

// answeredWhileClosed says whether the RST that came answered a segment for which the
// other end (a) was no socket any more, while its process closed it: tcp_set_state
// takes a socket out of the hash table and then tells of CLOSE, which another CPU may
// have to wait for.
func (f *facts) answeredWhileClosed(a *facts) bool {
	last := f.at(f.reset)
	if last == nil || a.release == none {
		return false
	}
	began := a.at(a.release).Time
	answers := func(e *event.Event) bool {
		return e.Hook == event.HookSendReset && e.Sock == 0 && began <= e.Time && e.Time <= last.Time && fits(last, e)
	}
	return event.Any(a.c.Events, answers) || f.elsewhere(answers) != none
}

// effectTime is the time of an event at the other end, to be compared with its possible
// effect here (last). Over loopback a RST arrives, on the same CPU, before the hook on
// tcp_send_reset runs and before a destroyed socket changes its state: such an event
// counts as simultaneous.
func effectTime(e, last *event.Event) time.Duration {
	if e.CPU == last.CPU && e.Time > last.Time && e.Time-last.Time < sameStep {
		return last.Time
	}
	return e.Time
}

// longestFlight is how long a segment may be under way between two ends of this
// machine; what comes later was sent by something else.
const longestFlight = 5 * time.Second

// sameStep is how much later than its effect at the other end an event of the same step
// of the kernel may be reported.
const sameStep = 20 * time.Millisecond

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// waited says whether this end had become a mini-socket in FIN_WAIT2 that is gone and
// never got the peer's FIN.
func (f *facts) waited() bool {
	return f.timeWait != none && event.State(f.at(f.timeWait).Arg) == event.FinWait2 && f.peerFin == none && f.miniEnd != none && f.end().Err == 0
}

// resetError says whether this end went to CLOSE with an error that a RST leaves.
func (f *facts) resetError() bool {
	switch unix.Errno(f.end().Err) {
	case unix.ECONNRESET, unix.EPIPE, unix.ECONNREFUSED:
		return true
	}
	return false
}

// resetElsewhere is a reset, possibly the one that came, that this machine's kernel sent
// to this end because it had no socket for a segment. state: of the socket that did get
// the segment; 0: there was none.
func (f *facts) resetElsewhere(state event.State) int {
	// Of several that can be the one that came, the first was.
	i := f.elsewhere(func(e *event.Event) bool {
		if e.Hook != event.HookSendReset || e.Segment.Flags&event.RST != 0 && e.Has&event.HasSegment != 0 {
			return false
		}
		if last := f.at(f.reset); last != nil && (effectTime(e, last) > last.Time || last.Time-e.Time >= longestFlight || !fits(last, e)) {
			return false
		}
		return true
	})
	if i == none {
		return none
	}
	if e := &f.c.Elsewhere[i]; state == 0 && e.Sock != 0 || state != 0 && (e.Sock == 0 || e.State != state) {
		return none
	}
	return i
}

// resetSent says whether a stack on this machine is known to have sent the reset
// that came to this end: the peer's, or this kernel's for a socket that is not
// there.
func (f *facts) resetSent(peer *facts) bool {
	last := f.at(f.reset)
	if last == nil {
		return false
	}
	return peer != nil && peer.sentReset(last) || f.elsewhere(func(e *event.Event) bool {
		return e.Hook == event.HookSendReset && effectTime(e, last) <= last.Time && last.Time-e.Time < longestFlight && fits(last, e)
	}) != none
}

// sentReset says whether this end's stack had sent any reset for this connection
// that can have made an event at the other end.
func (f *facts) sentReset(last *event.Event) bool {
	for _, i := range append([]int{f.active, f.answer, f.mini, f.dead}, f.strays...) {
		if i != none && effectTime(f.at(i), last) <= last.Time && last.Time-f.at(i).Time < longestFlight && fits(last, f.at(i)) {
			return true
		}
	}
	return false
}

// fits says whether the RST that came to an end (last) can be the one that was sent by an
// event. An abort's has an ACK (tcp_send_active_reset). An answer takes its
// sequence number from the ACK of what it answers, and has none itself; only what has
// no ACK is answered with one (tcp_v4_send_reset, RFC 9293 3.10.7.1).
func fits(last, sent *event.Event) bool {
	if last.Has&event.HasSegment == 0 || last.Segment.Flags&event.RST == 0 {
		return true // it was not seen
	}
	acks := last.Segment.Flags&event.ACK != 0
	switch {
	case sent.Hook == event.HookSendActiveReset:
		return acks
	case sent.Has&event.HasSegment == 0:
		return true
	case sent.Segment.Flags&event.ACK == 0:
		return acks
	}
	return !acks && last.Segment.Seq == sent.Segment.Ack
}
