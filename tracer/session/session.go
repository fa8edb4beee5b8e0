package session

import (
	"container/list"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Recorder takes what a run is made of.
type Recorder interface {
	Event(event.Event) error
	Loss(record.Loss) error
	Process(record.Process) error
	Seed(record.Seed) error
	Tick(record.Tick) error
	Choice(record.Choice) error
	Wall(record.Wall) error
	Flush() error
	Close(record.End) error
}

// ErrCut ends a run at once: what was not judged by then is not.
var ErrCut = errors.New("the run was cut short")

// ErrEnough ends a run before its time, as its normal end.
var ErrEnough = errors.New("enough was shown")

// Config says what to do with what is seen.
type Config struct {
	Join  conn.Options // its Who and Done are filled in
	Scope verdict.Scope
	// Keep says which endings to show; nil: all. Both ends of a local
	// connection are shown when one of them is kept.
	Keep func(*conn.Connection, verdict.Verdict) bool
	// Show takes each ending that is kept, once.
	Show func(*conn.Connection, verdict.Verdict) error
	// Time, if not nil, is told the run's own time (CLOCK_MONOTONIC) before each
	// ending, and when there was none for a while: nothing that is shown later
	// was complete before it. A replay comes by the same times for its endings.
	Time func(now time.Duration) error
	// Count is how many endings are shown; then ErrEnough ends the run. 0: all.
	Count uint64
	// Record gets everything; nil: nothing is recorded.
	Record Recorder
	// Wall is told that the wall clock was set, before anything of that time is
	// shown; nil: nobody asks.
	Wall func(record.Wall)
	// Cut, once it is closed, ends the run with ErrCut; nil: nothing does.
	Cut <-chan struct{}
	// Chosen is told what a replayed run was about; nil: nobody asks.
	Chosen func(record.Choice)

	// The rest is for live runs.

	// Witness looks processes up while they live; nil: what the events say of
	// them is all.
	Witness *Witness
	// Seeds finds the connections that were there before; it is called when
	// everything is attached. nil: they are not looked for.
	Seeds func() ([]conn.Seed, error)
	// Started is called when everything is attached and the seeds are known.
	Started func() error
	offset  time.Duration // that the head of a recording has

	// Command says which process was run and is followed, once Started has been
	// called; 0, or nil: none.
	Command func() uint32
	// Pulse is called twenty times a second, more or less, and once a second when
	// nothing happens, nothing waits for the time and there is no Command; ErrEnough
	// ends the run.
	Pulse func(*Session) error
	// Behind is told, at most once a second, that what is taken now was known so
	// long ago, or that more events were lost: so many by now. nil: nobody is told.
	Behind func(by time.Duration, lost uint64)
	// Drained is called once the last event of a live run has been taken,
	// before what is left is judged.
	Drained func()
}

// Counts is the closing line.
type Counts struct {
	Events   uint64
	Seen     uint64 // connection ends judged
	Shown    uint64
	Filtered uint64
	Lost     uint64 // events
	Late     uint64 // events that came when what they are about may have been judged
}

const (
	// disorder is how much later than an event an older one may still come.
	// Waiting for the time to pass is quicker, but it needs the clock of the
	// live run.
	disorder = time.Second
	// step is how often the events' own time is told to the join.
	step = 100 * time.Millisecond
	// tickEvery is how often a recording is told the time while something waits
	// for it.
	tickEvery = time.Second
	// maxHeld bounds the ends that wait for their peers.
	maxHeld = 4096
)

// Session is a run.
type Session struct {
	cfg    Config
	join   *conn.Joiner
	people *people
	counts Counts
	err    error // the first that showing gave

	choice record.Choice // zero: none
	walls  []record.Wall // how the wall clock was set
	live   bool          // Tick alone says how far all is known

	pulse pulse

	newest, advanced time.Duration // of the events
	ticked, written  time.Duration // the last tick, and the last that was recorded
	owed             bool          // a reader of the recording has not heard of the time since

	behind func() bool // news wait for the session; only where stacks are named
	idle   atomic.Bool // nothing waits for the time to pass

	held pairs[verdict.Verdict] // first ends that were not kept
	told pairs[struct{}]        // first ends that were shown
}

// New starts a run.
func New(cfg Config) *Session {
	s := &Session{cfg: cfg, people: newPeople()}
	cfg.Join.Who = s.people.complete
	cfg.Join.Done = s.judge
	s.join = conn.New(cfg.Join)
	if r, ok := cfg.Record.(*record.Rotator); ok {
		r.Preamble = s.preamble
	}
	return s
}

// Event takes an event.
func (s *Session) Event(e event.Event) error {
	if s.cut() {
		return ErrCut
	}
	s.counts.Events++
	if err := s.late(e.Time); err != nil {
		return err
	}
	e.Stack = e.Stack.Named() // what is not named yet holds memory
	if s.cfg.Record != nil {
		if err := s.cfg.Record.Event(e); err != nil {
			return err
		}
	}
	s.join.Add(e)
	s.owed = true
	if s.newest = max(s.newest, e.Time); s.live || s.newest-s.advanced < step {
		return nil
	}
	s.advanced = s.newest
	s.join.Advance(s.newest - disorder)
	return s.err
}

// cut says whether the run is to end at once.
func (s *Session) cut() bool {
	select {
	case <-s.cfg.Cut:
		return true
	default:
		return false
	}
}

// Wall takes a new setting of the wall clock.
func (s *Session) Wall(w record.Wall) error {
	const most = 1 << 10
	if len(s.walls) == most {
		s.walls = slices.Delete(s.walls, 0, 1)
	}
	s.walls = append(s.walls, w)
	if s.cfg.Wall != nil {
		s.cfg.Wall(w)
	}
	if s.cfg.Record != nil {
		return s.cfg.Record.Wall(w)
	}
	return nil
}

// late records the time when something of a time comes too late for the join: a
// replay must find so, too.
func (s *Session) late(at time.Duration) error {
	if s.cfg.Record == nil || at >= s.join.Now() || s.ticked <= s.written {
		return nil
	}
	return s.writeTick(s.ticked)
}

// Process takes what is known of a process, before the events that it is about.
func (s *Session) Process(p record.Process) error {
	if err := s.late(p.Time); err != nil {
		return err
	}
	s.people.learn(p)
	if s.cfg.Record != nil {
		return s.cfg.Record.Process(p)
	}
	return nil
}

// Choose takes what the run is about, before any event.
func (s *Session) Choose(c record.Choice) error {
	if s.choice = c; s.cfg.Chosen != nil {
		s.cfg.Chosen(c)
	}
	if s.cfg.Record != nil {
		return s.cfg.Record.Choice(c)
	}
	return nil
}

// Seed takes a connection that was there before, before any event.
func (s *Session) Seed(seed conn.Seed) error {
	s.join.Seed(seed)
	if s.cfg.Record != nil {
		return s.cfg.Record.Seed(seedRecord(seed))
	}
	return nil
}

// Hold tells who holds a connection that is open still, before Finish.
func (s *Session) Hold(seed conn.Seed) error {
	s.join.Hold(seed)
	if s.cfg.Record == nil || len(seed.Holders) == 0 {
		return nil
	}
	r := seedRecord(seed)
	for i := range seed.Holders {
		r.Holders = append(r.Holders, ownerRecord(seed.Time, &seed.Holders[i]))
	}
	return s.cfg.Record.Seed(r)
}

// held says whether of a connection that is open one reference was let go of and
// another was not: then it is worth to ask who holds it.
func held(c *conn.Connection) bool {
	return c.Ended == 0 && slices.ContainsFunc(c.Events, func(e event.Event) bool { return e.Hook == event.HookFileClose && e.Refs > 1 })
}

// Lose says that n more events were lost between two times. Tick must not have
// gone beyond from.
func (s *Session) Lose(from, to time.Duration, n uint64) error {
	if n == 0 {
		return nil
	}
	s.counts.Lost += n
	s.join.Lose(from, to)
	if s.cfg.Record != nil {
		return s.cfg.Record.Loss(record.Loss{From: from, Time: to, Lost: n})
	}
	return nil
}

// Tick says that no event older than now will come, and shows what is complete.
func (s *Session) Tick(now time.Duration) error {
	if s.cut() {
		return ErrCut
	}
	s.ticked = max(s.ticked, now)
	if s.cfg.Record != nil {
		// Whoever reads the recording while it is written learns the time.
		if s.owed && now-s.written >= tickEvery {
			if err := s.writeTick(now); err != nil {
				return err
			}
			s.owed = s.join.Pending()
		}
		if err := s.cfg.Record.Flush(); err != nil {
			return err
		}
	}
	s.join.Advance(now)
	s.tell()
	return s.err
}

// tell tells the run's own time.
func (s *Session) tell() {
	if s.err == nil && s.cfg.Time != nil {
		s.err = s.cfg.Time(s.join.Now())
	}
}

func (s *Session) writeTick(now time.Duration) error {
	s.written = now
	return s.cfg.Record.Tick(record.Tick{Time: now})
}

// Following says whether a connection that match picks is not complete yet.
func (s *Session) Following(match func(*conn.Connection) bool) bool {
	found := false
	s.join.Open(func(c *conn.Connection) bool {
		found = match(c)
		return !found
	})
	return found
}

// Finish judges and shows what is left.
func (s *Session) Finish() error {
	failed := s.err != nil // and was told
	if !s.cut() {
		s.join.Flush()
	}
	var err error
	if !failed && !errors.Is(s.err, ErrEnough) {
		err = s.err
	}
	s.counts.Filtered += uint64(s.held.len()) // their peers were not seen
	s.held = pairs[verdict.Verdict]{}
	if s.cfg.Record != nil {
		err = errors.Join(err, s.cfg.Record.Close(record.End{Events: s.counts.Events, Lost: s.counts.Lost}))
	}
	return err
}

// Counts returns the counts so far.
func (s *Session) Counts() Counts {
	c := s.counts
	c.Late = s.join.Late()
	return c
}

// judge takes a connection whose story is complete. Once showing has failed, or
// enough was shown, nothing more is.
func (s *Session) judge(c *conn.Connection) {
	if s.err == nil && s.cut() {
		s.err = ErrCut
	}
	if s.err != nil {
		return
	}
	v := verdict.Judge(c, s.cfg.Scope)
	name(c, &v)
	s.counts.Seen++
	if s.tell(); s.err == nil {
		s.err = s.offer(c, v)
	}
}

// offer shows an end that is kept, or whose peer is. An end that is not waits
// for its peer to be judged.
func (s *Session) offer(c *conn.Connection, v verdict.Verdict) error {
	if s.cfg.Keep == nil {
		return s.emit(c, v)
	}
	if c.Peer != nil {
		if _, shown := s.told.take(c.Peer); shown {
			return s.emit(c, v)
		}
	}
	kept := s.cfg.Keep(c, v)
	if c.Peer == nil {
		if !kept {
			s.counts.Filtered++
			return nil
		}
		return s.emit(c, v)
	}
	if first, waits := s.held.take(c.Peer); waits {
		if !kept {
			s.counts.Filtered += 2
			return nil
		}
		if err := s.emit(c.Peer, first); err != nil {
			return err
		}
		return s.emit(c, v)
	}
	if kept {
		s.told.put(c, struct{}{})
		return s.emit(c, v)
	}
	if s.held.put(c, v) {
		s.counts.Filtered++
	}
	return nil
}

func (s *Session) emit(c *conn.Connection, v verdict.Verdict) error {
	s.counts.Shown++
	if s.cfg.Show != nil {
		if err := s.cfg.Show(c, v); err != nil {
			return err
		}
	}
	if s.cfg.Count > 0 && s.counts.Shown >= s.cfg.Count {
		return ErrEnough
	}
	return nil
}

// pairs remembers first ends until their second comes, a bounded number of them,
// and nothing of what was taken.
type pairs[T any] struct {
	values map[*conn.Connection]*list.Element // of first
	order  list.List                          // of first, the oldest in front
}

type first[T any] struct {
	end   *conn.Connection
	value T
}

func (p *pairs[T]) len() int { return len(p.values) }

func (p *pairs[T]) take(c *conn.Connection) (T, bool) {
	at, ok := p.values[c]
	if !ok {
		var none T
		return none, false
	}
	delete(p.values, c)
	return p.order.Remove(at).(first[T]).value, true
}

// put says whether an end had to go for it.
func (p *pairs[T]) put(c *conn.Connection, v T) bool {
	if p.values == nil {
		p.values = map[*conn.Connection]*list.Element{}
	}
	p.values[c] = p.order.PushBack(first[T]{c, v})
	if len(p.values) <= maxHeld {
		return false
	}
	p.take(p.order.Front().Value.(first[T]).end)
	return true
}

// preamble repeats, for a part of a recording that is read alone, what the parts
// before told of processes and of connections that are still open.
func (s *Session) preamble(w *record.Writer) error {
	if s.choice != (record.Choice{}) {
		if err := w.Choice(s.choice); err != nil {
			return err
		}
	}
	for _, wall := range s.walls {
		wall.Again = true
		if err := w.Wall(wall); err != nil {
			return err
		}
	}
	err := s.people.each(func(p record.Process) error {
		p.Again = true
		return w.Process(p)
	})
	again := func(seed conn.Seed) {
		if err == nil {
			r := seedRecord(seed)
			r.Again = true
			err = w.Seed(r)
		}
	}
	s.join.Seeds(again)
	s.join.Listeners(func(l conn.Listener) bool {
		again(conn.Seed{Time: s.join.Now(), NetNS: l.NetNS, Local: l.Local, State: event.Listen, Owner: l.Owner})
		return err == nil
	})
	s.join.Open(func(c *conn.Connection) bool {
		if c.Ended == 0 && c.Local.Port() != 0 {
			again(conn.Seed{Time: s.join.Now(), NetNS: c.NetNS, Local: c.Local, Remote: c.Remote, State: c.State(), Owner: c.Owner})
		}
		return err == nil
	})
	return err
}
