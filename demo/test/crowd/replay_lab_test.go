//go:build lab

package crowd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// shown is an output of the live run.
type shown struct {
	format  report.Format
	verbose bool
	text    bytes.Buffer
	sink    report.Sink
}

// liveRun is a run of the session behind tcpbye trace that shows everything in
// every format at once.
type liveRun struct {
	all    []*shown
	counts session.Counts
	err    error
	done   chan struct{}
	stop   context.CancelFunc
}

// startLive starts one, recorded in a file, and waits until everything is
// attached.
func startLive(t *testing.T, path string) *liveRun {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &liveRun{done: make(chan struct{}), stop: cancel}
	t.Cleanup(func() { cancel(); <-l.done })
	witness, _ := session.NewWitness(session.WitnessOptions{Lineage: true}) // what it cannot look up is not shown either time
	started := make(chan struct{})
	go func() {
		defer close(l.done)
		l.counts, l.err = session.Live(ctx, tracer.Options{Receive: true}, func(m record.Meta, _ []tracer.Attachment) (session.Config, error) {
			f, err := os.Create(path)
			if err != nil {
				return session.Config{}, err
			}
			w, err := record.NewWriter(f, m)
			if err != nil {
				return session.Config{}, err
			}
			for _, format := range report.Formats() {
				for _, verbose := range []bool{false, true} {
					s := &shown{format: format, verbose: verbose}
					if s.sink, err = report.New(format, &s.text, report.Options{Clock: report.Clock{Offset: m.Offset}, Verbose: verbose}); err != nil {
						return session.Config{}, err
					}
					l.all = append(l.all, s)
				}
			}
			return session.Config{
				Witness: witness, Record: w,
				Seeds:   func() ([]conn.Seed, error) { return session.Existing(witness) },
				Started: func() error { close(started); return nil },
				Show: func(c *conn.Connection, v verdict.Verdict) error {
					for _, s := range l.all {
						if err := s.sink.End(report.Judged{Conn: c, Verdict: v}); err != nil {
							return err
						}
					}
					return nil
				},
			}, nil
		})
		for _, s := range l.all {
			l.err = errors.Join(l.err, s.sink.Close())
		}
		l.err = errors.Join(l.err, witness.Close())
	}()
	select {
	case <-started:
	case <-l.done:
		t.Fatal(l.err)
	}
	return l
}

// playCatalogue plays every scenario with each of its families, several at once,
// and returns how many ran.
func playCatalogue(t *testing.T) int {
	t.Helper()
	kernel, err := scenario.RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	played := 0
	play := func(s scenario.Scenario, family scenario.Family) {
		var missing *scenario.Missing
		var err error
		for range 2 { // on a busy machine a story that is about time may fail
			_, err = scenario.Execute(t.Context(), s, scenario.Options{Family: family, Stderr: os.Stderr, Patience: time.Minute, MachineWide: inLab()})
			if err == nil || errors.As(err, &missing) || errors.Is(err, scenario.ErrNotAllowed) {
				break
			}
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			played++
		case errors.As(err, &missing) && missing.Expected(kernel):
		case errors.Is(err, scenario.ErrNotAllowed):
		default:
			t.Errorf("%s, %s: %v", s.Name, family, err)
		}
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, 2*runtime.NumCPU())
	var alone []func()
	for _, s := range scenario.All() {
		for _, family := range scenario.FamiliesOf(s) {
			if s.MachineWide != "" {
				alone = append(alone, func() { play(s, family) })
				continue
			}
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				play(s, family)
			})
		}
	}
	wait.Wait()
	for _, f := range alone {
		f()
	}
	return played
}

// TestReplays: what is shown of the whole catalogue while it is traced, in every
// format, is what its recording shows, byte by byte; and the same of tcpbye trace
// and tcpbye rst themselves.
func TestReplays(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name+".tcpbye") }
	trace := startBye(t, "trace", "-w", file("trace"))
	rst := startBye(t, "rst", "--all", "-w", file("rst"))
	l := startLive(t, file("session"))
	begin := time.Now()
	played := playCatalogue(t)
	t.Logf("%d scenarios in %v", played, time.Since(begin).Round(time.Second))
	trace.stop()
	rst.stop()
	l.stop()
	<-l.done
	if l.err != nil {
		t.Fatal(l.err)
	}
	if l.counts.Shown < uint64(2*played) {
		t.Errorf("%d ends are shown of %d scenarios", l.counts.Shown, played)
	}
	t.Logf("%d events, %d ends shown, %d events lost", l.counts.Events, l.counts.Shown, l.counts.Lost)
	for _, s := range l.all {
		args := []string{"trace", "-r", file("session"), "-o", string(s.format)}
		if s.verbose {
			args = append(args, "-v")
		}
		same(t, s.text.String(), "", args...)
	}
	same(t, text(t, trace.stdout), trace.said(), "trace", "-r", file("trace"))
	same(t, text(t, rst.stdout), rst.said(), "rst", "--all", "-r", file("rst"))
	if t.Failed() && os.Getenv("LAB_OUT") != "" {
		for _, name := range []string{"trace", "rst", "session"} {
			if err := copyFile(filepath.Join(os.Getenv("LAB_OUT"), name+".tcpbye"), file(name)); err != nil {
				t.Log(err)
			}
		}
	}
}

// same holds what a run printed against what tcpbye prints of its recording, and
// its last line on standard error, the counts, where the run's is given.
func same(t *testing.T, live, said string, args ...string) {
	t.Helper()
	cmd := exec.Command(byeProgram(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("tcpbye %s: %v\n%s", strings.Join(args, " "), err, &errs)
		return
	}
	if live == "" {
		t.Errorf("tcpbye %s: nothing was shown while it was traced", strings.Join(args, " "))
	}
	if where := differ(live, out.String()); where != "" {
		t.Errorf("tcpbye %s does not show what the run showed: %s", strings.Join(args, " "), where)
		return
	}
	if said != "" {
		if a, b := closingLine.FindString(said), closingLine.FindString(errs.String()); a != b {
			t.Errorf("tcpbye %s counts %q, the run %q", strings.Join(args, " "), b, a)
		}
	}
}

// differ says where two texts differ; "" nowhere.
func differ(a, b string) string {
	if a == b {
		return ""
	}
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	line := func(s []string, i int) string {
		if i < len(s) {
			return s[i][:min(len(s[i]), 2000)]
		}
		return "(the end)"
	}
	i := 0
	for i < len(x) && i < len(y) && x[i] == y[i] {
		i++
	}
	return "line " + strconv.Itoa(i+1) + "\n\tthe run:    " + line(x, i) + "\n\tthe replay: " + line(y, i)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
