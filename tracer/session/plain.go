package session

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// plain takes the stories of which the verdict is known from their shape: both
// sides closed with close(2), everything was read and acknowledged. They are most
// of all, so they are not made a Connection of events and judged: what is shown of
// them is filled into one that is used again and again.
//
// The verdict of a shape is what the judge said of one like it, with the hooks that
// this run has; what differs from one to the next is filled in. Whatever could make
// a story another's, or another story, goes the long way: a test holds both ways
// against each other.
type plain struct {
	s      *Session
	shapes [shapes]*verdict.Verdict // nil: that shape goes the long way
	hands  bool                     // who acted is asked for
	jiffy  time.Duration            // of the stories
	arch   string
	calls  plainCalls

	byKey map[uint64]*resting
	queue []*resting // by the time at which they may be shown; some have gone
	head  int
	free  []*resting

	// Those that went the long way lately, by key: the join takes a moment to know
	// of them.
	away  map[uint64]time.Duration
	aways []uint64 // in the order in which they went

	names  event.Names
	comm   event.Comm // the last one of them
	text   string
	ends   [2]scratch
	lostTo time.Duration // what was born before may lack something

	touched lately[tuples] // what segments and messages were about
	exits   lately[uint32] // which processes exited, or executed another program
	moved   time.Duration  // when an address was taken away
	decoded story.Story
}

// shape is all that decides the verdict of a plain story, as far as it is shown in
// the short form.
type shape struct {
	open  conn.Open
	first bool // this end closed first
	pair  bool // the other end lives here, too
	eof   eof
}

// shapes is how many there are at most.
const shapes = 1 << 5

func (sh shape) index() int {
	i := int(sh.eof)<<3 | int(sh.open-conn.OpenActive)<<2
	if sh.first {
		i |= 2
	}
	if sh.pair {
		i |= 1
	}
	return i
}

// eof is whether the process read up to the peer's FIN before it closed.
type eof uint8

const (
	eofNone   eof = iota // it closed first
	eofUnread            // it did not
	eofAlone             // it did, and there was nothing before the FIN
	eofBehind            // it did; data stood before the FIN
)

// resting is a story that waits for what may still concern it.
type resting struct {
	raw           story.Raw // from the kernel
	local, remote netip.AddrPort
	netns         uint32
	key           uint64
	isn           [2]uint32 // own initial sequence number, the peer's
	shape         shape
	due           time.Duration
	mate          *resting // the other end, which came first; nil: it lives on another machine, or was not heard of yet
	taken         bool     // it is somebody's mate
	left          bool     // it goes the long way

	// CLOCK_MONOTONIC: the first step; connect(2) or accept(2); __tcp_close; the FIN;
	// the peer's FIN; CLOSE; the end of the socket; when it was told.
	born, opened, closed, fin, heard, ended, gone, told time.Duration
	quiet                                               time.Duration // no payload had gone either way when the ending began; 1: less than a jiffy
	sent, received                                      uint64        // payload
}

func (r *resting) story() *story.Raw { return &r.raw }

// scratch is an end as it is shown.
type scratch struct {
	shape   shape // that verdict has
	conn    conn.Connection
	verdict verdict.Verdict
	opener  conn.Process // or accepter
	closer  conn.Process
	hands   [2]conn.Process
	bytes   [3]uint64
	tasks   [2]story.RawTask // that opener and closer were made of

	// Of the whole alone.
	local, remote verdict.Goodbye
	age, idle     time.Duration
	id            [20]byte
	sentence      []byte
	events        []event.Event
}

const (
	// maxResting bounds the stories that wait.
	maxResting = 1 << 14
	// maxFree is for how many memory is kept: what waits at 15,000 connections a second.
	maxFree = 1 << 12
)

func newPlain(s *Session) *plain {
	p := &plain{s: s, hands: s.cfg.Keep != nil || s.cfg.Pick != nil, byKey: map[uint64]*resting{}, away: map[uint64]time.Duration{}, names: event.Names{}}
	for _, open := range []conn.Open{conn.OpenActive, conn.OpenPassive} {
		p.learn(open, eofNone)
		for _, read := range []eof{eofUnread, eofAlone, eofBehind} {
			p.learn(open, read)
		}
	}
	return p
}

