package session

import (
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/story"
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
	Look(record.Look) error
	Story(raw []byte, jiffy time.Duration) error
	// Raw takes records as record.Append makes them.
	Raw(records []byte, events uint64) error
	// Fits says whether so many bytes go into the current part, and Next begins
	// another. Rotates says whether there are parts.
	Fits(bytes int) bool
	Next() error
	Rotates() bool
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
	// Plain, if not nil, takes the place of Show for an ending that is as plain as can
	// be. What it gets is valid until it returns, and lacks what only long forms show:
	// events, sentence, evidence, ages, IDs. Keep gets the same of it.
	Plain func(*conn.Connection, *verdict.Verdict) error
	// Detail is how much it gets.
	Detail verdict.Detail
	// Brief says that Show asks no more of a verdict than Scope.Brief leaves, and
	// keeps no events.
	Brief bool
	// Time, if not nil, is told the run's own time (CLOCK_MONOTONIC) before each
	// ending, and when there was none for a while: nothing that is shown later
	// was complete before it. A replay comes by the same times for its endings.
	Time func(now time.Duration) error
	// Waits says whether Time is waited for although nothing happens; nil: where Time
	// is not, it always is.
	Waits func() bool
	// Flush is called after each tick: what was shown by then is to be seen.
	Flush func() error
	// Count is how many endings are shown; then ErrEnough ends the run. 0: all.
	Count uint64
	// Record gets everything, or what Pick says; nil: nothing is recorded.
	Record Recorder
	// Wall is told that the wall clock was set, before anything of that time is
	// shown; nil: nobody asks.
	Wall func(record.Wall)
	// Cut, once it is closed, ends the run with ErrCut; nil: nothing does.
	Cut <-chan struct{}
	// Pick says of which connections everything is recorded, from their first event
	// on, and of both ends of a local one; nil: of all. It may be filled in until
	// the first event.
	Pick *filter.Filter
	// Chosen is told what a replayed run was about; nil: nobody asks.
	Chosen func(record.Choice)
	// Covers is told, at the end of a replayed run, the first and the last time that it
	// told anything of (CLOCK_MONOTONIC); nil: nobody asks.
	Covers func(from, to time.Duration)

	// The rest is for live runs.

	// Witness looks processes up while they live; nil: what the events say of
	// them is all.
	Witness *Witness
	// Seeds finds the connections that were there before; it is called when
	// everything is attached. nil: they are not looked for.
	Seeds func() ([]conn.Seed, error)
	// Sockets are the connections that this process's network namespace has now. They
	// are asked for at the end, where some have not ended; nil: nobody is asked.
	Sockets func() (netns uint32, sockets []snapshot.Socket, err error)
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
	// Signal is told of a signal that one process sent another, where those are
	// watched (Session.Signal), or recorded; nil: nobody asks.
	Signal func(event.Event)
	// Stats, if not nil, is given the function that reads the tracer's counters. Any
	// goroutine may call it until Drained is called.
	Stats func(read func() (Losses, error))
	// Drained is called once the last event of a live run has been taken,
	// before what is left is judged.
	Drained func()
}

// Losses are the tracer's counters of events that were lost.
type Losses struct {
	Ring    uint64 // no room in the ring buffer
	Skipped uint64 // the kernel did not run a program
	Queue   uint64 // they were read, and nobody took them in time
	Decode  uint64 // not an event
}

// Counts is the closing line.
type Counts struct {
	Events   uint64
	Seen     uint64 // connection ends judged
	Shown    uint64
	Filtered uint64
	Lost     uint64 // events
	Late     uint64 // events that came when what they are about may have been judged
	News     uint64 // how often the kernel dropped news of processes: some children may not be known
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

	choice   record.Choice   // zero: none
	recorded []filter.Filter // that a recording was made with
	live     bool            // Tick alone says how far all is known
	plain    *plain          // nil: all is judged the long way
	ledger   *ledger         // nil: what is recorded, if anything, is everything, in one file
	looked   []record.Look   // of the recording that is replayed
	until    time.Duration   // when a live run ended; 0: not known
	ids      int             // of the ends that were shown
	numbered map[*conn.Connection]struct{}

	pulse pulse

	newest, advanced time.Duration // of the events
	ticked, written  time.Duration // the last tick, and the last that was recorded
	owed             bool          // a reader of the recording has not heard of the time since

	seeker seeker      // of a live run
	behind func() bool // news wait for the session; only where stacks are named
	idle   atomic.Bool // nothing waits for the time to pass

	decoded story.Story // the last one
	judger  verdict.Judger

	held pairs[verdict.Verdict] // first ends that were not kept
	told pairs[struct{}]        // first ends that were shown
}

