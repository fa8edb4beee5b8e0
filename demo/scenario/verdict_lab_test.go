//go:build lab

package scenario_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/event"
)

var (
	repeat    = flag.Int("scenario.repeat", 1, "run the catalogue this often, with the same verdicts each time")
	recordDir = flag.String("scenario.record", "", "write a recording of each run into this directory")
)

// write keeps a run's events as a recording.
func write(t *testing.T, st *stage.Stage, name string, events []event.Event) {
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
	if err := errors.Join(st.Record(f, name, events), f.Close()); err != nil {
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
					write(t, st, s.Name+"-"+string(family), p.Events)
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
	for _, c := range o.Calls {
		t.Logf("%9.3f ms  %v", float64(c.Start-o.Since)/1e6, c)
	}
	t.Log(stage.Explain(o.Segments, judged, o.Since))
}
