package session

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/story"
)

// ledger is what stands between a run and a recording that does not get
// everything: one of chosen connections, or one in parts.
//
// Everything waits in a queue until it is known whether it is wanted, and leaves
// it in the order in which it came: a replay depends on that. An event is wanted
// when a connection that it concerns is, and a connection, or its peer, may be
// chosen as late as by its verdict. What waits for too long, or takes too much
// room, is written all the same: a connection is recorded as a whole or not at
// all, and the recording says what was chosen, so a replay leaves it out.
//
// What the run knows of processes, of connections and listeners of before, is
// written before the first event that needs it, in each part.
type ledger struct {
	to    Recorder
	picks func() []*filter.Filter // all must match; none: everything is wanted
	join  *conn.Joiner
	begun bool
	head  func() record.Choice

	queue   []*item
	bytes   int // of the records in queue
	dropped int // items in queue that hold nothing any more
	waiting map[uint64]*item
	tracks  map[*conn.Connection]*track
	socks   map[uint64]struct{} // of chosen connections that were judged, until they are destroyed
	now     time.Duration
	ticked  time.Duration // the last tick that was queued
	events  uint64
	err     error

	people map[uint32]*person
	order  []uint32 // of people
	// What was there at the begin and was not told yet.
	seeds     map[tuple]conn.Seed
	busy      map[end]int // connections at an end, where there are several
	listening map[uint16][]conn.Seed

	part  int
	ports map[uint16][]conn.Listener // that this part was not told of; nil: not asked yet
	unit  []byte
}

// tuple is a connection, and end one of its ends.
type tuple struct {
	netns         uint32
	local, remote netip.AddrPort
}

type end struct {
	netns uint32
	local netip.AddrPort
}

// item is a record that waits.
type item struct {
	record  []byte // nil: it is not wanted
	at      time.Duration
	process *record.Process // it is one
	event   *event.Event    // it is one, without its texts, or a story that begins with it
	pids    []uint32        // of a story
	loss    *record.Loss    // it is one
	wall    *record.Wall    // it is one
	tracks  []*track        // whom it concerns
	placed  bool
	wanted  bool
}

type decision uint8

const (
	undecided decision = iota
	chosen
	rejected
)

// track is a connection on its way to be chosen or not.
type track struct {
	c         *conn.Connection
	is        decision
	items     []*item // that wait for it
	judged    bool
	unmatched bool // judged, and now it depends on its peer
	part      int  // that was told of it, from 1
}

// person is what is known of a process.
type person struct {
	pending []record.Process
	last    record.Process
	wanted  bool // an event of it is in the recording
	part    int  // that was told of it, from 1
}

const (
	// maxWait is how long a record waits for a decision, in the run's own time.
	maxWait = 10 * time.Second
	// maxWaiting is how many bytes wait.
	maxWaiting = 32 << 20
	// perItem is what an item takes beside its record.
	perItem = 640
)

func newLedger(to Recorder, join *conn.Joiner, picks func() []*filter.Filter, head func() record.Choice) *ledger {
	return &ledger{
		to: to, join: join, picks: picks, head: head, waiting: map[uint64]*item{}, tracks: map[*conn.Connection]*track{},
		socks: map[uint64]struct{}{}, people: map[uint32]*person{}, seeds: map[tuple]conn.Seed{}, busy: map[end]int{},
		listening: map[uint16][]conn.Seed{},
	}
}

func (l *ledger) push(i *item) {
	i.at = l.now
	l.bytes += len(i.record) + perItem
	l.queue = append(l.queue, i)
}

// event takes an event that the join got as its order-th.
func (l *ledger) event(e *event.Event, order uint64, late bool) {
	kept := *e
	kept.Text, kept.Stack = "", ""
	i := &item{record: record.AppendEvent(nil, e), event: &kept, wanted: late}
	l.waiting[order] = i
	l.push(i)
}

// story takes a socket's story, with its first event, that the join got as its
// order-th.
func (l *ledger) story(st *story.Story, first event.Event, b []byte, order uint64, late bool) {
	first.PID = 0
	i := &item{record: b, event: &first, wanted: late}
	for _, t := range st.Tasks[:st.TaskCount] {
		i.pids = append(i.pids, t.PID)
	}
	l.waiting[order] = i
	l.push(i)
}

// always takes what every recording gets.
func (l *ledger) always(b []byte) {
	l.push(&item{record: b, placed: true, wanted: true})
}

func (l *ledger) loss(x record.Loss) {
	l.push(&item{record: record.Append(nil, x), loss: &x, placed: true, wanted: true})
}

