package session

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/filter"
)

// Command is a program that is run while it and its children are traced.
type Command struct {
	cmd    *exec.Cmd
	pid    atomic.Uint32 // 0: not started
	over   atomic.Bool
	status int
	ended  time.Time
}

const (
	// afterwards is how long a command's connections get to end after it.
	afterwards = 2 * time.Second
	// unheard is how long the last events of a command may still be in the ring.
	unheard = 200 * time.Millisecond
)

// NewCommand looks the program up. The command gets the streams as they are.
func NewCommand(args []string, stdin io.Reader, stdout, stderr io.Writer) (*Command, error) {
	c := &Command{cmd: exec.Command(args[0], args[1:]...)}
	if err := c.cmd.Err; err != nil {
		var where *exec.Error // whose text repeats the name
		if errors.As(err, &where) {
			err = where.Err
		}
		return nil, fmt.Errorf("run %s: %w", args[0], err)
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, stderr
	return c, nil
}

// Env adds to its environment, as NAME=VALUE. It is called before Start.
func (c *Command) Env(more ...string) { c.cmd.Env = append(c.cmd.Environ(), more...) }

// Start starts it.
func (c *Command) Start() error {
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("run the command: %w", err)
	}
	c.pid.Store(uint32(c.cmd.Process.Pid))
	return nil
}

// PID is the process to follow; 0: it was not started.
func (c *Command) PID() uint32 { return c.pid.Load() }

// Running says whether it was started and has not ended. Like Signal, it may be
// asked from any goroutine.
func (c *Command) Running() bool { return c.PID() != 0 && !c.over.Load() }

// Signal passes a signal on.
func (c *Command) Signal(s os.Signal) {
	if c.Running() {
		_ = c.cmd.Process.Signal(s) // it may just have ended
	}
}

// Over says whether the command has ended, and its connections have too, or had
// the time for it.
func (c *Command) Over(s *Session) bool {
	if !c.over.Load() {
		var status unix.WaitStatus
		pid, err := unix.Wait4(int(c.PID()), &status, unix.WNOHANG, nil)
		if err != nil || pid == 0 {
			return err != nil && !errors.Is(err, unix.EINTR)
		}
		c.end(status)
	}
	since := time.Since(c.ended)
	if since < unheard {
		return false
	}
	mine := filter.Filter{PIDs: []uint32{c.PID()}, Follow: true}
	return since > afterwards || !s.Following(func(x *conn.Connection) bool {
		return x.Ended == 0 && mine.MatchConnection(x)
	})
}

func (c *Command) end(w unix.WaitStatus) {
	c.ended = time.Now()
	c.over.Store(true)
	c.status = w.ExitStatus()
	if w.Signaled() {
		c.status = 128 + int(w.Signal()) // as the shell says it
	}
}

// Status waits for the command's end and returns its exit status.
func (c *Command) Status() (int, error) {
	for !c.over.Load() {
		var status unix.WaitStatus
		if _, err := unix.Wait4(int(c.PID()), &status, 0, nil); err == nil {
			c.end(status)
		} else if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for the command: %w", err)
		}
	}
	return c.status, nil
}
