package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

const (
	// together is how near to each other a process must end the legs of a tie.
	together = 5 * time.Millisecond
	// after is how long after a cause its effect may be: a proxy may pass on first what
	// it holds.
	after = 250 * time.Millisecond
)

// Prompt is what ended a leg from outside.
type Prompt string

const (
	NotPrompted    Prompt = "" // its process began, or it has not ended
	PromptFIN      Prompt = "fin"
	PromptReset    Prompt = "reset"      // of the peer
	PromptPath     Prompt = "path-reset" // one that the peer's stack did not send
	PromptTimeout  Prompt = "timeout"
	PromptOperator Prompt = "operator" // somebody on this machine destroyed the socket
	PromptOther    Prompt = "other"
)

// Leg is one connection of a proxy.
type Leg struct {
	Conn    *conn.Connection
	Down    bool          // the process accepted it
	Prompt  time.Duration // when it was ended from outside; 0: it was not
	By      Prompt        // what that was
	Act     time.Duration // when the process let go of it; 0: not seen
	TID     uint32        // the thread that did; 0: not known
	Began   time.Duration // when it ended, for anybody
	PID     uint32
	Comm    string
	Verdict verdict.Verdict

	opened  time.Duration // 0: older than the trace
	in, out uint64
	counted bool // in and out are known
	died    bool // the process did not let go of it, it exited
	killed  bool
	begun   uint32 // the thread that opened or accepted it; 0: not known
	lossy   bool
}

// Local and Remote are the leg's addresses.
func (l *Leg) Local() netip.AddrPort  { return l.Conn.Local }
func (l *Leg) Remote() netip.AddrPort { return l.Conn.Remote }

// Tie says that one leg was ended because of another.
type Tie struct {
	Cause, Effect *Leg
	Gap           time.Duration // from what ended the cause to the act on the effect
	Certain       bool
	Alone         bool // there was no other leg that could be meant
	Bytes         bool // as many bytes went out as had come in
	Adjacent      bool // the same thread ended one right after the other
}

// Tier ties legs.
type Tier struct {
	legs map[uint32][]*Leg
	// witnesses cannot be tied, but could be what a leg had to do with: by process, 0
	// for those that may be anybody's.
	witnesses map[uint32][]*Leg
	n         int
	dropped   int
	partial   bool
}

// maxLegs bounds what is kept.
const maxLegs = 1 << 17

// New makes a Tier.
func New() *Tier { return &Tier{legs: map[uint32][]*Leg{}, witnesses: map[uint32][]*Leg{}} }

// Partial says that not all connections of a process are told: then nothing is certain.
func (t *Tier) Partial() { t.partial = true }

// Dropped counts connections for which there was no room. Where there are any nothing is
// certain.
func (t *Tier) Dropped() int { return t.dropped }

// End takes a judged end. It keeps the connection without its events.
//
// One that is older than the trace, leads to itself or has no known owner is not tied. It
// is remembered all the same: it may be what a leg's bytes came from or went to.
func (t *Tier) End(c *conn.Connection, v *verdict.Verdict) {
	if c == nil || v.Class == verdict.Refused {
		return
	}
	if t.n >= maxLegs {
		t.dropped++
		return
	}
	t.n++
	who := c.Owner
	if who == nil || c.Open == conn.OpenUnknown || c.Remote.Addr() == c.Local.Addr() && c.Remote.Port() == c.Local.Port() {
		pid := uint32(0)
		if who != nil {
			pid = who.PID
		}
		t.witnesses[pid] = append(t.witnesses[pid], witness(c, v))
		return
	}
	l := leg(c, v, who)
	kept := *c
	kept.Events, kept.Elsewhere, kept.Stacks, kept.Peer, kept.Hands = nil, nil, nil, nil, nil
	l.Conn = &kept
	l.Verdict.Evidence = nil
	t.legs[who.PID] = append(t.legs[who.PID], l)
}

