//go:build lab

package real

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/demo/test/lab"
	"github.com/tcpbye/tcpbye/demo/test/lab/labtest"
	"github.com/tcpbye/tcpbye/tracer"
)

var (
	kernel   = flag.String("real.kernel", "", "the kernel that TestRealInLab boots; none: it does not")
	only     = flag.String("real.run", "", "only runs whose name matches this regular expression")
	verbose  = flag.Bool("real.dump", false, "show all that is known of every run")
	records  = flag.String("real.record", "", "a directory for recordings of the runs that were judged wrongly")
	patience = flag.Duration("real.patience", 3*time.Minute, "how long a step of a run may take")
)

// TestRealPrograms plays every run under the tracer, here, and prints the table
// of runs and verdicts. Where hooks are missing a verdict may be unsure, but what
// it is certain of must be so.
func TestRealPrograms(t *testing.T) {
	if err := Install(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	st, err := stage.Open(tracer.Options{RingBytes: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	if missing := st.Missing(); len(missing) > 0 {
		t.Logf("hooks that are not attached here: %v", missing)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	var all []Result
	for _, run := range All() {
		if !wanted.MatchString(run.Name) {
			continue
		}
		t.Run(run.Name, func(t *testing.T) {
			start := time.Now()
			defer func() {
				how := "ok"
				if t.Failed() {
					how = "WRONG"
				}
				fmt.Fprintf(os.Stderr, "%s: %s, %.1f s\n", run.Name, how, time.Since(start).Seconds())
			}()
			wrong := func(format string, args ...any) {
				t.Helper()
				t.Errorf(format, args...)
				fmt.Fprintf(os.Stderr, "  "+format+"\n", args...) // at once: a guest takes its time
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			r, err := run.PlayOn(ctx, st, *patience)
			for n := 1; n < 3 && err == nil && !r.OK() && r.Skipped > 0; n++ {
				fmt.Fprintf(os.Stderr, "%s: the kernel skipped %d events: once more\n", run.Name, r.Skipped)
				r, err = run.PlayOn(ctx, st, *patience)
			}
			if err != nil {
				r.Wrong = append(r.Wrong, err)
			}
			all = append(all, r)
			for _, err := range r.Wrong {
				wrong("%v", err)
			}
			for _, l := range r.Links {
				for _, err := range l.Wrong {
					wrong("%s: %v", l.Link.Name, err)
				}
			}
			if t.Failed() || *verbose {
				t.Log("\n" + r.Dump)
			}
			if t.Failed() && *records != "" {
				if err := keep(st, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if len(all) == 0 {
		t.Fatalf("no run's name matches %q", *only)
	}
	if *only == "" {
		if err := PrintCases(os.Stdout, all); err != nil {
			t.Error(err)
		}
	}
	if err := Print(os.Stdout, all); err != nil {
		t.Error(err)
	}
}

// keep writes NAME.KERNEL.tcpbye.
func keep(st *stage.Stage, r Result) error {
	f, err := os.Create(filepath.Join(*records, r.Run.Name+"."+kernelRelease()+".tcpbye"))
	if err != nil {
		return err
	}
	return errors.Join(st.Record(f, r.Run.Name, r.Events), f.Close())
}

// TestRealInLab plays the runs under a real kernel with all hooks. The programs
// are the host's: the guest has its root.
func TestRealInLab(t *testing.T) {
	if *kernel == "" {
		t.Skip("boots a guest, for minutes; give -real.kernel=6.1, or make test-real")
	}
	if err := Install(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	// Everything that the runs need is there, or it is a failure.
	labtest.Build(t, "./demo/test/real").Run(t, "./demo/test/real", lab.Config{Kernel: *kernel, Out: *records, Timeout: 50 * time.Minute},
		"-test.timeout=50m", "-test.run=^TestRealPrograms$", "-real.run="+*only, fmt.Sprintf("-real.dump=%v", *verbose), "-real.record="+*records)
}
