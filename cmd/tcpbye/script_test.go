package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
)

var update = flag.Bool("update", false, "write what tcpbye prints into the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tcpbye": main})
}

// TestScripts runs what can be seen of tcpbye without a kernel that is traced.
//
// The recordings are of Linux 6.1: busy.tcpbye is a run of trace that found
// connections there, close.tcpbye one of demo close; web1.tcpbye and db1.tcpbye are of
// TestJoinHosts.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("LC_ALL", "C.UTF-8")
			for _, path := range []string{"testdata/busy.tcpbye", "testdata/close.tcpbye", "testdata/web1.tcpbye", "testdata/db1.tcpbye",
				"../../tracer/annotate/testdata/run.tcpbye", "../../tracer/annotate/testdata/lo.pcap"} {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, filepath.Base(path)), b, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "trace" {
				return false, fmt.Errorf("there is no condition %q", cond)
			}
			if testing.Short() { // attaching takes seconds each time
				return false, nil
			}
			return canTrace()
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":     status,
			"cut":        cut,
			"flip":       flip,
			"lose":       lose,
			"same":       same,
			"brokenpipe": brokenPipe,
			"living":     living,
			"interrupt":  interrupt,
		},
	})
}

// canTrace says whether this user can trace here, be it not with every hook.
var canTrace = sync.OnceValues(func() (bool, error) {
	err := exec.Command("tcpbye", "demo", "--can-trace").Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		switch exit.ExitCode() {
		case exitDegraded:
			return true, nil
		case exitCannot:
			return false, nil
		}
	}
	return err == nil, err
})

// status N PROGRAM [ARGUMENT…] runs a program that must exit with that status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM [ARGUMENT…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitStatus(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func exitStatus(ts *testscript.TestScript, err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}

// cut FROM N TO writes the first N percent of a file.
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: cut FROM PERCENT TO")
	}
	b := ts.ReadFile(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(b[:len(b)*n/100]), 0o644))
}

// flip FROM PERCENT TO writes a file of which one byte, so far from the start,
// is another.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: flip FROM PERCENT TO")
	}
	b := []byte(ts.ReadFile(args[0]))
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[len(b)*n/100] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o644))
}

// lose FROM N TO writes a recording of a run that lost N events at its end.
func lose(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: lose FROM N TO")
	}
	n, err := strconv.ParseUint(args[1], 10, 32)
	ts.Check(err)
	in, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer in.Close()
	out, err := os.Create(ts.MkAbs(args[2]))
	ts.Check(err)
	defer out.Close()
	var w *record.Writer
	var now time.Duration
	ts.Check(record.Read(in, record.Handler{
		Meta:    func(m record.Meta) (err error) { w, err = record.NewWriter(out, m); return err },
		Seed:    func(x record.Seed) error { return w.Seed(x) },
		Process: func(p record.Process) error { return w.Process(p) },
		Tick:    func(x record.Tick) error { return w.Tick(x) },
		Event:   func(e event.Event) error { now = e.Time; return w.Event(e) },
		End: func(e record.End) error {
			e.Lost += n
			return errors.Join(w.Loss(record.Loss{From: now - time.Second, Time: now, Lost: n}), w.Close(e))
		},
	}))
}

// same FILE ARGUMENT… runs tcpbye under other circumstances, which must not
// change a byte of what it prints; FILE has that.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: same FILE ARGUMENT…")
	}
	want := ts.ReadFile(args[0])
	for _, env := range [][]string{
		{"GOMAXPROCS=1", "GOGC=1"},
		{"LC_ALL=C", "TERM=dumb", "NO_COLOR=1", "COLUMNS=40", "HOME=/nowhere"},
	} {
		cmd := underTest(ts, args[1:])
		cmd.Env = append(cmd.Env, env...)
		got, err := cmd.Output()
		ts.Check(err)
		if string(got) != want {
			ts.Fatalf("with %s it prints something else:\n%s", env, got)
		}
	}
}

// underTest makes a command of the tcpbye under test, in the script's place.
func underTest(ts *testscript.TestScript, args []string) *exec.Cmd {
	path, err := exec.LookPath("tcpbye")
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "TZ=UTC")
	return cmd
}

// brokenPipe ARGUMENT… runs tcpbye with an output that nobody reads: that is a
// normal end, of which nothing is said but the counts.
func brokenPipe(ts *testscript.TestScript, neg bool, args []string) {
	r, w, err := os.Pipe()
	ts.Check(err)
	ts.Check(r.Close())
	defer w.Close()
	cmd := underTest(ts, args)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	if got := exitStatus(ts, cmd.Run()); got != 0 {
		ts.Fatalf("exit status %d: %s", got, &stderr)
	}
	if strings.Contains(stderr.String(), "tcpbye:") {
		ts.Fatalf("it complains: %s", &stderr)
	}
}

// living FROM TO makes of a recording what its file was a moment before the run
// ended: everything was told, and the time, but no end.
func living(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: living FROM TO")
	}
	in, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer in.Close()
	out, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	defer out.Close()
	var w *record.Writer
	var s *session.Session
	var now time.Duration
	ts.Check(record.Read(in, record.Handler{
		Meta: func(m record.Meta) (err error) {
			if w, err = record.NewWriter(out, m); err == nil {
				s = session.New(session.Config{Record: w})
			}
			return err
		},
		Seed:    func(x record.Seed) error { return w.Seed(x) },
		Process: func(p record.Process) error { return s.Process(p) },
		Event:   func(e event.Event) error { now = max(now, e.Time); return s.Event(e) },
	}))
	// A live run does this in the time that it tells.
	for end := now + 10*time.Second; now < end; now += 50 * time.Millisecond {
		ts.Check(s.Tick(now))
	}
}

// interrupt N FILE ARGUMENT… gives tcpbye a recording through a pipe that stays
// open, waits for N lines, and interrupts it: all is shown, as a normal end.
// What it prints is left in the file out.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: interrupt N FILE ARGUMENT…")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := underTest(ts, args[2:])
	in, err := cmd.StdinPipe()
	ts.Check(err)
	defer in.Close()
	shown := &lines{want: n, there: make(chan struct{})}
	cmd.Stdout = shown
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_, err = io.WriteString(in, ts.ReadFile(args[1]))
	ts.Check(err)
	select {
	case <-shown.there:
	case err := <-ended:
		ts.Fatalf("it ended before it was interrupted: %v", err)
	case <-time.After(hang):
		_ = cmd.Process.Kill()
		<-ended
		ts.Fatalf("%d of %d lines are shown while the recording is written", shown.n, n)
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	if got := exitStatus(ts, <-ended); got != 0 {
		ts.Fatalf("exit status %d", got)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), shown.out.Bytes(), 0o644))
}

// hang is how long nothing may happen before it counts as never.
const hang = 30 * time.Second

// lines tells when so many were written.
type lines struct {
	out     bytes.Buffer
	n, want int
	there   chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	before := l.n
	l.n += bytes.Count(p, []byte("\n"))
	if before < l.want && l.n >= l.want {
		close(l.there)
	}
	return l.out.Write(p)
}