// witness is what is kept of a connection that is not tied: when it lived. How many bytes
// went through it is not known where some did before the trace.
func witness(c *conn.Connection, v *verdict.Verdict) *Leg {
	return &Leg{Verdict: verdict.Verdict{Class: v.Class}, opened: c.Opened, Began: max(c.Ended, c.Last)}
}

func leg(c *conn.Connection, v *verdict.Verdict, who *conn.Process) *Leg {
	l := &Leg{Down: c.Open == conn.OpenPassive, PID: who.PID, Comm: who.Comm, Verdict: *v, opened: c.Opened, lossy: c.Lossy || v.Confidence == verdict.NotKnown}
	if b := v.Bytes; b.Received != nil && b.Sent != nil {
		l.in, l.out, l.counted = *b.Received, *b.Sent, true
	}
	if v.Class == verdict.Open {
		return l
	}
	l.begun = opener(c, who.PID)
	l.Act, l.TID, l.died = letGo(c, who.PID)
	l.killed = v.Act == verdict.ActKilled || v.LocalFin != nil && v.LocalFin.Act == verdict.ActKilled
	if f := v.PeerFin; f != nil && f.At != 0 {
		l.Prompt, l.By = f.At, PromptFIN
	}
	if r := v.Reset; r != nil && r.At != 0 && (l.Prompt == 0 || r.At < l.Prompt) {
		l.Prompt, l.By = r.At, PromptReset
		if v.Ender == verdict.Path {
			l.By = PromptPath
		}
	}
	// A RST is not told as one on each rung: the end that no process made is.
	if c.Ended != 0 && l.Prompt == 0 && (v.Class == verdict.TimedOut || l.Act == 0 || c.Ended < l.Act) {
		l.Prompt, l.By = c.Ended, unseen(v)
	}
	// Of what destroyed the socket the peer may have heard and answered.
	if v.Ender == verdict.Admin && c.Ended != 0 && c.Ended <= l.Prompt {
		l.Prompt, l.By = c.Ended, PromptOperator
	}
	if l.Prompt != 0 && l.Act != 0 && l.Act <= l.Prompt {
		l.Prompt, l.By = 0, NotPrompted // it was the process that began
	}
	l.Began = l.Act
	if l.Prompt != 0 {
		l.Began = l.Prompt
	}
	return l
}

// unseen is what ended a socket of which neither a FIN nor a RST was told.
func unseen(v *verdict.Verdict) Prompt {
	switch {
	case v.Class == verdict.TimedOut:
		return PromptTimeout
	case v.Ender == verdict.Admin:
		return PromptOperator
	case v.Class == verdict.Aborted && v.Ender == verdict.Path:
		return PromptPath
	case v.Class == verdict.Aborted && (v.Ender == verdict.Peer || v.Ender == verdict.PeerProcess || v.Ender == verdict.PeerKernel):
		return PromptReset
	}
	return PromptOther
}

// opener is the thread of a process that opened or accepted a socket; 0: not seen.
func opener(c *conn.Connection, pid uint32) uint32 {
	for i := range c.Events {
		e := &c.Events[i]
		if e.PID == pid && (e.Hook == event.HookAccept || e.Hook == event.HookConnect || e.Hook == event.HookSetState && e.ToState == event.SynSent) {
			return e.TID
		}
	}
	return 0
}

// letGo finds when a process let go of a socket, and which thread did. The first act
// counts: a shutdown comes before its close.
func letGo(c *conn.Connection, pid uint32) (at time.Duration, tid uint32, died bool) {
	for i := range c.Events {
		e := &c.Events[i]
		if e.PID != pid {
			continue
		}
		switch e.Hook {
		case event.HookClose, event.HookCloseEntry, event.HookFileClose, event.HookShutdown, event.HookDisconnect:
		case event.HookSetState:
			if e.ToState != event.FinWait1 && e.ToState != event.LastAck && (e.ToState != event.Close || !e.ByProcess()) {
				continue
			}
		case event.HookDestroy:
			// Of a socket that has ended and that its process still held.
		default:
			continue
		}
		if e.Hook == event.HookFileClose && e.Refs > 1 {
			continue
		}
		return e.Time, e.TID, e.Exiting() || e.Call == event.CallExit
	}
	return 0, 0, false
}