func (l *ledger) wall(x record.Wall) {
	l.push(&item{record: record.Append(nil, x), wall: &x, placed: true, wanted: true})
}

func (l *ledger) process(p record.Process) {
	l.push(&item{process: &p, placed: true, wanted: true})
}

// tick takes the time once the join has come to now.
func (l *ledger) tick(now time.Duration) {
	if now > l.ticked {
		l.ticked = now
		l.always(record.Append(nil, record.Tick{Time: now}))
	}
}

// seed takes what was there before.
func (l *ledger) seed(s conn.Seed) {
	if s.State == event.Listen {
		l.listening[s.Local.Port()] = append(l.listening[s.Local.Port()], s)
		return
	}
	l.seeds[tuple{s.NetNS, s.Local, s.Remote}] = s
	l.busy[end{s.NetNS, s.Local}]++
}

// hold takes who holds a connection at the end of the run.
func (l *ledger) hold(c *conn.Connection, r record.Seed) {
	i := &item{record: record.Append(nil, r), placed: true, wanted: len(l.picks()) == 0}
	if t := l.tracks[c]; t != nil && t.is != rejected {
		l.concern(i, t)
	}
	if !i.wanted && len(i.tracks) == 0 {
		return
	}
	l.push(i)
}

func (l *ledger) track(c *conn.Connection) *track {
	t := l.tracks[c]
	if t == nil {
		t = &track{c: c}
		l.tracks[c] = t
	}
	return t
}

// concern notes that an item is about a connection.
func (l *ledger) concern(i *item, t *track) {
	if slices.Contains(i.tracks, t) && len(i.tracks) < 64 {
		return
	}
	i.tracks = append(i.tracks, t)
	switch t.is {
	case undecided:
		t.items = append(t.items, i)
	case chosen:
		i.wanted = true
	}
}

// placed learns whom an event concerns.
func (l *ledger) placed(order uint64, told []*conn.Connection) {
	i := l.waiting[order]
	if i == nil {
		return
	}
	delete(l.waiting, order)
	i.placed = true
	e := i.event
	picks := l.picks()
	if len(picks) == 0 || listens(e) {
		i.wanted = true
	}
	for _, c := range told {
		t := l.track(c)
		if t.is == undecided {
			switch {
			case i.wanted && len(picks) == 0, listens(e), t.c.Peer != nil && l.is(t.c.Peer) == chosen:
				l.decide(t, chosen)
			default:
				l.decide(t, early(picks, c))
			}
		}
		l.concern(i, t)
	}
	if len(told) == 0 && !i.wanted {
		_, after := l.socks[e.Sock]
		if after = after && e.Hook == event.HookDestroy; after {
			delete(l.socks, e.Sock)
		}
		// A reset without a socket may be for a connection that is not known yet.
		i.wanted = after || e.Has&event.HasTuple != 0 && (e.Hook == event.HookSendReset || e.Hook == event.HookSynDrop) && !slices.ContainsFunc(picks, func(f *filter.Filter) bool {
			return f.Excludes(e.Local, e.Remote)
		})
	}
	l.spread(i)
	l.settle(i)
}

// listens says whether an event is of a listener.
func listens(e *event.Event) bool {
	return e.Has&event.HasTuple != 0 && e.State == event.Listen && !(e.Hook == event.HookSetState && e.ToState == event.SynRecv) ||
		e.Hook == event.HookSetState && e.ToState == event.Listen
}

func (l *ledger) is(c *conn.Connection) decision {
	if t := l.tracks[c]; t != nil {
		return t.is
	}
	return undecided
}

// early decides, if what is known so far does.
func early(picks []*filter.Filter, c *conn.Connection) decision {
	sure := true
	for _, f := range picks {
		if f.Excludes(c.Local, c.Remote) {
			return rejected
		}
		sure = sure && len(f.Classes)+len(f.Causes) == 0 && f.MatchConnection(c)
	}
	if sure {
		return chosen
	}
	return undecided
}

// spread chooses whom else an event concerns that is recorded for one: a replay
// must not meet a part of a connection.
func (l *ledger) spread(i *item) {
	if !i.wanted || i.event == nil || i.event.Sock == 0 {
		return
	}
	for _, t := range i.tracks {
		if t.is == undecided {
			l.decide(t, chosen)
		}
	}
}

// settle drops an item that nobody wants.
func (l *ledger) settle(i *item) {
	if i.wanted || !i.placed || i.record == nil || slices.ContainsFunc(i.tracks, func(t *track) bool { return t.is == undecided }) {
		return
	}
	l.bytes -= len(i.record) + perItem
	i.record, i.event, i.tracks = nil, nil, nil
	l.dropped++
}

