package stage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Stage is a running tracer that scenarios play before.
type Stage struct {
	tracer *tracer.Tracer
	meta   record.Meta
	scope  verdict.Scope
	cancel context.CancelFunc
	done   chan struct{} // closed when the tracer has ended
	err    error         // why; valid once done is closed

	mu      sync.Mutex
	events  []event.Event
	settled time.Duration // no older event will come
	moved   chan struct{} // closed and replaced when settled moves
}

// Open attaches everything, recv(2) included, and traces until Close.
func Open(opts tracer.Options) (*Stage, error) {
	opts.Receive = true
	t, err := tracer.Open(opts)
	if err != nil {
		return nil, err
	}
	s := &Stage{tracer: t, done: make(chan struct{}), moved: make(chan struct{})}
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
		s.err = t.Run(ctx, tracer.Handler{Event: s.take, Tick: s.tick})
	}()
	return s, nil
}

func (s *Stage) take(e event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	return nil
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

// Played is one run of a scenario.
type Played struct {
	Outcome scenario.Outcome // what the oracle saw
	Events  []event.Event    // of its namespaces and processes, while it lasted
	Ends    []scenario.JudgedEnd
}

// Play plays a scenario and judges it. Several may play at once. Its error is
// a *scenario.Missing where the kernel lacks what the scenario needs.
func (s *Stage) Play(ctx context.Context, sc scenario.Scenario, opt scenario.Options) (Played, error) {
	var p Played
	var err error
	if p.Outcome, err = scenario.Execute(ctx, sc, opt); err != nil {
		return p, err
	}
	if p.Events, err = s.story(ctx, p.Outcome); err != nil {
		return p, err
	}
	for c, v := range verdict.JudgeAll(p.Events, s.scope) {
		p.Ends = append(p.Ends, scenario.JudgedEnd{Connection: c, Verdict: v})
	}
	return p, nil
}

// story picks the events of a run, once the last of them must have come. What
// is later than Until is the cleaning up.
func (s *Stage) story(ctx context.Context, o scenario.Outcome) ([]event.Event, error) {
	s.mu.Lock()
	for s.settled <= o.Until {
		moved := s.moved
		s.mu.Unlock()
		select {
		case <-moved:
		case <-s.done:
			return nil, fmt.Errorf("the trace ended in the middle of a scenario: %w", s.err)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	var during []event.Event
	for _, e := range s.events {
		if e.Time >= o.Since && e.Time <= o.Until {
			during = append(during, e)
		}
	}
	return o.Pick(during), nil
}
