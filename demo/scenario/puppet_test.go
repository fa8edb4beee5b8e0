package scenario

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// plainWorld is a World in the namespace that the test runs in: puppets need no
// privilege, only the namespaces and the oracle do.
func plainWorld(t *testing.T) *World {
	t.Helper()
	w, err := newWorld(harness.NewUnprivileged(t.Context(), 10*time.Second, t.TempDir()), Options{Family: IPv4, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// told is what the record says that an end's process was told.
func (w *World) told(name string) *End {
	o := Outcome{Calls: w.calls, Ends: w.ends}
	e := *w.ends[name]
	o.tell(&e)
	return &e
}

func TestPuppets(t *testing.T) {
	for _, c := range []struct {
		name  string
		story func(t *testing.T, w *World)
	}{
		{"a conversation", func(t *testing.T, w *World) {
			c, s := w.Pair()
			c.Send(100)
			s.Recv(100)
			if got := s.Fill(1000); got != 1000 {
				t.Errorf("%d bytes were taken", got)
			}
			s.Close()
			if got := c.Drain(0); got != 1000 {
				t.Errorf("%d bytes were read", got)
			}
			c.Close()
			if e := w.told("client"); e.Written != 100 || e.Read != 1000 || strings.Join(e.AppSaw, " ") != "EOF" {
				t.Errorf("the client: %+v", e)
			}
			if e := w.told("server"); e.Written != 1000 || e.Read != 100 || e.AppSaw != nil {
				t.Errorf("the server: %+v", e)
			}
			if c.end.Local != s.end.Remote || c.end.Remote != s.end.Local {
				t.Errorf("the ends do not meet: %+v, %+v", c.end, s.end)
			}
		}},
		{"a reset, EPIPE and SIGPIPE", func(t *testing.T, w *World) {
			c, s := w.Pair()
			s.Linger(0)
			s.Close()
			c.WaitState(event.Close)
			c.RecvFails(unix.ECONNRESET)
			c.SendFails(1, unix.EPIPE)
			c.SendKilled(1)
			if e := w.told("client"); strings.Join(e.AppSaw, " ") != "ECONNRESET EPIPE SIGPIPE" {
				t.Errorf("the client saw %v", e.AppSaw)
			}
			if p := w.procs["client"]; !p.Exited || p.Signal != unix.SIGPIPE {
				t.Errorf("the client ended as %+v", p)
			}
		}},
		{"deaths", func(t *testing.T, w *World) {
			w.Puppet("exits").Exit(3)
			w.Puppet("killed").Kill(unix.SIGKILL)
			w.Puppet("terminated").Kill(unix.SIGTERM)
			w.Puppet("crashes").Crash(unix.SIGSEGV)
			for role, want := range map[string]Process{
				"exits": {Status: 3}, "killed": {Signal: unix.SIGKILL}, "terminated": {Signal: unix.SIGTERM}, "crashes": {Signal: unix.SIGSEGV},
			} {
				if p := w.procs[role]; w.Err == nil && (!p.Exited || p.Status != want.Status || p.Signal != want.Signal) {
					t.Errorf("%s ended as %+v", role, p)
				}
			}
		}},
		{"names and threads", func(t *testing.T, w *World) {
			p := w.Puppet("a-role-longer-than-a-comm")
			threads, err := os.ReadDir("/proc/" + strconv.Itoa(p.pid) + "/task")
			if err != nil {
				t.Fatal(err)
			}
			for _, th := range threads {
				b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/task/" + th.Name() + "/comm")
				if err != nil {
					continue // the runtime let it go
				}
				if got := strings.TrimSpace(string(b)); got != "a-role-longer-t" {
					t.Errorf("thread %s is called %q", th.Name(), got)
				}
			}
			p.socket(unix.IPPROTO_TCP, 0)
			if c := w.calls[len(w.calls)-1]; c.PID != p.pid || c.TID != p.pid {
				t.Errorf("the call was made by thread %d of %d, not by the main thread of %d", c.TID, c.PID, p.pid)
			}
		}},
		{"exec", func(t *testing.T, w *World) {
			c, s := w.Pair()
			pid := c.p.pid
			c.p.Exec("successor")
			s.RecvEOF()
			if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); err != nil || strings.TrimSpace(string(b)) != "successor" {
				t.Errorf("the process is called %q (%v)", b, err)
			}
			c.p.socket(unix.IPPROTO_TCP, 0) // it takes commands as before
			if c.p.pid != pid {
				t.Errorf("the process changed from %d to %d", pid, c.p.pid)
			}
		}},
		{"a child and an heir", func(t *testing.T, w *World) {
			c, s := w.Pair()
			child := c.Fork("child")
			heir := w.Puppet("heir")
			from, to := w.Link(c.p, heir)
			c.SendOver(from)
			c.Close()
			h := heir.ReceiveOver(to, c)
			child.Send(3)
			h.Send(4)
			s.Recv(7)
			child.p.Exit(5)
			h.Dup2Over()
			s.RecvEOF()
			if p := w.procs["child"]; w.Err == nil && (!p.Exited || p.Status != 5) {
				t.Errorf("the child ended as %+v", p)
			}
		}},
		{"a thread that reads", func(t *testing.T, w *World) {
			c, s := w.Pair()
			r := c.RecvThread(10)
			if r.tid == c.p.pid {
				t.Error("the read is on the main thread")
			}
			s.Send(4)
			if got := r.wait(); w.Err == nil && got.N != 4 {
				t.Errorf("it read %d, %v", got.N, got.Errno)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := plainWorld(t)
			c.story(t, w)
			if w.Err != nil {
				t.Error(w.Err)
			}
		})
	}
}

// TestPuppetFailures: a step that does not go as told ends the play, and says why.
func TestPuppetFailures(t *testing.T) {
	for _, c := range []struct {
		name  string
		story func(w *World)
		want  string
	}{
		{"a call that should have worked", func(w *World) { w.Puppet("p").must(nil, &request{Op: opClose, FD: 99}, "99") }, "bad file descriptor"},
		{"an error that did not come", func(w *World) {
			c, s := w.Pair()
			s.Send(10)
			c.WaitState(event.Established)
			c.RecvFails(unix.ECONNRESET)
		}, "was to fail with ECONNRESET"},
		{"a short read", func(w *World) {
			c, s := w.Pair()
			s.Send(10)
			s.Close()
			c.Recv(11)
		}, "recv 11: 10"},
		{"a command that does not exist", func(w *World) { w.Puppet("p").call(nil, &request{Op: "dance"}, "") }, `does not know the command "dance"`},
		{"a state that does not come", func(w *World) {
			c, _ := w.Pair()
			w.Patience = time.Second // for what does not come, not for a busy machine
			c.WaitState(event.Close)
		}, "seen last: ESTABLISHED"},
		{"a dead puppet", func(w *World) {
			p := w.Puppet("p")
			p.Exit(0)
			p.Listen(1)
		}, "it is gone"},
		{"a stop", func(w *World) {
			ctx, cancel := context.WithCancel(w.Ctx)
			cancel()
			w.Ctx = ctx
			w.Dwell(time.Hour)
		}, "stopped"},
		{"a stop in the middle of a call", func(w *World) {
			ctx, cancel := context.WithCancel(w.Ctx)
			w.Ctx = ctx
			c, _ := w.Pair()
			c.RecvThread(1)
			cancel()
			c.RecvEOF()
		}, "context canceled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := plainWorld(t)
			c.story(w)
			if w.Err == nil || !strings.Contains(w.Err.Error(), c.want) {
				t.Errorf("the failure is %v", w.Err)
			}
			calls := len(w.calls)
			w.Puppet("late").Listen(1)
			if len(w.calls) != calls {
				t.Error("the play went on after its end")
			}
		})
	}
}
