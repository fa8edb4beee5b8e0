package verdict_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// A wire joins two ends, and delays, drops and adds segments; each end does what
// the kernel does with them, and tells of it as the hooks do. What ended an end is
// known here, because each RST knows why it was sent.
type wire struct {
	now  time.Duration
	ends [2]*wireEnd
	due  []flight
	n    int

	delay time.Duration
	// lose says whether a segment gets lost.
	lose func(s *wireSegment) bool
	// The last RST that was sent to each end, and when.
	resets  [2]verdict.Cause
	resetAt [2]time.Duration
	// late is how much later than its time a segment comes.
	late func(s *wireSegment) time.Duration

	// noMini: this machine allows no mini-sockets (tcp_max_tw_buckets).
	noMini bool

	events []event.Event
}

type flight struct {
	at time.Duration
	n  int
	do func()
}

// wireSegment is a segment on its way.
type wireSegment struct {
	from     int
	seq, ack uint32
	n        uint32
	flags    event.TCPFlags
	why      verdict.Cause // of a RST
}

// wireEnd is one end: the kernel's socket, or what is left of it.
type wireEnd struct {
	w     *wire
	side  int
	state event.State
	tcp   event.Event // its numbers, as they are now
	held  bool        // a process has it, or had: connect(2), accept(2)
	dead  bool        // no process holds it any more
	mini  event.State // of the mini-socket
	miniT int         // its generation
	tries uint8
	timer int

	finSeq uint32 // of its own FIN; 0: none
	gone   bool   // nothing is left
	shutWr bool
	shutRd bool
	pid    uint32
	linger bool
	cause  verdict.Cause // why it ended; "": it has not
	mine   bool          // it ended itself
	// refusedData: after its close, payload was answered with a RST.
	refusedData bool
	endedAt     time.Duration
	finSaid     bool
	finHeard    bool
}

const tickRTO = 200 * time.Millisecond

func newWire(delay time.Duration) *wire {
	w := &wire{now: 100 * time.Second, delay: delay}
	addr := []netip.AddrPort{netip.MustParseAddrPort("10.9.0.1:40000"), netip.MustParseAddrPort("10.9.0.2:443")}
	iss := []uint32{1_000_000, 9_000_000}
	for side := range w.ends {
		e := &wireEnd{w: w, side: side, state: event.SynSent, pid: 500 + uint32(side), held: side == 0}
		e.tcp = event.Event{Sock: 0xff00 + uint64(side)*0x100, Conn: uint64(w.now) + uint64(side), Local: addr[side], Remote: addr[1-side], NetNS: 7 + uint32(side),
			Family: event.IPv4, WriteSeq: iss[side] + 1, SndUna: iss[side] + 1, SndNxt: iss[side] + 1, RcvNxt: iss[1-side] + 1, CopiedSeq: iss[1-side] + 1}
		w.ends[side] = e
	}
	c, s := w.ends[0], w.ends[1]
	early := c.tcp
	c.tcp.WriteSeq, c.tcp.SndUna, c.tcp.SndNxt, c.tcp.RcvNxt, c.tcp.CopiedSeq = 0, 0, 0, 0, 0
	c.see(event.HookSetState, c.byProcess(event.CallConnect), move(event.Close, event.SynSent))
	c.tcp.WriteSeq = early.WriteSeq
	c.tcp.SndUna, c.tcp.SndNxt = early.SndUna-1, early.SndUna
	c.see(event.HookConnect, c.byProcess(event.CallConnect), at(event.SynSent))
	w.now += delay
	c.tcp = early
	c.tcp.BytesAcked = 1
	s.see(event.HookSetState, move(event.Listen, event.SynRecv))
	s.see(event.HookSetState, move(event.SynRecv, event.Established))
	c.see(event.HookSetState, move(event.SynSent, event.Established))
	c.state, s.state = event.Established, event.Established
	w.now += time.Millisecond
	return w
}

// Accept is accept(2).
func (e *wireEnd) Accept() {
	e.held = true
	e.see(event.HookAccept, e.byProcess(event.CallNone), at(event.Established))
}

