package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Run is one scripted run of real programs.
type Run struct {
	Name     string
	Title    string   // what happens, in one line
	Case     string   // the Cases that it plays again, by ID
	Programs []string // by name; see tools
	Play     func(w *World)
}

// All lists the runs, in the order in which they are best read.
func All() []Run {
	return slices.Concat(web, nodes, redis, pipes, relays, proxies, tls, shells, silences, ports, routers)
}

// Result is how a run went.
type Result struct {
	Run   Run
	Links []LinkResult
	Wrong []error // what is wrong with the run as a whole
	// Skipped counts the events that the kernel did not run a program for, because
	// another one was running: what is judged without them proves nothing.
	Skipped uint64
	// Events are the run's own, as the tracer gave them.
	Events []event.Event
	// Dump is all that is known, for whoever looks for what went wrong.
	Dump string
}

// OK says whether every verdict is as it should be.
func (r Result) OK() bool {
	return len(r.Wrong) == 0 && !slices.ContainsFunc(r.Links, func(l LinkResult) bool { return len(l.Wrong) > 0 })
}

// Theatre is a running tracer that runs play before.
type Theatre struct {
	tracer *tracer.Tracer
	meta   record.Meta
	scope  verdict.Scope
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed

	mu      sync.Mutex
	events  []event.Event
	settled time.Duration
	moved   chan struct{} // closed and replaced when settled moves
}

// Open attaches everything, recv(2) included, and traces until Close.
func Open() (*Theatre, error) {
	t, err := tracer.Open(tracer.Options{Receive: true, RingBytes: 32 << 20})
	if err != nil {
		return nil, err
	}
	meta, err := session.Describe(t.Attachments())
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := t.Start(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	th := &Theatre{tracer: t, meta: meta, scope: verdict.ScopeOf(meta), cancel: cancel, done: make(chan struct{}), moved: make(chan struct{})}
	go func() {
		defer close(th.done)
		th.err = t.Run(ctx, tracer.Handler{Event: th.take, Tick: th.tick})
	}()
	return th, nil
}

func (t *Theatre) take(e event.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
	return nil
}

func (t *Theatre) tick(now time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled = now
	close(t.moved)
	t.moved = make(chan struct{})
	return nil
}

// Missing are the hooks that could not be attached and that a verdict may need.
func (t *Theatre) Missing() []event.Hook {
	return slices.DeleteFunc(slices.Clone(t.scope.Missing), func(h event.Hook) bool { return h == event.HookStack })
}

// Record writes a recording of a run, to be judged again.
func (t *Theatre) Record(w io.Writer, r Result) error {
	rec, err := record.NewWriter(w, t.meta)
	if err != nil {
		return err
	}
	for _, e := range r.Events {
		if err := rec.Event(e); err != nil {
			return err
		}
	}
	return rec.Close(record.End{Events: uint64(len(r.Events))})
}

// Close ends the trace. Its error says, too, that events were lost; of those that
// were skipped the Results tell.
func (t *Theatre) Close() error {
	t.cancel()
	<-t.done
	st, err := t.tracer.Stats()
	if st.Lost() != st.Skipped || st.Map != 0 || st.Read != 0 {
		err = errors.Join(err, fmt.Errorf("events were lost: %+v", st))
	}
	return errors.Join(t.err, err, t.tracer.Close())
}

// Play plays a run and judges it. Its error says that the run did not happen as
// the story tells. patience is how long a step may take.
func (t *Theatre) Play(ctx context.Context, run Run, patience time.Duration) (res Result, err error) {
	res.Run = run
	since, err := tracer.Monotonic()
	if err != nil {
		return res, err
	}
	t.mu.Lock()
	t.events = nil // of earlier runs
	t.mu.Unlock()
	w, err := newWorld(ctx, patience)
	if err != nil {
		return res, err
	}
	before, err := t.tracer.Stats()
	if err != nil {
		return res, errors.Join(err, w.close())
	}
	run.Play(w)
	err = w.err
	// What is later is the cleaning up.
	until, merr := tracer.Monotonic()
	rows, terr := w.table()
	segs, cerr := w.capture.stop()
	err = errors.Join(err, merr, terr, cerr, w.close())
	events, serr := t.story(ctx, w, since, until)
	if serr != nil {
		return res, errors.Join(err, serr)
	}
	after, serr := t.tracer.Stats()
	err = errors.Join(err, serr)
	res.Skipped = after.Skipped - before.Skipped
	var ends []JudgedEnd
	for c, v := range verdict.JudgeAll(events, t.scope) {
		ends = append(ends, JudgedEnd{c, v})
	}
	res.Events = events
	res.Dump = dump(w, segs, ends, since)
	if err != nil {
		return res, err
	}
	waits := slices.DeleteFunc(rows, func(r Row) bool { return r.State != event.TimeWait })
	res.Links, res.Wrong = judge(w.links, w.roles, segs, waits, ends, len(t.Missing()) > 0)
	return res, nil
}

// story picks the events of a run, once the last of them must have come.
func (t *Theatre) story(ctx context.Context, w *World, since, until time.Duration) ([]event.Event, error) {
	t.mu.Lock()
	for t.settled <= until {
		moved := t.moved
		t.mu.Unlock()
		select {
		case <-moved:
		case <-t.done:
			return nil, fmt.Errorf("the trace ended in the middle of a run: %w", t.err)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	// Processes are known by their part in the run, or by having had to do with
	// one of its connections.
	mine := map[uint32]bool{}
	for _, p := range w.roles {
		mine[uint32(p.PID)] = true
	}
	here := map[uint32]bool{}
	for _, n := range slices.Concat(w.others, []*netns{w.ns}) {
		here[n.inode] = true
	}
	for _, e := range t.events {
		if here[e.NetNS] && e.PID != 0 {
			mine[e.PID] = true
		}
	}
	var list []event.Event
	for _, e := range t.events {
		if e.Time >= since && e.Time <= until && (here[e.NetNS] || e.NetNS == 0 && mine[e.PID]) {
			list = append(list, e)
		}
	}
	return list, nil
}
