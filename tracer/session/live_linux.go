package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	if cfg.Stats != nil {
		cfg.Stats(func() (Losses, error) {
			s, err := t.Stats()
			return Losses{Ring: s.Ring, Skipped: s.Skipped, Queue: s.Queue, Decode: s.Decode}, err
		})
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
