package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/session"
)

// TestSignals: the first ^C and SIGHUP let a run finish, SIGTERM and a second one
// cut it short, and what cannot be cut short never is.
func TestSignals(t *testing.T) {
	const hup, intr, term = syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM
	for _, tt := range []struct {
		name     string
		cuttable bool
		come     []syscall.Signal
		cut      syscall.Signal
	}{
		{"^C", true, []syscall.Signal{intr}, 0},
		{"SIGHUP", true, []syscall.Signal{hup}, 0},
		{"SIGTERM", true, []syscall.Signal{term}, term},
		{"^C twice", true, []syscall.Signal{intr, intr}, intr},
		{"SIGHUP and ^C", true, []syscall.Signal{hup, intr}, intr},
		{"^C and SIGTERM", true, []syscall.Signal{intr, term}, term},
		{"SIGTERM and more", true, []syscall.Signal{term, intr, term}, term},
		{"not cuttable", false, []syscall.Signal{term, term, intr}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exits := make(chan int, 1)
			ctx, s := newSignals(func(status int) { exits <- status })
			if tt.cuttable {
				s.cuttable(nil)
			}
			if ctx.Err() != nil {
				t.Fatal("ended before a signal came")
			}
			for _, sig := range tt.come {
				s.take(sig)
			}
			if ctx.Err() == nil {
				t.Error("the first signal does not end it")
			}
			select {
			case <-s.cut:
				if tt.cut == 0 {
					t.Fatal("it was cut short")
				}
			default:
				if tt.cut != 0 {
					t.Fatal("it was not cut short")
				}
				return
			}
			// Whoever stands still is not waited for.
			if status := <-exits; status != 128+int(tt.cut) {
				t.Errorf("status %d", status)
			}
			var status *statusError
			if err := s.short(); !asStatus(err, &status) || status.status != 128+int(tt.cut) {
				t.Errorf("the run's error is %v", err)
			}
		})
	}
}

func asStatus(err error, to **statusError) bool {
	s, ok := err.(*statusError)
	*to = s
	return ok
}

// TestSignalsOfCommand: while a command runs, it gets the signals; then they are
// those of the trace.
func TestSignalsOfCommand(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := newSignals(func(int) {})
	back, ready, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	c, err := session.NewCommand([]string{sh, "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"}, nil, ready, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	s.cuttable(c)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ready.Close()
	if _, err := back.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	s.take(syscall.SIGTERM)
	if n, err := c.Status(); n != 7 || err != nil {
		t.Fatalf("the command ended with %d, %v", n, err)
	}
	if ctx.Err() != nil {
		t.Fatal("the signal that the command got ended the trace")
	}
	s.take(syscall.SIGINT)
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("^C after the command's end does nothing")
	}
}