// see adds what the kernel tells of an end.
func (e *wireEnd) see(h event.Hook, change ...func(*event.Event)) {
	x := e.tcp
	e.w.now += 2 * time.Microsecond
	x.Time, x.Hook, x.Context, x.Arg, x.CPU = e.w.now, h, event.ContextSoftirq, -1, uint32(e.side)
	x.Has = event.HasTuple | event.HasTCP | event.HasSocket | event.HasTask | event.HasPreempt
	x.State, x.HasSk = e.state, e.held && !e.dead
	if e.dead {
		x.SkFlags |= event.SockDead
	}
	if e.finHeard {
		x.SkFlags |= event.SockDone
	}
	if e.linger {
		x.SkFlags |= event.SockLinger
	}
	x.Retransmits = e.tries
	for _, c := range change {
		c(&x)
	}
	e.w.events = append(e.w.events, x)
}

func (e *wireEnd) byProcess(call event.Call) func(*event.Event) {
	return func(x *event.Event) {
		x.Context, x.Call, x.PID, x.TID = event.ContextProcess, call, e.pid, e.pid
		x.Comm = event.CommOf([]string{"client", "server"}[e.side])
	}
}

func (e *wireEnd) to(s event.State, change ...func(*event.Event)) {
	e.see(event.HookSetState, append([]func(*event.Event){move(e.state, s)}, change...)...)
	e.state = s
}

// after does something later.
func (w *wire) after(d time.Duration, do func()) {
	w.n++
	w.due = append(w.due, flight{w.now + d, w.n, do})
}

// run plays until nothing is left to do, or until a time.
func (w *wire) run(until time.Duration) {
	for len(w.due) > 0 {
		slices.SortFunc(w.due, func(a, b flight) int {
			if a.at != b.at {
				return int(a.at - b.at)
			}
			return a.n - b.n
		})
		f := w.due[0]
		if f.at > until {
			break
		}
		w.due = w.due[1:]
		w.now = max(w.now, f.at)
		f.do()
	}
	w.now = max(w.now, until)
}

// put sends a segment.
func (w *wire) put(s wireSegment) {
	if s.flags&event.RST != 0 {
		w.resets[1-s.from], w.resetAt[1-s.from] = s.why, w.now
	}
	if w.lose != nil && w.lose(&s) {
		return
	}
	d := w.delay
	if w.late != nil {
		d += w.late(&s)
	}
	w.after(d, func() { w.ends[1-s.from].receive(s) })
}

func (e *wireEnd) segment(flags event.TCPFlags, seq, n uint32) {
	e.w.put(wireSegment{from: e.side, seq: seq, ack: e.tcp.RcvNxt, n: n, flags: flags | event.ACK})
}

// Send is a write of the process.
func (e *wireEnd) Send(n uint32) {
	if e.dead || e.shutWr || e.state != event.Established && e.state != event.CloseWait {
		return
	}
	e.segment(event.PSH, e.tcp.SndNxt, n)
	e.tcp.WriteSeq += n
	e.tcp.SndNxt += n
	e.arm()
}

// Read takes all that came.
func (e *wireEnd) Read() {
	if !e.dead {
		e.tcp.CopiedSeq = e.tcp.RcvNxt
	}
}

// arm starts the timer with which what is not acknowledged is sent again.
func (e *wireEnd) arm() {
	e.timer++
	mine := e.timer
	e.w.after(tickRTO<<e.tries, func() {
		if mine != e.timer || e.state == event.Close || e.tcp.SndUna == e.tcp.SndNxt {
			return
		}
		if e.tries == 4 {
			e.to(event.Close, func(x *event.Event) { x.Err = event.Errno(unix.ETIMEDOUT) })
			if e.dead {
				e.end(verdict.OrphanTimeout, true)
			} else {
				e.end(verdict.RetransmitTimeout, true)
			}
			return
		}
		e.tries++
		n := e.tcp.SndNxt - e.tcp.SndUna
		flags := event.PSH
		if e.finSeq != 0 {
			n--
			flags |= event.FIN
		}
		e.segment(flags, e.tcp.SndUna, n)
		e.arm()
	})
}

