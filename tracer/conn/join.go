package conn

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Options says how long the join waits for what may still come. The zero value
// suits a live trace.
type Options struct {
	// Window is how much later than its time an event may be delivered.
	Window time.Duration
	// Grace is how long after → CLOSE a connection whose descriptor is still
	// held may learn what its process was told.
	Grace time.Duration
	// PairGrace is how long an ended connection waits for its local peer.
	PairGrace time.Duration
	// Rest is how long after the end of its socket a connection may still be
	// told of: an orphan's last reset comes after tcp_destroy_sock, and the
	// other end of an abort a moment after this one.
	Rest time.Duration
	// Hold keeps everything until Flush: for a run that has an end, so that
	// every verdict rests on the whole story.
	Hold bool
	// Done is called for each connection when its story is complete, before a
	// later event can add to that of its peer, which the judge looks at, too.
	// nil: Advance and Flush return them, which is as good with Hold.
	Done func(*Connection)
	// Reuse says that Done keeps no connection's events once it has been told of both
	// of its ends.
	Reuse bool
	// MiniEnds says that the end of a mini-socket is told (inet_twsk_kill), so that one
	// in FIN_WAIT2 can be waited for.
	MiniEnds bool
	// Placed is told, for each event that Add took, in the order of their times, of
	// which connections it became part (some may be named twice, and some are
	// listeners); nil: nobody is told. order is what Arrived was after its Add.
	Placed func(order uint64, told []*Connection)
	// Gone is told of each socket that is not followed any more and was no
	// connection; nil: nobody is told.
	Gone func(*Connection)
	// Stray is told of each reset, and each SYN that was dropped, whose other end is not
	// known here, which may be on another host: own is the end that has it as its own
	// (nil: none); nil: nobody is told. The event is the Joiner's.
	Stray func(e *event.Event, own *Connection)
	// Left is told by Flush, in the order of first sight, of the connections that have
	// not ended, before they are judged; nil: nobody is told.
	Left func([]*Connection)
	// Who adds to a process what is known of it beside the event that showed
	// it at a time. It must be a function of the stream of events; nil: nothing
	// is added.
	Who func(who *Process, at time.Duration)
}

