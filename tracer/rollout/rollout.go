package rollout

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Outcome is how a connection fared in the rollout.
type Outcome string

const (
	Drained Outcome = "drained" // it ended with nothing in flight
	Cut     Outcome = "cut"
	Left    Outcome = "left"   // the client ended it while something was in flight
	Failed  Outcome = "failed" // the network, a timeout, or an operator ended it
	Unsure  Outcome = "unsure"
	Open    Outcome = "open" // it had not ended when the trace did
)

// Why says why a connection counts as cut; see the package's comment.
type Why string

const (
	NotCut      Why = ""
	Unanswered  Why = "unanswered"
	Unread      Why = "unread"
	LateRequest Why = "late-request"
	Unsent      Why = "unsent"
	NotAccepted Why = "not-accepted"
	Refused     Why = "refused"
)

// Busy is how soon after the last payload a process must have died for the order of
// its receiving and sending not to be known: the two are told in jiffies, of up to
// 10 ms each.
const Busy = 40 * time.Millisecond

// Trigger is what began the rollout.
type Trigger struct {
	At     time.Duration // CLOCK_MONOTONIC
	Kind   TriggerKind
	Signal int    // with TriggerSignal
	PID    uint32 // the process that got the signal, or the command
}

// TriggerKind is the kind of a Trigger.
type TriggerKind string

const (
	TriggerSignal  TriggerKind = "signal"  // a process of the service was told to end
	TriggerCommand TriggerKind = "command" // a command that does the rollout was started
	TriggerTrace   TriggerKind = "trace"   // nothing else is known: all that was traced
)

// Options say what the rollout is of.
type Options struct {
	// Mine says whether an end is one of the service's: by its processes.
	Mine func(*conn.Connection) bool
	// Max is how many connections are kept; 0: DefaultMax. What is beyond is counted in
	// Summary.Dropped, and makes it unsure.
	Max int
}

// DefaultMax bounds the memory to some hundred MB.
const DefaultMax = 1 << 20

// socket is an end's identity, in several runs.
type socket struct {
	id  string
	gen uint64
}

func socketOf(c *conn.Connection) socket { return socket{c.ID, c.Gen} }

// row is what is kept of a connection.
type row struct {
	key     socket // of the end that came first
	service netip.AddrPort
	netns   uint32
	mine    bool // one of the service's processes had the end; else: the port decides

	opened, ended time.Duration // 0: older than the trace; 0: not ended
	Group
	request, response uint64 // bytes lost
	lossUnknown       bool
}

// Counter counts.
type Counter struct {
	o       Options
	rows    map[socket]*row // by the end that came first
	order   []*row
	dropped uint64
	pids    map[uint32]bool // of the service, and their ancestors
}

// New makes a Counter.
func New(o Options) *Counter {
	if o.Max == 0 {
		o.Max = DefaultMax
	}
	return &Counter{o: o, rows: map[socket]*row{}, pids: map[uint32]bool{}}
}

// Forget drops what had ended before a time: no rollout that begins later counts it.
func (r *Counter) Forget(before time.Duration) {
	r.order = slices.DeleteFunc(r.order, func(x *row) bool {
		if x.ended != 0 && x.ended < before {
			delete(r.rows, x.key)
			return true
		}
		return false
	})
	for id, x := range r.rows {
		if x.ended != 0 && x.ended < before {
			delete(r.rows, id)
		}
	}
}

// Rows is how many connections are kept.
func (r *Counter) Rows() int { return len(r.order) }

// Knows says whether a process is the service's, or an ancestor of one that is, as far
// as its ended connections told.
func (r *Counter) Knows(pid uint32) bool { return r.pids[pid] }

// End counts a judged end.
func (r *Counter) End(c *conn.Connection, v *verdict.Verdict) {
	if c == nil {
		return
	}
	if c.Peer != nil {
		peer := socketOf(c.Peer)
		if x := r.rows[peer]; x != nil && peer != socketOf(c) {
			// The other end of one that is counted: what it knows of losses.
			delete(r.rows, peer)
			r.second(x, c, v)
			return
		}
	}
	x := r.look(c, v)
	if x == nil {
		return
	}
	if len(r.order) >= r.o.Max {
		r.dropped++
		return
	}
	r.order = append(r.order, x)
	r.rows[x.key] = x
}

