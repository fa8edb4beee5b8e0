package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"golang.org/x/sys/unix"
)

// Puppet is the harness's hold on a puppet process. Its name in the story, its
// role, is also the name that the kernel has for it.
type Puppet struct {
	w    *World
	ns   *harness.Space
	role string
	pid  int
	ctl  *os.File
	next uint64
	// early are answers that came while another was awaited.
	early map[uint64]*reply

	cmd    *exec.Cmd // nil: a child of parent
	parent *Puppet
	gone   bool
}

// Process is a puppet as it was, for an Outcome.
type Process struct {
	Role   string
	PID    int // in the harness's PID namespace
	Comm   string
	Exited bool // before the end of the story
	Status int  // exit status
	Signal unix.Signal
}

// puppetPath is a path whose last element is the role, so that each of the
// puppet's threads carries its name, those of the Go runtime too: which thread
// of a dying process closes its sockets is not ours to choose.
func (w *World) puppetPath(role string) (string, error) {
	path := filepath.Join(w.Dir, role)
	err := os.Symlink(w.self, path)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	return path, err
}

// controlChannel returns the harness's side, fit for deadlines, and the other.
func controlChannel() (near, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// puppetEnv keeps the Go runtime of a puppet from interrupting system calls.
func puppetEnv() []string {
	return append(os.Environ(), envPuppet+"=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1", "GOTRACEBACK=none", "GOCOVERDIR=")
}

// startPuppet starts a puppet in a namespace and waits until it takes commands.
func (w *World) startPuppet(role string, ns *harness.Space) (*Puppet, error) {
	path, err := w.puppetPath(role)
	if err != nil {
		return nil, fmt.Errorf("cannot name the puppet %s: %w", role, err)
	}
	near, far, err := controlChannel()
	if err != nil {
		return nil, fmt.Errorf("cannot start the puppet %s: %w", role, err)
	}
	defer far.Close()
	cmd := &exec.Cmd{
		Path:        path,
		Args:        []string{role},
		Env:         puppetEnv(),
		ExtraFiles:  []*os.File{far}, // descriptor 3, puppetCtl
		Stderr:      w.stderr,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	// The thread that forks decides the child's namespace.
	if err := ns.Do(cmd.Start); err != nil {
		near.Close()
		return nil, fmt.Errorf("cannot start the puppet %s: %w", role, err)
	}
	p := &Puppet{w: w, ns: ns, role: role, pid: cmd.Process.Pid, ctl: near, cmd: cmd, early: make(map[uint64]*reply)}
	w.puppets = append(w.puppets, p)
	return p, p.hello()
}

func (p *Puppet) hello() error {
	r, err := p.await(0)
	if err != nil {
		return fmt.Errorf("the puppet %s did not start: %w", p.role, err)
	}
	if r.Op != opHello {
		return fmt.Errorf("the puppet %s did not start: it said %q", p.role, r.Op)
	}
	p.pid = r.PID
	return nil
}

// post sends a command.
func (p *Puppet) post(req *request) error {
	p.next++
	req.ID = p.next
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	_, err = p.ctl.Write(b)
	return err
}

// await returns the answer with this number; io.EOF when the puppet died.
func (p *Puppet) await(id uint64) (*reply, error) {
	if r := p.early[id]; r != nil {
		delete(p.early, id)
		return r, nil
	}
	if err := p.ctl.SetReadDeadline(time.Now().Add(p.w.Patience)); err != nil {
		return nil, err
	}
	// A stop must not wait for a call that may last.
	stop := context.AfterFunc(p.w.Ctx, func() { _ = p.ctl.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxMessage)
	for {
		n, err := p.ctl.Read(buf)
		if n == 0 || errors.Is(err, unix.ECONNRESET) {
			if err == nil || errors.Is(err, unix.ECONNRESET) {
				err = io.EOF
			}
			if cause := p.w.Ctx.Err(); cause != nil {
				err = cause
			}
			return nil, err
		}
		r := new(reply)
		if err := json.Unmarshal(buf[:n], r); err != nil {
			return nil, fmt.Errorf("the puppet %s answered nonsense: %w", p.role, err)
		}
		if r.ID == id {
			return r, nil
		}
		p.early[r.ID] = r
	}
}

// pending is a call that a puppet is making.
type pending struct {
	p    *Puppet
	req  *request
	end  *End
	args string
	tid  int // of the thread, for a call in a thread
	sent time.Duration
}

// start begins a call and does not wait for its end.
func (p *Puppet) start(end *End, req *request, args string) *pending {
	w := p.w
	pd := &pending{p: p, req: req, end: end, args: args, sent: harness.Monotonic()}
	if w.Err != nil {
		return pd
	}
	if p.gone {
		w.Fail("%s cannot %s: it is gone", p.role, req.Op)
		return pd
	}
	if err := p.post(req); err != nil {
		w.Fail("%s cannot %s: %v", p.role, req.Op, err)
		return pd
	}
	if req.Thread {
		r, err := p.await(req.ID)
		if err != nil {
			w.Fail("%s cannot %s in a thread: %v", p.role, req.Op, err)
			return pd
		}
		pd.tid = r.TID
	}
	return pd
}

// wait takes the outcome of the call and records it. When the world has failed
// it returns an empty one.
func (pd *pending) wait() *reply {
	w := pd.p.w
	if w.Err != nil {
		return &reply{}
	}
	r, err := pd.p.await(pd.req.ID)
	if err != nil {
		w.Fail("%s: %s %s: no answer: %v", pd.p.role, pd.req.Op, pd.args, err)
		return &reply{}
	}
	if r.Fault != "" {
		w.Fail("%s: %s %s: %s", pd.p.role, pd.req.Op, pd.args, r.Fault)
	}
	pd.record(r)
	return r
}

func (pd *pending) record(r *reply) {
	c := Call{
		Role: pd.p.role, PID: r.PID, TID: r.TID, Op: pd.req.Op, Args: pd.args, N: r.N, Errno: r.Errno,
		Start: time.Duration(r.Start), End: time.Duration(r.End), wanted: pd.req.N,
	}
	if pd.end != nil {
		c.Conn = pd.end.Name
	}
	pd.p.w.calls = append(pd.p.w.calls, c)
}

// call makes a call and returns what came of it, whatever that is.
func (p *Puppet) call(end *End, req *request, args string) *reply {
	return p.start(end, req, args).wait()
}

// must makes a call that has to succeed.
func (p *Puppet) must(end *End, req *request, args string) int {
	r := p.call(end, req, args)
	if r.Errno != 0 {
		p.w.Fail("%s: %s %s: %v", p.role, req.Op, args, r.Errno)
	}
	return int(r.N)
}

// probe makes a call that is no part of the story.
func (p *Puppet) probe(req *request) *reply {
	if p.w.Err != nil {
		return &reply{}
	}
	if p.gone {
		p.w.Fail("%s cannot %s: it is gone", p.role, req.Op)
		return &reply{}
	}
	if err := p.post(req); err != nil {
		p.w.Fail("%s cannot %s: %v", p.role, req.Op, err)
		return &reply{}
	}
	r, err := p.await(req.ID)
	if err != nil {
		p.w.Fail("%s: %s: no answer: %v", p.role, req.Op, err)
		return &reply{}
	}
	return r
}

// last makes a call that the process does not survive, and takes its status.
func (p *Puppet) last(end *End, req *request, args string) {
	pd := p.start(end, req, args)
	if p.w.Err != nil {
		return
	}
	r, err := p.await(req.ID)
	if err == nil {
		p.w.Fail("%s survived %s %s: %v %s", p.role, req.Op, args, r.Errno, r.Fault)
		return
	}
	if err != io.EOF {
		p.w.Fail("%s: %s %s: %v", p.role, req.Op, args, err)
		return
	}
	proc := p.reap()
	pd.record(&reply{PID: p.pid, TID: p.pid, Start: int64(pd.sent), End: int64(harness.Monotonic())})
	p.w.calls[len(p.w.calls)-1].Signal = proc.Signal
}

// reap waits for the process's end, when all its descriptors are closed.
func (p *Puppet) reap() Process {
	if p.gone {
		return *p.w.procs[p.role]
	}
	proc := p.w.procs[p.role]
	var ws syscall.WaitStatus
	if p.cmd != nil {
		_ = p.cmd.Wait() // a status that is not 0 is no failure here
		ws, _ = p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	} else {
		ws = syscall.WaitStatus(p.parent.probe(&request{Op: opWait, N: p.pid}).N)
	}
	p.gone = true
	p.ctl.Close()
	if proc == nil {
		return Process{Role: p.role, PID: p.pid}
	}
	proc.Exited = true
	switch {
	case ws.Signaled():
		proc.Signal = ws.Signal()
	default:
		proc.Status = ws.ExitStatus()
	}
	return *proc
}

// Exit ends the process by exit_group.
func (p *Puppet) Exit(status int) {
	p.last(nil, &request{Op: opExit, N: status}, fmt.Sprint(status))
	if proc := p.w.procs[p.role]; p.w.Err == nil && (proc.Signal != 0 || proc.Status != status) {
		p.w.Fail("%s did not exit with status %d but with %d, signal %v", p.role, status, proc.Status, proc.Signal)
	}
}

// Kill sends a signal whose default action kills, and waits for the death.
func (p *Puppet) Kill(sig unix.Signal) {
	if p.w.Err != nil {
		return
	}
	if sig != unix.SIGKILL {
		p.must(nil, &request{Op: opSignalDfl, N: int(sig)}, unix.SignalName(sig))
	}
	start := harness.Monotonic()
	if err := unix.Kill(p.pid, sig); err != nil {
		p.w.Fail("cannot kill %s: %v", p.role, err)
		return
	}
	p.died(nil, "killed", sig, start)
}

// Stop stops the process, and waits until each of its threads is.
func (p *Puppet) Stop() {
	if p.w.Err != nil {
		return
	}
	if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
		p.w.Fail("cannot stop %s: %w", p.role, err)
		return
	}
	p.w.Stopped(p.role, p.pid)
}

// Crash raises a signal in the process itself, as a fault would.
func (p *Puppet) Crash(sig unix.Signal) {
	p.must(nil, &request{Op: opSignalDfl, N: int(sig)}, unix.SignalName(sig))
	start := harness.Monotonic()
	p.start(nil, &request{Op: opKillSelf, N: int(sig)}, unix.SignalName(sig))
	p.died(nil, opKillSelf, sig, start)
}

// died waits for a death by this signal.
func (p *Puppet) died(end *End, op string, sig unix.Signal, start time.Duration) {
	if p.w.Err != nil {
		return
	}
	for {
		if _, err := p.await(^uint64(0)); err == io.EOF {
			break
		} else if err != nil {
			p.w.Fail("%s did not die of %v: %v", p.role, sig, err)
			return
		}
	}
	proc := p.reap()
	if proc.Signal != sig {
		p.w.Fail("%s did not die of %v: status %d, signal %v", p.role, sig, proc.Status, proc.Signal)
	}
	c := Call{Role: p.role, PID: p.pid, TID: p.pid, Op: op, Args: unix.SignalName(sig), Signal: sig, Start: start, End: harness.Monotonic()}
	if end != nil {
		c.Conn = end.Name
	}
	p.w.calls = append(p.w.calls, c)
}

// Exec replaces the program by another of this name; descriptors that are to be
// closed on exec, the puppets' sockets, go. The process keeps its role.
func (p *Puppet) Exec(name string) {
	if p.w.Err != nil {
		return
	}
	path, err := p.w.puppetPath(name)
	if err != nil {
		p.w.Fail("cannot name the program %s: %v", name, err)
		return
	}
	pd := p.start(nil, &request{Op: opExec, Path: path}, name)
	if err := p.hello(); err != nil {
		p.w.Fail("%v", err)
		return
	}
	pd.record(&reply{PID: p.pid, TID: p.pid, Start: int64(pd.sent), End: int64(harness.Monotonic())})
	p.w.procs[p.role].Comm = comm(name)
}

// comm is a name as the kernel keeps it.
func comm(name string) string { return name[:min(len(name), 15)] }

// inherit starts a child of the puppet that inherits the descriptor.
func (p *Puppet) inherit(role string, fd int) *Puppet {
	w := p.w
	if w.Err != nil {
		return &Puppet{w: w}
	}
	path, err := w.puppetPath(role)
	if err != nil {
		w.Fail("cannot name the puppet %s: %v", role, err)
		return &Puppet{w: w}
	}
	near, far, err := controlChannel()
	if err != nil {
		w.Fail("cannot start the puppet %s: %v", role, err)
		return &Puppet{w: w}
	}
	ctl := p.inbox(far)
	child := &Puppet{w: w, ns: p.ns, role: role, ctl: near, parent: p, early: make(map[uint64]*reply)}
	child.pid = p.must(nil, &request{Op: opSpawn, Path: path, FD: fd, FD2: ctl}, role)
	w.puppets = append(w.puppets, child)
	w.procs[role] = &Process{Role: role, PID: child.pid, Comm: comm(role)}
	if w.Err == nil {
		if err := child.hello(); err != nil {
			w.Fail("%v", err)
		}
	}
	return child
}

// inbox hands a file to the puppet, closes ours, and returns its number there.
func (p *Puppet) inbox(f *os.File) int {
	defer f.Close()
	if p.w.Err != nil {
		return -1
	}
	req := &request{Op: opInbox}
	if err := p.post(req); err != nil {
		p.w.Fail("%s: %v", p.role, err)
		return -1
	}
	if err := sendFile(p.ctl, f); err != nil {
		p.w.Fail("cannot hand a descriptor to %s: %v", p.role, err)
		return -1
	}
	r, err := p.await(req.ID)
	if err != nil || r.Errno != 0 || r.Fault != "" {
		p.w.Fail("%s did not get its descriptor: %v %v %s", p.role, err, r.Errno, r.Fault)
		return -1
	}
	return int(r.N)
}

// sendFile sends a descriptor over a control channel.
func sendFile(over, f *os.File) error {
	raw, err := over.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
		return serr != unix.EAGAIN
	})
	return errors.Join(err, serr)
}