// end notes why this end ended.
func (e *wireEnd) end(why verdict.Cause, mine bool) {
	if e.cause == "" {
		e.cause, e.mine, e.endedAt = why, mine, e.w.now
	}
	e.gone = e.mini == 0
	if e.dead {
		e.see(event.HookDestroy, at(event.Close))
	}
}

func (e *wireEnd) abort(why verdict.Cause, flags event.TCPFlags) {
	e.w.put(wireSegment{from: e.side, seq: e.tcp.SndNxt, ack: e.tcp.RcvNxt, flags: flags, why: why})
}

func (e *wireEnd) sendFin(call event.Call) {
	switch e.state {
	case event.Established:
		e.to(event.FinWait1, e.byProcess(call))
	case event.CloseWait:
		e.to(event.LastAck, e.byProcess(call))
	default:
		return
	}
	e.finSaid = true
	e.see(event.HookSendFin, e.byProcess(call))
	e.finSeq = e.tcp.WriteSeq
	e.segment(event.FIN, e.tcp.SndNxt, 0)
	e.tcp.WriteSeq++
	e.tcp.SndNxt++
	e.arm()
}

func (e *wireEnd) unread() uint32 {
	n := e.tcp.RcvNxt - e.tcp.CopiedSeq
	if e.finHeard && n > 0 {
		n--
	}
	return n
}

// Close is close(2) of the last descriptor.
func (e *wireEnd) Close() {
	if e.dead {
		return
	}
	by := e.byProcess(event.CallClose)
	e.see(event.HookFileClose, by, refs(1))
	e.see(event.HookClose, by)
	switch {
	case e.state == event.Close:
		e.dead = true
		e.see(event.HookDestroy, by)
		return
	case e.unread() > 0:
		e.to(event.Close, by)
		e.see(event.HookSendActiveReset, by)
		e.abort(verdict.CloseUnread, event.RST|event.ACK)
		e.dead = true
		e.end(verdict.CloseUnread, true)
		return
	case e.linger:
		from := e.state
		e.see(event.HookDisconnect, by)
		e.to(event.Close, by)
		if from == event.LastAck || from == event.Closing {
			// tcp_need_reset: no RST.
			e.dead = true
			e.end(verdict.OrderlyClose, true)
			return
		}
		e.see(event.HookSendActiveReset, by)
		e.abort(verdict.LingerZero, event.RST|event.ACK)
		e.dead = true
		e.end(verdict.LingerZero, true)
		return
	}
	e.sendFin(event.CallClose)
	e.dead = true
	if e.state == event.FinWait2 {
		e.timeWait(event.FinWait2)
	}
}

// Shutdown is shutdown(2): 1 read, 2 write, 3 both.
func (e *wireEnd) Shutdown(how int32) {
	if e.dead || e.state == event.Close {
		return
	}
	e.shutWr = e.shutWr || how&2 != 0
	e.shutRd = e.shutRd || how&1 != 0
	e.see(event.HookShutdown, e.byProcess(event.CallShutdown), func(x *event.Event) { x.Arg = how })
	if how&2 != 0 {
		e.sendFin(event.CallShutdown)
	}
}

// Disconnect is connect(2) to AF_UNSPEC.
func (e *wireEnd) Disconnect() {
	if e.dead || e.state == event.Close {
		return
	}
	by := e.byProcess(event.CallConnect)
	from := e.state
	e.see(event.HookDisconnect, by)
	e.to(event.Close, by)
	if from == event.LastAck || from == event.Closing {
		e.end(verdict.OrderlyClose, true)
		return
	}
	e.see(event.HookSendActiveReset, by)
	e.abort(verdict.Disconnect, event.RST|event.ACK)
	e.end(verdict.Disconnect, true)
}

// Destroy is ss -K.
func (e *wireEnd) Destroy() {
	if e.state == event.Close {
		return
	}
	by := func(x *event.Event) {
		x.Context, x.Call, x.PID, x.TID, x.Comm = event.ContextProcess, event.CallSend, 900, 900, event.CommOf("ss")
	}
	e.see(event.HookAbort, by, func(x *event.Event) { x.Arg = int32(unix.ECONNABORTED) })
	e.see(event.HookSendActiveReset, by)
	e.abort(verdict.SockDestroy, event.RST|event.ACK)
	e.to(event.Close, by, func(x *event.Event) { x.Err = event.Errno(unix.ECONNABORTED) })
	e.end(verdict.SockDestroy, true)
}