// learn asks the judge about a shape, with and without the other end.
func (p *plain) learn(open conn.Open, read eof) {
	other, theirs := conn.OpenActive+conn.OpenPassive-open, eofNone
	if read == eofNone {
		theirs = eofAlone
	}
	a, b := specimen(open, read), specimen(other, theirs)
	for _, pair := range []bool{true, false} {
		opts := p.s.cfg.Join
		opts.Hold, opts.Done, opts.Placed, opts.Gone, opts.Who = true, nil, nil, nil, nil
		j := conn.New(opts)
		j.AddStory(a.Told, a.Events(nil))
		if pair {
			j.AddStory(b.Told, b.Events(nil))
		}
		for _, c := range j.Flush() {
			if c.Local != a.Local {
				continue
			}
			v := verdict.Judge(c, p.s.cfg.Scope)
			if v.Class == verdict.Graceful && v.Cause == verdict.OrderlyClose && v.Unanswered == nil && v.Unseen == "" && v.Reset == nil && v.HalfClose == nil &&
				v.LocalFin != nil && v.PeerFin != nil && v.Age != nil && v.Idle != nil && (c.Peer != nil) == pair {
				v.Evidence = nil
				p.shapes[shape{open, read == eofNone, pair, read}.index()] = &v
			}
		}
	}
}

// take takes a story whose life is over, if the short way is open to it.
func (p *plain) take(raw []byte, jiffy time.Duration, arch string) bool {
	if !story.Is(raw) {
		return false
	}
	s := story.RawOf(raw)
	if !s.Final() || len(p.queue)-p.head >= maxResting {
		return false
	}
	if p.arch != arch {
		p.arch, p.calls = arch, callsOf(arch)
	}
	if p.calls.close < 0 || p.calls.connect < 0 {
		return false // an architecture whose calls are not known
	}
	p.jiffy = jiffy
	r := p.room()
	if !r.read(raw, jiffy, &p.calls) || p.shapes[r.shape.index()] == nil || r.told < p.s.join.Now() || r.born <= p.lostTo || p.s.join.MayLack(r.born) || p.known(r) {
		p.give(r)
		return false
	}
	copy(r.raw[:], raw)
	r.local, r.remote = s.Ends()
	r.key, r.netns, r.mate, r.taken, r.left = keyOf(r.isn), s.NetNS(), nil, false, false
	if p.concerned(r) {
		p.give(r)
		return false
	}
	m := p.byKey[r.key]
	if m == nil || r.told > m.due {
		r.due = r.told + p.s.join.Rest(r.local, r.remote, false)
	} else {
		sh, ms := r.shape, m.shape
		sh.pair, ms.pair = true, true
		if m.mate != nil || m.isn[0] != r.isn[1] || m.local != r.remote || m.remote != r.local || m.netns != r.netns ||
			ms.open == sh.open || ms.first == sh.first || p.shapes[sh.index()] == nil || p.shapes[ms.index()] == nil {
			p.long(m)
			p.give(r)
			return false
		}
		r.mate, r.shape, m.shape, m.taken = m, sh, ms, true
		r.due = max(r.told, m.told) + p.s.join.Rest(r.local, r.remote, true)
	}
	p.byKey[r.key] = r
	p.queue = append(p.queue, r)
	return true
}

// known says whether an end of its connection has gone the long way.
func (p *plain) known(r *resting) bool {
	if len(p.away) > 0 {
		if _, gone := p.away[keyOf(r.isn)]; gone {
			return true
		}
	}
	return p.s.join.KnowsPair(r.isn[0], r.isn[1])
}

// room is a story to be read into.
func (p *plain) room() *resting {
	if n := len(p.free); n > 0 {
		r := p.free[n-1]
		p.free = p.free[:n-1]
		return r
	}
	return &resting{}
}

func (p *plain) give(r *resting) {
	if r.mate != nil {
		p.give(r.mate)
		r.mate = nil
	}
	if len(p.free) < maxFree {
		p.free = append(p.free, r)
	}
}

