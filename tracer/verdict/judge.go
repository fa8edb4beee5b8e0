package verdict

import (
	"cmp"
	"slices"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// by is whose doing an ending was, from the causing end.
type by uint8

const (
	byNobody  by = iota
	byProcess    // a process at the causing end
	byKernel     // the kernel of the causing end
	byOther      // the other end's kernel, on this machine
	byPeer       // the remote end: cannot tell further
	byPath
	byAdmin
)

// finding is what a rule found.
type finding struct {
	by       by
	class    Class // "" the rule's own
	act      Act
	signal   int
	actor    *conn.Process
	harmless bool
	a, b     []int // evidence: events of the causing end, and of the other
	elseA    []int // evidence among the causing end's Elsewhere
	needs    []event.Hook
	needsAll []event.Hook // hooks whose silence counts
	likely   bool         // another cause cannot be excluded whatever is attached
	advice   string       // instead of the rule's
	both     bool         // the rule itself says that this ended both ends
}

// did fills in who acted from the event of the act.
func (x *finding) did(e *event.Event) *finding {
	if e == nil {
		return x
	}
	if e.KernelThread() {
		// A worker: a file that was closed from where a process could not
		// sleep, or MPTCP. MPTCP's worker closes subflows some time after the process closed
		// the connection: the subflow does not tell which process that was.
		x.by, x.likely = byKernel, true
		return x
	}
	x.by = byProcess
	switch x.act, x.signal = act(e); {
	case x.act != NoAct:
	case e.Call != event.CallShutdown && (e.Hook == event.HookClose || e.Hook == event.HookCloseEntry || e.Hook == event.HookSetState):
		// Who gave the descriptor up was not seen, with the hook or without.
		x.needs, x.likely = append(x.needs, event.HookFileClose), true
	default:
		x.needs = append(x.needs, event.HookShutdown)
	}
	x.actor = process(e)
	return x
}

// A Judger judges one connection after another and uses its memory again. The zero
// value is ready; it is not safe for concurrent use.
type Judger struct{ self, peer facts }

// Judge names the one cause of a connection's ending, from its own events and
// those of its peer, where that is local.
func Judge(c *conn.Connection, s Scope) Verdict { return new(Judger).Judge(c, s) }

// Judge is as the function.
func (j *Judger) Judge(c *conn.Connection, s Scope) Verdict {
	self := j.self.read(c)
	var peer *facts
	if c.Peer != nil {
		peer = j.peer.read(c.Peer)
		self.peer, peer.peer = peer, self
	}
	v := Verdict{
		Lost: self.lost(), Bytes: self.bytes(),
		LocalFin: self.goodbye(), TimeWait: self.keepsTimeWait(),
	}
	if !s.Brief {
		v.AppSaw = self.appSaw(s)
	}
	if peer != nil {
		v.PeerFin = peer.goodbye()
	} else if self.peerFin != none {
		v.PeerFin = &Goodbye{At: self.at(self.peerFin).Time, Acked: true}
	}
	over := self.over(peer)
	for i := range rules {
		r := &rules[i]
		if r.open == over && r.Cause != UnknownCause {
			continue
		}
		if r.Cause == UnknownCause && over && peer != nil && v.alone(self, peer, s) {
			return v
		}
		if x := r.try(self, peer, s); x != nil {
			v.fill(r, x, self, peer, true, s)
			return v
		}
		if peer == nil || r.own {
			continue
		}
		if x := r.try(peer, self, s); x != nil && (r.open || self.endedBy(peer, r, x, s)) {
			v.fill(r, x, peer, self, false, s)
			return v
		}
	}
	// The last rule matches everything.
	return v
}

// alone judges by what this end itself can tell, where nothing that is known of
// the other end explains how this one ended. The two do not fit together, so an
// event was missed, or the network lost or made a segment: it is at most likely.
func (v *Verdict) alone(self, peer *facts, s Scope) bool {
	for i := range rules {
		r := &rules[i]
		if r.open || r.Cause == UnknownCause {
			continue
		}
		if x := r.try(self, nil, s); x != nil {
			x.likely = true
			v.fill(r, x, self, peer, true, s)
			return true
		}
	}
	return false
}

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
	// The kernel's last steps may be told in another order: one of them suffices.
	step, rst := never, never
	for _, i := range x.a {
		e := a.at(i)
		if e == nil {
			continue
		}
		at, resets := e.Time, true
		switch {
		case e.Hook == event.HookSendActiveReset:
			at = told(e, last)
		case e.Hook == event.HookSetState && e.ToState == event.Close:
			at, resets = told(e, last), false
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
	if step != never && step > by {
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

// told is when an event at the other end was, for what this end's event (last) can
// be an effect of. A RST goes through loopback before tcp_send_reset tells of it,
// and before the state of a destroyed socket changes: on the same CPU.
func told(e, last *event.Event) time.Duration {
	if e.CPU == last.CPU && e.Time > last.Time && e.Time-last.Time < sameStep {
		return last.Time
	}
	return e.Time
}

// longestFlight is how long a segment may be under way between two ends of this
// machine; what comes later was sent by something else.
const longestFlight = 5 * time.Second

// waited says whether this end had become a mini-socket in FIN_WAIT2, which is no
// more and had not heard the peer's FIN.
func (f *facts) waited() bool {
	return f.timeWait != none && event.State(f.at(f.timeWait).Arg) == event.FinWait2 && f.peerFin == none && f.miniEnd != none && f.end().Err == 0
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// resetError says whether this end went to CLOSE with an error that a RST leaves.
func (f *facts) resetError() bool {
	switch unix.Errno(f.end().Err) {
	case unix.ECONNRESET, unix.EPIPE, unix.ECONNREFUSED:
		return true
	}
	return false
}

// try matches a rule. Those of an ending need to have seen the end.
func (r *Rule) try(a, b *facts, s Scope) *finding {
	if a.closed == none && !r.open && r.Cause != UnknownCause {
		return nil
	}
	return r.match(a, b, s)
}

// over says whether the connection has ended at this end. A socket that is
// gone while its mini-socket waits in FIN_WAIT2 has not: the peer may still
// send, and be reset.
func (f *facts) over(peer *facts) bool {
	if f.closed == none {
		// The end itself may have been lost, or be older than the trace.
		return f.c.Replaced || f.destroy != none || f.release != none && f.at(f.release).State == event.Close
	}
	// A segment that met no socket at all says that there is no mini-socket
	// (tcp_max_tw_buckets).
	if f.dead != none && f.at(f.dead).Segment.Flags&event.SYN == 0 {
		return true
	}
	waits := f.timeWait != none && event.State(f.at(f.timeWait).Arg) == event.FinWait2 &&
		f.miniEnd == none && f.mini == none && f.peerFin == none
	return !waits || peer != nil && (peer.closed != none || peer.fin != none)
}

// fill writes a finding into the verdict of the judged end. mine: the causing
// end is the judged one.
func (v *Verdict) fill(r *Rule, x *finding, a, b *facts, mine bool, s Scope) {
	self, other := a, b
	if !mine {
		self, other = b, a
	}
	if x.actor != nil {
		x.actor.Host = a.c.Host
	}
	v.Class, v.Cause = r.Class, r.Cause
	if x.class != "" {
		v.Class = x.class
	}
	if !mine && v.Class == TimedOut && self.rst {
		v.Class = Aborted // that end gave up; what ended this one was a RST
	}
	v.Act, v.Signal, v.Actor, v.Harmless = x.act, x.signal, x.actor, x.harmless
	switch {
	case x.by == byProcess && mine:
		v.Ender = LocalProcess
	case x.by == byProcess:
		v.Ender = PeerProcess
	case x.by == byKernel && mine:
		v.Ender = LocalKernel
	case x.by == byKernel:
		v.Ender = PeerKernel
	case x.by == byOther && mine:
		v.Ender = PeerKernel
	case x.by == byOther:
		v.Ender = LocalKernel
	case x.by == byPeer && !mine:
		// The end that nothing more was known of is this one.
		v.Ender = LocalKernel
	case x.by == byPeer:
		v.Ender = Peer
	case x.by == byPath:
		v.Ender = Path
	case x.by == byAdmin:
		v.Ender = Admin
	}
	v.halfClose(self, other)
	v.Confidence = Certain
	// Of a mini-socket that waits nothing tells but its end, inet_twsk_kill.
	waits := v.Class == Open && self.closed != none
	if x.likely || waits || self.c.Lossy || other != nil && other.c.Lossy {
		v.Confidence = Likely
	}
	if v.Unseen = a.contradiction(b, r.Cause, s); v.Unseen == "" && b != nil {
		v.Unseen = b.contradiction(a, r.Cause, s)
	}
	if v.Unseen != "" {
		v.Confidence = Likely
	}
	for _, h := range x.needs {
		if !s.has(h) {
			v.Confidence = Likely
			v.Missing = append(v.Missing, h.String())
		}
	}
	for _, h := range x.needsAll {
		if !s.all(h) {
			v.Confidence = Likely
			v.Missing = append(v.Missing, h.String())
		}
	}
	if r.Cause == UnknownCause {
		v.Confidence = NotKnown
		for _, h := range slices.Concat(s.Missing, s.Partial) {
			if h != event.HookStack && h != event.HookReceive { // which explain no end
				v.Missing = append(v.Missing, h.String())
			}
		}
	}
	if v.Class == Open {
		v.Lost, v.Bytes = Lost{}, Bytes{}
	} else {
		v.life(a, self, other, s)
	}
	if v.Cause != UnknownCause {
		v.Unanswered = v.unanswered(self, other)
	}
	if s.Brief {
		return
	}
	v.evidence(x, a, b)
	v.tell(&telling{v: v, x: x, a: a, b: b, mine: mine}, r, self, other, waits)
}

// evidence lists the events that the finding rests on.
func (v *Verdict) evidence(x *finding, a, b *facts) {
	v.Evidence = make([]Evidence, 0, len(x.a)+len(x.elseA)+len(x.b))
	for _, i := range x.a {
		v.prove(a.c, false, i)
	}
	for _, i := range x.elseA {
		v.prove(a.c, true, i)
	}
	if b != nil {
		for _, i := range x.b {
			v.prove(b.c, false, i)
		}
	}
	if len(v.Evidence) == 0 {
		v.Evidence = nil
	}
	slices.SortStableFunc(v.Evidence, func(p, q Evidence) int { return int(p.event().Time - q.event().Time) })
}

// tell says it in words. waits: a mini-socket of this end is still to be.
func (v *Verdict) tell(t *telling, r *Rule, self, other *facts, waits bool) {
	if r.sentence != nil {
		v.Sentence = r.sentence(t)
		if v.Class != Open {
			v.Sentence += heldOn(t.a) + above(self, other)
		}
	}
	if waits {
		v.Sentence += " That its mini-socket still waits for the peer's FIN is not certain: nothing but its end would be told."
	}
	if v.Unseen != "" {
		v.Sentence += " Not all of it was seen: " + v.Unseen + " was not told."
	}
	v.Advice = cmp.Or(t.x.advice, r.Advice)
	if v.Act == ActKilled && r.Advice != "" {
		v.Advice = killedAdvice(v.Signal)
	}
	if v.Probe {
		v.Sentence += " It had been opened just before, and not a byte went either way, as health checks and scans end."
	}
	if t.x.harmless || v.Probe {
		v.Advice = ""
	}
	v.addHint(self, other)
	if u := v.Unanswered; u != nil {
		v.Sentence += " " + u.tell(self, other)
		if v.Class == Graceful || u.OOM {
			v.Advice = u.advice()
		}
	}
}

// killedAdvice is what to do about a process that was killed: it could not have
// closed in another way.
func killedAdvice(signal int) string {
	switch unix.Signal(signal) {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS:
		return "It crashed: its log and its core dump (coredumpctl) say why."
	case unix.SIGPIPE:
		return "It wrote to a connection that takes nothing any more and had not asked to be spared: ignore SIGPIPE, or send with MSG_NOSIGNAL, and look at the error (EPIPE)."
	case unix.SIGKILL:
		return "Find out who sent SIGKILL: the kernel out of memory (journalctl -k), or a supervisor whose patience with SIGTERM was at its end."
	}
	return "Find out who sent " + signalName(signal) + ". A program that is stopped in this way can catch the signal, finish what it has begun, and close then."
}

// life fills in when in the connection's life it ended, and what that means for
// whoever wants to try again. a is the end where the cause lies.
func (v *Verdict) life(a, self, peer *facts, s Scope) {
	v.Age = age(self, peer)
	if !v.Cause.resends() {
		v.Idle = idle(self, peer)
	}
	v.Reset = self.incoming()
	v.Probe = v.probe(a, self, peer)
	if !s.Brief {
		v.Retry, v.RetryWhy = v.retry(self, peer, s)
	}
}

func (v *Verdict) prove(c *conn.Connection, elsewhere bool, i int) {
	if i != none {
		v.Evidence = append(v.Evidence, Evidence{Conn: c, Elsewhere: elsewhere, Index: i})
	}
}

func (p Evidence) event() *event.Event { return p.Event() }

// Event is the event that the evidence points at.
func (p Evidence) Event() *event.Event {
	if p.Elsewhere {
		return &p.Conn.Elsewhere[p.Index]
	}
	return &p.Conn.Events[p.Index]
}

// halfClose measures how long one direction outlived the other, when the
// first FIN was a shutdown of the sending side alone.
func (v *Verdict) halfClose(self, other *facts) {
	first, second := v.LocalFin, v.PeerFin
	if first == nil || second == nil {
		return
	}
	shut := self
	if second.At < first.At {
		first, second, shut = second, first, other
	}
	if first.Act != ActShutWr || shut != nil && shut.cut() != none {
		return
	}
	d := second.At - first.At
	v.HalfClose = &d
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

func since(f, other *facts) time.Duration {
	start := f.c.First
	if other != nil && other.c.First < start {
		start = other.c.First
	}
	return start
}
