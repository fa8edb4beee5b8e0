//go:build lab

package tracer

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestLoopback opens a connection under the tracer and closes it: the spine
// must tell its whole life.
func TestLoopback(t *testing.T) {
	start := time.Now()
	tr, err := Open(Options{})
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			t.Logf("%+v", verifier)
		}
		t.Fatal(err)
	}
	defer tr.Close()
	t.Logf("opened in %v", time.Since(start))
	for _, a := range tr.Attachments() {
		t.Logf("%-22v %-8v %v %v", a.Hook, a.Rung, a.Symbols, a.Err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var events []event.Event
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- tr.Run(ctx, Handler{
			Event: func(e event.Event) error { events = append(events, e); return nil },
			Tick:  func(time.Duration) error { return nil },
		})
	}()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	s.Read(make([]byte, 1))
	s.Close()
	ln.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	st, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", st)
	seen := map[event.State]bool{}
	for _, e := range events {
		t.Logf("%v has=%x %-20v %v ctx=%v pid=%d tid=%d %q sys=%d fl=%x %v>%v %v-%v err=%v arg=%d seg=%+v wr=%d una=%d nxt=%d rcv=%d cop=%d inode=%d refs=%d", e.Time, e.Has, e.Hook, e.Conn, e.Context, e.PID, e.TID, e.Comm, e.Syscall, e.TaskFlags, e.State, e.ToState, e.Local, e.Remote, e.Err, e.Arg, e.Segment, e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq, e.Inode, e.Refs)
		if e.Hook == event.HookSetState {
			seen[e.ToState] = true
		}
	}
	for _, s := range []event.State{event.SynSent, event.Established, event.FinWait1, event.FinWait2, event.CloseWait, event.LastAck, event.Close} {
		if !seen[s] {
			t.Errorf("no event led to %v", s)
		}
	}
}

// TestOpenGivesBack: a trace does not keep what only loading needs.
func TestOpenGivesBack(t *testing.T) {
	tr, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	// The kernel's types alone are more.
	if kept := m.HeapSys - m.HeapReleased; kept > 12<<20 {
		t.Errorf("%d kB are kept of the heap", kept>>10)
	} else {
		t.Logf("%d kB are kept of the heap", kept>>10)
	}
}