// long gives a story that rests, and its mate, to the join after all.
func (p *plain) long(r *resting) {
	r.left = true
	if p.byKey[r.key] == r {
		delete(p.byKey, r.key)
	}
	p.leaves(r.key, max(r.told, p.s.join.Now()))
	for _, x := range []*resting{r.mate, r} {
		if x == nil {
			continue
		}
		// A replay must not find it late.
		binary.LittleEndian.PutUint64(x.raw[:], uint64(max(x.told, p.s.join.Now())))
		p.s.longStory(x.raw[:], p.jiffy, p.arch)
	}
}

// meets gives what rests to the join where another event concerns it: a reset, an
// ICMP error, what becomes of its mini-socket. What will rest may concern it, too.
func (p *plain) meets(e *event.Event) {
	switch e.Hook {
	case event.HookSendReset, event.HookSynDrop, event.HookICMP, event.HookTwskKill, event.HookTwskSchedule:
		at := tuplesOf(e.Local, e.Remote)
		p.touched.add(at, e.Time)
		p.longIf(func(r *resting) bool { return tuplesOf(r.local, r.remote) == at })
	case event.HookAddress:
		p.moved = max(p.moved, e.Time)
		p.longIf(func(*resting) bool { return true })
	case event.HookExit, event.HookExec:
		if p.s.cfg.Detail < verdict.DetailEvents && !(p.hands && e.Hook == event.HookExec) {
			return // no verdict of a shape depends on it, but who acted may
		}
		p.exits.add(e.PID, e.Time)
		p.longIf(func(r *resting) bool { return r.lives(e) || r.mate != nil && r.mate.lives(e) })
	}
}

func (p *plain) longIf(concerned func(*resting) bool) {
	for _, r := range p.queue[p.head:] {
		if !r.left && !r.taken && concerned(r) {
			p.long(r)
		}
	}
}

// concerned says whether something that came before concerns a story.
func (p *plain) concerned(r *resting) bool {
	if r.born <= p.moved {
		return true
	}
	if p.touched.any() {
		if _, ok := p.touched.last(tuplesOf(r.local, r.remote)); ok {
			return true
		}
	}
	at, ok := p.exits.last(r.holder())
	return ok && r.born <= at // perhaps after the story's end: the long way is right, too
}

// holder is who opened it and closed it.
func (r *resting) holder() uint32 { return r.story().Task(taskCloser).PID() }

// lives says whether a process exits that held the socket, while there is one.
func (r *resting) lives(e *event.Event) bool { return r.holder() == e.PID && e.Time <= r.gone }

// tuples are the ends of a connection in one order.
type tuples struct{ a, b netip.AddrPort }

func tuplesOf(a, b netip.AddrPort) tuples {
	if b.Compare(a) < 0 {
		a, b = b, a
	}
	return tuples{a, b}
}

// lately is what came last, as many as the join keeps of what may concern a story
// that is told later.
type lately[T comparable] struct {
	known map[T]seen
	ring  []T
	next  int
}

type seen struct {
	times int           // in ring
	at    time.Duration // the last of them
}

const maxLately = 1024

func (l *lately[T]) add(x T, at time.Duration) {
	if l.known == nil {
		l.known = map[T]seen{}
	}
	s := l.known[x]
	l.known[x] = seen{s.times + 1, max(s.at, at)}
	if len(l.ring) < maxLately {
		l.ring = append(l.ring, x)
		return
	}
	old := l.ring[l.next]
	if s := l.known[old]; s.times > 1 {
		l.known[old] = seen{s.times - 1, s.at}
	} else {
		delete(l.known, old)
	}
	l.ring[l.next] = x
	l.next = (l.next + 1) % maxLately
}

func (l *lately[T]) any() bool { return len(l.ring) > 0 }

// last is when x came last; false: not lately.
func (l *lately[T]) last(x T) (time.Duration, bool) {
	s, ok := l.known[x]
	return s.at, ok
}

// meetsStory does so where a story that goes the long way may be the other end's.
func (p *plain) meetsStory(raw []byte) {
	s := story.RawOf(raw)
	key := keyOf(numbersOf(s))
	if r := p.byKey[key]; r != nil {
		p.long(r)
	}
	p.leaves(key, s.Told())
}