func (l *ledger) decide(t *track, is decision) {
	if is == undecided || t.is != undecided {
		return
	}
	t.is = is
	items := t.items
	t.items = nil
	for _, i := range items {
		i.wanted = i.wanted || is == chosen
		l.spread(i)
		l.settle(i)
	}
	if p := t.c.Peer; p != nil && is == chosen {
		if pt := l.tracks[p]; pt != nil {
			l.decide(pt, chosen)
		}
	}
	l.leave(t)
}

// leave forgets a connection of which nothing more can come.
func (l *ledger) leave(t *track) {
	if !t.judged || t.is == undecided {
		return
	}
	delete(l.tracks, t.c)
	if t.is == chosen && t.c.Sock != 0 {
		if len(l.socks) >= 1<<16 {
			clear(l.socks)
		}
		l.socks[t.c.Sock] = struct{}{}
	}
}

// judged learns whether a connection is wanted for itself, now that its story is
// complete.
func (l *ledger) judged(c *conn.Connection, match bool) {
	t := l.track(c)
	t.judged = true
	switch p := l.tracks[c.Peer]; {
	case match || len(l.picks()) == 0:
		l.decide(t, chosen)
	case p == nil || c.Peer == nil:
		l.decide(t, rejected)
	case p.unmatched:
		l.decide(t, rejected)
		l.decide(p, rejected)
	default:
		t.unmatched = true
	}
	l.leave(t)
}

// gone learns of a socket that was no connection after all.
func (l *ledger) gone(c *conn.Connection) {
	if t := l.tracks[c]; t != nil {
		t.judged = true
		l.decide(t, rejected)
		l.leave(t)
	}
}

// drain writes what is decided, as far as nothing before it is not. At the end
// everything is.
func (l *ledger) drain(all bool) error {
	n := 0
	for n < len(l.queue) && l.err == nil {
		i := l.queue[n]
		if i.record == nil && i.process == nil {
			l.dropped--
		} else {
			if !i.wanted || !i.placed {
				over := l.bytes > maxWaiting || i.at < l.now-maxWait
				if !i.placed && !all || !over && !all {
					break
				}
				for _, t := range i.tracks {
					l.decide(t, chosen)
				}
				i.wanted = true
			}
			l.err = l.write(i)
			l.bytes -= len(i.record) + perItem
		}
		l.queue[n] = nil
		n++
	}
	l.queue = l.queue[n:]
	if l.dropped > 1024 && l.dropped > len(l.queue)/2 {
		l.queue = slices.DeleteFunc(l.queue, func(i *item) bool { return i.record == nil && i.process == nil })
		l.dropped = 0
	}
	return l.err
}

// begin says first what the run is about, which is known once something of it
// comes.
func (l *ledger) begin() error {
	if l.begun {
		return nil
	}
	l.begun = true
	if c := l.head(); c.Command != 0 || len(c.Filters) > 0 {
		return l.to.Choice(c)
	}
	return nil
}

// write writes an item with what it needs. What belongs together goes into one
// part.
func (l *ledger) write(i *item) error {
	if err := l.begin(); err != nil {
		return err
	}
	if i.process != nil {
		p := l.person(i.process.PID)
		if p.pending = append(p.pending, *i.process); !p.wanted {
			if len(p.pending) > generations {
				p.pending = p.pending[1:]
			}
			return nil
		}
		l.unit = l.learn(l.unit[:0], p)
		return l.put(l.unit)
	}
	if i.loss != nil || i.wall != nil {
		if !l.to.Fits(len(i.record)) {
			if err := l.next(); err != nil {
				return err
			}
		}
		if i.wall != nil {
			return l.to.Wall(*i.wall)
		}
		return l.to.Loss(*i.loss)
	}
	if i.event == nil {
		return l.put(i.record)
	}
	l.events++
	b := append(l.needs(l.unit[:0], i), i.record...)
	if !l.to.Fits(len(b)) {
		if err := l.next(); err != nil {
			return err
		}
		// What was to be told anew belongs here now, beside what this part repeats.
		b = append(l.needs(b[:len(b)-len(i.record)], i), i.record...)
	}
	l.unit = b
	return l.to.Raw(b, 1)
}

// next goes on in the next part, which was told of nothing yet.
func (l *ledger) next() error {
	l.part++
	l.ports = nil
	return l.to.Next()
}

func (l *ledger) put(b []byte) error {
	if !l.to.Fits(len(b)) {
		if err := l.next(); err != nil {
			return err
		}
	}
	return l.to.Raw(b, 0)
}