// look makes a row of the first end that is told of a connection; nil: it is no
// business of the service's.
func (r *Counter) look(c *conn.Connection, v *verdict.Verdict) *row {
	x := &row{key: socketOf(c), netns: c.NetNS, opened: c.Opened, ended: began(c, v)}
	serves := c.Service() == conn.ThisSide
	switch {
	case serves || c.Service() == conn.NoSide && r.o.Mine(c):
		x.service = c.Local
		x.mine = r.o.Mine(c)
		if !x.mine && c.Owner != nil {
			return nil // another service's
		}
		x.Group = classify(c, v)
		x.lose(v.Lost, false)
		r.learn(c)
	case c.Service() == conn.OtherSide:
		x.service = c.Remote
		if c.Peer != nil && r.o.Mine(c.Peer) {
			// The service's own end is still to come, or was seen and had no story.
			x.mine = true
			x.Group = mirrored(c, v)
		} else if v.Class == verdict.Refused && c.Peer == nil {
			x.Group = classify(c, v)
		} else {
			return nil
		}
		x.lose(v.Lost, true)
	default:
		return nil
	}
	return x
}

// second adds what the other end of a connection knows.
func (r *Counter) second(x *row, c *conn.Connection, v *verdict.Verdict) {
	serves := c.Service() == conn.ThisSide
	if serves {
		// The service's own end says more of what it did.
		x.Group = classify(c, v)
		x.mine = x.mine || r.o.Mine(c)
		r.learn(c)
	}
	if at := began(c, v); at != 0 && (x.ended == 0 || at < x.ended) {
		x.ended = at
	}
	if x.opened == 0 {
		x.opened = c.Opened
	}
	x.lose(v.Lost, !serves)
}

// Meet learns from a connection that has not ended who the service's processes are.
func (r *Counter) Meet(c *conn.Connection) { r.learn(c) }

func (r *Counter) learn(c *conn.Connection) {
	if !r.o.Mine(c) || len(r.pids) > 1<<16 {
		return
	}
	add := func(p *conn.Process) {
		if p == nil {
			return
		}
		r.pids[p.PID] = true
		for _, a := range p.Ancestors {
			if a > 1 {
				r.pids[a] = true
			}
		}
	}
	add(c.Owner)
	for i := range c.Hands {
		add(&c.Hands[i])
	}
}

// lose adds lost bytes; client: they are the client's end's.
func (x *row) lose(l verdict.Lost, client bool) {
	sum := func(to *uint64, ns ...*uint64) {
		for _, n := range ns {
			if n == nil {
				x.lossUnknown = true
				continue
			}
			*to += *n
		}
	}
	if client {
		sum(&x.request, l.Unsent, l.Unacked)
		sum(&x.response, l.Unread)
		return
	}
	sum(&x.response, l.Unsent, l.Unacked)
	sum(&x.request, l.Unread)
}

// began is when an end's ending began: the first FIN of either side, or the reset, or
// the end of the socket; 0: it has not ended.
func began(c *conn.Connection, v *verdict.Verdict) time.Duration {
	if v.Class == verdict.Open {
		return 0
	}
	at := c.Ended
	if at == 0 {
		at = c.Last
	}
	for _, g := range []*verdict.Goodbye{v.LocalFin, v.PeerFin} {
		if g != nil && g.At != 0 && g.At < at {
			at = g.At
		}
	}
	if v.Reset != nil && v.Reset.At != 0 && v.Reset.At < at {
		at = v.Reset.At
	}
	return at
}

// Group is what endings that are counted together have in common.
type Group struct {
	Outcome    Outcome
	Why        Why
	Cause      verdict.Cause
	Act        verdict.Act // of the service's process, where that ended it
	Signal     int         // that killed it
	PID        uint32      // of who ended it; 0: nobody of the service, or not known
	Comm       string
	Retry      verdict.Retry
	Confidence verdict.Confidence
}

// local says whether this end's process or kernel ended the connection.
func local(e verdict.Ender) bool { return e == verdict.LocalProcess || e == verdict.LocalKernel }

// far says whether the other end did.
func far(e verdict.Ender) bool {
	return e == verdict.PeerProcess || e == verdict.PeerKernel || e == verdict.Peer
}

// classify judges from the service's end, or from a client's that was refused.
func classify(c *conn.Connection, v *verdict.Verdict) Group {
	return group(c, v, local(v.Ender), far(v.Ender))
}

// mirrored judges from the client's end.
func mirrored(c *conn.Connection, v *verdict.Verdict) Group {
	return group(c, v, far(v.Ender), local(v.Ender))
}

func some(ns ...*uint64) bool {
	return slices.ContainsFunc(ns, func(n *uint64) bool { return n != nil && *n > 0 })
}

