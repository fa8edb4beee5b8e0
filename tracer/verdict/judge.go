package verdict

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Judge names the one cause of a connection's ending, from its own events and
// those of its peer, where that is local.
func Judge(c *conn.Connection, s Scope) Verdict { return new(Judger).Judge(c, s) }

// JudgeAll joins the events of a trace that is over and judges every end, in the
// order in which the ends were first seen.
func JudgeAll(events []event.Event, s Scope) iter.Seq2[*conn.Connection, Verdict] {
	return func(yield func(*conn.Connection, Verdict) bool) {
		joiner := conn.New(conn.Options{Hold: true})
		for _, e := range events {
			joiner.Add(e)
		}
		var judger Judger
		for _, c := range joiner.Flush() {
			if !yield(c, judger.Judge(c, s)) {
				return
			}
		}
	}
}

// A Judger judges one connection after another and uses its memory again. The zero
// value is ready; it is not safe for concurrent use.
type Judger struct {
	self, peer facts
	trial      trial
}

// Judge is like the function Judge.
func (j *Judger) Judge(c *conn.Connection, s Scope) Verdict {
	t := &j.trial
	*t = trial{scope: s, self: j.self.read(c)}
	if c.Peer != nil {
		t.peer = j.peer.read(c.Peer)
		t.self.peer, t.peer.peer = t.peer, t.self
	}
	t.find()

	v := Verdict{
		Class: t.class(), Cause: t.rule.Cause, Ender: t.ender(),
		Act: t.x.act, Signal: t.x.signal, Actor: t.actor(), Harmless: t.x.harmless,
		LocalFin: t.self.goodbye, PeerFin: t.peerFin(), TimeWait: t.self.keepsTimeWait(),
	}
	v.HalfClose = t.halfClose(v.LocalFin, v.PeerFin)
	v.Unseen = t.unseen()
	v.Confidence, v.Missing = t.confidence(v.Class, v.Unseen)
	if v.Class != Open {
		v.Lost, v.Bytes = t.self.counted()
		v.Age = age(t.self, t.peer)
		if !t.rule.resends {
			v.Idle = idle(t.self, t.peer, v.Age)
		}
		v.Reset = t.self.incoming()
		v.Probe = t.probe(v.Age)
	}
	if t.rule != &unknownCause {
		v.Unanswered = t.unanswered(v.Class)
	}
	if s.Brief {
		return v
	}
	v.AppSaw = t.self.appSaw(s)
	if v.Class != Open {
		v.Retry, v.RetryWhy = t.retry(v.Class)
	}
	v.Evidence = t.evidence()
	v.Sentence, v.Advice = t.words(&v)
	return v
}

// trial is a connection that is being judged: its ends, and once find has run, the rule
// that applies and what it found.
type trial struct {
	scope      Scope
	self, peer *facts // the judged end; the other, nil: it lives on another machine

	rule *Rule
	x    *finding
	a, b *facts // the end where the cause lies; the other, nil: it lives on another machine
}

// find tries the rules in their order, each at the judged end first and then at its
// peer.
func (t *trial) find() {
	over := t.self.over(t.peer)
	for _, r := range rules {
		if r.open == over {
			continue
		}
		if x := r.try(t.self, t.peer, t.scope); x != nil {
			t.rule, t.x, t.a, t.b = r, x, t.self, t.peer
			return
		}
		if t.peer == nil || r.own {
			continue
		}
		if x := r.try(t.peer, t.self, t.scope); x != nil && (r.open || t.self.endedBy(t.peer, r, x, t.scope)) {
			t.rule, t.x, t.a, t.b = r, x, t.peer, t.self
			return
		}
	}
	t.a, t.b = t.self, t.peer
	if over && t.peer != nil && t.findAlone() {
		return
	}
	t.rule, t.x = &unknownCause, &finding{a: []int{t.self.closed}}
}

// findAlone judges by what this end itself can tell, where nothing that is known of
// the other end explains how this one ended. The two do not fit together, so an
// event was missed, or the network lost or made a segment: it is at most likely.
func (t *trial) findAlone() bool {
	for _, r := range rules {
		if r.open {
			continue
		}
		if x := r.try(t.self, nil, t.scope); x != nil {
			x.likely = true
			t.rule, t.x = r, x
			return true
		}
	}
	return false
}

