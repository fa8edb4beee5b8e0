package verdict

import (
	"cmp"
	"slices"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

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
	for _, r := range rules {
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

// try matches a rule. Those of an ending need to have seen the end.
func (r *Rule) try(a, b *facts, s Scope) *finding {
	if a.closed == none && !r.open && r.Cause != UnknownCause {
		return nil
	}
	return r.find(a, b, s)
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

// alone judges by what this end itself can tell, where nothing that is known of
// the other end explains how this one ended. The two do not fit together, so an
// event was missed, or the network lost or made a segment: it is at most likely.
func (v *Verdict) alone(self, peer *facts, s Scope) bool {
	for _, r := range rules {
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

// fill writes a finding into the verdict of the judged end. mine: the causing
// end is the judged one.
func (v *Verdict) fill(r *Rule, x *finding, a, b *facts, mine bool, s Scope) {
	self, other := a, b
	if !mine {
		self, other = b, a
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
	v.tell(&prose{v: v, x: x, a: a, b: b, mine: mine}, r, self, other, waits)
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
	slices.SortStableFunc(v.Evidence, func(p, q Evidence) int { return int(p.Event().Time - q.Event().Time) })
}

func (v *Verdict) prove(c *conn.Connection, elsewhere bool, i int) {
	if i != none {
		v.Evidence = append(v.Evidence, Evidence{Conn: c, Elsewhere: elsewhere, Index: i})
	}
}

// tell says it in words. waits: a mini-socket of this end is still to be.
func (v *Verdict) tell(t *prose, r *Rule, self, other *facts, waits bool) {
	if r.describe != nil {
		v.Sentence = r.describe(t)
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
	v.Advice = cmp.Or(t.x.advice, r.Do)
	if v.Act == ActKilled && r.Do != "" {
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
