package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Program is the name that recordings carry.
var Program = "tcpbye"

// Live traces until the context ends and then finishes the story. prepare is
// called once everything is attached, with what a recording's head says; its
// Config's Scope is filled in from it.
func Live(ctx context.Context, opts tracer.Options, prepare func(record.Meta, []tracer.Attachment) (Config, error)) (counts Counts, err error) {
	t, err := tracer.Open(opts)
	if err != nil {
		return counts, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	meta, err := Describe(t.Attachments())
	if err != nil {
		return counts, err
	}
	cfg, err := prepare(meta, t.Attachments())
	if err != nil {
		return counts, err
	}
	cfg.Scope, cfg.offset = verdict.ScopeOf(meta), meta.Offset
	s := New(cfg)
	s.live = true
	if t.CanAsk() {
		s.seeker.ask = t.Ask
	}
	// What happens while the snapshot is taken waits to be read. So whoever is
	// younger than the start has told all of its life, and whoever is older is in
	// the snapshot, or has ended since.
	if err = s.beat(); err == nil {
		err = t.Start()
	}
	if err == nil && ctx.Err() == nil {
		err = s.begin()
	}
	if err == nil {
		err = s.run(ctx, t)
	}
	if errors.Is(err, ErrEnough) {
		err = nil
	}
	if err == nil && !s.cut() && cfg.Seeds != nil && s.Following(held) {
		err = s.holders()
	}
	s.until = s.ticked
	if cfg.Drained != nil {
		cfg.Drained()
	}
	// Whatever went wrong, what was recorded is judged and shown.
	err = errors.Join(err, s.Finish())
	return s.Counts(), err
}

// begin takes what was there before. What the hooks have told by now is not taken
// yet, and wins over it.
func (s *Session) begin() error {
	if s.cfg.Seeds != nil {
		seeds, err := s.cfg.Seeds()
		if err != nil {
			return err
		}
		for _, seed := range seeds {
			if err := s.Seed(seed); err != nil {
				return err
			}
		}
	}
	started, err := tracer.Monotonic()
	if err != nil {
		return err
	}
	if s.cfg.Started != nil {
		if err := s.cfg.Started(); err != nil {
			return err
		}
	}
	if s.cfg.Command != nil {
		if pid := s.cfg.Command(); pid != 0 {
			return s.Choose(record.Choice{Command: pid, Time: started})
		}
	}
	return nil
}

// holders asks who holds the connections of which somebody has let go.
func (s *Session) holders() error {
	seeds, err := s.cfg.Seeds()
	if err != nil {
		return nil // with the privileges that are left; their number is told all the same
	}
	want := map[[2]netip.AddrPort]bool{}
	s.join.Open(func(c *conn.Connection) bool {
		if held(c) {
			want[[2]netip.AddrPort{c.Local, c.Remote}] = true
		}
		return true
	})
	for _, seed := range seeds {
		if want[[2]netip.AddrPort{seed.Local, seed.Remote}] {
			if err := s.Hold(seed); err != nil {
				return err
			}
		}
	}
	return nil
}

// left asks the kernel's own table about the connections that have not ended by
// what was told: only together do they prove that one is open. A replay is told what
// the table said.
func (s *Session) left(open []*conn.Connection) {
	if s.cfg.Sockets != nil && len(open) > 0 {
		s.look(open)
	}
	for _, l := range s.looked {
		gone := make(map[uint64]bool, len(l.Gone))
		for _, gen := range l.Gone {
			gone[gen] = true
		}
		for _, c := range open {
			c.Found = c.Found || c.NetNS == l.NetNS && c.Gen != 0 && c.First < l.Time && !gone[c.Gen]
		}
	}
}

// look compares the table with what was told.
func (s *Session) look(open []*conn.Connection) {
	netns, sockets, err := s.cfg.Sockets()
	if err != nil || netns == 0 || len(sockets) == 0 {
		return // nothing is proven then
	}
	table := make(map[tuple]*snapshot.Socket, len(sockets))
	for i := range sockets {
		x := &sockets[i]
		table[tuple{netns, x.Local, x.Remote}] = x
	}
	l := record.Look{Time: sockets[0].Time, NetNS: netns}
	for _, c := range open {
		if c.NetNS != netns || c.Gen == 0 {
			continue
		}
		if x := table[tuple{netns, c.Local, c.Remote}]; x == nil || x.State != c.State() || differs(x.Inode, inodeOf(c)) {
			l.Gone = append(l.Gone, c.Gen)
		}
	}
	if len(l.Gone) > maxGone {
		return // the trace was late for its own end
	}
	s.looked = append(s.looked, l)
	if s.err == nil {
		s.err = s.writeLook(l)
	}
}

// maxGone bounds what a recording says of a look.
const maxGone = 512

// writeLook records what the table said.
func (s *Session) writeLook(l record.Look) error {
	switch {
	case s.ledger != nil:
		s.ledger.always(record.Append(nil, l))
	case s.cfg.Record != nil:
		return s.cfg.Record.Look(l)
	}
	return nil
}

// Look takes what the table said when the run that is replayed was over.
func (s *Session) Look(l record.Look) error {
	s.looked = append(s.looked, l)
	return s.writeLook(l)
}

// inodeOf is the inode of a connection's socket, as it was told last; 0: it was not.
func inodeOf(c *conn.Connection) uint64 {
	for i := len(c.Events) - 1; i >= 0; i-- {
		if e := &c.Events[i]; e.Sock == c.Sock && e.Inode != 0 {
			return e.Inode
		}
	}
	return 0
}

// differs says whether two inodes are known and of two sockets.
func differs(a, b uint64) bool { return a != 0 && b != 0 && a != b }

// news is what the tracer tells the session, one of these.
type news struct {
	process *record.Process // before the event
	event   event.Event
	isEvent bool
	naming  *naming          // of the event's stack
	story   []byte           // as the kernel tells it
	people  []record.Process // before the story
	lost    tracer.Loss
	now     time.Duration // no older event will come
}

func (s *Session) run(ctx context.Context, t *tracer.Tracer) error {
	take := s.take
	end := func() error { return nil }
	if w := s.cfg.Witness; w != nil && w.symbols != nil {
		take, end = s.apart()
		defer context.AfterFunc(ctx, w.ending)()
	}
	err := t.Run(ctx, tracer.Handler{
		Event: func(e event.Event) error {
			n := news{event: e, isEvent: true}
			if s.cfg.Witness != nil {
				if p, fresh := s.cfg.Witness.Look(&e); fresh {
					n.process = &p
				}
			}
			return take(n)
		},
		Story: s.stories(take),
		Lost:  func(l tracer.Loss) error { return take(news{lost: l}) },
		Tick:  func(now time.Duration) error { return take(news{now: now}) },
		Idle:  s.idle.Load,
	})
	if errors.Is(err, errStopped) {
		err = nil // the session says why
	}
	return errors.Join(err, end())
}

// stories takes stories from the tracer. Where news wait in a queue, they keep
// their own copy.
func (s *Session) stories(take func(news) error) func(raw []byte) error {
	apart := s.behind != nil
	jiffy := tracer.Jiffy()
	return func(raw []byte) error {
		if !apart {
			if err := s.meet(raw, s.Process); err != nil {
				return err
			}
			return s.Story(raw, jiffy, runtime.GOARCH)
		}
		n := news{story: bytes.Clone(raw)}
		_ = s.meet(raw, func(p record.Process) error { n.people = append(n.people, p); return nil })
		return take(n)
	}
}

// meet looks up who acted in a story.
func (s *Session) meet(raw []byte, tell func(record.Process) error) error {
	w := s.cfg.Witness
	if w == nil || !story.Is(raw) {
		return nil
	}
	r := story.RawOf(raw)
	var last uint32
	for i := range uint8(story.MaxTasks) {
		t := r.Task(i)
		pid := t.PID()
		if pid == 0 || pid == last || t.Has()&event.HasTask != 0 && t.Flags()&event.PFKthread != 0 {
			continue
		}
		last = pid
		if p, fresh := w.Meet(t, r.Told()); fresh {
			if err := tell(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// take gives the session its news.
func (s *Session) take(n news) error {
	if n.story != nil {
		for _, p := range n.people {
			if err := s.Process(p); err != nil {
				return err
			}
		}
		return s.Story(n.story, tracer.Jiffy(), runtime.GOARCH)
	}
	if n.isEvent {
		if n.process != nil {
			if err := s.Process(*n.process); err != nil {
				return err
			}
		}
		if n.naming != nil {
			n.event.Stack = s.cfg.Witness.end(n.naming, s.behind())
		}
		s.lookAtAcceptor(&n.event)
		return s.Event(n.event)
	}
	if n.lost.Lost > 0 {
		return s.Lose(n.lost.From, n.lost.To, n.lost.Lost)
	}
	if err := s.follow(n.now); err != nil {
		return err
	}
	if err := s.Tick(n.now); err != nil {
		return err
	}
	if err := s.seeker.seek(n.now, s.join, tracer.Monotonic); err != nil {
		return err
	}
	s.idle.Store(!s.owed && !s.pending() && !s.waits() && s.cfg.Command == nil)
	if s.cfg.Pulse != nil {
		return s.cfg.Pulse(s)
	}
	return nil
}

// lookAtAcceptor looks whether the process has a descriptor left that should have
// accepted a connection which its peer gave up in the queue.
func (s *Session) lookAtAcceptor(e *event.Event) {
	if s.cfg.Witness == nil || !e.LeavesQueue() {
		return
	}
	if who := s.join.Acceptor(e.NetNS, e.Local); who != nil && !event.Outside(who.PID) {
		e.Full = s.cfg.Witness.Full(who.PID, e.Time)
	}
}

// waits says whether somebody is to be told the time although nothing happens.
func (s *Session) waits() bool {
	if s.cfg.Waits != nil {
		return s.cfg.Waits()
	}
	return s.cfg.Time != nil
}

// pulse is what a live run knows of the clocks.
type pulse struct {
	wall  time.Duration // wall clock minus CLOCK_MONOTONIC
	wound time.Duration // when it was so last

	said time.Duration // when Behind was called last
	lost uint64        // what it was told
}

const (
	// wallStep is what the readings of two clocks may differ by.
	wallStep = 2 * time.Millisecond
	// behind is from where on a run falls behind: the time that a tick tells is
	// always that of the last asking for losses.
	behind = time.Second
	// sayEvery is how often that is said.
	sayEvery = time.Second
)

// beat looks at the wall clock. It is compared, not waited for: the clock is also
// another when the machine has slept, and a moment is too short to be seen in
// what is shown.
func (s *Session) beat() error {
	offset, at, ok, err := tracer.WallOffset()
	if err != nil || !ok {
		return err
	}
	if s.pulse.wound == 0 {
		s.pulse.wall = s.cfg.offset
	}
	if moved := offset - s.pulse.wall; moved > wallStep || moved < -wallStep {
		err = s.Wall(record.Wall{Time: s.pulse.wound, Offset: offset})
		s.pulse.wall = offset
	}
	s.pulse.wound = at
	return err
}

// follow compares the time that is told with the clocks.
func (s *Session) follow(now time.Duration) error {
	if err := s.beat(); err != nil || s.cfg.Behind == nil {
		return err
	}
	at, err := tracer.Monotonic()
	if err != nil {
		return err
	}
	p, by := &s.pulse, max(0, at-now)
	if s.idle.Load() {
		by = 0 // the time may stand still: nothing waits for it
	}
	if at-p.said < sayEvery || by < behind && s.counts.Lost == p.lost {
		return nil
	}
	p.said, p.lost = at, s.counts.Lost
	s.cfg.Behind(by, s.counts.Lost)
	return nil
}

// maxNews is how much may wait for the session.
const maxNews = 1 << 15

// apart takes news in a goroutine of its own: to name a stack may take seconds,
// and the next process must be looked at while it lives. Names are looked for from
// the beginning, and waited for only while there is room for more news: a program
// that makes them costly must not cost events. The error of the session comes with
// the following news, or at the end.
func (s *Session) apart() (take func(news) error, end func() error) {
	queue := make(chan news, maxNews)
	s.behind = func() bool { return len(queue) > maxNews/2 }
	failed := make(chan struct{})
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		for n := range queue {
			if err = s.take(n); err != nil {
				close(failed)
				break
			}
		}
		for range queue {
			// Nobody waits for the rest.
		}
	}()
	take = func(n news) error {
		if n.isEvent && n.event.Hook == event.HookStack {
			n.naming = s.cfg.Witness.begin(&n.event)
		}
		select {
		case <-failed:
			return errStopped
		default:
		}
		select {
		case queue <- n:
			return nil
		case <-failed:
			return errStopped
		}
	}
	end = func() error {
		close(queue)
		<-done
		return err
	}
	return take, end
}

// errStopped ends the reading of the ring: why, the session says.
var errStopped = errors.New("the session has stopped")

// Existing finds the connections that there are, for a Config's Seeds.
func Existing(w *Witness) ([]conn.Seed, error) {
	o := snapshot.Options{Who: w.Complete}
	snap, err := snapshot.Take(o)
	if err != nil {
		return nil, err
	}
	seeds := make([]conn.Seed, 0, len(snap.Sockets))
	for _, list := range [][]snapshot.Socket{snap.Sockets, snap.Listening} {
		for i := range list {
			seeds = append(seeds, list[i].Seed())
		}
	}
	return seeds, nil
}

// Describe says what this run is like.
func Describe(attachments []tracer.Attachment) (record.Meta, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return record.Meta{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	offset, now, _, err := tracer.WallOffset()
	if err != nil {
		return record.Meta{}, err
	}
	m := record.Meta{
		Program: Program, Kernel: unix.ByteSliceToString(u.Release[:]), Arch: runtime.GOARCH,
		Offset: offset, Host: thisHost(unix.ByteSliceToString(u.Nodename[:])),
		Run: strconv.FormatInt(int64(now), 36) + "-" + strconv.Itoa(os.Getpid()),
	}
	for _, a := range attachments {
		m.Rungs = append(m.Rungs, record.Rung{Hook: a.Hook, Name: a.Hook.String(), Rung: string(a.Rung), All: &a.All})
	}
	return m, nil
}

// ErrInterrupted is what a reader gives for a recording that is not read to its
// end because nobody wants to know more: it is a normal end.
var ErrInterrupted = errors.New("interrupted")

// Replay reads a recording through the same code. prepare is called for each
// run in it. A damaged tail is an error after everything before it was shown.
func Replay(r io.Reader, prepare func(record.Meta) (Config, error)) (Counts, error) {
	p := replay{prepare: prepare}
	err := record.Read(r, record.Handler{
		Meta: p.head,
		Gap:  p.gap,
		Event: func(e event.Event) error {
			if p.s == nil {
				return p.headless()
			}
			if err := p.over(e.Time); err != nil {
				return err
			}
			p.covers(e.Time)
			p.meets(&e)
			return p.s.Event(e)
		},
		Story: func(raw []byte, jiffy time.Duration) error {
			if p.s == nil {
				return p.headless()
			}
			r := story.RawOf(raw)
			if err := p.over(r.Told()); err != nil {
				return err
			}
			p.covers(r.Told())
			local, remote := r.Ends()
			p.meetsAt(r.NetNS(), local, remote)
			return p.s.Story(raw, jiffy, p.meta.Arch)
		},
		Loss: func(l record.Loss) error { return p.s.lose(l) },
		Process: func(r record.Process) error {
			if p.s == nil || r.Again && p.goesOn && p.first == 0 {
				return nil
			}
			r.Again = false
			return p.s.Process(r)
		},
		Seed: func(r record.Seed) error {
			if p.s == nil || r.Again && p.goesOn && !p.news(r) {
				return nil
			}
			p.covers(r.Time)
			if len(r.Holders) > 0 {
				return p.s.Hold(seedOf(r))
			}
			return p.s.Seed(seedOf(r))
		},
		Choice: func(c record.Choice) error {
			if p.s == nil || p.goesOn {
				return nil
			}
			return p.s.Choose(c)
		},
		Wall: func(w record.Wall) error {
			if p.s == nil || w.Again && p.goesOn {
				return nil
			}
			w.Again = false
			return p.s.Wall(w)
		},
		Look: func(l record.Look) error {
			if p.s == nil {
				return nil
			}
			p.covers(l.Time)
			return p.s.Look(l)
		},
		Tick: func(t record.Tick) error {
			if p.s == nil {
				return nil
			}
			if err := p.over(t.Time); err != nil {
				return err
			}
			p.covers(t.Time)
			return p.s.Tick(t.Time)
		},
		End: func(e record.End) error {
			if p.s != nil && e.Time != 0 {
				p.covers(e.Time)
				p.s.until = e.Time
			}
			return nil
		},
	})
	if errors.Is(err, ErrEnough) || errors.Is(err, ErrInterrupted) {
		err = nil
	}
	err = errors.Join(err, p.finish())
	return p.total, err
}

// replay is the run that is being read, and the count of those before.
type replay struct {
	prepare func(record.Meta) (Config, error)
	meta    record.Meta
	s       *Session
	goesOn  bool               // this part continues the one before
	first   int                // part of the run that was read
	met     map[tuple]struct{} // where the first parts are missing: what was met since
	gapped  bool               // something is missing since the last event
	damaged bool               // the head of what is being read is missing
	from    time.Duration      // the first that was told in this run, and the last
	to      time.Duration
	total   Counts
}

// covers notes that the run told something of a time.
func (p *replay) covers(at time.Duration) {
	if p.from == 0 || at < p.from {
		p.from = at
	}
	p.to = max(p.to, at)
}

// meets notes a connection of a run whose first parts are missing.
func (p *replay) meets(e *event.Event) {
	if e.Has&event.HasTuple != 0 {
		p.meetsAt(e.NetNS, e.Local, e.Remote)
	}
}

func (p *replay) meetsAt(netns uint32, local, remote netip.AddrPort) {
	if p.first == 0 {
		return
	}
	if p.met == nil {
		p.met = map[tuple]struct{}{}
	}
	p.met[tuple{netns, local, remote}] = struct{}{}
}

// news says whether what a part tells again was told in none of the parts that were
// read: each tells of what it has events of.
func (p *replay) news(r record.Seed) bool {
	_, met := p.met[tuple{r.NetNS, r.Local, r.Remote}]
	return p.first > 0 && !met
}

// headless is an event of a run whose head was not read.
func (p *replay) headless() error {
	if p.damaged {
		return nil // the damage is told of at the end
	}
	return errors.New("the recording has events before its head")
}

// gap takes what could not be read as a loss: up to the next event.
func (p *replay) gap(g record.Gap) error {
	p.gapped = p.s != nil
	p.damaged = p.damaged || g.Head || p.s == nil
	if !g.Head {
		return nil
	}
	return p.finish()
}

// over ends a gap with something of a time: what was lost came before that, but
// may have happened a little later.
func (p *replay) over(at time.Duration) error {
	if !p.gapped {
		return nil
	}
	p.gapped = false
	from := p.s.join.Now()
	return p.s.Lose(from, max(from, at)+disorder, 1)
}

func (p *replay) head(m record.Meta) error {
	p.damaged = false
	p.goesOn = p.s != nil && m.Continues(p.meta)
	p.meta = m
	if p.goesOn {
		return nil
	}
	if err := p.finish(); err != nil {
		return err
	}
	cfg, err := p.prepare(m)
	if err != nil {
		return err
	}
	cfg.Scope = verdict.ScopeOf(m)
	p.s, p.first, p.met = New(cfg), m.Part, nil
	p.from, p.to = 0, 0
	return nil
}

func (p *replay) finish() error {
	if p.s == nil {
		return nil
	}
	err := errors.Join(p.over(p.s.newest), p.s.Finish())
	if p.s.cfg.Covers != nil {
		p.s.cfg.Covers(p.from, p.to)
	}
	c := p.s.Counts()
	p.total.Events += c.Events
	p.total.Seen += c.Seen
	p.total.Shown += c.Shown
	p.total.Filtered += c.Filtered
	p.total.Lost += c.Lost
	p.total.Late += c.Late
	p.s = nil
	return err
}

// lose is Lose for a recorded loss.
func (s *Session) lose(l record.Loss) error {
	if s == nil {
		return nil
	}
	return s.Lose(l.From, l.Time, l.Lost)
}