// Forget is what the close of its listener does to an end in the accept queue.
func (e *wireEnd) Forget() {
	if e.state == event.Close {
		return
	}
	by := e.byProcess(event.CallExit)
	e.see(event.HookChildForget, by)
	e.see(event.HookDisconnect, by)
	e.to(event.Close, by)
	e.see(event.HookSendActiveReset, by)
	e.abort(verdict.ListenerClosed, event.RST|event.ACK)
	e.dead = true
	e.end(verdict.ListenerClosed, true)
}

// GiveUp is a kernel that probed a closed window in vain.
func (e *wireEnd) GiveUp() {
	if e.state == event.Close {
		return
	}
	e.timer++
	e.tcp.WriteSeq += 1000
	e.to(event.Close, func(x *event.Event) { x.Err, x.ProbesOut = event.Errno(unix.ETIMEDOUT), 5 })
	e.end(verdict.ZeroWindowTimeout, true)
}

// Vanish is a close in repair mode.
func (e *wireEnd) Vanish() {
	if e.dead || e.state == event.Close {
		return
	}
	by := func(x *event.Event) { e.byProcess(event.CallClose)(x); x.Repair = true }
	e.see(event.HookFileClose, by, refs(1))
	e.see(event.HookClose, by)
	e.see(event.HookDisconnect, by)
	e.to(event.Close, by)
	e.dead = true
	e.end(verdict.RepairClose, true)
}

// Inject is a RST of the path to this end.
func (e *wireEnd) Inject(flags event.TCPFlags) {
	e.w.after(0, func() {
		why := verdict.PathReset
		if r := e.w.resets[e.side]; r != "" && e.w.now-e.w.resetAt[e.side] < 5*time.Second {
			why = r // which of the two it is that came, nothing tells
		}
		e.receive(wireSegment{from: 1 - e.side, seq: e.tcp.RcvNxt, ack: e.tcp.SndNxt, flags: flags, why: why})
	})
}

// timeWait makes the mini-socket.
func (e *wireEnd) timeWait(s event.State) {
	e.see(event.HookTimeWait, func(x *event.Event) { x.Arg = int32(s) })
	if e.w.noMini {
		e.to(event.Close)
		e.end(verdict.OrderlyClose, e.side == 0)
		return
	}
	e.mini = s
	e.miniT++
	mine := e.miniT
	e.to(event.Close)
	if s == event.TimeWait {
		e.end(verdict.OrderlyClose, e.side == 0)
	} else if e.dead {
		e.see(event.HookDestroy, at(event.Close))
	}
	e.w.after(60*time.Second, func() {
		if mine != e.miniT || e.mini == 0 {
			return
		}
		e.killMini(2)
		e.end(verdict.FinWait2Timeout, true)
	})
}

func (e *wireEnd) killMini(how int32) {
	was := e.mini
	e.mini = 0
	e.see(event.HookTwskKill, at(event.TimeWait), func(x *event.Event) {
		x.Arg, x.Arg2 = int32(was), how
		x.Has &^= event.HasTCP | event.HasSocket
	})
}

// answer is a bare RST to a segment.
func (e *wireEnd) answer(s wireSegment, why verdict.Cause, change ...func(*event.Event)) {
	e.refusedData = e.refusedData || e.dead && e.finSaid && s.n > 0
	e.see(event.HookSendReset, append(change, seg(s))...)
	e.w.put(wireSegment{from: e.side, seq: s.ack, flags: event.RST, why: why})
}

func seg(s wireSegment) func(*event.Event) {
	return segment(event.Segment{Seq: s.seq, Ack: s.ack, Len: s.n, Flags: s.flags, TTL: 64})
}