// group finds the outcome; byService and byClient say whose doing it was.
func group(c *conn.Connection, v *verdict.Verdict, byService, byClient bool) Group {
	g := Group{Cause: v.Cause, Confidence: v.Confidence, Retry: v.Retry}
	if byService {
		g.Act, g.Signal = v.Act, v.Signal
		if v.Actor != nil {
			g.PID, g.Comm = v.Actor.PID, v.Actor.Comm
		}
	}
	serves := c.Service() != conn.OtherSide
	cut := func(w Why) Group { g.Outcome, g.Why = Cut, w; return g }
	is := func(o Outcome) Group {
		if g.Outcome = o; o == Drained || o == Open {
			g.Retry = verdict.RetryUnknown // there is nothing to send again
		}
		return g
	}
	switch {
	case v.Class == verdict.Open && v.Cause != verdict.NeverAccepted:
		return is(Open)
	case v.Class == verdict.Unknown:
		return is(Unsure)
	}
	switch v.Cause {
	case verdict.PortClosed, verdict.AcceptOverflow:
		g.Retry = verdict.RetrySafe
		return cut(Refused)
	case verdict.ListenerClosed:
		g.Retry = verdict.RetrySafe
		return cut(NotAccepted)
	case verdict.NeverAccepted:
		return is(Left) // the client left the queue
	case verdict.ConnectCancelled, verdict.HandshakeReset:
		return is(Left)
	case verdict.Unreachable, verdict.ConnectTimeout, verdict.SendFailed, verdict.SockDestroy, verdict.PathReset, verdict.NamespaceRemoved, verdict.RepairClose, verdict.PortReuse:
		return is(Failed)
	case verdict.KeepaliveTimeout, verdict.RetransmitTimeout, verdict.UserTimeout, verdict.ZeroWindowTimeout, verdict.OrphanTimeout:
		if v.Unanswered == nil {
			return is(Failed)
		}
	}
	if u := v.Unanswered; u != nil {
		g.Act, g.Signal = u.Act, u.Signal
		if u.Actor != nil {
			g.PID, g.Comm = u.Actor.PID, u.Actor.Comm
		}
		if v.Class == verdict.Graceful {
			g.Retry = verdict.RetryUnsafe // all of it had been read
		}
		return cut(Unanswered)
	}
	if c.Lossy && v.Confidence != verdict.Certain {
		return is(Unsure)
	}
	switch v.Class {
	case verdict.TimedOut:
		if v.Cause == verdict.FinWait2Timeout {
			return is(Drained) // all was sent and acknowledged; only the client's FIN is missing
		}
		return is(Failed)
	case verdict.Graceful:
		if died(v, g, byService) {
			return is(Unsure)
		}
		return is(Drained)
	}
	// Aborted.
	unread, out := some(v.Lost.Unread), some(v.Lost.Unsent, v.Lost.Unacked)
	if !serves {
		unread, out = out, unread // the client's unacknowledged request, and what it did not read
	}
	switch {
	case v.Harmless || v.Probe:
		return is(Drained)
	case byClient:
		return is(Left)
	case v.Cause == verdict.DataAfterClose || v.Cause == verdict.DataAfterShutdown || v.Cause == verdict.NoSocket || v.Cause == verdict.PeerGone && !byService:
		if byService {
			return cut(LateRequest)
		}
		return is(Left)
	case !byService:
		return is(Failed)
	case unread || v.Cause == verdict.CloseUnread:
		return cut(Unread)
	case out:
		return cut(Unsent)
	case v.Lost.Unread == nil || v.Lost.Unsent == nil || v.Lost.Unacked == nil:
		return is(Unsure)
	}
	return is(Drained) // a reset in place of a FIN, with nothing in flight
}

// died says whether the process died while it may have been at work.
func died(v *verdict.Verdict, g Group, byService bool) bool {
	if !byService || g.Act != verdict.ActExit && g.Act != verdict.ActKilled {
		return false
	}
	if v.Bytes.Received != nil && *v.Bytes.Received == 0 && v.Bytes.Sent != nil && *v.Bytes.Sent == 0 {
		return false // nothing was ever asked
	}
	return v.Idle == nil || *v.Idle < Busy
}

// Count is a Group and how often it was.
type Count struct {
	Group
	Connections int
	Request     uint64 // bytes of requests that were lost
	Response    uint64 // bytes of responses that were lost
	LossUnknown bool   // of some it is not known how much
}