// New starts a run.
func New(cfg Config) *Session {
	s := &Session{cfg: cfg, people: newPeople()}
	cfg.Join.Who = s.people.complete
	cfg.Join.Done = s.judge
	cfg.Join.Left = s.left
	if cfg.Record != nil && (cfg.Pick != nil || cfg.Record.Rotates()) {
		cfg.Join.Placed, cfg.Join.Gone = s.placed, s.gone
	}
	s.cfg.Scope.Brief = cfg.Brief
	cfg.Join.MiniEnds = !slices.Contains(cfg.Scope.Missing, event.HookTwskKill)
	cfg.Join.Reuse = cfg.Brief && cfg.Join.Placed == nil
	s.join = conn.New(cfg.Join)
	if cfg.Record != nil && (cfg.Pick != nil || cfg.Record.Rotates()) {
		s.ledger = newLedger(cfg.Record, s.join, s.picks, s.chosen)
	}
	// A recording in parts has what each part needs for what is in it.
	if cfg.Plain != nil && !cfg.Join.Hold && (s.ledger == nil || !cfg.Record.Rotates()) {
		s.plain = newPlain(s)
	}
	return s
}

// placed and gone tell the ledger what the join does.

func (s *Session) placed(order uint64, told []*conn.Connection) { s.ledger.placed(order, told) }

func (s *Session) gone(c *conn.Connection) { s.ledger.gone(c) }

// picks are the filters for what is recorded.
func (s *Session) picks() []*filter.Filter {
	if s.cfg.Pick == nil || s.cfg.Pick.Empty() {
		return nil
	}
	return []*filter.Filter{s.cfg.Pick}
}

// chosen says what a recording is about.
func (s *Session) chosen() record.Choice {
	c := s.choice
	c.Filters = slices.Clone(c.Filters)
	for _, f := range s.picks() {
		// It is made of numbers, texts and prefixes, which all have a form.
		b, _ := json.Marshal(f)
		c.Filters = append(c.Filters, b)
	}
	return c
}

// Signal takes a signal that one process sent another, told by no hook: it has no
// place among the events of connections.
func (s *Session) Signal(e event.Event) error {
	if s.cfg.Signal != nil {
		s.cfg.Signal(e)
	}
	switch {
	case s.ledger != nil:
		s.ledger.always(record.AppendEvent(nil, &e))
	case s.cfg.Record != nil:
		return s.cfg.Record.Event(e)
	}
	return nil
}

// Event takes an event.
func (s *Session) Event(e event.Event) error {
	if s.cut() {
		return ErrCut
	}
	if e.Hook == event.HookSignal && e.Arg != int32(unix.SIGPIPE) {
		return s.Signal(e)
	}
	s.counts.Events++
	if err := s.late(e.Time); err != nil {
		return err
	}
	e.Stack = e.Stack.Named() // what is not named yet holds memory
	if s.plain != nil {
		s.plain.meets(&e)
	}
	switch {
	case s.ledger != nil:
		late := e.Time < s.join.Now()
		s.join.Add(e)
		s.ledger.event(&e, s.join.Arrived(), late)
	case s.cfg.Record != nil:
		if err := s.cfg.Record.Event(e); err != nil {
			return err
		}
		s.join.Add(e)
	default:
		s.join.Add(e)
	}
	return s.came(e.Time)
}

// came follows the events' own time, where nobody ticks.
func (s *Session) came(at time.Duration) error {
	s.owed = s.cfg.Record != nil
	if s.newest = max(s.newest, at); s.live || s.newest-s.advanced < step {
		return nil
	}
	s.advanced = s.newest
	s.join.Advance(s.newest - disorder)
	if err := s.showPlain(s.newest - disorder); err != nil {
		return err
	}
	if err := s.drain(s.newest); err != nil {
		return err
	}
	return s.err
}

// Story takes a socket's story in the kernel's own form; jiffy is the length of that
// kernel's jiffy, and arch its architecture as Go spells it.
func (s *Session) Story(raw []byte, jiffy time.Duration, arch string) error {
	if s.cut() {
		return ErrCut
	}
	if !story.Is(raw) {
		return s.strange()
	}
	at := story.RawOf(raw).Told()
	if err := s.late(at); err != nil {
		return err
	}
	if s.ledger == nil && s.cfg.Record != nil {
		if err := s.cfg.Record.Story(raw, jiffy); err != nil {
			return err
		}
	}
	if s.plain != nil {
		if s.plain.take(raw, jiffy, arch) {
			s.counts.Events++
			return s.came(at)
		}
		s.plain.meetsStory(raw)
	}
	if !s.longStory(raw, jiffy, arch) {
		return s.strange()
	}
	s.counts.Events++
	return s.came(at)
}