func (o Options) withDefaults() Options {
	if o.Window == 0 {
		o.Window = 20 * time.Millisecond
	}
	if o.Grace == 0 {
		o.Grace = 500 * time.Millisecond
	}
	if o.PairGrace == 0 {
		o.PairGrace = time.Second
	}
	if o.Rest == 0 {
		o.Rest = 100 * time.Millisecond
	}
	return o
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// finWait2 is how long an orphan's FIN_WAIT2 mini-socket can live:
// tcp_fin_timeout is at most two minutes there (tcp_time_wait and
// TCP_FIN_TIMEOUT_MAX, include/net/tcp.h).
const finWait2 = 120 * time.Second

// ends are the two addresses of a connection as one end sees them.
type ends struct{ local, remote netip.AddrPort }

func (e ends) reverse() ends { return ends{e.remote, e.local} }

// entry is a connection that the join still follows.
type entry struct {
	*Connection
	n          int  // in the order of first sight
	tuple      ends // indexed under; zero: not yet
	peer       *entry
	destroyed  bool
	gone       time.Duration // when it was destroyed
	mini       event.State   // the mini-socket's substate; 0: none
	miniEnd    time.Duration // when the mini-socket was killed
	judged     bool
	listener   bool
	born       bool          // its birth was seen
	twin       bool          // the other child of its handshake was there when it ended
	due        time.Duration // when its story is complete; never: not known yet
	place      int           // in the agenda; -1: not in it
	losses     int           // so many had been told of when it began
	known      time.Duration // when the snapshot found it; never: it did not
	byPID      uint32        // its owner, as it is indexed; 0: it is not
	thread     uint32        // in which send(2) failed last, with SIGPIPE
	pipeAt     time.Duration // when
	isn        isns
	filed      []isnKey // indexed under
	ownerPlace int      // among those of its owner
	early      bool     // its story was told before its end: it was not plain, or was asked for
	alone      bool     // it is, or was, among those that are alone
	belated    bool     // something of it was told before its birth
}

// Joiner makes Connections of events. It is not safe for concurrent use.
//
// What it makes of events, and in which order, depends on the events alone and
// not on when Advance is called: a connection's story is complete at a time
// that its own events and its peer's set, before any later event is placed. An
// event that comes later than the window allows is the one exception.
type Joiner struct {
	opts      Options
	waiting   queue
	now       time.Duration
	bySock    map[uint64]*entry
	byEnds    map[ends][]*entry      // newest last
	open      []*entry               // in the order of first sight; some may be judged
	judged    int                    // so many in open are
	agenda    agenda                 // what will be complete, and when
	done      []*Connection          // complete, not yet handed out
	acts      map[uint64]event.Event // last act on a listener, by socket
	seeds     map[seedKey]Seed       // connections of before the trace, not yet seen
	listeners listeners
	touched   []*entry                  // by the event that is being placed
	dialing   map[netip.AddrPort]*entry // by the local address of connect(2)
	// unplaced are resets to ends whose port is not known yet.
	unplaced []unplaced
	n        int
	late     uint64
	arrived  uint64
	byOwner  map[uint32][]*entry // by the PID of their owner
	bySeq    map[isnKey][]*entry // by the initial sequence numbers
	byThread map[uint32]*entry   // whose send(2) failed last in a thread, with SIGPIPE
	names    event.Names
	coming   int      // so many events of a connection are at hand
	alone    []*entry // those that Alone will visit; some may be judged
	pages    pages
	graves   graves
	moment   []*arrival // placed with the time of the last one
	// losses is how often something was lost, or came too late. A connection
	// compares it with what it was when it began: nobody walks along them.
	losses int
	// lossyUntil: what begins before this may have begun within a loss.
	lossyUntil time.Duration
	lostUntil  time.Duration // of what was lost indeed; 0: nothing was
	// passed is what networks said; passedOwners what became of processes, which is
	// far more and must not push the former out.
	passed, passedOwners passed
}

// New makes a Joiner.
func New(opts Options) *Joiner {
	opts.Reuse = opts.Reuse && opts.Done != nil
	j := &Joiner{
		opts:   opts.withDefaults(),
		bySock: map[uint64]*entry{},
		byEnds: map[ends][]*entry{},
		acts:   map[uint64]event.Event{},
		seeds:  map[seedKey]Seed{},

		byOwner:  map[uint32][]*entry{},
		byThread: map[uint32]*entry{},
		bySeq:    map[isnKey][]*entry{},
		names:    event.Names{},
	}
	j.waiting.pages = &j.pages
	return j
}

// Late counts events that came so late that order could not be kept.
func (j *Joiner) Late() uint64 { return j.late }

// Add takes an event in any order within the window.
func (j *Joiner) Add(e event.Event) {
	a := j.waiting.room()
	j.arrived++
	a.Event, a.order = e, j.arrived
	if e.Time < j.now {
		// Its place in the order is lost, and with it what the order proves.
		j.late++
		a.late = true
		j.heedLoss(e.Time)
	}
	j.waiting.put(a)
}

// Arrived counts what Add took.
func (j *Joiner) Arrived() uint64 { return j.arrived }

// Window is how far behind Advance Now is.
func (j *Joiner) Window() time.Duration { return j.opts.Window }

// Lose marks every connection that lived at some time between two: events were
// lost there. It must be called before Advance goes beyond from.
func (j *Joiner) Lose(from, to time.Duration) {
	a := j.waiting.room()
	a.Time, a.loss, a.until = from, true, to
	j.waiting.put(a)
}

// Now is how far Advance has come: an earlier event is late.
func (j *Joiner) Now() time.Duration { return j.now }

// Advance says that no event older than now will come, and returns the
// connections whose story is complete, in the order in which they became so,
// unless Done takes them.
func (j *Joiner) Advance(now time.Duration) []*Connection {
	until := now - j.opts.Window
	j.settle(until)
	if j.opts.Hold {
		j.now = max(j.now, until)
		return nil
	}
	j.complete(until)
	j.now = max(j.now, until)
	return j.take()
}

// Flush returns everything that is left, unless Done takes it: first what is
// complete or will be, then what has not ended.
func (j *Joiner) Flush() []*Connection {
	j.settle(never)
	if !j.opts.Hold {
		j.complete(never - 1)
	}
	rest := slices.DeleteFunc(slices.Clone(j.open), func(c *entry) bool { return c.judged })
	if j.opts.Left != nil {
		var left []*Connection
		for _, c := range rest {
			if !c.listener && c.connected() && c.Ended == 0 && !c.destroyed {
				left = append(left, c.Connection)
			}
		}
		j.opts.Left(left)
	}
	slices.SortStableFunc(rest, compareEnd)
	for _, c := range rest {
		j.finish(c)
	}
	return j.take()
}

// Pending says whether something is waiting for time to pass.
func (j *Joiner) Pending() bool { return j.waiting.len() > 0 || len(j.agenda) > 0 }

// Open visits the connections that are being followed, in the order of first
// sight, until the visitor says false.
func (j *Joiner) Open(visit func(*Connection) bool) {
	for _, c := range j.open {
		if c.judged || c.listener || !c.connected() {
			continue
		}
		j.settleLosses(c)
		if !visit(c.Connection) {
			return
		}
	}
}

// heedLoss marks what is being followed, and what begins before until.
func (j *Joiner) heedLoss(until time.Duration) {
	j.lossyUntil = max(j.lossyUntil, until)
	j.losses++
}

// settleLosses says of a connection whether it has lived through a loss.
func (j *Joiner) settleLosses(c *entry) {
	switch {
	case c.judged:
	case c.losses < j.losses:
		c.Lossy = true
	case !c.born && j.lostUntil != 0 && (c.known == never || c.known <= j.lostUntil):
		// Its birth was not seen, and it may have been within any loss, but
		// for one that was before the snapshot found it.
		c.Lossy = true
	}
}

// settle takes the waiting events up to a time, in order. Before each, what is
// complete by then is finished.
func (j *Joiner) settle(until time.Duration) {
	for j.waiting.len() > 0 && j.waiting.first().Time <= until {
		a := j.waiting.take()
		if !j.opts.Hold {
			j.complete(a.Time - 1)
		}
		j.now = max(j.now, a.Time)
		if a.loss {
			j.heedLoss(max(a.until, a.Time))
			j.lostUntil = max(j.lostUntil, a.until, a.Time)
			j.waiting.give(a)
			continue
		}
		if j.again(a) || a.late && j.buried(a) {
			j.tell(a.order) // the latter: what it is about has been judged
			continue
		}
		if a.story != nil {
			j.placeStory(a)
		} else {
			j.place(&a.Event)
		}
		j.tell(a.order)
		var last *entry // a story touches its connection with each of its steps
		for _, c := range j.touched {
			if c == last {
				continue
			}
			last = c
			j.schedule(c)
			if c.peer != nil {
				j.schedule(c.peer)
			}
		}
		j.touched = j.touched[:0]
	}
}

// tell tells of whom an event became part.
func (j *Joiner) tell(order uint64) {
	if j.opts.Placed == nil {
		return
	}
	told := make([]*Connection, len(j.touched))
	for i, c := range j.touched {
		told[i] = c.Connection
	}
	j.opts.Placed(order, told)
}

// again says whether the very same event was placed just before. It keeps what has
// the time of the last one.
func (j *Joiner) again(a *arrival) bool {
	if len(j.moment) > 0 && j.moment[0].Time != a.Time {
		for i, old := range j.moment {
			j.waiting.give(old)
			j.moment[i] = nil
		}
		j.moment = j.moment[:0]
	}
	twice := slices.ContainsFunc(j.moment, func(old *arrival) bool { return old.Event == a.Event && a.story == nil && old.story == nil })
	j.moment = append(j.moment, a)
	return twice
}

// complete finishes what is due by a time.
func (j *Joiner) complete(until time.Duration) {
	for len(j.agenda) > 0 && j.agenda[0].due <= until {
		c := j.agenda[0]
		j.now = max(j.now, c.due)
		j.finish(c)
		if c.peer != nil {
			j.schedule(c.peer)
		}
	}
}

// finish ends the following of a connection.
func (j *Joiner) finish(c *entry) {
	j.settleLosses(c)
	if c.peer != nil {
		j.settleLosses(c.peer) // the judge looks at it, too
	}
	c.identify()
	c.judged = true
	j.judged++
	if c.place >= 0 {
		heap.Remove(&j.agenda, c.place)
	}
	j.forget(c)
	c.Serves = j.listeners.serves(c.Connection)
	if !c.listener && c.connected() && !j.spare(c) && !c.over() {
		if j.opts.Done != nil {
			j.opts.Done(c.Connection)
		} else {
			j.done = append(j.done, c.Connection)
		}
	} else if j.opts.Gone != nil {
		j.opts.Gone(c.Connection)
	}
	j.reuse(c)
	if j.judged > 64 && j.judged > len(j.open)/2 {
		j.open = slices.DeleteFunc(j.open, func(c *entry) bool { return c.judged })
		j.judged = 0
	}
}

// over says whether a connection had ended before anything could be heard of it,
// and all that was seen is how its socket was let go of.
func (c *entry) over() bool {
	return !c.Lossy && c.Open == OpenUnknown && c.Before == 0 && c.Ended == 0 && len(c.Events) > 0 &&
		!event.Any(c.Events, func(e *event.Event) bool { return e.Hook == event.HookSetState || e.State != event.Close })
}

// spare says whether a socket was never an end: when the last two segments of a
// handshake are served by two CPUs, both make a child of the listener, and the one
// that comes too late is thrown away (tcp_v4_syn_recv_sock: inet_ehash_nolisten
// finds the other one, and tcp_done follows).
func (j *Joiner) spare(c *entry) bool {
	if !c.unmade() {
		return false
	}
	// The other one may have had its whole life, and been judged, by now.
	return c.twin || slices.ContainsFunc(j.byEnds[c.tuple], func(o *entry) bool {
		// The second CPU may get to it when the connection is over.
		return o != c && o.NetNS == c.NetNS && o.Open == OpenPassive && !o.unmade() && o.First <= c.Ended
	})
}

// yield gives the peer of a spare socket to the one that it was meant for.
func (j *Joiner) yield(c *entry) {
	p := c.peer
	if p == nil || !j.spare(c) {
		return
	}
	for _, o := range j.byEnds[c.tuple] {
		if o != c && o.peer == nil && !o.judged && o.Open == OpenPassive {
			c.peer, c.Peer = nil, nil
			o.peer, o.Peer = p, p.Connection
			p.peer, p.Peer = o, o.Connection
			return
		}
	}
}

// unmade says whether all that is known of a socket is that a listener made it and
// that it was closed before the handshake was over.
func (c *entry) unmade() bool {
	return c.Open == OpenPassive && c.Established == 0 && c.Ended != 0 && !event.Any(c.Events, func(e *event.Event) bool {
		return e.Hook != event.HookSetState && e.Hook != event.HookDestroy || e.ByProcess()
	})
}

func (j *Joiner) take() []*Connection {
	out := j.done
	j.done = nil
	return out
}

// schedule puts a connection at its place in the agenda.
func (j *Joiner) schedule(c *entry) {
	if c.judged {
		return
	}
	due := j.dueAt(c)
	if due < j.now {
		due = j.now // this event is what made it complete
	}
	c.due = due
	if c.early && c.peer == nil && due != never && !c.alone && !c.listener {
		c.alone = true
		j.isAlone(c)
	}
	switch {
	case due == never && c.place >= 0:
		heap.Remove(&j.agenda, c.place)
	case due == never:
	case c.place >= 0:
		heap.Fix(&j.agenda, c.place)
	default:
		heap.Push(&j.agenda, c)
	}
}

// compareEnd orders by the time of the end; what has not ended comes last.
func compareEnd(a, b *entry) int {
	switch {
	case a.Ended == b.Ended:
		return cmp.Or(cmp.Compare(a.First, b.First), a.n-b.n)
	case a.Ended == 0:
		return 1
	case b.Ended == 0:
		return -1
	}
	return cmp.Compare(a.Ended, b.Ended)
}

// connected says whether the socket ever was one end of anything: a listener,
// and a socket that was closed before connect(2), are not connections.
func (c *entry) connected() bool {
	return c.Remote.IsValid() && c.Remote.Port() != 0
}

// dueAt is when a connection's story is complete; never where only an event
// can tell.
func (j *Joiner) dueAt(c *entry) time.Duration {
	own := j.ownDue(c)
	p := c.peer
	if own == never || p == nil || p.judged || c.listener {
		return own
	}
	if p.Ended == 0 && !p.destroyed {
		// It may be ending at this very moment.
		return max(own, c.ended()+j.opts.Grace)
	}
	return max(own, min(j.ownDue(p), c.ended()+j.opts.Grace+j.opts.PairGrace))
}

// ownDue is when nothing more can be told of this end.
func (j *Joiner) ownDue(c *entry) time.Duration {
	if c.listener {
		if c.destroyed {
			return c.gone
		}
		return never
	}
	if c.Ended == 0 && !c.destroyed {
		return never
	}
	due := c.Ended + j.opts.Grace
	if c.destroyed {
		due = c.gone + j.opts.Rest
		if c.Storied {
			due = c.gone + j.Rest(c.Local, c.Remote, c.peer != nil)
			if c.early && c.peer == nil {
				due = c.gone + j.opts.Grace // its other end may be asked for
			}
		}
		if _, here := j.seeds[seedKey{c.NetNS, c.tuple.reverse()}]; here && c.peer == nil && !c.born {
			due = c.gone + j.opts.Grace // its other end is on this machine, and was not heard of yet
		}
	}
	// In substate FIN_WAIT2 a mini-socket answers the peer's data with a reset.
	if c.mini == event.FinWait2 {
		switch {
		case c.miniEnd != 0:
			due = max(due, c.miniEnd)
		case c.peer == nil || c.peer.Ended == 0 || j.opts.MiniEnds:
			due = max(due, c.Ended+finWait2)
		default:
			// What the peer sent last, a FIN or the RST of an abort, may be under way.
			due = max(due, min(c.peer.Ended+j.opts.Grace, c.Ended+finWait2))
		}
	}
	return due
}

func (c *entry) ended() time.Duration {
	if c.Ended == 0 {
		return c.gone
	}
	return c.Ended
}

// forget drops a judged connection from the indexes, except that its address
// stays taken until the socket is destroyed.
func (j *Joiner) forget(c *entry) {
	j.hangsUp(c)
	if j.bySock[c.Sock] == c && c.destroyed {
		delete(j.bySock, c.Sock)
	}
	if c.destroyed {
		j.graves.add(c.Sock, c.Gen)
	}
	j.disown(c)
	j.unfileISN(c)
	list := j.byEnds[c.tuple]
	if i := slices.Index(list, c); i >= 0 && len(list) == 1 {
		list = nil
	} else if i >= 0 {
		list = slices.Delete(slices.Clone(list), i, i+1)
	}
	if len(list) == 0 {
		delete(j.byEnds, c.tuple)
	} else {
		j.byEnds[c.tuple] = list
	}
}

// place gives one event, in its turn, to whom it concerns.
func (j *Joiner) place(e *event.Event) {
	switch e.Hook {
	case event.HookSignal:
		j.signal(e)
	case event.HookProcess:
		// It is for whoever looks processes up.
	case event.HookExit, event.HookExec:
		j.passedOwners.add(e)
		for _, c := range j.byOwner[e.PID] {
			if !c.destroyed || j.opts.Hold { // else it was done with the connection
				j.aside(c, e)
			}
		}
	case event.HookStack:
		j.stack(e)
	case event.HookTwskKill, event.HookTwskSchedule:
		if c := j.newestMini(ends{e.Local, e.Remote}, e.NetNS); c != nil {
			j.append(c, e)
			if e.Hook == event.HookTwskKill {
				c.miniEnd = e.Time
			} else {
				c.mini = event.State(e.Arg)
			}
		}
	case event.HookSynDrop:
		if c := j.other(ends{e.Remote, e.Local}, e.NetNS); c != nil {
			j.aside(c, e)
		} else {
			j.waitForTuple(e, nil)
		}
	case event.HookSendReset:
		j.reset(e)
	case event.HookICMP:
		j.passed.add(e)
		if c := j.newest(ends{e.Local, e.Remote}, e.NetNS); c != nil && !c.judged {
			j.append(c, e)
		}
	case event.HookAddress:
		j.passed.add(e)
		for _, c := range j.open {
			if !c.judged && c.Local.Addr() == e.Local.Addr() && c.NetNS == e.NetNS {
				j.append(c, e)
			}
		}
	default:
		j.own(e)
	}
}

// reset places a reset that answers a segment. It may come from the socket,
// from its mini-socket, from a listener, or from no socket at all.
func (j *Joiner) reset(e *event.Event) {
	mine := ends{e.Local, e.Remote}
	full := e.Sock != 0 && e.State != event.TimeWait && e.State != event.NewSynRecv && e.State != event.Listen
	if full {
		if c := j.bySock[e.Sock]; c != nil && !c.destroyed && (e.Conn == 0 || c.Gen == e.Conn) {
			j.own(e)
		} else if c := j.newest(mine, e.NetNS); c != nil && !c.judged {
			// tcp_done destroys an orphan before the reset that it owes goes out.
			j.append(c, e)
		}
		// A new connection's reset of a challenge ACK hits the old twin, which
		// is not its peer.
		if e.State == event.SynSent {
			switch c := j.sender(mine.reverse(), e); {
			case c == nil:
				j.waitForTuple(e, nil) // its story has not been told yet
			case !c.judged:
				j.aside(c, e)
			}
		}
		return
	}
	if !e.Local.IsValid() {
		return
	}
	own := j.newest(mine, e.NetNS)
	if own != nil && !own.isn.receives(e) {
		own = nil // the segment is another connection's
	}
	if own != nil && !own.judged {
		j.append(own, e)
	}
	// The other end, when it lives here, is told by whom it was reset, unless
	// its peer has the event already.
	switch c := j.sender(mine.reverse(), e); {
	case c == nil && j.strayAnswer(e):
	case c == nil:
		j.waitForTuple(e, own)
	case !c.judged && (own == nil || c.Peer != own.Connection):
		j.aside(c, e)
	}
}

// waitForTuple keeps a reset for an end that is not known yet, or whose port is
// not: without the hook on tcp_connect the first event that tells the port of a
// refused connection is the arrival of the reset, and that of one which was plain
// until then brings its story. own: the end that has it as its own; nil: none.
func (j *Joiner) waitForTuple(e *event.Event, own *entry) {
	if j.opts.Stray != nil {
		var of *Connection
		if own != nil {
			of = own.Connection
		}
		j.opts.Stray(e, of)
	}
	const most = 256
	if len(j.unplaced) == most {
		j.unplaced = slices.Delete(j.unplaced, 0, 1)
	}
	j.unplaced = append(j.unplaced, unplaced{*e, own})
}

// unplaced is a reset that waits, and the end that has it as its own.
type unplaced struct {
	event.Event
	own *entry
}

// placeWaiting gives an end whose tuple has become known the resets that were
// sent to it just before.
func (j *Joiner) placeWaiting(c *entry) {
	j.unplaced = slices.DeleteFunc(j.unplaced, func(w unplaced) bool {
		e := w.Event
		// A refused connection's port is known at once; one whose SYN is
		// dropped tells it when it gives up (tcp_syn_retries: two minutes).
		keep := time.Second
		if e.Hook == event.HookSynDrop || answersSYN(&e) {
			keep = 3 * time.Minute
		}
		if j.now-e.Time > keep {
			return true
		}
		if !c.strayAnswer(&e) && (c.tuple != (ends{e.Remote, e.Local}) || !c.isn.sends(&e)) || e.Time < c.First ||
			c.Local.Addr().IsLoopback() && e.NetNS != c.NetNS && e.NetNS != 0 {
			return false
		}
		if w.own == nil || c.peer != w.own {
			j.aside(c, &e)
		}
		return true
	})
}

// newest is the last connection with these ends; netns 0 means any.
func (j *Joiner) newest(t ends, netns uint32) *entry {
	list := j.byEnds[t]
	for i := len(list) - 1; i >= 0; i-- {
		if netns == 0 || list[i].NetNS == netns {
			return list[i]
		}
	}
	return nil
}

// newestMini is the last connection with these ends that left a mini-socket; the
// ends may have a new connection already (TIME_WAIT reuse).
func (j *Joiner) newestMini(t ends, netns uint32) *entry {
	list := j.byEnds[t]
	for i := len(list) - 1; i >= 0; i-- {
		// What never was established left none (EADDRNOTAVAIL, ports used again).
		// It is made before its socket goes to CLOSE.
		if list[i].NetNS == netns && (list[i].Ended != 0 || list[i].mini != 0) && (list[i].Open != OpenActive || list[i].Established != 0) {
			return list[i]
		}
	}
	return nil
}

// other is the newest connection with these ends that an end in that namespace
// can have talked to: loopback addresses mean something else in each.
func (j *Joiner) other(t ends, netns uint32) *entry {
	if c := j.newest(t, netns); c != nil || t.local.Addr().IsLoopback() {
		return c
	}
	return j.newest(t, 0)
}

// sender is the newest such connection that can have sent the segment that a reset
// answers.
func (j *Joiner) sender(t ends, e *event.Event) *entry {
	list := j.byEnds[t]
	for _, anywhere := range []bool{false, true} {
		for i := len(list) - 1; i >= 0; i-- {
			c := list[i]
			if (anywhere && !t.local.Addr().IsLoopback() || e.NetNS == 0 || c.NetNS == e.NetNS) && c.isn.sends(e) {
				return c
			}
		}
	}
	return nil
}

// own places an event of a full socket.
func (j *Joiner) own(e *event.Event) {
	if e.Sock == 0 {
		return
	}
	c := j.bySock[e.Sock]
	if c != nil && e.Conn != 0 && e.Conn < c.Gen {
		return // of the socket that had this address before: its story is over
	}
	belated := c != nil && c.wants(e)
	mixed := c != nil && !belated && c.another(e)
	if c != nil && !mixed && !belated && c.First != e.Time && (births(e) || e.Hook == event.HookSetState && e.ToState == event.Listen && c.connected()) {
		mixed = true // the same socket begins again, and the kernel half gave it no new name
	}
	if c == nil || (e.Conn != 0 && c.Gen != e.Conn) || (c.destroyed && e.Hook != event.HookDestroy) || e.Conn == 0 && births(e) || mixed {
		c = j.birth(e)
		c.born = births(e)
		c.Lossy = c.Lossy || mixed && !c.born
	}
	if belated && !c.judged {
		c.born, c.belated, c.First = true, true, e.Time
		c.Lossy = c.Lossy || j.MayLack(e.Time)
	}
	if c.judged {
		if e.Hook == event.HookDestroy {
			delete(j.bySock, e.Sock)
		}
		return
	}
	if e.Hook == event.HookStack {
		j.keep(c, e)
	} else {
		j.append(c, e)
	}
	if n := len(c.Events); c.belated && n > 1 && c.Events[n-2].Time > e.Time {
		slices.SortStableFunc(c.Events, byTime)
		c.Last = c.Events[n-1].Time
	}
	unknown := c.tuple == ends{}
	j.learn(c, e)
	j.sequence(c, e)
	if unknown && c.tuple != (ends{}) {
		j.placeWaiting(c)
	}
	if unknown && c.tuple != (ends{}) {
		j.adopt(c)
	}
	j.indexOwner(c)
	j.expectSignal(c, e)
}

// stack places the stack of an act: on a socket, or of a process that exits.
func (j *Joiner) stack(e *event.Event) {
	if e.Sock != 0 {
		j.own(e)
		return
	}
	for _, c := range j.byOwner[e.PID] {
		j.keep(c, e)
	}
}

// maxStacks is how many stacks a connection keeps: the last ones.
const maxStacks = 16

func (j *Joiner) keep(c *entry, e *event.Event) {
	if len(c.Stacks) == maxStacks {
		c.Stacks = slices.Delete(c.Stacks, 0, 1)
	}
	c.Stacks = append(c.Stacks, *e)
	j.touch(c)
}

// births says whether an event begins a connection whatever was known of its
// socket's address.
func births(e *event.Event) bool {
	return e.Hook == event.HookSetState && (e.ToState == event.SynSent || e.State == event.Listen && e.ToState == event.SynRecv)
}

// wants says whether an event is the birth after which a connection is named, and
// which comes after something younger. The kernel half puts the birth of a listener's
// child off until its addresses are known, and by then a process may have accepted
// it (Fast Open); and where two CPUs have a story told, what one of them saw may
// stand before it.
func (c *entry) wants(e *event.Event) bool {
	return !c.born && births(e) && e.Conn != 0 && e.Conn == c.Gen && e.Time == time.Duration(e.Conn) && c.First > e.Time
}

func (j *Joiner) birth(e *event.Event) *entry {
	if old := j.bySock[e.Sock]; old != nil && !old.destroyed {
		j.replace(old, e)
	}
	j.n++
	c := &entry{n: j.n, due: never, place: -1, losses: j.losses, known: never, Connection: &Connection{
		ID: strconv.Itoa(j.n), Sock: e.Sock, Gen: e.Conn, First: e.Time,
		Lossy: e.Time <= j.lossyUntil && j.lossyUntil != 0,
	}}
	j.bySock[e.Sock] = c
	j.open = append(j.open, c)
	return c
}

// replace ends the story of a socket whose address has become another's.
func (j *Joiner) replace(old *entry, e *event.Event) {
	old.destroyed, old.gone = true, e.Time
	j.touch(old)
	if old.judged || old.listener {
		return
	}
	// After tcp_disconnect, or a connect(2) that failed, a process connects the
	// same socket again, or listens with it. Whatever was closed, or is a child now, was freed.
	again := e.Hook == event.HookSetState && e.State == event.Close && (e.ToState == event.SynSent || e.ToState == event.Listen) && old.Ended != 0 &&
		!event.Any(old.Events, func(x *event.Event) bool {
			return x.Hook == event.HookClose || x.Has&event.HasSocket != 0 && x.SkFlags&event.SockDead != 0
		})
	if again {
		return
	}
	old.Lossy = true
	old.Replaced = old.Ended == 0
}

// another says whether an event is of another connection than the one that is
// known by its socket's address: how that one ended was lost, and how this one
// began.
func (c *entry) another(e *event.Event) bool {
	if c.tuple == (ends{}) || e.Hook == event.HookDestroy || e.Hook == event.HookStack {
		return false
	}
	if e.Has&event.HasTuple != 0 && e.Local.Port() != 0 && e.Remote.Port() != 0 && !e.Local.Addr().IsUnspecified() && !e.Remote.Addr().IsUnspecified() &&
		(ends{e.Local, e.Remote} != c.tuple || e.NetNS != c.NetNS && e.NetNS != 0 && c.NetNS != 0) {
		return true
	}
	return c.Ended != 0 && e.Hook == event.HookSetState && e.State != event.Close
}

// append gives a connection an event of its own.
func (j *Joiner) append(c *entry, e *event.Event) {
	if len(c.Events) == cap(c.Events) {
		j.grow(c)
	}
	c.Events = append(c.Events, *e)
	c.Last = e.Time
	j.hand(c, e)
	j.touch(c)
}

// aside gives a connection an event that concerns it.
func (j *Joiner) aside(c *entry, e *event.Event) {
	c.Elsewhere = append(c.Elsewhere, *e)
	j.hand(c, e)
	j.touch(c)
}

func (j *Joiner) touch(c *entry) { j.touched = append(j.touched, c) }

// hand notes who acted.
func (j *Joiner) hand(c *entry, e *event.Event) {
	if !e.ByProcess() || e.PID == 0 {
		return
	}
	for i := len(c.Hands) - 1; i >= 0; i-- {
		if h := &c.Hands[i]; h.PID == e.PID {
			if e.Comm.Is(h.Comm) || h.TID != e.TID {
				return
			}
			break // it has executed another program
		}
	}
	c.Hands = append(c.Hands, *j.process(e))
}

// learn updates what is known of a connection.
func (j *Joiner) learn(c *entry, e *event.Event) {
	if e.Has&event.HasTuple != 0 {
		c.NetNS = e.NetNS
		c.Family = e.Family
		j.address(c, e)
	}
	switch e.Hook {
	case event.HookSetState:
		j.state(c, e)
	case event.HookDestroy:
		if !c.destroyed {
			c.destroyed, c.gone = true, e.Time
		}
		delete(j.acts, e.Sock)
		if j.bySock[e.Sock] == c {
			delete(j.bySock, e.Sock)
		}
	case event.HookTimeWait:
		c.mini = event.State(e.Arg)
	case event.HookConnect:
		c.Opener = j.actor(e)
		c.Owner = c.Opener
	case event.HookAccept:
		c.Owner = j.actor(e)
		j.listeners.accepted(e.NetNS, e.Local, c.Owner)
	case event.HookSendActiveReset:
		// Without the hooks on the calls it is all that tells who had it.
		if c.Owner == nil && !c.listener {
			c.Owner = j.actor(e)
		}
	case event.HookShutdown, event.HookCloseEntry, event.HookClose, event.HookStreamError, event.HookFileClose:
		if c.listener || e.State == event.Listen {
			j.acts[e.Sock] = *e
			return
		}
		// Who drops one reference of several does not own the connection: a
		// forked child closes its copies on exec.
		if e.Hook == event.HookFileClose && e.Refs > 1 {
			return
		}
		if e.ByProcess() && (c.Owner == nil || c.Owner.PID != e.PID) {
			c.Owner = j.actor(e)
		}
	case event.HookAbort, event.HookDisconnect:
		if c.listener || e.State == event.Listen {
			j.acts[e.Sock] = *e
		}
	case event.HookChildForget:
		if act, ok := j.acts[e.Other]; ok {
			j.aside(c, &act)
		}
	}
}

// actor is who acted; nil where nobody did.
func (j *Joiner) actor(e *event.Event) *Process {
	if !e.ByProcess() {
		return nil
	}
	return j.process(e)
}

// process is the task on the CPU.
func (j *Joiner) process(e *event.Event) *Process {
	who := &Process{PID: e.PID, TID: e.TID, Comm: j.names.Of(e.Comm), UID: e.UID, Cgroup: e.Cgroup}
	if j.opts.Who != nil {
		j.opts.Who(who, e.Time)
	}
	return who
}

func (j *Joiner) state(c *entry, e *event.Event) {
	j.listens(c, e)
	if c.Open == OpenPassive && e.LeavesQueue() {
		c.Acceptor = j.listeners.acceptor(e.NetNS, e.Local)
	}
	switch {
	case e.ToState == event.Listen:
		c.listener = true
	case e.ToState == event.SynSent:
		c.Open, c.Opened = OpenActive, e.Time
		if c.Opener == nil && e.Context != event.ContextSoftirq && !e.KernelThread() {
			c.Opener = j.process(e)
			c.Owner = c.Opener
		}
	case e.State == event.Listen && e.ToState == event.SynRecv:
		c.Open, c.Opened = OpenPassive, e.Time
	case e.State == event.Listen && e.ToState == event.Close:
		c.listener = true
	case e.ToState == event.Established && c.Established == 0:
		c.Established = e.Time
	case e.ToState == event.Close && e.State != event.Close:
		c.Ended = e.Time
		c.twin = j.spare(c)
		j.yield(c)
		// Without tcp_time_wait, which may not be attached, or was skipped: a
		// mini-socket that waits for the peer's FIN. Of a peer that lives here
		// it can be told. To an orphan no process does anything more.
		if e.State == event.FinWait2 && e.Err == 0 && !e.Repair && e.Has&event.HasSocket != 0 && e.SkFlags&event.SockDone == 0 &&
			(e.Context == event.ContextSoftirq || e.SkFlags&event.SockDead != 0) && c.mini == 0 && c.peer != nil {
			c.mini = event.FinWait2
		}
	}
	// The state may be all that tells who closed: a connection of before the
	// trace, or a kernel without kprobes, where a child or whoever got the socket
	// may be the last to hold it.
	if e.ToState == event.Listen || c.listener {
		return
	}
	if c.Owner == nil || e.ByProcess() && c.Owner.PID != e.PID && (e.Exiting() || e.Call.Ends()) {
		c.Owner = j.actor(e)
	}
}

// address keeps the best tuple seen. At LISTEN → SYN_RECV up to 6.17 the child
// has the listener's (inet_csk_clone_lock sets the state first); after
// tcp_disconnect the remote port is 0.
func (j *Joiner) address(c *entry, e *event.Event) {
	if c.tuple != (ends{}) || e.Hook == event.HookDestroy {
		return
	}
	// Of a socket that connects again the port is the one before, until
	// inet_hash_connect has chosen another.
	if e.Hook == event.HookSetState && e.ToState == event.SynSent {
		e = &event.Event{Local: netip.AddrPortFrom(e.Local.Addr(), 0), Remote: e.Remote}
	}
	whole := e.Local.Port() != 0 && e.Remote.Port() != 0 && !e.Local.Addr().IsUnspecified() && !e.Remote.Addr().IsUnspecified()
	if !c.Local.IsValid() || (c.Local.Port() == 0 && e.Local.Port() != 0) || whole {
		c.Local = e.Local
	}
	if !c.Remote.IsValid() || (c.Remote.Port() == 0 && e.Remote.Port() != 0) || whole {
		c.Remote = e.Remote
	}
	if !whole {
		return
	}
	c.tuple = ends{c.Local, c.Remote}
	j.dials(c, e)
	j.mixUp(c)
	j.byEnds[c.tuple] = append(j.byEnds[c.tuple], c)
	j.pair(c, e)
}

// mixUp marks ends that have the same addresses at the same time, where nothing tells
// in which namespace either is (classic tracepoints): what is told of one may be taken
// for the other's, and one may have got the other's peer.
func (j *Joiner) mixUp(c *entry) {
	if c.NetNS != 0 {
		return
	}
	for _, o := range j.byEnds[c.tuple] {
		if o != c && !o.judged && o.NetNS == 0 {
			c.Lossy, o.Lossy = true, true
		}
	}
}

// pair looks for the other end on this machine by its addresses: they are mirrored,
// the lives overlap, and not both were opened the same way. Loopback addresses pair
// only within one network namespace; others also across (veth). It holds until the
// sequence numbers say otherwise.
func (j *Joiner) pair(c *entry, e *event.Event) {
	list := j.byEnds[c.tuple.reverse()]
	for i := len(list) - 1; i >= 0; i-- {
		p := list[i]
		if p == c || p.judged || p.Peer != nil {
			continue
		}
		// An end that is older than the trace may be heard of for the first time
		// when the other one has reset it. Else this is another connection with
		// the same addresses, or how it ended was not seen.
		if (p.destroyed || p.Ended != 0 && p.mini == 0) && (c.born || p.born || e.State == event.Close) && p.ended() < c.First {
			continue
		}
		if p.NetNS != c.NetNS && c.Local.Addr().IsLoopback() {
			continue
		}
		if p.Open == c.Open && p.Open == OpenPassive {
			continue
		}
		if c.isn.against(&p.isn) == differs {
			continue
		}
		j.marry(c, p)
		return
	}
}

// agenda is a heap of connections by the time at which they are complete.
type agenda []*entry

func (h agenda) Len() int { return len(h) }
func (h agenda) Less(i, k int) bool {
	if h[i].due != h[k].due {
		return h[i].due < h[k].due
	}
	return compareEnd(h[i], h[k]) < 0
}
func (h agenda) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].place, h[k].place = i, k
}
func (h *agenda) Push(x any) {
	c := x.(*entry)
	c.place = len(*h)
	*h = append(*h, c)
}
func (h *agenda) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.place = -1
	return c
}
