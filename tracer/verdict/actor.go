package verdict

import (
	"slices"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// act reads from an event what the task on the CPU was doing to the socket.
func act(e *event.Event) (Act, int) {
	if e.ThreadExits() {
		return ActThread, 0
	}
	if e.Exiting() {
		if sig := e.Signal(); sig != 0 {
			return ActKilled, sig
		}
		return ActExit, 0
	}
	closes := e.Hook == event.HookClose || e.Hook == event.HookCloseEntry
	if closes && e.CallOn == unixFamily {
		return ActDiscard, 0
	}
	// MPTCP shuts its subflow down inside close(2).
	if e.Hook == event.HookShutdown && !e.Call.Drops() {
		return shuts(int(e.Arg)), 0
	}
	switch e.Call {
	case event.CallDup2:
		return ActDup2, 0
	case event.CallExec:
		return ActExec, 0
	case event.CallShutdown:
		if e.Shutdown >= 1 && e.Shutdown <= 3 {
			return shuts(int(e.Shutdown)), 0
		}
		if e.Has&event.HasSocket == 0 {
			return NoAct, 0 // a classic tracepoint does not record which direction
		}
	case event.CallConnect:
		return ActDisconnect, 0
	case event.CallExit:
		return ActExit, 0
	case event.CallSend, event.CallReceive, event.CallOther, event.CallNone:
		if closes || e.Hook == event.HookSetState {
			return NoAct, 0 // it held the socket last, and gives no descriptor up
		}
	}
	return ActClose, 0
}

// shuts is the act of a shutdown(2) with that mask: 1 RCV, 2 SEND, 3 both.
func shuts(mask int) Act {
	switch mask {
	case 1:
		return ActShutRd
	case 2:
		return ActShutWr
	}
	return ActShutRdWr
}

// unixFamily is AF_UNIX.
const unixFamily event.Family = unix.AF_UNIX

// process is the process that an event shows at work on this end, as it then was; nil:
// none is known to have been.
func (f *facts) process(e *event.Event) *conn.Process {
	if e == nil || !(e.ByProcess() || e.Context == event.ContextUnknown && e.Call > event.CallNone) {
		return nil
	}
	return f.task(e)
}

// task is the task that was on the CPU, with what the join knows of its process.
func (f *facts) task(e *event.Event) *conn.Process {
	who := &conn.Process{PID: e.PID, TID: e.TID, Comm: e.Comm.String(), UID: e.UID, Cgroup: e.Cgroup, Host: f.c.Host}
	if !complete(who, f.c.Hands) && f.c.Peer != nil && f.c.Peer.Host == f.c.Host { // a PID is one host's own
		complete(who, f.c.Peer.Hands)
	}
	return who
}

// complete adds to a process what is known of it, if it is among those that were seen
// acting.
func complete(who *conn.Process, seen []conn.Process) bool {
	for i := len(seen) - 1; i >= 0; i-- {
		h := &seen[i]
		if h.PID != who.PID {
			continue
		}
		who.Exe, who.Container, who.CgroupPath, who.NSPID, who.Leader, who.Ancestors = h.Exe, h.Container, h.CgroupPath, h.NSPID, h.Leader, h.Ancestors
		if h.UID == who.UID {
			who.User = h.User
		}
		return true
	}
	return false
}

// stack finds the stack of a process's act at this end: the one nearest to when the
// act took effect (at; 0: not known, then the last).
func (f *facts) stack(pid uint32, act Act, at time.Duration) event.Stack {
	hooks := stackHooks(act)
	var found event.Stack
	var off time.Duration
	for i := len(f.c.Stacks) - 1; i >= 0; i-- {
		e := &f.c.Stacks[i]
		if e.PID != pid || !slices.Contains(hooks, event.Hook(e.Arg)) {
			continue
		}
		if at == 0 {
			return e.Stack
		}
		if d := (at - e.Time).Abs(); found == "" || d < off {
			found, off = e.Stack, d
		}
	}
	return found
}

// stackHooks lists where the stack of an act is taken. An exec has none: when it
// closes, the program that called it is gone.
func stackHooks(act Act) []event.Hook {
	switch act {
	case ActShutWr, ActShutRd, ActShutRdWr:
		return []event.Hook{event.HookShutdown, event.HookSetState}
	case ActExit, ActKilled, ActThread:
		return []event.Hook{event.HookExit}
	case NoAct, ActExec, ActDiscard:
		return nil
	}
	return []event.Hook{event.HookCloseEntry, event.HookSetState}
}

// sayGoodbye describes this end's FIN; nil when it sent none.
func (f *facts) sayGoodbye() *Goodbye {
	if f.fin == none {
		return nil
	}
	e := f.actEvent(f.finAct)
	g := &Goodbye{At: f.at(f.fin).Time, Acked: f.finAcked}
	if !e.KernelThread() {
		g.Act, g.Signal = act(e)
		if g.Actor = f.process(e); g.Actor != nil {
			g.Actor.Stack = f.stack(g.Actor.PID, g.Act, g.At)
		}
	}
	return g
}

// actor is who did the act that the rule found.
func (t *trial) actor() *conn.Process {
	who := t.x.actor
	if who == nil {
		return nil
	}
	var at time.Duration
	if g := t.a.goodbye; g != nil && g.Actor != nil && g.Actor.PID == who.PID && g.Act == t.x.act {
		at = g.At
	}
	who.Stack = t.a.stack(who.PID, t.x.act, at)
	return who
}

// actEvent is the event that shows who did what event i reports: for a release, who gave
// the last descriptor up.
func (f *facts) actEvent(i int) *event.Event {
	switch {
	case i == none || i != f.release:
	case f.letGo != none:
		return f.at(f.letGo)
	case f.dropUnseen:
		e := *f.at(i)
		e.CallOn = 0 // which does not prove anything alone
		return &e
	}
	return f.at(i)
}

// kept is how long something held the socket after its last descriptor was given
// up; 0: nothing did.
func (f *facts) kept() time.Duration {
	if f.letGo == none {
		return 0
	}
	if d := f.at(f.release).Time - f.at(f.letGo).Time; d >= moment {
		return d
	}
	return 0
}

// findLetGo finds what gave the last descriptor up, if that did not release the socket at
// once: a call in progress, a pending request of io_uring or a message in flight held
// it, and the task that dropped that last reference did not close anything.
func (f *facts) findLetGo() {
	if f.release == none || f.inferred {
		return
	}
	r := f.at(f.release)
	if !r.KernelThread() && (r.Call.Drops() || r.Exiting()) {
		return // whoever does that gives the socket up, in a message in flight too
	}
	f.dropUnseen = true
	for i := range f.release {
		e := f.at(i)
		if e.Hook != event.HookFileClose || e.Refs > 1 && !drops(e.Call) && !e.Exiting() {
			continue
		}
		if e.Refs <= 1 && e.TID == r.TID {
			f.letGo, f.dropUnseen = none, false // the release is this very call's
			return
		}
		f.letGo, f.dropUnseen = i, false
	}
	// Thrown away with the message that it came in. A request of io_uring may also
	// end in a call on another socket, but then its own process let go before.
	if f.letGo != none && r.CallOn == unixFamily && r.Call == event.CallReceive && f.at(f.letGo).PID != r.PID {
		f.letGo = none
	}
}

// drops says whether a call can give up a descriptor, with its own name or by io_uring.
func drops(c event.Call) bool { return c.Drops() || c == event.CallIOUring }

// inferRelease finds the close where no hook on it is attached: a state change
// that only the process can have made, inside a call that drops descriptors.
func (f *facts) inferRelease() {
	if f.release != none {
		return
	}
	for i := range f.c.Events {
		e := &f.c.Events[i]
		leaves := e.ToState == event.FinWait1 || e.ToState == event.LastAck || e.ToState == event.Close
		if e.Hook == event.HookSetState && e.State != e.ToState && leaves && f.actedAt(i) && (drops(e.Call) || e.Exiting()) {
			f.release, f.inferred = i, true
			return
		}
	}
}

// actedAt says whether the task on the CPU made that state change. Where the
// context could not be measured, an end that no segment can explain counts: one
// from a state that only a reset ends from outside, and no reset came.
func (f *facts) actedAt(i int) bool {
	e := f.at(i)
	if e.ByProcess() {
		return true
	}
	if e.Context != event.ContextUnknown || e.ToState != event.Close || f.reset != none || !(e.Exiting() || e.Call.Ends()) {
		return false
	}
	switch e.State {
	case event.Established, event.CloseWait, event.SynSent:
		return true
	}
	return f.active != none && f.at(f.active).TID == e.TID
}

// closeAfterShutdown is the close with which this end gave the socket up after it had shut
// down its sending side and before the peer's FIN came. That is a close in two steps
// (python's http.server, haproxy, node), not a half-close. none: it held the socket until
// the peer's FIN came.
func (f *facts) closeAfterShutdown() int {
	if f.fin == none {
		return none
	}
	i := f.release
	if f.inferred {
		i = none
	}
	for k := f.fin + 1; i == none && k < len(f.c.Events); k++ {
		// Without a hook on the close: tcp_close_state sets the state that it is in.
		e := &f.c.Events[k]
		if e.Hook == event.HookSetState && e.State == e.ToState && (e.ByProcess() || e.Context == event.ContextUnknown) && drops(e.Call) {
			i = k
		}
	}
	if i > f.fin && before(i, f.peerFin) {
		return i
	}
	return none
}
