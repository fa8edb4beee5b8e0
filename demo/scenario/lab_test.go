//go:build lab

package scenario

import (
	"context"
	"errors"
	"flag"
	"os"
	"runtime"
	"testing"
	"time"
)

var parallel = flag.Int("scenario.parallel", 2*runtime.NumCPU(), "scenarios that run at once")

// TestCatalogueHappens plays the whole catalogue, and holds what happened against
// the stories. It needs root, and no tracer.
func TestCatalogueHappens(t *testing.T) {
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	slots := make(chan struct{}, *parallel)
	for _, s := range All() {
		for _, family := range FamiliesOf(s) {
			t.Run(s.Name+"/"+string(family), func(t *testing.T) {
				if s.MachineWide == "" {
					t.Parallel()
				}
				slots <- struct{}{}
				defer func() { <-slots }()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				start := time.Now()
				o, err := Execute(ctx, s, Options{Family: family, Stderr: os.Stderr, MachineWide: true})
				var missing *Missing
				if errors.As(err, &missing) {
					if !missing.Expected(kernel) {
						t.Fatalf("a kernel %v should have it: %v", kernel, err)
					}
					t.Skip(err)
				}
				if err != nil {
					t.Error(err)
				}
				for _, err := range s.CheckOutcome(o) {
					t.Error(err)
				}
				t.Logf("%s took %v", s.Name, time.Since(start).Round(time.Millisecond))
				if !t.Failed() && !testing.Verbose() {
					return
				}
				for _, c := range o.Calls {
					t.Logf("%9.3f ms %v", float64(c.Start-o.Since)/1e6, c)
				}
				for _, seg := range o.Segments {
					t.Logf("%9.3f ms %v", float64(seg.Time-o.Since)/1e6, seg)
				}
				for name, v := range o.Counters {
					if v != 0 {
						t.Logf("%s %d", name, v)
					}
				}
			})
		}
	}
}
