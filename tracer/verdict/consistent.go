package verdict

import (
	"cmp"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Events that contradict each other are not all there, whatever the counters say: the
// kernel does not run a kprobe's program inside another one, and before 6.7 it does not
// count those it skips. Each check below names an event that must have happened and was
// not seen; "" if nothing is missing. None may find anything where all events were seen,
// on any kernel or rung: a hook that is not attached, or does not report everything, is
// no contradiction.

// contradiction is what is missing in the events of an end that has this cause.
func (f *facts) contradiction(peer *facts, cause Cause, s Scope) string {
	return cmp.Or(f.unseenChange(), f.unseenBirth(peer), f.unseenRestart(), f.unseenHandshake(), f.unseenAccept(s), f.unseenEnd(),
		f.unseenFin(s), f.unseenAnswer(peer, cause), f.unseenSending(peer), f.unseenClose(s), f.unseenReset(peer, cause, s), f.unseenAct(s))
}

// racing is how far from a change of state a hook that does not hold the socket's
// lock may still read the state on its other side.
const racing = 5 * time.Millisecond

// unlocked says whether a hook reads the state without the socket's lock.
func unlocked(h event.Hook) bool {
	switch h {
	case event.HookCloseEntry, event.HookFileClose, event.HookAccept, event.HookReceive, event.HookErrorReport, event.HookDestroy, event.HookStreamError, event.HookAbort, event.HookSendReset:
		return true
	}
	return false
}

// unseenChange: a state was left, or acted in, that was never entered.
func (f *facts) unseenChange() string {
	var state, before event.State // now, and before the last change
	var changed time.Duration
	for i := range f.c.Events {
		e := &f.c.Events[i]
		// A mini-socket has a state of its own, and a classic tracepoint none.
		if e.Sock != f.c.Sock || e.Sock == 0 || e.Has&event.HasTuple == 0 || e.State == 0 || e.State == event.TimeWait || e.Hook == event.HookStack {
			continue
		}
		if state != 0 && e.State != state {
			switch {
			case !unlocked(e.Hook) || e.Hook == event.HookSetState:
				return "the change from " + state.String() + " to " + e.State.String()
			case e.State == before && e.Time-changed < racing:
			case f.enters(e.State, i, e.Time+racing):
			default:
				return "the change from " + state.String() + " to " + e.State.String()
			}
		}
		if e.Hook == event.HookSetState {
			before, state, changed = e.State, e.ToState, e.Time
		} else if state == 0 {
			state = e.State
		}
	}
	return ""
}

// enters says whether the next change after event i is to that state, by a time.
func (f *facts) enters(state event.State, i int, by time.Duration) bool {
	for k := i + 1; k < len(f.c.Events); k++ {
		if e := &f.c.Events[k]; e.Hook == event.HookSetState && e.State != e.ToState {
			return e.ToState == state && e.Time <= by
		}
	}
	return false
}

// unseenBirth: an end that has begun within the trace, and was not seen to begin.
func (f *facts) unseenBirth(peer *facts) string {
	if f.c.Open != conn.OpenUnknown || f.c.Before != 0 {
		return ""
	}
	if peer != nil && peer.c.Open == conn.OpenActive {
		return "how this end was opened" // after its peer's first SYN
	}
	for i := range f.c.Events {
		if e := &f.c.Events[i]; e.Hook == event.HookSetState {
			// The child of a listener was made a moment before, and a SYN is not
			// waited for long; a snapshot would have found it (Before).
			if (e.State == event.SynRecv || e.State == event.SynSent) && e.Has&event.HasTuple != 0 {
				return "how this end was opened"
			}
			break
		}
	}
	return ""
}

// unseenRestart: a count or a sequence number went back, so what is told is of two
// connections, one after the other.
func (f *facts) unseenRestart() string {
	var last *event.Event
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Hook == event.HookSetState && e.ToState == event.SynSent || e.Hook == event.HookDisconnect {
			last = nil // they begin anew
			continue
		}
		if e.Sock != f.c.Sock || e.Sock == 0 || e.Has&event.HasTCP == 0 || e.Repair || e.MPTCP || unlocked(e.Hook) || !synchronized(e.State) {
			continue
		}
		if last != nil && (e.BytesReceived < last.BytesReceived || e.BytesAcked < last.BytesAcked ||
			back(last.WriteSeq, e.WriteSeq) || back(last.SndUna, e.SndUna) || back(last.RcvNxt, e.RcvNxt) || back(last.CopiedSeq, e.CopiedSeq)) {
			return "where one connection ended and another one began"
		}
		last = e
	}
	return ""
}