// live says whether two legs lived at one time.
func live(a, b *Leg) bool { return a.opened <= b.end() && b.opened <= a.end() }

// end is when a leg was over; a leg that is open has no end.
func (l *Leg) end() time.Duration {
	switch {
	case l.Verdict.Class == verdict.Open:
		return 1<<63 - 1
	case l.Act > l.Began:
		return l.Act
	}
	return l.Began
}

// passes says whether one leg passed on what the other received, exactly.
func passes(a, b *Leg) bool {
	return a.counted && b.counted && a.in == b.out && b.in == a.out && a.in+a.out > 0
}

// could says whether one leg can be the cause of the other's end.
func could(cause, effect *Leg) bool {
	gap := effect.Act - cause.Prompt
	return cause.Down != effect.Down && cause.Prompt != 0 && effect.Prompt == 0 && effect.Act != 0 && !effect.killed && !cause.killed &&
		gap >= 0 && gap <= after && live(cause, effect)
}

// Ties ties what can be tied, in the order of the effects.
func (t *Tier) Ties() []Tie {
	var all []Tie
	for pid, legs := range t.legs {
		around := slices.Concat(legs, t.witnesses[pid], t.witnesses[0])
		of := candidates(legs)
		next := beside(legs, of)
		for _, e := range legs {
			if e.Prompt != 0 {
				continue
			}
			if x, ok := choose(e, of, next, around); ok && !x.Cause.lossy && !e.lossy {
				if t.partial || t.dropped > 0 {
					// That there was no other is not known.
					x.Alone, x.Certain = false, false
					if !x.Bytes && !x.Adjacent {
						continue
					}
				}
				all = append(all, x)
			}
		}
	}
	slices.SortFunc(all, func(a, b Tie) int {
		return cmp.Or(cmp.Compare(a.Effect.Act, b.Effect.Act), cmp.Compare(a.Effect.PID, b.Effect.PID))
	})
	return all
}

// candidates finds, for each leg of a process, those that it can be tied to.
func candidates(legs []*Leg) map[*Leg][]*Leg {
	slices.SortFunc(legs, func(a, b *Leg) int { return cmp.Compare(a.Act, b.Act) })
	causes := slices.Clone(legs)
	causes = slices.DeleteFunc(causes, func(l *Leg) bool { return l.Prompt == 0 })
	slices.SortFunc(causes, func(a, b *Leg) int { return cmp.Compare(a.Prompt, b.Prompt) })
	of := map[*Leg][]*Leg{}
	for _, e := range legs {
		if e.Act == 0 || e.Prompt != 0 {
			continue
		}
		from, _ := slices.BinarySearchFunc(causes, e.Act-after, func(l *Leg, t time.Duration) int { return cmp.Compare(l.Prompt, t) })
		for _, c := range causes[from:] {
			if c.Prompt > e.Act {
				break
			}
			if could(c, e) {
				of[e], of[c] = append(of[e], c), append(of[c], e)
			}
		}
	}
	return of
}

// enough is how many legs must have been opened and ended by the same thread for that to
// be how a process with several threads works.
const enough = 8

// disciplined says whether what a thread of a process does one after the other belongs
// together: an event loop opens and ends its connections itself. Goroutines go from thread
// to thread, and what is next to each other there says nothing.
func disciplined(legs []*Leg) bool {
	same, one := 0, true
	for _, l := range legs {
		if l.TID != 0 && l.TID != l.PID || l.begun != 0 && l.begun != l.PID {
			one = false
		}
		switch {
		case l.TID == 0 || l.begun == 0:
		case l.TID != l.begun:
			return false
		default:
			same++
		}
	}
	return same >= enough || one && same > 0
}

