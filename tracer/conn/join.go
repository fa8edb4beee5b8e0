package conn

import (
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
	// Hold keeps everything until Flush: for a run that has an end, so that
	// every verdict rests on the whole story.
	Hold bool
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
	return o
}

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
	tuple     ends // indexed under; zero: not yet
	destroyed bool
	mini      event.State   // the mini-socket's substate; 0: none
	miniEnd   time.Duration // when the mini-socket was killed
	judged    bool
	listener  bool
}

// Joiner makes Connections of events. It is not safe for concurrent use.
type Joiner struct {
	opts    Options
	waiting events
	now     time.Duration
	bySock  map[uint64]*entry
	byEnds  map[ends][]*entry      // newest last
	open    []*entry               // not yet judged, in the order of first sight
	acts    map[uint64]event.Event // last act on a listener, by socket
	// unplaced are resets to ends whose port is not known yet.
	unplaced []event.Event
	n        int
	arrived  uint64
	late     uint64
}

// New makes a Joiner.
func New(opts Options) *Joiner {
	return &Joiner{
		opts:   opts.withDefaults(),
		bySock: map[uint64]*entry{},
		byEnds: map[ends][]*entry{},
		acts:   map[uint64]event.Event{},
	}
}

// Late counts events that came so late that order could not be kept.
func (j *Joiner) Late() uint64 { return j.late }

// Add takes an event in any order within the window.
func (j *Joiner) Add(e event.Event) {
	if e.Time < j.now {
		j.late++
	}
	j.arrived++
	heap.Push(&j.waiting, arrival{e, j.arrived})
}

// Lose marks every connection that is being followed: events were lost.
func (j *Joiner) Lose() {
	for _, c := range j.open {
		c.Lossy = true
	}
}

// Advance says that no event older than now will come, and returns the
// connections whose story is complete, in the order in which they ended.
func (j *Joiner) Advance(now time.Duration) []*Connection {
	j.settle(now - j.opts.Window)
	if j.opts.Hold {
		return nil
	}
	return j.take(func(c *entry) bool { return j.ripe(c, j.now) })
}

// Flush returns everything that is left, ended or not.
func (j *Joiner) Flush() []*Connection {
	j.settle(1<<63 - 1)
	return j.take(func(*entry) bool { return true })
}

// settle takes the waiting events up to a time, in order.
func (j *Joiner) settle(until time.Duration) {
	for len(j.waiting) > 0 && j.waiting[0].Time <= until {
		a := heap.Pop(&j.waiting).(arrival)
		j.now = max(j.now, a.Time)
		j.place(a.Event)
	}
	if until != 1<<63-1 {
		j.now = max(j.now, until)
	}
}

func (j *Joiner) take(done func(*entry) bool) []*Connection {
	var out []*Connection
	keep := j.open[:0]
	for _, c := range j.open {
		if c.judged || !done(c) {
			if !c.judged {
				keep = append(keep, c)
			}
			continue
		}
		c.judged = true
		j.forget(c)
		if c.listener || !c.connected() {
			continue
		}
		out = append(out, c.Connection)
	}
	clear(j.open[len(keep):])
	j.open = keep
	slices.SortStableFunc(out, func(a, b *Connection) int {
		return compareEnd(a, b)
	})
	return out
}

// compareEnd orders by the time of the end; what has not ended comes last.
func compareEnd(a, b *Connection) int {
	switch {
	case a.Ended == b.Ended:
		return int(a.First - b.First)
	case a.Ended == 0:
		return 1
	case b.Ended == 0:
		return -1
	}
	return int(a.Ended - b.Ended)
}

// connected says whether the socket ever was one end of anything: a listener,
// and a socket that was closed before connect(2), are not connections.
func (c *entry) connected() bool {
	return c.Remote.IsValid() && c.Remote.Port() != 0
}

func (j *Joiner) ripe(c *entry, now time.Duration) bool {
	if c.listener {
		return c.destroyed
	}
	if c.Ended == 0 {
		return c.destroyed
	}
	if !c.destroyed && now-c.Ended < j.opts.Grace {
		return false
	}
	if !j.settled(c, now) {
		return false
	}
	if p := j.peer(c); p != nil && !p.judged && p.Ended != 0 && !(p.destroyed && j.settled(p, now)) {
		return now-c.Ended > j.opts.Grace+j.opts.PairGrace
	}
	return true
}

// settled says whether the mini-socket can still change the story: in
// substate FIN_WAIT2 it answers the peer's data with a reset.
func (j *Joiner) settled(c *entry, now time.Duration) bool {
	if c.mini != event.FinWait2 || c.miniEnd != 0 {
		return true
	}
	if p := j.peer(c); p != nil && p.Ended != 0 {
		return true
	}
	return now-c.Ended > finWait2
}