// back says whether a sequence number is before an earlier one.
func back(before, now uint32) bool { return int32(now-before) < 0 }

// synchronized says whether both ends know each other's sequence numbers, and the
// socket has not given up its own (tcp_done, tcp_disconnect).
func synchronized(s event.State) bool {
	switch s {
	case event.Established, event.FinWait1, event.FinWait2, event.CloseWait, event.LastAck, event.Closing:
		return true
	}
	return false
}

// unseenHandshake: something was received over a connection that was not told to be
// established. Before that only TCP Fast Open brings data, in SYN_RECV, which close(2)
// and shutdown(2) leave for FIN_WAIT1.
func (f *facts) unseenHandshake() string {
	if f.c.Open == conn.OpenUnknown || f.established != none {
		return ""
	}
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Sock != f.c.Sock || e.Sock == 0 || e.Has&event.HasTCP == 0 {
			continue
		}
		if (e.State == event.Established || e.State == event.CloseWait) && e.BytesReceived > 0 {
			return "the change to ESTABLISHED"
		}
	}
	return ""
}

// unseenAccept: a process had the socket that a listener made, and nobody was told to
// have accepted it.
func (f *facts) unseenAccept(s Scope) string {
	if f.c.Open != conn.OpenPassive || f.subflow || !s.has(event.HookAccept) || f.forget != none || f.release == none {
		return ""
	}
	if r := f.at(f.release); !r.ByProcess() || !r.Call.Ends() && !r.Exiting() {
		return ""
	}
	if event.Any(f.c.Events, func(e *event.Event) bool { return e.Hook == event.HookAccept }) {
		return ""
	}
	return "its accept(2)"
}

// unseenEnd: the socket is gone, or a reset has come, and the change to CLOSE was not
// told.
func (f *facts) unseenEnd() string {
	if f.closed != none {
		return ""
	}
	if f.release != none && f.at(f.release).State == event.SynSent || f.destroy != none || f.timeWait != none || f.miniEnd != none || f.finLate != none || f.mini != none || f.reset != none || f.abort != none && f.active != none {
		return "the change to CLOSE"
	}
	return ""
}

// unseenFin: the process let go of the sending side, and the FIN was not told.
func (f *facts) unseenFin(s Scope) string {
	if f.fin != none || f.closed != none {
		return ""
	}
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.State != event.Established && e.State != event.CloseWait && e.State != event.SynRecv {
			continue
		}
		switch {
		case e.Hook == event.HookShutdown && e.Arg&2 != 0, e.Hook == event.HookSendFin, e.Hook == event.HookClose:
			return "the change to FIN_WAIT1 or LAST_ACK"
		}
	}
	return ""
}

// unseenAnswer: the peer's events tell what this end has done.
func (f *facts) unseenAnswer(peer *facts, cause Cause) string {
	if peer == nil {
		// Over loopback the other end is on this machine, and began later.
		if cause == StillOpen && f.c.Open == conn.OpenActive && f.c.Established != 0 && f.c.Remote.Addr().IsLoopback() && f.c.Local != f.c.Remote {
			return "the other end"
		}
		return ""
	}
	state := f.c.State()
	if f.closed == none {
		switch {
		case peer.finAcked && f.peerFin == none:
			return "the arrival of the peer's FIN"
		case state == event.FinWait1 && peer.peerFin != none && f.c.NetNS == peer.c.NetNS && f.c.Host == peer.c.Host:
			return "the acknowledgement of its FIN" // the peer has it; between namespaces it may be lost
		case state == event.SynRecv && f.c.Open == conn.OpenPassive && peer.c.Established != 0:
			return "the change to ESTABLISHED"
		}
	}
	// Its FIN came, and was never sent.
	if f.fin == none && f.c.Open != conn.OpenUnknown && peer.peerFin != none && f.closed == none {
		return "the change to FIN_WAIT1 or LAST_ACK"
	}
	return ""
}