func (l *ledger) person(pid uint32) *person {
	p := l.people[pid]
	if p == nil {
		p = &person{}
		l.people[pid] = p
		if l.order = append(l.order, pid); len(l.order) > maxPeople {
			delete(l.people, l.order[0])
			l.order = l.order[1:]
		}
	}
	return p
}

// learn tells what is known of a process and was not told.
func (l *ledger) learn(b []byte, p *person) []byte {
	for _, r := range p.pending {
		p.last = r
		b = record.Append(b, r)
	}
	p.pending, p.part = nil, l.part+1
	return b
}

// whoIs tells what is known of a process.
func (l *ledger) whoIs(b []byte, pid uint32) []byte {
	if pid == 0 {
		return b
	}
	p := l.person(pid)
	p.wanted = true
	switch {
	case len(p.pending) > 0:
		b = l.learn(b, p)
	case p.last.PID != 0 && p.part != l.part+1:
		p.part = l.part + 1
		again := p.last
		again.Again = true
		b = record.Append(b, again)
	}
	return b
}

// needs tells what the part must know for an event, as far as it was not told.
func (l *ledger) needs(b []byte, i *item) []byte {
	e := i.event
	b = l.whoIs(b, e.PID)
	for _, pid := range i.pids {
		b = l.whoIs(b, pid)
	}
	if e.Has&event.HasTuple != 0 {
		b = l.around(b, e.NetNS, e.Local, e.Remote)
	}
	if len(i.tracks) > maxNeeds {
		return b // an exit: each of its connections is told of with its own events
	}
	for _, t := range i.tracks {
		c := t.c
		b = l.around(b, c.NetNS, c.Local, c.Remote)
		if p := c.Peer; p != nil {
			b = l.around(b, p.NetNS, p.Local, p.Remote)
		}
		if e.Sock == 0 || e.Sock != c.Sock || t.part == l.part+1 {
			continue
		}
		t.part = l.part + 1
		if l.part > 0 && older(e) {
			r := seedRecord(conn.Seed{Time: e.Time, NetNS: e.NetNS, Local: e.Local, Remote: e.Remote, State: e.State, Owner: c.Owner})
			r.Again = true
			b = record.Append(b, r)
		}
	}
	return b
}

// maxNeeds is of how many connections is told what they need for one event.
const maxNeeds = 16

// older says whether an event shows a connection in the middle of its life.
func older(e *event.Event) bool {
	if e.Has&event.HasTuple == 0 || e.Hook == event.HookSetState && e.ToState == event.SynSent {
		return false
	}
	switch e.State {
	case 0, event.Close, event.TimeWait, event.NewSynRecv, event.Listen:
		return false
	}
	return true
}

// around tells what was there at the begin with these ends: the connection, from
// both sides, and what says which of them is the service's.
func (l *ledger) around(b []byte, netns uint32, local, remote netip.AddrPort) []byte {
	for _, key := range []tuple{{netns, local, remote}, {netns, remote, local}} {
		if seed, ok := l.seeds[key]; ok {
			delete(l.seeds, key)
			b = record.Append(b, seedRecord(seed))
		}
		if here := (end{netns, key.local}); l.busy[here] > 1 {
			delete(l.busy, here)
			// That there are several matters, and not which.
			for range 2 {
				b = record.Append(b, record.Seed{NetNS: netns, Local: here.local, State: event.Established})
			}
		}
		port := key.local.Port()
		if list := l.listening[port]; list != nil {
			delete(l.listening, port)
			for _, seed := range list {
				b = record.Append(b, seedRecord(seed))
			}
		}
		if l.part == 0 {
			continue
		}
		if l.ports == nil {
			l.ports = map[uint16][]conn.Listener{}
			l.join.Listeners(func(x conn.Listener) bool {
				l.ports[x.Local.Port()] = append(l.ports[x.Local.Port()], x)
				return true
			})
		}
		for _, x := range l.ports[port] {
			r := seedRecord(conn.Seed{NetNS: x.NetNS, Local: x.Local, State: event.Listen, Owner: x.Owner})
			r.Again = true
			b = record.Append(b, r)
		}
		delete(l.ports, port)
	}
	return b
}

// finish writes what is left, now that everything was judged.
func (l *ledger) finish() error {
	for _, i := range l.queue {
		if !i.placed {
			i.placed = true // the join has no use for it
			l.settle(i)
		}
	}
	if l.err == nil {
		l.err = l.begin()
	}
	return l.drain(true)
}
