package verdict

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// none is the index of an event that was not seen.
const none = -1

// facts is what the rules need to know of one end, read once from its events. An int is an
// index in c.Events, or none.
type facts struct {
	c *conn.Connection

	established int // SetState → ESTABLISHED

	fin      int // SetState → FIN_WAIT1 or LAST_ACK: our FIN was queued
	finAct   int // the close or shutdown behind it; the state event itself where no hook saw the act
	finAcked bool
	peerFin  int  // the event that first shows the peer's FIN
	crossed  bool // CLOSING was visited: the FINs crossed
	release  int  // __tcp_close: the last reference was dropped
	entry    int  // tcp_close, where the socket's lock was still to come
	disconn  int  // tcp_disconnect
	abort    int  // tcp_abort
	forget   int  // inet_child_forget
	active   int  // tcp_send_active_reset
	answer   int  // first reset of the socket itself in answer to a segment
	mini     int  // first reset of the mini-socket
	dead     int  // first reset by a dead tuple: no socket, after the end
	reset    int  // tcp_reset
	closed   int  // SetState X → CLOSE
	timeWait int  // tcp_time_wait
	miniEnd  int  // inet_twsk_kill
	finLate  int  // the peer's FIN reached the mini-socket
	destroy  int
	held     int   // filp_close with more references, the last one
	strays   []int // resets of this socket that did not end it (SYN_SENT)

	dropUnseen bool // who gave the descriptor up was not seen
	letGo      int  // what gave the last descriptor up, where the socket was held for longer; none: release did
	subflow    bool // of an MPTCP connection
	aboveIn    bool // reads are not TCP's: MPTCP, kTLS, sockmap
	aboveOut   bool // nor are writes
	inferred   bool // release is a state change; the close itself was not seen
	rst        bool // a RST came in (as opposed to tcp_reset called locally)
	abandoned  bool // tcp_reset was called locally: data for a socket that takes none

	peer    *facts // of the other end, where it lives here
	began   int    // the ending of this end began with it
	goodbye *Goodbye
	numbers numbers
	lost    Lost   // points to numbers
	bytes   Bytes  // likewise
	resetIn *Reset // see incoming
}

// read reads the facts of a connection, and uses the memory of the last one again.
func (f *facts) read(c *conn.Connection) *facts {
	*f = facts{c: c, strays: f.strays[:0], established: none, fin: none, finAct: none, peerFin: none, release: none, entry: none, disconn: none,
		abort: none, forget: none, active: none, answer: none, mini: none, dead: none, reset: none,
		closed: none, timeWait: none, miniEnd: none, finLate: none, destroy: none, held: none, letGo: none}
	first := func(at *int, i int) {
		if *at == none {
			*at = i
		}
	}
	act := none
	for i := range c.Events {
		e := &c.Events[i]
		if !e.Inherited() {
			f.subflow = f.subflow || e.MPTCP
			// A protocol above gives TCP's functions back when it begins to close
			// (tls_sk_proto_close): that it is there says as much.
			f.aboveIn = f.aboveIn || e.MPTCP || e.Queue&(event.QueueReads|event.QueueUnsure|event.QueueULP) != 0
			f.aboveOut = f.aboveOut || e.MPTCP || e.Queue&(event.QueueWrites|event.QueueUnsure|event.QueueULP) != 0
		}
		switch e.Hook {
		case event.HookCloseEntry:
			first(&f.entry, i)
		case event.HookClose:
			first(&f.release, i)
			act = i
		case event.HookShutdown:
			if e.Arg&2 != 0 {
				act = i
			}
		case event.HookDisconnect:
			if f.closed == none {
				first(&f.disconn, i)
			}
		case event.HookAbort:
			if f.closed == none {
				first(&f.abort, i)
			}
		case event.HookChildForget:
			first(&f.forget, i)
		case event.HookSendActiveReset:
			first(&f.active, i)
		case event.HookReset:
			first(&f.reset, i)
		case event.HookTimeWait:
			f.timeWait = i // the last one: FIN_WAIT2 may come before TIME_WAIT
			if event.State(e.Arg) == event.TimeWait {
				first(&f.peerFin, i)
			}
		case event.HookTwskSchedule:
			if event.State(e.Arg) == event.TimeWait {
				first(&f.finLate, i)
				first(&f.peerFin, i)
			}
		case event.HookTwskKill:
			f.miniEnd = i
		case event.HookDestroy:
			first(&f.destroy, i)
		case event.HookFileClose:
			if e.Refs > 1 {
				f.held = i
			}
		case event.HookSendReset:
			f.answered(i)
		case event.HookSetState:
			f.state(i, act)
		}
	}
	f.resets()
	f.inferRelease()
	f.findLetGo()
	f.began = f.findBegan()
	f.goodbye = f.sayGoodbye()
	if f.closed != none {
		f.lost, f.bytes = f.countLost(), f.countBytes()
	}
	return f
}