func (j *Joiner) peer(c *entry) *entry {
	if c.Peer == nil {
		return nil
	}
	for _, p := range j.byEnds[c.tuple.reverse()] {
		if p.Connection == c.Peer {
			return p
		}
	}
	return nil
}

// forget drops a judged connection from the indexes, except that its address
// stays taken until the socket is destroyed.
func (j *Joiner) forget(c *entry) {
	if j.bySock[c.Sock] == c && c.destroyed {
		delete(j.bySock, c.Sock)
	}
	list := j.byEnds[c.tuple]
	if i := slices.Index(list, c); i >= 0 {
		list = slices.Delete(slices.Clone(list), i, i+1)
	}
	if len(list) == 0 {
		delete(j.byEnds, c.tuple)
	} else {
		j.byEnds[c.tuple] = list
	}
}

// place gives one event, in its turn, to whom it concerns.
func (j *Joiner) place(e event.Event) {
	switch e.Hook {
	case event.HookSignal:
		j.signal(e)
	case event.HookExit, event.HookExec:
		for _, c := range j.open {
			if c.Owner != nil && c.Owner.PID == e.PID && !c.judged {
				c.Elsewhere = append(c.Elsewhere, e)
			}
		}
	case event.HookTwskKill, event.HookTwskSchedule:
		if c := j.newest(ends{e.Local, e.Remote}, e.NetNS); c != nil {
			c.append(e)
			if e.Hook == event.HookTwskKill {
				c.miniEnd = e.Time
			} else {
				c.mini = event.State(e.Arg)
			}
		}
	case event.HookSynDrop:
		if c := j.newest(ends{e.Remote, e.Local}, 0); c != nil {
			c.Elsewhere = append(c.Elsewhere, e)
		}
	case event.HookSendReset:
		j.reset(e)
	default:
		j.own(e)
	}
}

// reset places a reset that answers a segment. It may come from the socket,
// from its mini-socket, from a listener, or from no socket at all.
func (j *Joiner) reset(e event.Event) {
	mine := ends{e.Local, e.Remote}
	full := e.Sock != 0 && e.State != event.TimeWait && e.State != event.NewSynRecv && e.State != event.Listen
	if full {
		if c := j.bySock[e.Sock]; c != nil && !c.destroyed && (e.Conn == 0 || c.Gen == e.Conn) {
			j.own(e)
		} else if c := j.newest(mine, e.NetNS); c != nil && !c.judged {
			// tcp_done destroys an orphan before the reset that it owes goes out.
			c.append(e)
		}
		// A new connection's reset of a challenge ACK hits the old twin, which
		// is not its peer.
		if e.State == event.SynSent {
			if c := j.newest(mine.reverse(), 0); c != nil && !c.judged {
				c.Elsewhere = append(c.Elsewhere, e)
			}
		}
		return
	}
	if !e.Local.IsValid() {
		return
	}
	own := j.newest(mine, e.NetNS)
	if own != nil && !own.judged {
		own.append(e)
	}
	// The other end, when it lives here, is told by whom it was reset, unless
	// its peer has the event already.
	switch c := j.newest(mine.reverse(), 0); {
	case c == nil:
		j.waitForTuple(e)
	case !c.judged && (own == nil || c.Peer != own.Connection):
		c.Elsewhere = append(c.Elsewhere, e)
	}
}

// waitForTuple keeps a reset for an end whose port is not known yet: without
// the hook on tcp_connect the first event that tells the port of a refused
// connection is the arrival of the reset.
func (j *Joiner) waitForTuple(e event.Event) {
	const most = 256
	if len(j.unplaced) == most {
		j.unplaced = slices.Delete(j.unplaced, 0, 1)
	}
	j.unplaced = append(j.unplaced, e)
}

// placeWaiting gives an end whose tuple has become known the resets that were
// sent to it just before.
func (j *Joiner) placeWaiting(c *entry) {
	j.unplaced = slices.DeleteFunc(j.unplaced, func(e event.Event) bool {
		if j.now-e.Time > time.Second {
			return true
		}
		if c.tuple != (ends{e.Remote, e.Local}) {
			return false
		}
		c.Elsewhere = append(c.Elsewhere, e)
		return true
	})
}

// signal gives a SIGPIPE to the connection whose send(2) failed in that thread.
func (j *Joiner) signal(e event.Event) {
	for i := len(j.open) - 1; i >= 0; i-- {
		c := j.open[i]
		for k := len(c.Events) - 1; k >= 0; k-- {
			x := &c.Events[k]
			if x.Hook == event.HookStreamError && x.TID == e.TID && x.Arg2 == 1 {
				if !hasSignal(c.Events[k+1:]) {
					c.append(e)
					return
				}
				break
			}
		}
	}
}