// receive is what the kernel does with a segment.
func (e *wireEnd) receive(s wireSegment) {
	rst := s.flags&event.RST != 0
	next := s.seq + s.n
	if s.flags&event.FIN != 0 {
		next++
	}
	fresh := int32(next-e.tcp.RcvNxt) > 0
	if e.state == event.Close {
		switch {
		case e.mini == 0 && rst:
		case e.mini == 0:
			why := e.cause
			if why == verdict.OrderlyClose || e.mine && e.dead && e.finSaid && !e.finHeard && s.n > 0 && why == verdict.FinWait2Timeout {
				why = verdict.DataAfterClose
			}
			e.answer(s, why, at(event.Close), func(x *event.Event) { x.Sock, x.Conn, x.Has = 0, 0, event.HasTuple })
		case rst && s.seq == e.tcp.RcvNxt:
			was := e.mini
			e.killMini(1)
			if was == event.FinWait2 {
				e.end(s.why, false)
			}
		case rst:
		case e.mini == event.FinWait2 && s.n > 0 && fresh:
			e.answer(s, verdict.DataAfterClose, at(event.TimeWait), func(x *event.Event) {
				x.Arg2 = int32(event.FinWait2)
				x.Has = event.HasTuple
			})
			e.killMini(1)
			e.end(verdict.DataAfterClose, true)
		case e.mini == event.FinWait2 && s.flags&event.FIN != 0 && s.seq == e.tcp.RcvNxt:
			e.tcp.RcvNxt++
			e.finHeard = true
			e.mini = event.TimeWait
			e.see(event.HookTwskSchedule, at(event.TimeWait), func(x *event.Event) {
				x.Arg = int32(event.TimeWait)
				x.Has = event.HasTuple
			})
			e.end(verdict.OrderlyClose, true)
			e.segment(0, e.tcp.SndNxt, 0)
		case s.n > 0 || s.flags&event.FIN != 0:
			e.segment(0, e.tcp.SndNxt, 0)
		}
		return
	}
	if rst {
		if s.seq != e.tcp.RcvNxt {
			return // a challenge ACK, or out of the window
		}
		from := e.state
		err := event.Errno(unix.ECONNRESET)
		if from == event.CloseWait {
			err = event.Errno(unix.EPIPE)
		}
		e.see(event.HookReset, seg(s))
		e.to(event.Close, func(x *event.Event) { x.Err = err })
		e.end(s.why, false)
		return
	}
	// What it acknowledges.
	if n := s.ack - e.tcp.SndUna; int32(n) > 0 && int32(e.tcp.SndNxt-s.ack) >= 0 {
		e.tcp.SndUna = s.ack
		e.tcp.BytesAcked += uint64(n)
		e.tries = 0
		e.timer++
		if e.tcp.SndUna != e.tcp.SndNxt {
			e.arm()
		}
	}
	acked := e.finSeq != 0 && int32(e.tcp.SndUna-e.finSeq) > 0
	data := s.n > 0 && fresh
	if acked {
		switch e.state {
		case event.FinWait1:
			e.to(event.FinWait2)
			if e.dead && !data && s.flags&event.FIN == 0 {
				e.timeWait(event.FinWait2)
				return
			}
		case event.Closing:
			e.timeWait(event.TimeWait)
			return
		case event.LastAck:
			e.to(event.Close)
			e.end(verdict.OrderlyClose, false)
			return
		}
	}
	if data && (e.dead || e.shutRd && e.shutWr) && (e.state == event.FinWait1 || e.state == event.FinWait2) {
		why := verdict.DataAfterClose
		if !e.dead {
			why = verdict.DataAfterShutdown
		}
		e.see(event.HookReset, seg(s))
		e.to(event.Close, func(x *event.Event) { x.Err = event.Errno(unix.ECONNRESET) })
		e.answer(s, why, at(event.Close))
		e.end(why, true)
		return
	}
	if s.seq != e.tcp.RcvNxt && fresh && int32(s.seq-e.tcp.RcvNxt) > 0 {
		return // out of order: it will be sent again
	}
	if fresh {
		if e.tcp.RcvNxt != s.seq {
			s.n -= e.tcp.RcvNxt - s.seq
		}
		e.tcp.RcvNxt += s.n
		e.tcp.BytesReceived += uint64(s.n)
		if s.flags&event.FIN != 0 {
			e.tcp.RcvNxt++
			e.tcp.BytesReceived++
			e.finHeard = true
		}
	}
	if s.n > 0 || s.flags&event.FIN != 0 {
		e.segment(0, e.tcp.SndNxt, 0)
	}
	if fresh && s.flags&event.FIN != 0 {
		switch e.state {
		case event.Established:
			e.to(event.CloseWait)
		case event.FinWait1:
			e.to(event.Closing)
		case event.FinWait2:
			e.timeWait(event.TimeWait)
		}
	}
}