// unseenClose: a call that gives descriptors up changed the state, and the close itself
// was not told, which alone shows what was left in the queue, and whose that is.
func (f *facts) unseenClose(s Scope) string {
	if f.release == none || f.forget != none || f.unheld(s) || f.subflow || f.abort != none || f.disconn != none {
		return ""
	}
	e := f.at(f.release)
	if f.inferred {
		if !s.has(event.HookClose) || e.KernelThread() {
			return ""
		}
		return "the close"
	}
	// What stands above TCP gives its functions back before the close, so only the
	// close of the descriptor shows it. A story tells that one where it shows anything.
	if f.c.Storied || f.closed != none && f.closed < f.release || !s.has(event.HookFileClose) || !e.ByProcess() || e.CallOn == unixFamily || !e.Call.Drops() && !e.Exiting() ||
		event.Any(f.c.Events, func(e *event.Event) bool { return e.Hook == event.HookFileClose }) {
		return ""
	}
	return "the close of its descriptor"
}

// unseenSending: a FIN came before the other end's stack had sent one. Something on the
// way made it, or the sending was not told.
func (f *facts) unseenSending(peer *facts) string {
	if peer == nil || f.peerFin == none || f.subflow || !f.c.Proven || peer.c.Open == conn.OpenUnknown {
		return ""
	}
	if peer.fin == none || peer.at(peer.fin).Time > f.at(f.peerFin).Time+sameStep {
		return "who sent the FIN that came to " + end(f)
	}
	return ""
}

// unseenReset: an error or an end that only a reset leaves, and none was told.
func (f *facts) unseenReset(peer *facts, cause Cause, s Scope) string {
	if e := f.at(f.closed); e != nil && s.has(event.HookReset) && !e.MPTCP && e.Has&event.HasSocket != 0 && f.reset == none && f.abort == none && f.active == none {
		switch {
		// Only tcp_reset leaves these errors, where no process had a hand in it.
		case e.Context == event.ContextSoftirq && (e.Err == event.Errno(unix.ECONNRESET) || e.Err == event.Errno(unix.EPIPE)):
			return "the arrival of the reset"
		// An ICMP message leaves this one, too, but not while connect(2) has the
		// socket: then it is but noted (sk_err_soft, tcp_v4_err).
		case e.State == event.SynSent && e.Err == event.Errno(unix.ECONNREFUSED) &&
			(e.Context == event.ContextProcess || f.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSendReset }) != none):
			return "the arrival of the reset"
		}
	}
	// Over loopback a RST comes from this machine, and here no stack sent it; that
	// something else did is path-reset's to say.
	if f.rst && !f.resetSent(peer) && f.c.Remote.Addr().IsLoopback() {
		if cause == PeerGone || cause == PeerAbort || cause != PathReset && cause != UnknownCause && s.all(event.HookSendReset) && s.has(event.HookSendActiveReset) {
			return "who sent the reset"
		}
	}
	return ""
}

// unseenAct: what was done to the listener of a child that it took along.
func (f *facts) unseenAct(s Scope) string {
	if f.forget == none || !f.at(f.forget).ByProcess() || !s.has(event.HookAbort) || !s.has(event.HookClose) || !s.has(event.HookShutdown) || !s.has(event.HookDisconnect) {
		return ""
	}
	if event.Any(f.c.Elsewhere, func(e *event.Event) bool {
		switch e.Hook {
		case event.HookAbort, event.HookClose, event.HookCloseEntry, event.HookShutdown, event.HookDisconnect, event.HookFileClose:
			return true
		}
		return false
	}) {
		return ""
	}
	return "what was done to the listener"
}