// beside pairs the legs that a thread ended one right after the other. What it ended
// without a pause must be nothing but such pairs, causes and effects in turn: a process
// that ends all causes first and then all effects says nothing by its order.
func beside(legs []*Leg, of map[*Leg][]*Leg) map[*Leg]*Leg {
	next := map[*Leg]*Leg{}
	if !disciplined(legs) {
		return next
	}
	byThread := map[uint32][]*Leg{}
	for _, l := range legs {
		if l.Act != 0 && l.TID != 0 {
			byThread[l.TID] = append(byThread[l.TID], l)
		}
	}
	for _, acts := range byThread {
		for from := 0; from < len(acts); {
			to := from + 1
			for to < len(acts) && acts[to].Act-acts[to-1].Act <= together {
				to++
			}
			if run := acts[from:to]; inTurn(run, of) {
				for i := 0; i < len(run); i += 2 {
					next[run[i]], next[run[i+1]] = run[i+1], run[i]
				}
			}
			from = to
		}
	}
	return next
}

// inTurn says whether a run of acts is made of pairs in one order.
func inTurn(run []*Leg, of map[*Leg][]*Leg) bool {
	if len(run)%2 != 0 {
		return false
	}
	for i := 0; i < len(run); i += 2 {
		if !slices.Contains(of[run[i]], run[i+1]) || (run[i].Prompt != 0) != (run[0].Prompt != 0) {
			return false
		}
	}
	return true
}

// choose finds the one cause of an effect; around are all connections that the process
// may have had.
func choose(e *Leg, of map[*Leg][]*Leg, next map[*Leg]*Leg, around []*Leg) (Tie, bool) {
	candidates := of[e]
	if len(candidates) == 0 {
		return Tie{}, false
	}
	make := func(c *Leg) Tie {
		return Tie{Cause: c, Effect: e, Gap: e.Act - c.Prompt, Bytes: passes(c, e), Adjacent: next[e] == c}
	}
	// Nobody else is there.
	if len(candidates) == 1 && len(of[candidates[0]]) == 1 {
		x := make(candidates[0])
		if x.Alone = alone(x.Cause, e, around); x.Alone {
			x.Certain = true
			return x, true
		}
	}
	// As many bytes, and only these two.
	var equal []*Leg
	for _, c := range candidates {
		if passes(c, e) {
			equal = append(equal, c)
		}
	}
	if len(equal) == 1 {
		c, n := equal[0], 0
		for _, l := range of[c] {
			if passes(c, l) {
				n++
			}
		}
		if x := make(c); n == 1 && !e.died && (c.Act-e.Act).Abs() <= together && unmatched(c, e, around) {
			x.Certain = true
			return x, true
		}
	}
	// One right after the other, where all others that could be meant have one, too.
	c := next[e]
	if c == nil || e.died || c.died {
		return Tie{}, false
	}
	for _, l := range slices.Concat(candidates, of[c]) {
		if next[l] == nil {
			return Tie{}, false
		}
	}
	if len(equal) > 0 && !passes(c, e) {
		return Tie{}, false // the bytes speak for another
	}
	return make(c), true
}

// alone says whether a process had no other leg, of either direction, while two lived
// that it could have passed bytes on to or had from.
func alone(a, b *Leg, legs []*Leg) bool {
	for _, l := range legs {
		if l != a && l != b && (live(l, a) || live(l, b)) {
			return false
		}
	}
	return true
}

// unmatched says whether no other leg of their time has the same numbers of bytes.
func unmatched(a, b *Leg, legs []*Leg) bool {
	for _, l := range legs {
		if l == a || l == b || !live(l, a) && !live(l, b) {
			continue
		}
		if !l.counted || l.Down != a.Down && passes(l, a) || l.Down != b.Down && passes(l, b) {
			return false
		}
	}
	return true
}