// leaves notes that a story goes the long way, and forgets who did so long ago.
func (p *plain) leaves(key uint64, at time.Duration) {
	if key == 0 {
		return
	}
	if _, known := p.away[key]; !known {
		p.aways = append(p.aways, key)
	}
	p.away[key] = at
	for len(p.aways) > 0 && (p.away[p.aways[0]] < at-awayFor || len(p.aways) > maxResting) {
		delete(p.away, p.aways[0])
		p.aways = p.aways[1:]
	}
}

// awayFor is longer than the join takes to place a story.
const awayFor = time.Second

// lose gives everything that rests to the join: events were lost, up to a time.
func (p *plain) lose(to time.Duration) {
	p.lostTo = max(p.lostTo, to)
	p.longIf(func(*resting) bool { return true })
}

// waiting says whether something waits for the time to pass.
func (p *plain) waiting() bool { return p.head < len(p.queue) }

// show shows what nothing can concern any more, now that all is known up to a time.
func (p *plain) show(now time.Duration) error {
	for p.head < len(p.queue) {
		r := p.queue[p.head]
		if !r.left && !r.taken && r.due > now {
			break
		}
		p.queue[p.head] = nil
		if p.head++; p.head > 1024 && p.head > len(p.queue)/2 {
			n := copy(p.queue, p.queue[p.head:])
			clear(p.queue[n:])
			p.queue, p.head = p.queue[:n], 0
		}
		if r.taken {
			continue // it goes with its mate
		}
		if !r.left && p.s.join.KnowsPair(r.isn[0], r.isn[1]) {
			p.long(r)
		}
		if !r.left {
			if p.byKey[r.key] == r {
				delete(p.byKey, r.key)
			}
			if err := p.tell(r); err != nil {
				return err
			}
		}
		p.give(r)
	}
	return nil
}

// tell shows an end, and its mate, in the order in which they ended.
func (p *plain) tell(r *resting) error {
	a := &p.ends[0]
	p.fill(a, r)
	if r.mate == nil {
		if p.s.records(a, nil) {
			p.long(r)
			return nil
		}
		if p.s.cfg.Detail > verdict.DetailRow {
			p.whole(a, r, nil, nil)
		}
		return p.s.offerPlain(a, nil)
	}
	b := &p.ends[1]
	p.fill(b, r.mate)
	p.join(a, b)
	if p.s.records(a, b) {
		p.long(r)
		return nil
	}
	if p.s.cfg.Detail > verdict.DetailRow {
		p.whole(a, r, b, r.mate)
	}
	if a.conn.Ended < b.conn.Ended || a.conn.Ended == b.conn.Ended && a.conn.First < b.conn.First {
		return p.s.offerPlain(a, b)
	}
	return p.s.offerPlain(b, a)
}

// fill makes an end of a story.
func (p *plain) fill(x *scratch, r *resting) {
	s := r.story()
	opener, closer := s.Task(taskOpener), s.Task(taskCloser)
	// Who acts in a row is told by the kernel alone, and most often acted before.
	if p.more() || *opener != x.tasks[0] || *closer != x.tasks[1] {
		x.tasks = [2]story.RawTask{*opener, *closer}
		p.process(&x.opener, opener, r.opened)
		// What is known of who opened it holds, unless that thread has another name now.
		x.closer = x.opener
		switch comm := closer.Comm(); {
		case closer.TID() != x.opener.TID:
			x.closer.TID, x.closer.Comm = closer.TID(), p.name(comm)
		case comm != opener.Comm():
			p.process(&x.closer, closer, s.At(story.PlaceCloseEntry))
		}
	}
	c := &x.conn
	c.Peer, c.Opener, c.Proven = nil, nil, false
	c.Sock, c.Gen, c.Family, c.Local, c.Remote, c.NetNS, c.Open = s.Sock(), uint64(r.born), s.Family(), r.local, r.remote, r.netns, r.shape.open
	c.First, c.Opened, c.Established, c.Ended, c.Last = s.At(0), s.At(0), s.At(1), r.ended, r.gone
	if c.Owner = &x.opener; r.shape.open == conn.OpenActive {
		c.Opener = c.Owner
	}
	if p.hands {
		x.hands[0], x.hands[1] = x.opener, x.closer
		c.Hands = x.hands[:]
	}
	v := &x.verdict
	if known := p.shapes[r.shape.index()]; x.shape != r.shape {
		x.shape = r.shape
		*v = *known
	}
	v.Sentence, v.LocalFin, v.PeerFin, v.Actor, v.Age, v.Idle = "", nil, nil, nil, nil, nil
	if r.shape.first {
		v.Actor = &x.closer
	}
	x.bytes = [3]uint64{r.sent, r.sent, r.received}
	v.Bytes = verdict.Bytes{Sent: &x.bytes[0], Acked: &x.bytes[1], Received: &x.bytes[2]}
}