// Summary is what the rollout did.
type Summary struct {
	Trigger Trigger
	// OpenThen were open when it began, Opened were opened later.
	OpenThen, Opened int
	// Drain is how long after the beginning the last of those that were open then
	// ended; nil: some are open still, there were none, or the beginning is not known.
	Drain *time.Duration
	// By outcome.
	Drained, Cut, Left, Failed, Unsure, Open int
	Pending                                  int // of the Open ones: open when it began
	// Of the Cut ones.
	Safe, Unsafe, RetryUnknown int
	Request, Response          uint64 // bytes that were lost in all
	LossUnknown                bool
	Groups                     []Count // the most first, cuts before the rest
	Dropped                    uint64  // connections for which there was no room
	EventsLost                 uint64  // in the run; the Counter does not know
}

// Total is how many connections were in the window.
func (s *Summary) Total() int { return s.OpenThen + s.Opened }

// Passes says whether no more than so many were cut: GateUnsure, where what is unsure or
// still to end decides, where nothing was seen, or where something was lost.
func (s *Summary) Passes(most int) Gate {
	switch {
	case s.Cut > most:
		return GateCut
	case s.Cut+s.Unsure+s.Pending > most, s.Dropped > 0, s.EventsLost > 0, s.Total() == 0:
		return GateUnsure
	}
	return GatePassed
}

// Gate is what a release gate says.
type Gate string

const (
	GatePassed Gate = "passed"
	GateCut    Gate = "cut"
	GateUnsure Gate = "unsure"
)

// place is where the service was reached.
type place struct {
	netns uint32
	at    netip.AddrPort
}

// Sum sums up from a trigger on.
func (r *Counter) Sum(t Trigger) Summary {
	s := Summary{Trigger: t, Dropped: r.dropped}
	ports := map[place]bool{}
	for _, x := range r.order {
		if x.mine {
			ports[place{x.netns, x.service}] = true
		}
	}
	groups := map[Group]*Count{}
	var last time.Duration
	pending := false
	for _, x := range r.order {
		if !x.mine && !ports[place{x.netns, x.service}] || x.ended != 0 && x.ended < t.At {
			continue
		}
		if x.opened != 0 && x.opened >= t.At {
			s.Opened++
		} else {
			s.OpenThen++
			pending = pending || x.ended == 0
			if x.Outcome == Open {
				s.Pending++
			}
			last = max(last, x.ended)
		}
		switch x.Outcome {
		case Drained:
			s.Drained++
		case Cut:
			s.Cut++
			switch x.Retry {
			case verdict.RetrySafe:
				s.Safe++
			case verdict.RetryUnsafe:
				s.Unsafe++
			default:
				s.RetryUnknown++
			}
		case Left:
			s.Left++
		case Failed:
			s.Failed++
		case Unsure:
			s.Unsure++
		case Open:
			s.Open++
		}
		s.Request, s.Response = s.Request+x.request, s.Response+x.response
		s.LossUnknown = s.LossUnknown || x.lossUnknown && x.Outcome != Open
		g := groups[x.Group]
		if g == nil {
			g = &Count{Group: x.Group}
			groups[x.Group] = g
		}
		g.Connections++
		g.Request, g.Response = g.Request+x.request, g.Response+x.response
		g.LossUnknown = g.LossUnknown || x.lossUnknown
	}
	if !pending && s.OpenThen > 0 && t.At != 0 {
		d := max(0, last-t.At)
		s.Drain = &d
	}
	for _, g := range groups {
		s.Groups = append(s.Groups, *g)
	}
	slices.SortFunc(s.Groups, func(a, b Count) int {
		return cmp.Or(rank(a.Outcome)-rank(b.Outcome), b.Connections-a.Connections, cmp.Compare(a.Why, b.Why), cmp.Compare(a.Cause, b.Cause),
			cmp.Compare(a.PID, b.PID), cmp.Compare(a.Act, b.Act), a.Signal-b.Signal, cmp.Compare(a.Retry, b.Retry), cmp.Compare(a.Confidence, b.Confidence))
	})
	return s
}

var ranks = []Outcome{Cut, Unsure, Failed, Left, Open, Drained}

func rank(o Outcome) int { return slices.Index(ranks, o) }

// Begins says whether a signal tells a process to end, to take its configuration again
// or to make room for another: what a rollout begins with.
func Begins(e *event.Event, signals []int) bool {
	return e.Hook == event.HookSignal && slices.Contains(signals, int(e.Arg))
}