// judge joins and judges what was told; which ends a view leaves in is the caller's.
func (w *wire) judge(view func(event.Event) (event.Event, bool), s verdict.Scope) (ends [2]*judged) {
	told := run{events: w.events}
	if view != nil {
		told.events = told.seen(view)
	}
	for c, v := range verdict.JudgeAll(told.events, s) {
		for side := range ends {
			if c.Local == w.ends[side].tcp.Local {
				if ends[side] != nil {
					panic(fmt.Sprintf("two connections of one end: %v", c.Events))
				}
				ends[side] = &judged{c, v}
			}
		}
	}
	return ends
}

// random plays a story of chance: acts at both ends, segments late, lost and out of
// order, a RST of the path.
func randomWire(seed uint64) (*wire, []string) {
	r := rand.New(rand.NewPCG(seed, 13))
	w := newWire(time.Duration(1+r.IntN(40)) * time.Millisecond)
	w.ends[1].Accept()
	var said []string
	start := w.now
	cutAt := [2]time.Duration{1 << 60, 1 << 60}
	healAt := [2]time.Duration{1 << 61, 1 << 61}
	lossy := r.IntN(4) == 0
	rstLoss := r.IntN(3) == 0
	w.lose = func(s *wireSegment) bool {
		if w.now >= cutAt[s.from] && w.now < healAt[s.from] {
			return true
		}
		if s.flags&event.RST != 0 && rstLoss && r.IntN(2) == 0 {
			return true
		}
		return lossy && r.IntN(5) == 0
	}
	if r.IntN(3) == 0 {
		w.late = func(s *wireSegment) time.Duration { return time.Duration(r.IntN(60)) * time.Millisecond }
	}
	for range 3 + r.IntN(8) {
		d := time.Duration(r.IntN(400)) * time.Millisecond
		if r.IntN(4) == 0 {
			d = time.Duration(r.IntN(12000)) * time.Millisecond
		}
		e := w.ends[r.IntN(2)]
		act, name := func() {}, ""
		switch k := r.IntN(22); k {
		case 0, 1, 2, 3, 4:
			n := uint32(1 + r.IntN(500))
			act, name = func() { e.Send(n) }, fmt.Sprint("send ", n)
		case 5, 6, 7:
			act, name = e.Read, "read"
		case 8, 9, 10, 11:
			act, name = e.Close, "close"
		case 12, 13:
			act, name = func() { e.Shutdown(2) }, "shutdown(WR)"
		case 14:
			act, name = func() { e.Shutdown(3) }, "shutdown(RDWR)"
		case 15:
			act, name = func() { e.linger = true; e.Close() }, "close with SO_LINGER 0"
		case 16:
			act, name = e.Destroy, "ss -K"
		case 17:
			act, name = e.Vanish, "vanish"
		case 18:
			act, name = e.Disconnect, "disconnect"
		case 19:
			side := e.side
			act, name = func() { cutAt[side] = w.now }, "cut"
			if r.IntN(2) == 0 {
				heal := time.Duration(r.IntN(3000)) * time.Millisecond
				act, name = func() { cutAt[side], healAt[side] = w.now, w.now+heal }, fmt.Sprint("cut for ", heal)
			}
		case 20:
			flags := event.RST
			if r.IntN(2) == 0 {
				flags |= event.ACK
			}
			act, name = func() { e.Inject(flags) }, "RST of the path"
		case 21:
			act, name = func() { e.Read(); e.Close() }, "read and close"
		}
		side := e.side
		w.after(d, func() {
			said = append(said, fmt.Sprintf("%v %s: %s", w.now-start, []string{"client", "server"}[side], name))
			act()
		})
	}
	w.run(start + 90*time.Second)
	return w, said
}
