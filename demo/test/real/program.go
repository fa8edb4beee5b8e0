package real

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/tcpbye/tcpbye/demo/harness"
	"golang.org/x/sys/unix"
)

// directories is where Debian's programs are: what else a machine has in its
// PATH under the same names is not what is to be seen here.
var directories = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// find looks a program of Debian's up.
func find(name string) (string, error) {
	for _, dir := range directories {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("the program %s is not in %s", name, strings.Join(directories, ", "))
}

// Program is a running program.
type Program struct {
	w      *World
	role   string
	pid    int
	stdin  io.WriteCloser
	exited chan struct{}
	state  *os.ProcessState // once exited is closed

	mu     sync.Mutex
	output strings.Builder
	marks  int // answers taken by Do
}

// Write takes what the program says, on both of its outputs.
func (p *Program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

// Output is what the program has said so far.
func (p *Program) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Start starts a program in the World, with a pipe as its standard input. Its
// children are its group; it is killed with them when the run ends.
func (w *World) Start(role, program string, args ...string) *Program {
	return w.start(w.Home.Netns, role, program, args...)
}

func (w *World) start(ns *harness.Netns, role, program string, args ...string) *Program {
	p := &Program{w: w, role: role, exited: make(chan struct{})}
	if w.Err != nil {
		close(p.exited)
		return p
	}
	path, err := find(program)
	if err != nil {
		w.Fail("%w", err)
		close(p.exited)
		return p
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = w.Dir
	cmd.Env = []string{"PATH=" + strings.Join(directories, ":"), "HOME=" + w.Dir, "LC_ALL=C", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"}
	cmd.Stdout, cmd.Stderr = p, p
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A child that outlives the program must not keep the run waiting.
	cmd.WaitDelay = w.Patience
	if p.stdin, err = cmd.StdinPipe(); err == nil {
		err = ns.Do(cmd.Start)
	}
	if err != nil {
		w.Fail("cannot start %s: %w", program, err)
		close(p.exited)
		return p
	}
	p.pid = cmd.Process.Pid
	w.programs = append(w.programs, p)
	// It is not waited for yet, so that its name can be read even if it is over.
	w.roles[role] = w.named(p.pid)
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // the state tells how it ended
		p.state = cmd.ProcessState
	}()
	return p
}

// named waits until a process that has just been started is called what its
// program is: exec sets the name (begin_new_exec) after the descriptor whose
// closing tells this process that exec came to pass.
func (w *World) named(pid int) (p Process) {
	w.Until(fmt.Sprintf("process %d to get its name", pid), func() (bool, string) {
		own, err := identify(os.Getpid())
		if err == nil {
			p, err = identify(pid)
		}
		if err != nil {
			w.Fail("%w", err)
		}
		return p.Comm != own.Comm, p.Comm
	})
	return p
}

// PID is the program's process; 0 if the play has failed.
func (p *Program) PID() int { return p.pid }

// Say writes to the program's standard input.
func (p *Program) Say(text string) {
	if p.w.Err != nil {
		return
	}
	if _, err := io.WriteString(p.stdin, text); err != nil {
		p.w.Fail("cannot write to %s: %w", p.role, err)
	}
}

// EndInput closes the program's standard input.
func (p *Program) EndInput() {
	if p.w.Err != nil {
		return
	}
	if err := p.stdin.Close(); err != nil {
		p.w.Fail("cannot close the input of %s: %w", p.role, err)
	}
}

// WaitOutput waits until the program has said something.
func (p *Program) WaitOutput(text string) {
	p.await(fmt.Sprintf("%q from %s", text, p.role), func() bool { return strings.Contains(p.Output(), text) })
}

// await waits for something that comes of what the program says; that it ends
// first fails the play.
func (p *Program) await(what string, came func() bool) {
	p.w.Until(what, func() (bool, string) {
		over := p.over()
		if came() { // it may have said it last
			return true, ""
		}
		if over {
			p.w.Fail("while waiting for %s: %s ended: %v\n%s", what, p.role, p.state, p.Output())
		}
		return false, "it lives"
	})
}

// over says whether the program has ended.
func (p *Program) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// WaitFile waits until a file of the run's directory has some text in it.
func (w *World) WaitFile(name, text string) {
	w.Until(fmt.Sprintf("%q in %s", text, name), func() (bool, string) {
		b, err := os.ReadFile(filepath.Join(w.Dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			w.Fail("%w", err)
		}
		return strings.Contains(string(b), text), string(b)
	})
}

// WaitExit waits for the program's end and returns its exit status, or -1 where a
// signal killed it.
func (p *Program) WaitExit() int {
	p.w.Until("the end of "+p.role, func() (bool, string) { return p.over(), "it lives" })
	if p.w.Err != nil {
		return -1
	}
	return p.state.ExitCode()
}

// interpreter runs the statements of its input, and answers each with a line.
const interpreter = `
import json, os, sys
def answer(text):
    os.write(1, (text + "\n").encode()) # at once, whatever other threads have to say
for line in sys.stdin:
    try:
        exec(json.loads(line), globals())
        answer("<done>")
    except BaseException as e:
        answer("<failed %s: %s>" % (type(e).__name__, e))
`

// Python starts a Python that takes statements by Do.
func (w *World) Python(role string) *Program { return w.pythonAt(w.Home.Netns, role) }

func (w *World) pythonAt(ns *harness.Netns, role string) *Program {
	return w.start(ns, role, "python3", "-c", interpreter)
}

// Begin gives a Python statements to run.
func (p *Program) Begin(statements string) {
	line, err := json.Marshal(statements)
	if err != nil {
		p.w.Fail("%w", err)
		return
	}
	p.Say(string(line) + "\n")
}

// End waits for what was begun and returns what it printed. A failure is part of
// it, as "<failed ConnectionResetError: …>".
func (p *Program) End() string {
	said := ""
	p.await("an answer of "+p.role, func() bool {
		text := p.Output()
		rest := text[p.marks:]
		for _, mark := range []string{"<done>\n", "<failed "} {
			if i := strings.Index(rest, mark); i >= 0 {
				end := strings.Index(rest[i:], "\n")
				if end < 0 {
					return false
				}
				said = strings.TrimSuffix(rest[:i+end+1], "<done>\n")
				p.marks += i + end + 1
				return true
			}
		}
		return false
	})
	return said
}

// Try runs statements in a Python and returns what they printed, or how they
// failed.
func (p *Program) Try(statements string) string {
	p.Begin(statements)
	return p.End()
}

// Do is Try for statements that must not fail.
func (p *Program) Do(statements string) string {
	said := p.Try(statements)
	if strings.Contains(said, "<failed ") {
		p.w.Fail("%s could not do %q: %s", p.role, statements, said)
	}
	return said
}

// Kill sends SIGKILL to the program and waits for its end.
func (p *Program) Kill() {
	p.w.Signal(p.pid, unix.SIGKILL)
	p.WaitExit()
}