// longStory makes events of a story, for the join; false: it is none.
func (s *Session) longStory(raw []byte, jiffy time.Duration, arch string) bool {
	if err := s.decoded.Decode(raw, jiffy, arch); err != nil {
		return false
	}
	at := s.decoded.Told
	late := at < s.join.Now()
	events := s.decoded.Events(s.join.Room())
	s.join.AddStory(at, events)
	if s.ledger != nil {
		s.ledger.story(&s.decoded, events[0], record.AppendStory(nil, raw, jiffy), s.join.Arrived(), late)
	}
	return true
}

// records says whether one of the ends of a plain connection is to be recorded where
// not everything is.
func (s *Session) records(a, b *scratch) bool {
	if s.ledger == nil {
		return false
	}
	for _, x := range []*scratch{a, b} {
		if x != nil && !slices.ContainsFunc(s.picks(), func(f *filter.Filter) bool { return !f.Match(&x.conn, x.verdict) }) {
			return true
		}
	}
	return false
}

// strange is a story that is none: the kernel half and this program do not belong
// together, or something else writes to its ring. What it was is lost.
func (s *Session) strange() error {
	return s.Lose(s.join.Now(), max(s.join.Now(), s.newest), 1)
}

// offerPlain shows a plain end, or both ends of a pair, where one is kept.
func (s *Session) offerPlain(a, b *scratch) error {
	kept, n := s.cfg.Keep == nil && len(s.recorded) == 0, uint64(0)
	for _, x := range []*scratch{a, b} {
		if x != nil {
			n++
			if !kept {
				kept = s.keeps(&x.conn, x.verdict)
			}
		}
	}
	s.counts.Seen += n
	if !kept {
		s.counts.Filtered += n
		return nil
	}
	for _, x := range []*scratch{a, b} {
		if x == nil {
			continue
		}
		if s.tell(); s.err != nil {
			return s.err
		}
		s.counts.Shown++
		if err := s.cfg.Plain(&x.conn, &x.verdict); err != nil {
			return err
		}
		if s.cfg.Count > 0 && s.counts.Shown >= s.cfg.Count {
			return ErrEnough
		}
	}
	return nil
}

// showPlain shows the plain ends that are complete.
func (s *Session) showPlain(now time.Duration) error {
	if s.plain == nil || s.err != nil {
		return s.err
	}
	s.err = s.plain.show(now - s.join.Window())
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
	if s.cfg.Wall != nil {
		s.cfg.Wall(w)
	}
	if s.ledger != nil {
		s.ledger.wall(w)
		return nil
	}
	if s.cfg.Record != nil {
		return s.cfg.Record.Wall(w)
	}
	return nil
}

// late records the time when something of a time comes too late for the join: a
// replay must find so, too.
func (s *Session) late(at time.Duration) error {
	if s.ledger != nil {
		// What told the time may be in no recording.
		if at < s.join.Now() {
			s.ledger.tick(s.join.Now() + s.join.Window())
		}
		return nil
	}
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
	if s.ledger != nil {
		s.ledger.process(p)
		return nil
	}
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
	for _, b := range c.Filters {
		var f filter.Filter
		if err := json.Unmarshal(b, &f); err != nil {
			return fmt.Errorf("read what the recording was made of: %w", err)
		}
		s.recorded = append(s.recorded, f)
		s.plain = nil // which ends go together decides how they are numbered
	}
	if s.cfg.Record != nil && s.ledger == nil {
		return s.cfg.Record.Choice(c)
	}
	return nil
}

// Seed takes a connection that was there before, before any event.
func (s *Session) Seed(seed conn.Seed) error {
	s.join.Seed(seed)
	if s.ledger != nil {
		s.ledger.seed(seed)
		return nil
	}
	if s.cfg.Record != nil {
		return s.cfg.Record.Seed(seedRecord(seed))
	}
	return nil
}

// Hold tells who holds a connection that is open still, before Finish.
func (s *Session) Hold(seed conn.Seed) error {
	c := s.join.Hold(seed)
	if s.cfg.Record == nil || len(seed.Holders) == 0 {
		return nil
	}
	r := seedRecord(seed)
	for i := range seed.Holders {
		r.Holders = append(r.Holders, ownerRecord(seed.Time, &seed.Holders[i]))
	}
	if s.ledger != nil {
		s.ledger.hold(c, r)
		return nil
	}
	return s.cfg.Record.Seed(r)
}

// held says whether of a connection that is open one reference was let go of and
// another was not: then it is worth to ask who holds it.
func held(c *conn.Connection) bool {
	return c.Ended == 0 && event.Any(c.Events, func(e *event.Event) bool { return e.Hook == event.HookFileClose && e.Refs > 1 })
}

