//go:build lab

package scenario_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
)

var (
	repeat    = flag.Int("scenario.repeat", 1, "run the catalogue this often, with the same verdicts each time")
	recordDir = flag.String("scenario.record", "", "write a recording of each run into this directory")
)

// write keeps a run's events as a recording.
func write(t *testing.T, meta record.Meta, name string, events []event.Event) {
	t.Helper()
	if *recordDir == "" {
		return
	}
	if err := os.MkdirAll(*recordDir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(*recordDir, name+".tcpbye"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	meta.Scenario = name
	rw, err := record.NewWriter(f, meta)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := rw.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := rw.Close(record.End{Events: uint64(len(events))}); err != nil {
		t.Fatal(err)
	}
}

// TestCatalogueIsJudged plays the whole catalogue under the tracer and holds
// every verdict against what is due, exactly.
func TestCatalogueIsJudged(t *testing.T) {
	kernel, err := scenario.RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	st, err := stage.Open(tracer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, a := range st.Attachments() {
		if a.Rung == "" {
			t.Logf("%v is not attached: %v", a.Hook, a.Err)
		}
	}
	for range *repeat {
		playAll(t, st, kernel)
	}
}

func playAll(t *testing.T, st *stage.Stage, kernel scenario.Kernel) {
	slots := make(chan struct{}, 2*runtime.NumCPU())
	t.Run("all", func(t *testing.T) {
		for _, s := range scenario.All() {
			for _, family := range scenario.FamiliesOf(s) {
				t.Run(s.Name+"/"+string(family), func(t *testing.T) {
					if s.MachineWide == "" {
						t.Parallel()
					}
					slots <- struct{}{}
					defer func() { <-slots }()
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					p, errs, err := play(ctx, t, st, s, family)
					var missing *scenario.Missing
					if errors.As(err, &missing) {
						if !missing.Expected(kernel) {
							t.Fatalf("a kernel %v should have it: %v", kernel, err)
						}
						t.Skip(err)
					}
					if err != nil {
						t.Error(err)
					}
					for _, err := range errs {
						t.Error(err)
					}
					if t.Failed() {
						explain(t, p.Outcome, p.Ends)
						return
					}
					write(t, st.Meta(), s.Name+"-"+string(family), p.Events)
				})
			}
		}
	})
}

// play plays a scenario, once more where the kernel skipped an event meanwhile
// and the verdict suffered from it.
func play(ctx context.Context, t *testing.T, st *stage.Stage, s scenario.Scenario, family scenario.Family) (stage.Played, []error, error) {
	t.Helper()
	for again := false; ; again = true {
		before, err := st.Skipped()
		if err != nil {
			t.Fatal(err)
		}
		p, err := st.Play(ctx, s, scenario.Options{Family: family, Stderr: os.Stderr, MachineWide: true})
		if err != nil {
			return p, nil, err
		}
		errs := append(s.CheckOutcome(p.Outcome), s.CheckVerdicts(p.Outcome, p.Ends)...)
		after, err := st.Skipped()
		if err != nil {
			t.Fatal(err)
		}
		if len(errs) == 0 || again || after == before {
			return p, errs, nil
		}
		t.Logf("%d events were skipped: once more (%v)", after-before, errors.Join(errs...))
	}
}

// explain logs all that is known of a run whose verdict is wrong.
func explain(t *testing.T, o scenario.Outcome, judged []scenario.JudgedEnd) {
	t.Helper()
	for _, seg := range o.Segments {
		t.Logf("%9.3f ms  %v", float64(seg.Time-o.Since)/1e6, seg)
	}
	for _, c := range o.Calls {
		t.Logf("%9.3f ms  %v", float64(c.Start-o.Since)/1e6, c)
	}
	number := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	line := func(e *event.Event) string {
		return fmt.Sprintf("%9.3f ms  %v %v>%v %v ctx %v call %v %q/%d fl %#x err %v arg %d/%d una %d nxt %d wr %d rcv %d cop %d skfl %#x sk %v refs %d seg %v len %d",
			float64(e.Time-o.Since)/1e6, e.Hook, e.State, e.ToState, e.Local, e.Context, e.Call, e.Comm, e.PID, e.TaskFlags, e.Err, e.Arg, e.Arg2,
			e.SndUna, e.SndNxt, e.WriteSeq, e.RcvNxt, e.CopiedSeq, e.SkFlags, e.HasSk, e.Refs, e.Segment.Flags, e.Segment.Len)
	}
	for _, j := range judged {
		v := j.Verdict
		t.Logf("%v > %v: %s %s, ender %s, act %s, lost %s/%s/%s, saw %v, %s: %s", j.Local, j.Remote, v.Class, v.Cause, v.Ender, v.Act,
			number(v.Lost.Unread), number(v.Lost.Unsent), number(v.Lost.Unacked), v.AppSaw, v.Confidence, v.Sentence)
		for i := range j.Events {
			t.Log(line(&j.Events[i]))
		}
		for i := range j.Elsewhere {
			t.Logf("elsewhere %s", line(&j.Elsewhere[i]))
		}
	}
}