// join makes two ends one connection.
func (p *plain) join(a, b *scratch) {
	a.conn.Peer, b.conn.Peer = &b.conn, &a.conn
	a.conn.Proven, b.conn.Proven = true, true
	if a.verdict.Actor == nil {
		a, b = b, a
	}
	b.verdict.Actor = a.verdict.Actor
}

// process is who took a step.
func (p *plain) process(to *conn.Process, t *story.RawTask, at time.Duration) {
	*to = conn.Process{PID: t.PID(), TID: t.TID(), Comm: p.name(t.Comm()), UID: t.UID(), Cgroup: t.Cgroup()}
	if p.more() {
		p.s.people.complete(to, at)
	}
}

// more says whether more is asked of a process than the kernel tells.
func (p *plain) more() bool { return p.hands || p.s.cfg.Detail > verdict.DetailRow }

// name is a name as a string, which is made once.
func (p *plain) name(c event.Comm) string {
	if c == p.comm {
		return p.text
	}
	name := p.names.Of(c)
	p.comm, p.text = c, name
	return name
}

// whole fills in what only long forms show, of one end or of both.
func (p *plain) whole(a *scratch, ra *resting, b *scratch, rb *resting) {
	first, last, rf, rl := a, b, ra, rb // to close
	if !ra.shape.first {
		first, last, rf, rl = b, a, rb, ra
	}
	opened := a.conn.Opened
	if b != nil {
		opened = min(opened, b.conn.Opened)
	}
	o := verdict.Orderly{Remote: a.conn.Remote}
	var began, quiet time.Duration
	if first != nil {
		began, quiet = rf.closed, rf.quiet
		o.First, o.At = &first.closer, rf.fin-opened
	} else {
		began, quiet = rl.heard, rl.quiet
	}
	if last != nil {
		o.Second, o.Later = &last.closer, rl.fin-opened-o.At
	}
	age := began - opened
	if quiet == 1 {
		quiet = 0 // less than a jiffy
	}
	quiet = min(quiet, age)
	key := conn.KeyOf(ra.isn[0], ra.isn[1])
	// It is valid until the sink returns, as all of it.
	a.sentence = o.Append(a.sentence[:0])
	sentence := unsafe.String(unsafe.SliceData(a.sentence), len(a.sentence))
	for i, x := range []*scratch{a, b} {
		if x == nil {
			continue
		}
		r := []*resting{ra, rb}[i]
		c, v, was := &x.conn, &x.verdict, p.shapes[r.shape.index()]
		x.age, x.idle, c.Key = age, quiet, key
		v.Age, v.Idle, v.Sentence = &x.age, &x.idle, sentence
		id := strconv.AppendInt(x.id[:0], int64(p.s.join.Number()), 10)
		c.ID = unsafe.String(unsafe.SliceData(id), len(id))
		x.local, x.remote = *was.LocalFin, *was.PeerFin
		x.local.At, x.local.Actor = r.fin, &x.closer
		x.remote.At, x.remote.Actor = r.heard, nil
		if b != nil {
			other, ro := b, rb
			if x == b {
				other, ro = a, ra
			}
			x.remote.At, x.remote.Actor = ro.fin, &other.closer
		}
		v.LocalFin, v.PeerFin = &x.local, &x.remote
		if p.s.cfg.Detail == verdict.DetailEvents {
			if err := p.decoded.Decode(r.raw[:], p.jiffy, p.arch); err == nil { // it was read
				x.events = p.decoded.Events(x.events[:0])
			}
			c.Events = x.events
		}
	}
}
