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

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Process is a program's process as the kernel names it.
type Process struct {
	PID  int
	Comm string // of its main thread
}

// World is what one run plays in. Its first failure ends the play: every later
// step does nothing.
type World struct {
	Dir string // for the run's files

	ctx      context.Context
	ns       *netns   // where everything lives that is not told to live elsewhere
	others   []*netns // further machines, see Host
	capture  *capture
	patience time.Duration
	programs []*Program
	roles    map[string]Process
	links    []Link
	undo     []func() error
	err      error
}

// newWorld makes a World; close lets go of it.
func newWorld(ctx context.Context, patience time.Duration) (*World, error) {
	w := &World{ctx: ctx, patience: patience, roles: map[string]Process{}}
	var err error
	if w.Dir, err = os.MkdirTemp("", "tcpbye-real-"); err != nil {
		return nil, fmt.Errorf("cannot make a directory for the programs' files: %w", err)
	}
	// Servers that give up root must still find their files.
	err = os.Chmod(w.Dir, 0o755)
	if err == nil {
		w.ns, err = newNetns()
	}
	if err == nil {
		err = w.ns.do(func() (err error) { w.capture, err = newCapture(); return err })
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// close kills what lives in the World.
func (w *World) close() error {
	var errs []error
	for _, p := range w.programs {
		// The group: servers have children.
		if err := unix.Kill(-p.pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("cannot kill %s: %w", p.role, err))
		}
		<-p.exited
	}
	for _, f := range w.undo {
		errs = append(errs, f())
	}
	for _, n := range slices.Concat(w.others, []*netns{w.ns}) {
		if n != nil {
			n.close()
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.Dir))...)
}

// Fail ends the play; the first failure is the one that counts.
func (w *World) Fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
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
	if w.err == nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.Fail("%v", err)
		} else if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.Fail("%v", err)
		}
	}
	return path
}

// Sysctl sets a setting of the World's namespace, named below net.ipv4.
func (w *World) Sysctl(name, value string) {
	if w.err != nil {
		return
	}
	err := w.ns.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
	if err != nil {
		w.Fail("cannot set net.ipv4.%s to %s: %w", name, value, err)
	}
}

// Big makes a file of n bytes that takes no room, and returns its path.
func (w *World) Big(name string, n int64) string {
	path := w.File(name, "")
	if w.err == nil {
		if err := os.Truncate(path, n); err != nil {
			w.Fail("%v", err)
		}
	}
	return path
}

// until waits for something that the kernel or a program does.
func (w *World) until(what string, ok func() (bool, error)) {
	if w.err != nil {
		return
	}
	deadline := time.Now().Add(w.patience)
	for {
		is, err := ok()
		switch {
		case err != nil:
			w.Fail("while waiting for %s: %w", what, err)
			return
		case is:
			return
		case w.ctx.Err() != nil:
			w.Fail("while waiting for %s: %w", what, w.ctx.Err())
			return
		case time.Now().After(deadline):
			w.Fail("%s did not come within %v%s", what, w.patience, w.last())
			return
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

// last is what the programs had to say, for the story's failure.
func (w *World) last() string {
	var b strings.Builder
	for _, p := range w.programs {
		if text := strings.TrimSpace(p.Output()); text != "" {
			fmt.Fprintf(&b, "\n%s said:\n%s", p.role, text)
		}
	}
	if rows, err := w.table(); err == nil {
		fmt.Fprintf(&b, "\nsockets: %+v", rows)
	}
	return b.String()
}

func (w *World) table() (rows []Row, err error) {
	err = w.ns.do(func() (err error) { rows, err = readTable(); return err })
	return rows, err
}

// WaitRows waits until the table of sockets is as it should be.
func (w *World) WaitRows(what string, ok func([]Row) bool) {
	w.until(what, func() (bool, error) {
		rows, err := w.table()
		return err == nil && ok(rows), err
	})
}

// WaitListen waits for a listener.
func (w *World) WaitListen(port uint16) {
	w.WaitRows(fmt.Sprintf("a listener on port %d", port), func(rows []Row) bool {
		return count(rows, func(r Row) bool { return r.Local == port && r.State == event.Listen }) > 0
	})
}

// WaitServer waits for n sockets of connections to a port, at the server's end,
// that are as they should be.
func (w *World) WaitServer(port uint16, n int, what string, ok func(Row) bool) {
	w.WaitRows(fmt.Sprintf("%s at the server's end of port %d", what, port), func(rows []Row) bool {
		return count(rows, func(r Row) bool { return r.Local == port && r.State != event.Listen && ok(r) }) == n
	})
}

// WaitClient is WaitServer at the client's end.
func (w *World) WaitClient(port uint16, n int, what string, ok func(Row) bool) {
	w.WaitRows(fmt.Sprintf("%s at the client's end of port %d", what, port), func(rows []Row) bool {
		return count(rows, func(r Row) bool { return r.Remote == port && ok(r) }) == n
	})
}

// In says that a socket is in one of these states.
func In(states ...event.State) func(Row) bool {
	return func(r Row) bool {
		for _, s := range states {
			if r.State == s {
				return true
			}
		}
		return false
	}
}

// Holds says that a socket has something to read.
func Holds(n int) func(Row) bool { return func(r Row) bool { return r.Receive >= n } }

func count(rows []Row, ok func(Row) bool) (n int) {
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
	w.WaitRows(fmt.Sprintf("the end of all connections to port %d", port), func(rows []Row) bool {
		return count(rows, func(r Row) bool {
			return (r.Local == port || r.Remote == port) && r.State != event.Listen && r.State != event.TimeWait
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

// Child waits for a child of a process that none of the roles is yet, and whose
// name is this, and gives it a role.
func (w *World) Child(role string, parent int, comm string) int {
	found := 0
	w.until(role, func() (bool, error) {
		list, err := children(parent)
		if err != nil {
			return false, err
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
			return true, nil
		}
		return false, nil
	})
	return found
}

// Signal sends a signal to a process, and to it alone.
func (w *World) Signal(pid int, sig unix.Signal) {
	if w.err != nil {
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
	w.until(fmt.Sprintf("process %d to stop", pid), func() (bool, error) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false, err
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(rest, "T"), nil
	})
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
func LetGo(r Row) bool { return r.State == event.FinWait2 && r.Inode == 0 }

// WaitGone waits until a process is no more.
func (w *World) WaitGone(pid int) {
	w.until(fmt.Sprintf("the end of process %d", pid), func() (bool, error) {
		err := unix.Kill(pid, 0)
		if err == unix.ESRCH {
			return true, nil
		}
		return false, err
	})
}

// Due says that there was a connection, and what is due to it. Those to one port
// are told in the order in which they were opened.
func (w *World) Due(l ...Link) { w.links = append(w.links, l...) }