// Lose says that n more events were lost between two times. Tick must not have
// gone beyond from.
func (s *Session) Lose(from, to time.Duration, n uint64) error {
	if n == 0 {
		return nil
	}
	s.counts.Lost += n
	if s.plain != nil {
		s.plain.lose(to)
	}
	s.join.Lose(from, to)
	if s.ledger != nil {
		s.ledger.loss(record.Loss{From: from, Time: to, Lost: n})
		return nil
	}
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
			s.owed = s.pending()
		}
		if err := s.cfg.Record.Flush(); err != nil {
			return err
		}
	}
	s.join.Advance(now)
	if err := s.showPlain(now); err != nil {
		return err
	}
	if err := s.drain(now); err != nil {
		return err
	}
	if s.tell(); s.err == nil && s.cfg.Flush != nil {
		s.err = s.cfg.Flush()
	}
	return s.err
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// pending says whether something waits for the time to pass.
func (s *Session) pending() bool { return s.join.Pending() || s.plain != nil && s.plain.waiting() }

// drain records what is known to be wanted by now.
func (s *Session) drain(now time.Duration) error {
	if s.ledger == nil {
		return nil
	}
	s.ledger.now = max(s.ledger.now, now)
	return s.ledger.drain(false)
}

// tell tells the run's own time.
func (s *Session) tell() {
	if s.err == nil && s.cfg.Time != nil {
		s.err = s.cfg.Time(s.join.Now())
	}
}

func (s *Session) writeTick(now time.Duration) error {
	s.written = now
	if s.ledger != nil {
		s.ledger.tick(now)
		return nil
	}
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
		if !failed {
			_ = s.showPlain(never) // which is in s.err
		}
		s.join.Flush()
	}
	var err error
	if !failed && !errors.Is(s.err, ErrEnough) {
		err = s.err
	}
	s.counts.Filtered += uint64(s.held.len()) // their peers were not seen
	s.held = pairs[verdict.Verdict]{}
	if s.cfg.Record != nil {
		end := record.End{Events: s.counts.Events, Lost: s.counts.Lost, Time: s.until}
		if l := s.ledger; l != nil {
			told := l.err != nil
			if e := l.finish(); !told {
				err = errors.Join(err, e)
			}
			end.Events = l.events
		}
		err = errors.Join(err, s.cfg.Record.Close(end))
	}
	return err
}

// Counts returns the counts so far.
func (s *Session) Counts() Counts {
	c := s.counts
	c.Late = s.join.Late()
	c.News = s.cfg.Witness.lost()
	return c
}

// judge takes a connection whose story is complete. Once showing has failed, or
// enough was shown, nothing more is.
func (s *Session) judge(c *conn.Connection) {
	if s.err == nil && s.cut() {
		s.err = ErrCut
	}
	if s.err != nil && (s.ledger == nil || errors.Is(s.err, ErrCut)) {
		return
	}
	v := s.judger.Judge(c, s.cfg.Scope)
	if s.ledger != nil {
		s.ledger.judged(c, !slices.ContainsFunc(s.picks(), func(f *filter.Filter) bool { return !f.Match(c, v) }))
	}
	if s.err != nil {
		return
	}
	s.counts.Seen++
	if s.tell(); s.err == nil {
		s.err = s.offer(c, v)
	}
}

// offer shows an end that is kept, or whose peer is. An end that is not waits
// for its peer to be judged.
func (s *Session) offer(c *conn.Connection, v verdict.Verdict) error {
	if s.cfg.Keep == nil && len(s.recorded) == 0 {
		return s.emit(c, v)
	}
	if c.Peer != nil {
		if _, shown := s.told.take(c.Peer); shown {
			return s.emit(c, v)
		}
	}
	kept := s.keeps(c, v)
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

// keeps says whether an end is to be shown for itself.
func (s *Session) keeps(c *conn.Connection, v verdict.Verdict) bool {
	for i := range s.recorded {
		if !s.recorded[i].Match(c, v) {
			return false
		}
	}
	return s.cfg.Keep == nil || s.cfg.Keep(c, v)
}

// number gives an end, and its peer, a number that does not depend on what else
// there is, where a recording holds only what was chosen.
func (s *Session) number(c *conn.Connection) {
	if len(s.recorded) == 0 && (s.ledger == nil || len(s.picks()) == 0) {
		return
	}
	if _, ok := s.numbered[c]; ok {
		delete(s.numbered, c)
		return
	}
	s.ids++
	c.ID = strconv.Itoa(s.ids)
	if c.Peer != nil {
		s.ids++
		c.Peer.ID = strconv.Itoa(s.ids)
		if s.numbered == nil {
			s.numbered = map[*conn.Connection]struct{}{}
		}
		s.numbered[c.Peer] = struct{}{}
	}
}

func (s *Session) emit(c *conn.Connection, v verdict.Verdict) error {
	s.counts.Shown++
	s.number(c)
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
