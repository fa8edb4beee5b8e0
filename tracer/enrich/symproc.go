package enrich

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// symbolProcess is the other side of ServeSymbols. One goroutine asks it.
type symbolProcess struct {
	socket *os.File
	cmd    *exec.Cmd
	ended  chan struct{}
	loaded map[uint64]bool
	clock  int32 // of the process's CPU time
	buf    []byte
	most   limits

	greeted bool
	sealed  bool // it can make no system call that it does not need
}

// limits are the most that one question may take.
type limits struct {
	cpu, wall time.Duration
	memory    uint64 // bytes that the process writes to
}

// usual are generous: the machine may be busy, and a file system slow.
var usual = limits{10 * time.Second, time.Minute, 768 << 20}

const (
	askStep = 20 * time.Millisecond
	// recycle is how much CPU time a process may use before it is replaced: its
	// own limit must never end it while it reads a file that is not to blame.
	recycle = symbolCPU / 2 * time.Second
)

var (
	errNotHosted = errors.New("this program's main does not call enrich.ServeSymbols, so it cannot read executables in a process of their own")
	errUnasked   = errors.New("it cannot be asked")
	errTooLong   = errors.New("it takes too long")
)

// startSymbolProcess runs this program once more.
func startSymbolProcess(most limits) (*symbolProcess, error) {
	if !hosted.Load() {
		return nil, errNotHosted
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "symbols"), os.NewFile(uintptr(fds[1]), "symbols")
	defer theirs.Close()
	// The child waits in recvmsg(2).
	if err := unix.SetNonblock(fds[1], false); err != nil {
		mine.Close()
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	p := &symbolProcess{socket: mine, ended: make(chan struct{}), loaded: map[uint64]bool{}, buf: make([]byte, maxMessage), most: most}
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Args = []string{symbolName}
	p.cmd.Env = []string{symbolEnv + "=" + strconv.FormatUint(most.memory, 10), "GOMAXPROCS=1", "GOTRACEBACK=none"}
	p.cmd.Dir = "/"
	p.cmd.ExtraFiles = []*os.File{theirs}
	// ^C is for whoever runs this program, and not for this part of it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The child inherits what this thread gives up; and it gets its signal
		// when this thread ends, which it does with this goroutine.
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = p.cmd.Start()
		}
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended tells nobody anything
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		mine.Close()
		return nil, fmt.Errorf("run this program once more, to read executables: %w", err)
	}
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED), include/linux/posix-timers.h.
	p.clock = ^int32(p.cmd.Process.Pid)<<3 | 2
	return p, nil
}

// greet waits until it is ready, which need not be done at the start.
func (p *symbolProcess) greet() error {
	if p.greeted {
		return nil
	}
	a, err := p.receive(time.Now())
	if err == nil && !a.Ready {
		err = errors.New("it said something else first")
	}
	if err != nil {
		return fmt.Errorf("wait for the process that reads executables: %w", err)
	}
	p.greeted, p.sealed = true, a.Sealed
	return nil
}

// stop ends it.
func (p *symbolProcess) stop() {
	_ = p.cmd.Process.Kill() // it may have ended
	p.socket.Close()
	<-p.ended
}

// cpu is the CPU time that it has used.
func (p *symbolProcess) cpu() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(p.clock, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// ask puts a question. After an error the process is of no use any more.
func (p *symbolProcess) ask(q question, file *os.File, debug func(buildID string) *os.File) (answer, error) {
	if err := p.greet(); err != nil {
		return answer{}, err
	}
	began := time.Now()
	if err := p.send(q, file); err != nil {
		return answer{}, err
	}
	a, err := p.receive(began)
	if err != nil || a.Debug == "" || q.Op != opLoad {
		return a, err
	}
	found := debug(a.Debug)
	if found != nil {
		defer found.Close()
	}
	if err := p.send(question{Op: opDebug}, found); err != nil {
		return answer{}, err
	}
	return p.receive(began)
}

func (p *symbolProcess) send(q question, file *os.File) error {
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	raw, err := p.socket.SyscallConn()
	if err != nil {
		return err
	}
	// It reads one question before the next one comes, so there is room.
	if err := p.socket.SetWriteDeadline(time.Now().Add(p.most.wall)); err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN) && !errors.Is(sent, unix.EINTR)
	})
	runtime.KeepAlive(file)
	if err == nil {
		err = sent
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnasked, err)
	}
	return nil
}

// receive waits for the answer, as long as the process may take for it.
func (p *symbolProcess) receive(began time.Time) (a answer, err error) {
	raw, err := p.socket.SyscallConn()
	if err != nil {
		return a, err
	}
	used := p.cpu()
	for {
		if err := p.socket.SetReadDeadline(time.Now().Add(askStep)); err != nil {
			return a, err
		}
		n, got := 0, error(nil)
		err := raw.Read(func(fd uintptr) bool {
			n, got = unix.Read(int(fd), p.buf)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if p.cpu()-used > p.most.cpu || time.Since(began) > p.most.wall {
				return a, errTooLong
			}
			continue
		case err != nil:
			return a, fmt.Errorf("wait for the answer: %w", err)
		case errors.Is(got, unix.EINTR):
			continue
		case got != nil:
			return a, fmt.Errorf("wait for the answer: %w", got)
		case n == 0:
			return a, errors.New("it ended")
		}
		if err := json.Unmarshal(p.buf[:n], &a); err != nil {
			return a, fmt.Errorf("an answer that cannot be read: %w", err)
		}
		return a, nil
	}
}
