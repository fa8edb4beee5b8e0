package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Stage is a running tracer that endings are played before.
type Stage struct {
	tracer *tracer.Tracer
	meta   record.Meta
	scope  verdict.Scope
	cancel context.CancelFunc
	done   chan struct{} // closed when the tracer has ended
	err    error         // why; valid once done is closed

	mu      sync.Mutex
	plays   []time.Duration // when those began that go on; what is older is forgotten
	events  []event.Event
	stories []told
	settled time.Duration // no older event will come
	moved   chan struct{} // closed and replaced when settled moves
}

// told is a socket's story, and when it was told.
type told struct {
	at     time.Duration
	events []event.Event
}

// Open attaches everything and traces until Close. recv(2) is watched, too, unless
// opts.Story asks for stories, which that would end.
func Open(opts tracer.Options) (*Stage, error) {
	opts.Receive = !opts.Story
	t, err := tracer.Open(opts)
	if err != nil {
		return nil, err
	}
	s := &Stage{tracer: t, done: make(chan struct{}), moved: make(chan struct{})}
	if opts.Story && !t.Stories() {
		return nil, errors.Join(errors.New("this kernel tells no stories"), t.Close())
	}
	if s.meta, err = session.Describe(t.Attachments()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	s.scope = verdict.ScopeOf(s.meta)
	if err := t.Start(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		s.err = t.Run(ctx, tracer.Handler{Event: s.takeEvent, Story: s.takeStory, Tick: s.tick})
	}()
	return s, nil
}

func (s *Stage) takeEvent(e event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.plays) > 0 {
		s.events = append(s.events, e)
	}
	return nil
}

func (s *Stage) takeStory(raw []byte) error {
	x, err := decodeStory(raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.plays) > 0 {
		s.stories = append(s.stories, x)
	}
	return err
}

func decodeStory(raw []byte) (told, error) {
	var s story.Story
	if err := s.Decode(raw, tracer.Jiffy(), runtime.GOARCH); err != nil {
		return told{}, err
	}
	return told{s.Told, s.Events(nil)}, nil
}

func (s *Stage) tick(now time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = now
	close(s.moved)
	s.moved = make(chan struct{})
	return nil
}

// Attachments says how each hook is attached.
func (s *Stage) Attachments() []tracer.Attachment { return s.tracer.Attachments() }

// Meta is the head that a recording of what is played here has.
func (s *Stage) Meta() record.Meta { return s.meta }

// Missing are the hooks that could not be attached and that a verdict may need.
func (s *Stage) Missing() []event.Hook {
	return slices.DeleteFunc(slices.Clone(s.scope.Missing), func(h event.Hook) bool { return h == event.HookStack })
}

// Record writes a recording of a run's events, to be judged again.
func (s *Stage) Record(w io.Writer, name string, events []event.Event) error {
	meta := s.meta
	meta.Scenario = name
	rec, err := record.NewWriter(w, meta)
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := rec.Event(e); err != nil {
			return err
		}
	}
	return rec.Close(record.End{Events: uint64(len(events))})
}

// Close ends the trace. Its error says, too, that events were lost.
func (s *Stage) Close() error {
	s.cancel()
	<-s.done
	st, err := s.tracer.Stats()
	// What was skipped inside itself is told by Skipped: it happens, rarely,
	// and a run that it touched can be played again.
	if st.Lost() != st.Skipped || st.Map != 0 || st.Read != 0 {
		err = errors.Join(err, fmt.Errorf("events were lost: %+v", st))
	}
	return errors.Join(s.err, err, s.tracer.Close())
}

// Skipped counts events that the kernel did not run a program for, because an
// interrupt came while that program ran on the same CPU.
func (s *Stage) Skipped() (uint64, error) {
	st, err := s.tracer.Stats()
	return st.Skipped, err
}

// Watch keeps what the tracer tells from now on, until unwatch is called.
func (s *Stage) Watch() (unwatch func(), err error) {
	now, err := tracer.Monotonic()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plays = append(s.plays, now)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.Index(s.plays, now)
		s.plays = slices.Delete(s.plays, i, i+1)
		old := func(at time.Duration) bool { return len(s.plays) == 0 || at < slices.Min(s.plays) }
		s.events = slices.DeleteFunc(s.events, func(e event.Event) bool { return old(e.Time) })
		s.stories = slices.DeleteFunc(s.stories, func(x told) bool { return old(x.events[0].Time) })
	}, nil
}

// Played is one run of a scenario.
type Played struct {
	Outcome scenario.Outcome // what the oracle saw
	Events  []event.Event    // of its namespaces and processes, while it lasted
	Ends    []scenario.JudgedEnd
}

// Play plays a scenario and judges it. Several may play at once. Its error is
// a *scenario.Missing where the kernel lacks what the scenario needs.
func (s *Stage) Play(ctx context.Context, sc scenario.Scenario, opt scenario.Options) (p Played, err error) {
	unwatch, err := s.Watch()
	if err != nil {
		return p, err
	}
	defer unwatch()
	if p.Outcome, err = scenario.Execute(ctx, sc, opt); err != nil {
		return p, err
	}
	p.Events, p.Ends, err = s.Judge(ctx, p.Outcome.Since, p.Outcome.Until, p.Outcome.Pick)
	return p, err
}

// Judge judges a run that was watched, once the last of its events must have come.
// What is later than until is the cleaning up; pick leaves out what is not of the run.
func (s *Stage) Judge(ctx context.Context, since, until time.Duration, pick func([]event.Event) []event.Event) ([]event.Event, []scenario.JudgedEnd, error) {
	if err := s.wait(ctx, until); err != nil {
		return nil, nil, err
	}
	open, err := s.openStories(ctx)
	if err != nil {
		return nil, nil, err
	}
	during := func(all []event.Event) []event.Event {
		var list []event.Event
		for _, e := range all {
			if e.Time >= since && e.Time <= until {
				list = append(list, e)
			}
		}
		return pick(list)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	events := during(s.events)
	j := conn.New(conn.Options{Hold: true})
	seen := map[[2]uint64]bool{}
	for _, x := range slices.Concat(s.stories, open) {
		first := x.events[0]
		if id := [2]uint64{first.Sock, first.Conn}; first.Time >= since && !seen[id] {
			seen[id] = true
			if own := during(x.events); len(own) > 0 {
				j.AddStory(min(x.at, until), own)
			}
		}
	}
	for _, e := range events {
		j.Add(e)
	}
	var ends []scenario.JudgedEnd
	for _, c := range j.Flush() {
		ends = append(ends, scenario.JudgedEnd{Connection: c, Verdict: verdict.Judge(c, s.scope)})
	}
	return events, ends, nil
}

// openStories are those that are not over, as far as they have come.
func (s *Stage) openStories(ctx context.Context) (open []told, err error) {
	if !s.tracer.Stories() {
		return nil, nil
	}
	err = s.tracer.OpenStories(func(raw []byte) error {
		x, err := decodeStory(raw)
		open = append(open, x)
		return err
	})
	if err != nil {
		return nil, err
	}
	now, err := tracer.Monotonic()
	if err != nil {
		return nil, err
	}
	return open, s.wait(ctx, now) // what was told meanwhile has come
}

// wait waits until no event can come any more that is as old.
func (s *Stage) wait(ctx context.Context, until time.Duration) error {
	for {
		s.mu.Lock()
		settled, moved := s.settled, s.moved
		s.mu.Unlock()
		if settled > until {
			return nil
		}
		select {
		case <-moved:
		case <-s.done:
			return fmt.Errorf("the trace ended in the middle of a run: %w", s.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