// try matches a rule. Those of an ending need to have seen the end.
func (r *Rule) try(a, b *facts, s Scope) *finding {
	if a.closed == none && !r.open {
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

// here says whether the cause lies at the judged end.
func (t *trial) here() bool { return t.a == t.self }

func (t *trial) class() Class {
	class := cmp.Or(t.x.class, t.rule.Class)
	if !t.here() && class == TimedOut && t.self.rst {
		return Aborted // that end gave up; what ended this one was a RST
	}
	return class
}

// ender says whose doing it was, seen from the judged end.
func (t *trial) ender() Ender {
	if t.here() {
		return enders[t.x.by].here
	}
	return enders[t.x.by].there
}

// enders are who ended it, seen from the end where the cause lies and from the other.
var enders = [...]struct{ here, there Ender }{
	byNobody:  {NoEnder, NoEnder},
	byProcess: {LocalProcess, PeerProcess},
	byKernel:  {LocalKernel, PeerKernel},
	byOther:   {PeerKernel, LocalKernel},
	byPeer:    {Peer, LocalKernel}, // nothing more is known of the peer; from there, that end is this one
	byPath:    {Path, Path},
	byAdmin:   {Admin, Admin},
}

// peerFin is how the other direction was ended.
func (t *trial) peerFin() *Goodbye {
	switch {
	case t.peer != nil:
		return t.peer.goodbye
	case t.self.peerFin != none:
		return &Goodbye{At: t.self.at(t.self.peerFin).Time, Acked: true}
	}
	return nil
}

// waits says whether all that is left of this end is a mini-socket that waits for the
// peer's FIN. Nothing tells of it but its end, inet_twsk_kill.
func (t *trial) waits(class Class) bool { return class == Open && t.self.closed != none }

// unseen is what must have been and was not seen; see consistent.go.
func (t *trial) unseen() string {
	missing := t.a.contradiction(t.b, t.rule.Cause, t.scope)
	if missing == "" && t.b != nil {
		missing = t.b.contradiction(t.a, t.rule.Cause, t.scope)
	}
	return missing
}

// confidence is how sure that is, and which missing hooks make it less so.
func (t *trial) confidence(class Class, unseen string) (sure Confidence, missing []string) {
	if t.rule == &unknownCause {
		for _, h := range slices.Concat(t.scope.Missing, t.scope.Partial) {
			if h != event.HookStack && h != event.HookReceive { // which explain no end
				missing = append(missing, h.String())
			}
		}
		return NotKnown, missing
	}
	sure = Certain
	if t.x.likely || unseen != "" || t.waits(class) || t.self.c.Lossy || t.peer != nil && t.peer.c.Lossy {
		sure = Likely
	}
	for _, h := range t.x.needs {
		if !t.scope.has(h) {
			missing = append(missing, h.String())
		}
	}
	for _, h := range t.x.needsAll {
		if !t.scope.all(h) {
			missing = append(missing, h.String())
		}
	}
	if missing != nil {
		sure = Likely
	}
	return sure, missing
}

// evidence lists the events that the finding rests on, in time order.
func (t *trial) evidence() []Evidence {
	n := len(t.x.a) + len(t.x.elseA) + len(t.x.b)
	if n == 0 {
		return nil
	}
	all := make([]Evidence, 0, n)
	prove := func(f *facts, elsewhere bool, events []int) {
		for _, i := range events {
			if i != none {
				all = append(all, Evidence{Conn: f.c, Elsewhere: elsewhere, Index: i})
			}
		}
	}
	prove(t.a, false, t.x.a)
	prove(t.a, true, t.x.elseA)
	if t.b != nil {
		prove(t.b, false, t.x.b)
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(p, q Evidence) int { return cmp.Compare(p.Event().Time, q.Event().Time) })
	return all
}

// probe says whether whoever opened the connection aborted it at once, before
// any payload went either way, as health checks and scans do.
func (t *trial) probe(age *time.Duration) bool {
	if t.rule.probe == nil || !t.rule.probe(t) || age == nil || *age > probeAge {
		return false
	}
	for _, f := range []*facts{t.self, t.peer} {
		if f != nil && (!zero(f.bytes.Sent) || !zero(f.bytes.Received)) {
			return false
		}
	}
	return nothingLost(t.self, t.peer)
}

// probeAge is how old a connection may be that was only opened to see whether
// that works.
const probeAge = time.Second

// words are the sentence and the advice of a verdict that is complete but for them.
func (t *trial) words(v *Verdict) (sentence, advice string) {
	sentence = t.rule.describe(t)
	if v.Class != Open {
		sentence += heldOn(t.a) + above(t.self, t.peer)
	}
	if t.waits(v.Class) {
		sentence += " Whether its mini-socket still waits for the peer's FIN is not certain: the kernel reports only the end of one."
	}
	if v.Unseen != "" {
		sentence += " Events are missing: " + v.Unseen + " was not reported."
	}
	if v.Probe {
		sentence += " It had only just been opened and carried no data, as is usual for health checks and scans."
	}
	switch {
	case v.Harmless || v.Probe:
	case v.Act == ActKilled && t.rule.Do != "":
		advice = killedAdvice(v.Signal)
	default:
		advice = cmp.Or(t.x.advice, t.rule.Do)
	}
	sentence, advice = t.hint(v, sentence, advice)
	if u := v.Unanswered; u != nil {
		sentence += " " + u.describe(t.self, t.peer)
		if v.Class == Graceful || u.OOM {
			advice = u.advice()
		}
	}
	return sentence, advice
}