// state follows the spine. act is the last close or shutdown before it.
func (f *facts) state(i, act int) {
	e := &f.c.Events[i]
	if e.State == e.ToState {
		return
	}
	switch e.ToState {
	case event.Established:
		f.established = i
	case event.FinWait1, event.LastAck:
		if f.fin == none {
			f.fin, f.finAct = i, i
			if act != none {
				f.finAct = act
			}
		}
	case event.FinWait2:
		f.finAcked = true
	case event.CloseWait:
		if f.peerFin == none {
			f.peerFin = i
		}
	case event.Closing:
		f.crossed = true
		if f.peerFin == none {
			f.peerFin = i
		}
	case event.Close:
		if f.closed != none || e.State == event.Close {
			return
		}
		f.closed = i
		switch e.State {
		case event.Closing, event.LastAck:
			// Both leave only with our FIN acknowledged, or with an error.
			f.finAcked = f.finAcked || e.Err == 0 && e.SndUna == e.WriteSeq && e.Has&event.HasTCP != 0 ||
				e.Has&event.HasTCP == 0 && f.fin != none && e.Time-f.at(f.fin).Time < rtoMin && (!e.Call.Ends() && e.Call != event.CallConnect || e.Call == f.at(f.fin).Call)
		case event.FinWait2:
			// tcp_time_wait moves rcv_nxt over the peer's FIN first.
			if e.SkFlags&event.SockDone != 0 && f.peerFin == none {
				f.peerFin = i
			}
		}
	}
}

// rtoMin is how soon the kernel can give up a FIN (TCP_RTO_MIN): what ends before
// was acknowledged, or reset.
const rtoMin = 200 * time.Millisecond

// answered files a reset in answer to a segment.
func (f *facts) answered(i int) {
	e := &f.c.Events[i]
	if e.Has&event.HasSegment != 0 && e.Segment.Flags&event.RST != 0 {
		return // the hook stands before the kernel's own check: nothing is sent
	}
	to := &f.answer
	switch {
	case e.Sock == 0 || e.State == event.Listen || e.State == event.NewSynRecv:
		to = &f.dead
	case e.State == event.TimeWait:
		to = &f.mini
	case e.State == event.SynSent:
		f.strays = append(f.strays, i)
		return
	}
	if *to == none {
		*to = i
	}
}

// resets tells a RST that came in from tcp_reset called for data that a
// socket no longer takes (tcp_rcv_state_process). With the segment at hand the
// flag says it; without (the tracepoint alone) the socket's own reset follows on
// the same CPU in the second case, and never in the first.
func (f *facts) resets() {
	if f.reset == none {
		return
	}
	e := &f.c.Events[f.reset]
	if e.State == event.SynSent {
		f.rst = true // tcp_rcv_synsent_state_process calls it for nothing else
		return
	}
	if e.Has&event.HasSegment != 0 {
		f.rst = e.Segment.Flags&event.RST != 0
		f.abandoned = !f.rst
		return
	}
	if e.State != event.SynSent && f.answer != none {
		a := &f.c.Events[f.answer]
		if a.Time >= e.Time && a.CPU == e.CPU {
			f.abandoned = true
			return
		}
	}
	f.rst = true
}

// keepsTimeWait says whether this end went through TIME_WAIT.
func (f *facts) keepsTimeWait() bool {
	if f.timeWait != none && event.State(f.at(f.timeWait).Arg) == event.TimeWait {
		return true
	}
	if f.finLate != none {
		return true
	}
	if f.miniEnd != none && event.State(f.at(f.miniEnd).Arg) == event.TimeWait {
		return true
	}
	if f.mini != none || f.rst || f.abandoned || f.active != none || f.answer != none || f.closed == none {
		return false
	}
	end := f.end()
	if f.timeWait == none && !(end.Err == 0 && (end.State == event.FinWait2 || end.State == event.Closing)) {
		return false
	}
	// A mini-socket at FIN_WAIT2 turns into TIME_WAIT without a tracepoint, and
	// where tcp_time_wait is not attached FIN_WAIT2 → CLOSE without an error is
	// all there is to see. The peer's acknowledged FIN proves it, or the FIN that
	// was counted.
	if p := f.peer; p != nil {
		return p.fin != none && p.finAcked
	}
	return f.timeWait == none && (end.State == event.Closing || end.SkFlags&event.SockDone != 0)
}

func (f *facts) at(i int) *event.Event {
	if i == none {
		return nil
	}
	return &f.c.Events[i]
}

// end is the event at → CLOSE.
func (f *facts) end() *event.Event { return f.at(f.closed) }

// before says whether event i came before event k; an event that was not seen
// came before nothing.
func before(i, k int) bool { return i != none && (k == none || i < k) }

// elsewhere finds an event of that hook that happened elsewhere for this end.
func (f *facts) elsewhere(ok func(*event.Event) bool) int {
	for i := range f.c.Elsewhere {
		if ok(&f.c.Elsewhere[i]) {
			return i
		}
	}
	return none
}

// orphan says whether no process held the socket any more at the event i. A
// classic tracepoint does not record it; the close that was seen before does.
func (f *facts) orphan(i int) bool {
	e := f.at(i)
	if e.Has&event.HasSocket == 0 {
		return f.release != none && f.release < i
	}
	return e.SkFlags&event.SockDead != 0
}

// released says whether the last reference was dropped before the end, or made
// it.
func (f *facts) released() bool {
	return f.release != none && f.closed != none && f.release <= f.closed
}
