package verdict

import (
	"slices"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// none is the index of an event that was not seen.
const none = -1

// facts is what the rules ask of one end, read once from its events. Indexes
// count in c.Events; none where there is no such event.
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

	unheard   bool // who gave the descriptor up was not seen
	letGo     int  // what gave the last descriptor up, where the socket was held for longer; none: release did
	subflow   bool // of an MPTCP connection
	aboveIn   bool // reads are not TCP's: MPTCP, kTLS, sockmap
	aboveOut  bool // nor are writes
	inferred  bool // release is a state change; the close itself was not seen
	rst       bool // a RST came in (as opposed to tcp_reset called locally)
	abandoned bool // tcp_reset was called locally: data for a socket that takes none

	peer    *facts // of the other end, where it lives here
	counted bool   // the next two are known
	lostN   Lost
	bytesN  Bytes
}

// read reads them from a connection, into the room of those that it had before.
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
	return f
}

// findLetGo finds what gave the last descriptor up where that did not release the
// socket at once: a call in progress, a pending request of io_uring or a message
// in flight held it, and whoever let go of that last did not close anything.
func (f *facts) findLetGo() {
	if f.release == none || f.inferred {
		return
	}
	r := f.at(f.release)
	if !r.KernelThread() && (r.Call.Drops() || r.Exiting()) {
		return // whoever does that gives the socket up, in a message in flight too
	}
	f.unheard = true
	for i := range f.release {
		e := f.at(i)
		if e.Hook != event.HookFileClose || e.Refs > 1 && !e.Call.Drops() && e.Call != event.CallIOUring && !e.Exiting() {
			continue
		}
		if e.Refs <= 1 && e.TID == r.TID {
			f.letGo, f.unheard = none, false // the release is this very call's
			return
		}
		f.letGo, f.unheard = i, false
	}
	// Thrown away with the message that it came in. A request of io_uring may also
	// end in a call on another socket, but then its own process let go before.
	if f.letGo != none && r.CallOn == unixFamily && r.Call == event.CallReceive && f.at(f.letGo).PID != r.PID {
		f.letGo = none
	}
}

// unixFamily is AF_UNIX.
const unixFamily event.Family = unix.AF_UNIX

