package real

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer/event"
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

// PlayOn plays a run on a stage. Its error says that the run did not happen as the
// story tells. patience is how long a step may take.
func (run Run) PlayOn(ctx context.Context, st *stage.Stage, patience time.Duration) (res Result, err error) {
	res.Run = run
	unwatch, err := st.Watch()
	if err != nil {
		return res, err
	}
	defer unwatch()
	before, err := st.Skipped()
	if err != nil {
		return res, err
	}
	w, err := newWorld(ctx, patience)
	if err != nil {
		return res, err
	}
	run.Play(w)
	w.waitIdle()
	err = w.Err
	until := harness.Monotonic() // what is later is the cleaning up
	rows, terr := w.Home.Table()
	segments := w.Segments()
	err = errors.Join(err, terr, w.close())
	events, ends, jerr := st.Judge(ctx, w.Since, until, w.pick)
	if jerr != nil {
		return res, errors.Join(err, jerr)
	}
	after, serr := st.Skipped()
	err = errors.Join(err, serr)
	res.Skipped = after - before
	res.Events = events
	res.Dump = stage.Explain(segments, ends, w.Since) + w.said()
	if err != nil {
		return res, err
	}
	waits := slices.DeleteFunc(rows, func(r harness.Row) bool { return r.State != event.TimeWait })
	res.Links, res.Wrong = judge(w.links, w.roles, segments, waits, ends, len(st.Missing()) > 0)
	return res, nil
}

// pick finds the events of the run's namespaces, and of its processes: those that
// have a part in it or have had to do with one of its connections.
func (w *World) pick(all []event.Event) (list []event.Event) {
	mine := map[uint32]bool{}
	for _, p := range w.roles {
		mine[uint32(p.PID)] = true
	}
	here := map[uint32]bool{}
	for _, s := range w.Spaces {
		here[s.Inode] = true
	}
	for _, e := range all {
		if here[e.NetNS] && e.PID != 0 {
			mine[e.PID] = true
		}
	}
	for _, e := range all {
		if here[e.NetNS] || e.NetNS == 0 && mine[e.PID] {
			list = append(list, e)
		}
	}
	return list
}