func hasSignal(events []event.Event) bool {
	return slices.ContainsFunc(events, func(e event.Event) bool { return e.Hook == event.HookSignal })
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

// own places an event of a full socket.
func (j *Joiner) own(e event.Event) {
	if e.Sock == 0 {
		return
	}
	c := j.bySock[e.Sock]
	if c == nil || (e.Conn != 0 && c.Gen != e.Conn) || (c.destroyed && e.Hook != event.HookDestroy) {
		c = j.birth(e)
	}
	if c.judged {
		if e.Hook == event.HookDestroy {
			delete(j.bySock, e.Sock)
		}
		return
	}
	c.append(e)
	j.learn(c, e)
}

func (j *Joiner) birth(e event.Event) *entry {
	if old := j.bySock[e.Sock]; old != nil {
		old.destroyed = true
	}
	j.n++
	c := &entry{Connection: &Connection{
		ID: strconv.Itoa(j.n), Sock: e.Sock, Gen: e.Conn, First: e.Time,
	}}
	j.bySock[e.Sock] = c
	j.open = append(j.open, c)
	return c
}

func (c *entry) append(e event.Event) {
	c.Events = append(c.Events, e)
	c.Last = e.Time
}

// learn updates what is known of a connection.
func (j *Joiner) learn(c *entry, e event.Event) {
	if e.Has&event.HasTuple != 0 {
		c.NetNS = e.NetNS
		c.Family = e.Family
		j.address(c, e)
	}
	switch e.Hook {
	case event.HookSetState:
		j.state(c, e)
	case event.HookDestroy:
		c.destroyed = true
		delete(j.acts, e.Sock)
		if j.bySock[e.Sock] == c {
			delete(j.bySock, e.Sock)
		}
	case event.HookTimeWait:
		c.mini = event.State(e.Arg)
	case event.HookConnect:
		c.Opener = processOf(&e)
		c.Owner = c.Opener
	case event.HookAccept:
		c.Owner = processOf(&e)
	case event.HookShutdown, event.HookCloseEntry, event.HookClose, event.HookStreamError, event.HookFileClose:
		if c.listener || e.State == event.Listen {
			j.acts[e.Sock] = e
			return
		}
		if e.ByProcess() && (c.Owner == nil || c.Owner.PID != e.PID) {
			c.Owner = processOf(&e)
		}
	case event.HookAbort, event.HookDisconnect:
		if c.listener || e.State == event.Listen {
			j.acts[e.Sock] = e
		}
	case event.HookChildForget:
		if act, ok := j.acts[e.Other]; ok {
			c.Elsewhere = append(c.Elsewhere, act)
		}
	}
}

func processOf(e *event.Event) *Process {
	if !e.ByProcess() {
		return nil
	}
	return &Process{PID: e.PID, TID: e.TID, Comm: e.Comm.String(), UID: e.UID, Cgroup: e.Cgroup}
}

func (j *Joiner) state(c *entry, e event.Event) {
	switch {
	case e.ToState == event.Listen:
		c.listener = true
	case e.ToState == event.SynSent:
		c.Open, c.Opened = OpenActive, e.Time
		if c.Opener == nil && e.Context != event.ContextSoftirq {
			c.Opener = &Process{PID: e.PID, TID: e.TID, Comm: e.Comm.String(), UID: e.UID, Cgroup: e.Cgroup}
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
	}
}

// address keeps the best tuple seen. At LISTEN → SYN_RECV up to 6.12 the child
// has the listener's (inet_csk_clone_lock sets the state first); after
// tcp_disconnect the remote port is 0.
func (j *Joiner) address(c *entry, e event.Event) {
	if c.tuple != (ends{}) || e.Hook == event.HookDestroy {
		return
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
	j.byEnds[c.tuple] = append(j.byEnds[c.tuple], c)
	j.pair(c)
	j.placeWaiting(c)
}

// pair finds the other end on this machine: the mirrored addresses, a life
// that overlaps, and not both opened the same way. Loopback addresses pair
// only within one network namespace; others also across (veth).
func (j *Joiner) pair(c *entry) {
	list := j.byEnds[c.tuple.reverse()]
	for i := len(list) - 1; i >= 0; i-- {
		p := list[i]
		if p == c || p.judged || p.Peer != nil || p.destroyed {
			continue
		}
		if p.Ended != 0 && p.mini == 0 {
			continue
		}
		if p.NetNS != c.NetNS && c.Local.Addr().IsLoopback() {
			continue
		}
		if p.Open == c.Open && p.Open == OpenPassive {
			continue
		}
		p.Peer, c.Peer = c.Connection, p.Connection
		return
	}
}

// arrival is an event and its place in the order of arrival.
type arrival struct {
	event.Event
	order uint64
}

// events is a heap by time; equal times keep their order of arrival.
type events []arrival

func (h events) Len() int { return len(h) }
func (h events) Less(i, k int) bool {
	if h[i].Time != h[k].Time {
		return h[i].Time < h[k].Time
	}
	return h[i].order < h[k].order
}
func (h events) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(arrival)) }
func (h *events) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}
