package real

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Process is a program's process as the kernel names it.
type Process struct {
	PID  int
	Comm string // of its main thread
}

// World is a harness.World with programs, and what is due to their connections.
type World struct {
	*harness.World

	programs []*Program
	roles    map[string]Process
	links    []Link
}

// newWorld makes a World; close lets go of it.
func newWorld(ctx context.Context, patience time.Duration) (*World, error) {
	ground, err := harness.New(ctx, patience)
	w := &World{World: ground, roles: map[string]Process{}}
	ground.Explain = w.said
	return w, err
}

// close kills what lives in the World and lets go of it.
func (w *World) close() error {
	var errs []error
	for _, p := range w.programs {
		// The group: servers have children.
		if err := unix.Kill(-p.pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("cannot kill %s: %w", p.role, err))
		}
		<-p.exited
	}
	return errors.Join(append(errs, w.Close())...)
}

// Check ends the play unless what the story claims is so.
func (w *World) Check(ok bool, format string, args ...any) {
	if !ok {
		w.Fail(format, args...)
	}
}

// File writes a file into the run's directory and returns its path.
func (w *World) File(name, text string) string {
	path := filepath.Join(w.Dir, name)
	if w.Err == nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.Fail("%v", err)
		} else if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.Fail("%v", err)
		}
	}
	return path
}

// Big makes a file of n bytes that takes no room, and returns its path.
func (w *World) Big(name string, n int64) string {
	path := w.File(name, "")
	if w.Err == nil {
		if err := os.Truncate(path, n); err != nil {
			w.Fail("%v", err)
		}
	}
	return path
}

// said is what the programs had to say, for the story's failure.
func (w *World) said() string {
	var b strings.Builder
	for _, p := range w.programs {
		if text := strings.TrimSpace(p.Output()); text != "" {
			if len(text) > 2000 {
				text = text[:2000] + "…"
			}
			fmt.Fprintf(&b, "\n%s (%d) said:\n%s", p.role, p.pid, text)
		}
	}
	return b.String()
}

// WaitRows waits until the table of sockets is as it should be.
func (w *World) WaitRows(what string, ok func([]harness.Row) bool) {
	w.Until(what, func() (bool, string) {
		rows := w.Rows(w.Home.Inode)
		return w.Err == nil && ok(rows), fmt.Sprintf("%+v", rows)
	})
}

// WaitListen waits for a listener.
func (w *World) WaitListen(port uint16) {
	w.WaitRows(fmt.Sprintf("a listener on port %d", port), func(rows []harness.Row) bool {
		return count(rows, func(r harness.Row) bool { return r.Local.Port() == port && r.State == event.Listen }) > 0
	})
}

// WaitServer waits for n sockets of connections to a port, at the server's end,
// that are as they should be.
func (w *World) WaitServer(port uint16, n int, what string, ok func(harness.Row) bool) {
	w.WaitRows(fmt.Sprintf("%s at the server's end of port %d", what, port), func(rows []harness.Row) bool {
		return count(rows, func(r harness.Row) bool { return r.Local.Port() == port && r.State != event.Listen && ok(r) }) == n
	})
}

// WaitClient is WaitServer at the client's end.
func (w *World) WaitClient(port uint16, n int, what string, ok func(harness.Row) bool) {
	w.WaitRows(fmt.Sprintf("%s at the client's end of port %d", what, port), func(rows []harness.Row) bool {
		return count(rows, func(r harness.Row) bool { return r.Remote.Port() == port && ok(r) }) == n
	})
}

// In says that a socket is in one of these states.
func In(states ...event.State) func(harness.Row) bool {
	return func(r harness.Row) bool { return slices.Contains(states, r.State) }
}

// Holds says that a socket has something to read.
func Holds(n int) func(harness.Row) bool {
	return func(r harness.Row) bool { return r.Receive >= uint64(n) }
}