// hand is the event of who did what the event i shows: of a release, whoever let
// go of the socket.
func (f *facts) hand(i int) *event.Event {
	switch {
	case i == none || i != f.release:
	case f.letGo != none:
		return f.at(f.letGo)
	case f.unheard:
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

// gone says whether no process held the socket any more when its story was
// complete: nobody can be told anything after that.
func (f *facts) gone() bool {
	if f.release != none || f.entry != none || f.destroy != none {
		return true
	}
	e := f.end()
	return e != nil && e.Has&event.HasSocket != 0 && !e.HasSk
}

// inferRelease finds the close where no hook on it is attached: a state change
// that only the process can have made, inside a call that drops descriptors.
func (f *facts) inferRelease() {
	if f.release != none {
		return
	}
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Hook != event.HookSetState || e.State == e.ToState || !f.actedAt(i) {
			continue
		}
		switch e.ToState {
		case event.FinWait1, event.LastAck, event.Close:
		default:
			continue
		}
		switch e.Call {
		case event.CallClose, event.CallCloseRange, event.CallDup2, event.CallExec, event.CallExit, event.CallIOUring:
		default:
			if !e.Exiting() {
				continue
			}
		}
		f.release, f.inferred = i, true
		return
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

// cut is the close with which this end let go of the socket after it had shut its
// sending side down, without having heard the peer out: that is a close in two
// steps (python's http.server, haproxy, node), not a half-close. none: it held
// the socket until the peer's FIN came.
func (f *facts) cut() int {
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
		if e.Hook != event.HookSetState || e.State != e.ToState || !e.ByProcess() && e.Context != event.ContextUnknown {
			continue
		}
		switch e.Call {
		case event.CallClose, event.CallCloseRange, event.CallDup2, event.CallExec, event.CallExit, event.CallIOUring:
			i = k
		}
	}
	if i > f.fin && before(i, f.peerFin) {
		return i
	}
	return none
}

// released says whether the last reference was dropped before the end, or made
// it.
func (f *facts) released() bool {
	return f.release != none && f.closed != none && f.release <= f.closed
}

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

func (f *facts) at(i int) *event.Event {
	if i == none {
		return nil
	}
	return &f.c.Events[i]
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

// end is the event at → CLOSE.
func (f *facts) end() *event.Event { return f.at(f.closed) }

// before says whether event i came before event k; an event that was not seen
// came before nothing.
func before(i, k int) bool { return i != none && (k == none || i < k) }

// count counts what was lost and what was carried, from the sequence numbers at the
// moments when they are valid.
func (f *facts) count() {
	if f.counted {
		return
	}
	f.counted = true
	if f.end() == nil {
		return
	}
	var room numbers
	f.lostN, f.bytesN = f.countLost(&room), f.countBytes(&room)
}

// numbers are places for those that a verdict points to.
type numbers []uint64

func (n *numbers) keep(v uint64) *uint64 {
	if *n == nil {
		*n = make([]uint64, 0, 6) // of Lost and Bytes; it never grows: others point into it
	}
	*n = append(*n, v)
	return &(*n)[len(*n)-1]
}

// lost is what this end lost.
func (f *facts) lost() Lost {
	f.count()
	return f.lostN
}

// bytes is the payload both ways.
func (f *facts) bytes() Bytes {
	f.count()
	return f.bytesN
}

func (f *facts) countLost(room *numbers) Lost {
	var l Lost
	end := f.end()
	reader := f.reader()
	if reader.Has&event.HasTCP != 0 {
		n, known := unurgent(reader, f.queued(reader))
		// At the end a process may still hold the socket and read on: without
		// its close, what it never read is not known.
		if known && (n == 0 || reader != end || f.release == f.closed || !end.HasSk) {
			l.Unread = room.keep(uint64(n))
		}
	}
	if end.Has&event.HasTCP != 0 {
		sent, queued := f.unacknowledged(end)
		l.Unacked, l.Unsent = room.keep(uint64(sent)), room.keep(uint64(queued))
	}
	// What the process wrote and read is another layer's. A subflow of MPTCP
	// carries any part of it, some of it twice; kTLS and sockmap have queues of
	// their own, and what TCP counts is read by them.
	if f.aboveIn {
		l.Unread = nil
	}
	if f.aboveOut {
		l.Unsent = nil
	}
	return l
}

// reader is the event that shows what the process left in the receive queue:
// __tcp_close holds the lock and has purged nothing; but once tcp_disconnect ran,
// copied_seq has been set to rcv_nxt, so then the state event counts, which comes
// before.
func (f *facts) reader() *event.Event {
	e := f.at(f.release)
	if e == nil || (f.disconn != none && f.disconn < f.release) || e.Has&event.HasTCP == 0 {
		return f.end()
	}
	return e
}

// queued counts the bytes in the receive queue, as the kernel does that decides
// whether a close is an abort.
func (f *facts) queued(e *event.Event) uint32 {
	n := e.RcvNxt - e.CopiedSeq
	if n > 0 && f.finReceived(e) {
		n-- // the peer's FIN has a sequence number, too
	}
	if e.State == event.SynSent || e.RcvNxt == 0 {
		return 0
	}
	return n
}

// unurgent takes from what is queued the urgent byte that was read with MSG_OOB,
// which leaves its place in the queue. One that was passed over before may have
// been read or not: the kernel forgets that (tcp_recvmsg_locked).
func unurgent(e *event.Event, n uint32) (uint32, bool) {
	if e.UrgSeq == 0 || e.SkFlags&event.SockUrgInline != 0 {
		return n, true
	}
	if int32(e.UrgSeq-e.CopiedSeq) < 0 || int32(e.UrgSeq-e.RcvNxt) >= 0 {
		return n, e.UrgData != 0
	}
	if n > 0 && e.UrgData&event.UrgentRead != 0 {
		n--
	}
	return n, true
}

// finReceived says whether the peer's FIN is counted in rcv_nxt.
func (f *facts) finReceived(e *event.Event) bool {
	if e.SkFlags&event.SockDone != 0 {
		return true
	}
	switch e.State {
	case event.CloseWait, event.LastAck, event.Closing, event.TimeWait:
		return true
	}
	return false
}

// unacknowledged counts payload bytes in flight and never sent. write_seq
// counts the SYN from the start and the FIN once it is queued.
func (f *facts) unacknowledged(e *event.Event) (sent, queued uint32) {
	sent = e.SndNxt - e.SndUna
	queued = e.WriteSeq - e.SndNxt
	switch e.State {
	case event.SynSent, event.SynRecv:
		// A child of a listener begins after its SYN-ACK was acknowledged; in a
		// simultaneous open the SYN is still to be.
		if sent > 0 && f.c.Open != conn.OpenPassive {
			sent--
		}
	case event.FinWait1, event.Closing, event.LastAck:
		switch {
		case queued > 0:
			queued--
		case sent > 0:
			sent--
		}
	}
	if int32(sent) < 0 {
		sent = 0
	}
	if int32(queued) < 0 {
		queued = 0
	}
	return sent, queued
}

// countBytes counts payload both ways.
func (f *facts) countBytes(room *numbers) Bytes {
	var b Bytes
	e := f.end()
	if e.Has&event.HasTCP == 0 {
		// Still open, or the end not seen: the last snapshot is a lower bound
		// that nobody asked for. Say nothing.
		return b
	}
	acked := e.BytesAcked
	// An active opener's SYN is counted (tcp_ack at SYN_SENT), and an
	// acknowledged FIN.
	if f.c.Open == conn.OpenActive && acked > 0 {
		acked--
	}
	if f.finAcked && acked > 0 {
		acked--
	}
	known := f.c.Open != conn.OpenUnknown && !e.Repair // whether its SYN was counted
	received := e.BytesReceived
	if (f.finReceived(e) || (f.peerFin != none && f.peerFin <= f.closed)) && received > 0 {
		received--
	}
	inFlight, _ := f.unacknowledged(e)
	sent := acked + uint64(inFlight)
	b.Received = room.keep(received)
	if known {
		b.Acked, b.Sent = room.keep(acked), room.keep(sent)
	}
	return b
}

// appSaw is what this end's process was told, in order; nil: that is not known,
// or not whole.
//
// recv(2) is told exactly where the tcp_recvmsg hook is attached, but for what
// splice(2) reads past it. Elsewhere the end of input shows in copied_seq, which
// passes the FIN when it is read (found_fin_ok in tcp_recvmsg_locked,
// tcp_read_sock): with an empty queue at the FIN's arrival that read returned 0.
// With data before it, one read can have taken both, and only the next would
// return 0: then nothing is claimed.
func (f *facts) appSaw(s Scope) []string {
	if f.aboveIn || f.aboveOut || !f.gone() && f.closed != none {
		return nil // it is told by another layer; or may yet be told of the end
	}
	var saw []string
	add := func(s string) {
		if !slices.Contains(saw, s) {
			saw = append(saw, s)
		}
	}
	var pending event.Errno // sk_err that nobody has taken yet
	alone := false          // the FIN met an empty receive queue
	passed := false         // a read went past the FIN
	unsure := false         // there was more, of which it is not known whether it was told
	orphan := false
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Has&event.HasSocket != 0 && e.SkFlags&event.SockDead != 0 {
			orphan = true
		}
		if i == f.peerFin && e.Has&event.HasTCP != 0 {
			alone = e.RcvNxt-e.CopiedSeq == 1
		}
		if !orphan && f.disconn == none && e.Has&event.HasTCP != 0 && f.peerFin != none && i > f.peerFin &&
			f.finReceived(e) && e.CopiedSeq == e.RcvNxt {
			passed = true
			if alone {
				add("EOF")
			}
		}
		switch e.Hook {
		case event.HookSetState:
			if e.ToState == event.Close && e.State != event.Close && e.Err != 0 && !orphan {
				pending = e.Err
			}
			continue
		case event.HookReceive, event.HookStreamError:
			if e.Peeked() {
				continue
			}
			errno := event.Errno(-e.Arg)
			// It had been taken before: else it is what this call had been told (sock_error).
			taken := errno == 0 && e.Hook == event.HookReceive || errno == event.Errno(unix.EPIPE) && e.Hook == event.HookStreamError && errno != pending
			if taken && pending != 0 && e.Has&event.HasSocket != 0 && e.Err == 0 && i > f.closed {
				add(pending.String())
				unsure = unsure || pending == event.Errno(unix.EPIPE) && !s.has(event.HookStreamError)
				pending = 0
			}
			if errno == pending {
				pending = 0
			}
			if errno == 0 {
				add("EOF")
			} else {
				add(errno.String())
			}
			if e.Hook == event.HookStreamError {
				switch e.Arg2 {
				case event.PipeDelivered:
					add("SIGPIPE")
				case event.PipeRaised:
					unsure = true
				}
			}
			continue
		case event.HookAbort, event.HookReset, event.HookDisconnect, event.HookErrorReport:
			continue
		}
		if pending != 0 && e.Has&event.HasSocket != 0 && e.Err == 0 && i > f.closed {
			add(pending.String()) // taken by connect(2), SO_ERROR, or a recv(2) that was not watched
			// Or by send(2), with a SIGPIPE.
			unsure = unsure || pending == event.Errno(unix.EPIPE) && !s.has(event.HookStreamError)
			pending = 0
		}
	}
	if unsure {
		return nil
	}
	// Of nothing it is certain where each call was watched, and none read past the
	// watch; or where there was nothing to tell: no FIN, no reset, no error.
	watched := s.has(event.HookReceive) && s.has(event.HookStreamError) && !passed
	if saw == nil && f.gone() && (watched || f.untold()) {
		saw = []string{}
	}
	return saw
}

// untold says whether nothing came, and no timer ran out, that the process could
// have been told of: once it has closed, nobody tells it anything.
func (f *facts) untold() bool {
	for _, i := range []int{f.peerFin, f.reset, f.closed} {
		switch e := f.at(i); {
		case e == nil, e.Has&event.HasSocket != 0 && (e.SkFlags&event.SockDead != 0 || i == f.closed && i != f.peerFin && e.Err == 0):
		default:
			return false
		}
	}
	return true
}

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
		switch e.Arg {
		case 1:
			return ActShutRd, 0
		case 2:
			return ActShutWr, 0
		}
		return ActShutRdWr, 0
	}
	switch e.Call {
	case event.CallDup2:
		return ActDup2, 0
	case event.CallExec:
		return ActExec, 0
	case event.CallShutdown:
		switch e.Shutdown {
		case 1:
			return ActShutRd, 0
		case 2:
			return ActShutWr, 0
		case 3:
			return ActShutRdWr, 0
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

// process is who acted at this end.
func (f *facts) process(e *event.Event) *conn.Process {
	who := process(e)
	if who != nil {
		who.Host = f.c.Host
	}
	return who
}

func process(e *event.Event) *conn.Process {
	if e == nil || !(e.ByProcess() || e.Context == event.ContextUnknown && e.Call > event.CallNone) {
		return nil
	}
	return &conn.Process{PID: e.PID, TID: e.TID, Comm: e.Comm.String(), UID: e.UID, Cgroup: e.Cgroup}
}

// goodbye describes this end's FIN; nil when it sent none.
func (f *facts) goodbye() *Goodbye {
	if f.fin == none {
		return nil
	}
	e := f.hand(f.finAct)
	g := &Goodbye{At: f.at(f.fin).Time, Acked: f.finAcked}
	if !e.KernelThread() {
		g.Act, g.Signal = act(e)
		g.Actor = f.process(e)
	}
	return g
}