func count(rows []harness.Row, ok func(harness.Row) bool) (n int) {
	for _, r := range rows {
		if ok(r) {
			n++
		}
	}
	return n
}

// WaitEnded waits until every connection to a port is over: neither end has
// more than a TIME_WAIT.
func (w *World) WaitEnded(port uint16) {
	w.WaitRows(fmt.Sprintf("the end of all connections to port %d", port), func(rows []harness.Row) bool {
		return count(rows, func(r harness.Row) bool {
			return (r.Local.Port() == port || r.Remote.Port() == port) && r.State != event.Listen && r.State != event.TimeWait
		}) == 0
	})
}

// identify reads what the kernel calls a process.
func identify(pid int) (Process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return Process{}, fmt.Errorf("cannot read the name of process %d: %w", pid, err)
	}
	return Process{PID: pid, Comm: strings.TrimSuffix(string(b), "\n")}, nil
}

// children are the processes that a process has started and that live.
func children(pid int) ([]int, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	var list []int
	for _, t := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(f)
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
	}
	return list, nil
}

// waitIdle waits until no program has anything to do: a connection can be over for
// the kernel before its program has heard of the end and closed its socket.
func (w *World) waitIdle() {
	for role, p := range w.roles {
		w.Until(role+" to be idle", func() (bool, string) {
			states, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID))
			if err != nil {
				w.Fail("%w", err)
			}
			for _, path := range states {
				b, _ := os.ReadFile(path) // a thread may have ended meanwhile
				if _, state, _ := strings.Cut(string(b), ") "); strings.HasPrefix(state, "R") || strings.HasPrefix(state, "D") {
					return false, state
				}
			}
			return true, ""
		})
	}
}

// Child waits for a child of a process that none of the roles is yet, and whose
// name is this, and gives it a role.
func (w *World) Child(role string, parent int, comm string) int {
	found := 0
	w.Until(role, func() (bool, string) {
		list, err := children(parent)
		if err != nil {
			w.Fail("while waiting for %s: %w", role, err)
		}
	next:
		for _, pid := range list {
			for _, p := range w.roles {
				if p.PID == pid {
					continue next
				}
			}
			p, err := identify(pid)
			if err != nil || p.Comm != comm {
				continue // it has just gone, or has not called exec yet
			}
			w.roles[role] = p
			found = pid
			return true, ""
		}
		return false, fmt.Sprintf("the children %v", list)
	})
	return found
}

// Signal sends a signal to a process, and to it alone.
func (w *World) Signal(pid int, sig unix.Signal) {
	if w.Err != nil {
		return
	}
	if pid <= 0 {
		w.Fail("there is no process to send %v to", sig)
		return
	}
	if err := unix.Kill(pid, sig); err != nil {
		w.Fail("cannot send %v to process %d: %w", sig, pid, err)
	}
}

// Stop stops a process and waits until all of it has stopped.
func (w *World) Stop(pid int) {
	w.Signal(pid, unix.SIGSTOP)
	w.Stopped(fmt.Sprintf("process %d", pid), pid)
}

// Meanwhile lets something happen while a process is stopped, so that what the
// process makes of it comes after.
func (w *World) Meanwhile(pid int, happens func()) {
	w.Stop(pid)
	happens()
	w.Signal(pid, unix.SIGCONT)
}

// LetGo says that no process has a socket any more whose FIN is acknowledged and
// whose peer has not sent one.
func LetGo(r harness.Row) bool { return r.State == event.FinWait2 && r.Inode == 0 }

// WaitGone waits until a process is no more.
func (w *World) WaitGone(pid int) {
	w.Until(fmt.Sprintf("the end of process %d", pid), func() (bool, string) {
		return unix.Kill(pid, 0) == unix.ESRCH, "it lives"
	})
}

// Due says that there was a connection, and what is due to it. Those to one port
// are told in the order in which they were opened.
func (w *World) Due(l ...Link) { w.links = append(w.links, l...) }
