package echo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Goodbye is what the client of a Pair does after its two messages.
type Goodbye string

const (
	Close    Goodbye = "close"    // close(2)
	Shutdown Goodbye = "shutdown" // shutdown(SHUT_WR), then read to the end
)

// Pair runs the client and the server as two processes through one experiment:
// data1, data2, then the goodbye.
type Pair struct {
	// Server and Client are the commands to run, without flags.
	Server, Client []string
	// Host is the address that the client connects to: 127.0.0.1 or ::1.
	Host    string
	Goodbye Goodbye
	Delay   time.Duration // the server's work on each answer
	Sigpipe SigpipeAction
	// Said takes each line that one of the two prints, as it is printed. It is
	// never called twice at once.
	Said func(who, line string)
}

// PairResult is how a Pair ended.
type PairResult struct {
	Port           int
	Server, Client syscall.WaitStatus
	ServerPID      int
	ClientPID      int
}

// watcher runs one of the two and lets others wait for a line of its output.
type watcher struct {
	name   string
	cmd    *exec.Cmd
	stderr strings.Builder

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced when a line came
	done  bool
}

func (w *watcher) follow(r io.Reader, said func(who, line string)) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		said(w.name, s.Text())
		w.mu.Lock()
		w.lines = append(w.lines, s.Text())
		close(w.more)
		w.more = make(chan struct{})
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.done = true
	close(w.more)
	w.more = make(chan struct{})
	w.mu.Unlock()
}

// wait waits for a line with that prefix.
func (w *watcher) wait(ctx context.Context, prefix string) error {
	seen := 0
	for {
		w.mu.Lock()
		for ; seen < len(w.lines); seen++ {
			if strings.HasPrefix(w.lines[seen], prefix) {
				w.mu.Unlock()
				return nil
			}
		}
		more, done := w.more, w.done
		w.mu.Unlock()
		if done {
			return fmt.Errorf("the %s ended before it said %q; it said: %s", w.name, prefix, strings.Join(w.lines, " / "))
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("wait until the %s says %q: %w", w.name, prefix, ctx.Err())
		}
	}
}

// Run runs the experiment to the end of both processes.
func (p Pair) Run(ctx context.Context) (PairResult, error) {
	var r PairResult
	if p.Goodbye != Close && p.Goodbye != Shutdown {
		return r, fmt.Errorf("no goodbye %q: want %s or %s", p.Goodbye, Close, Shutdown)
	}
	// The children die with the thread that started them (PR_SET_PDEATHSIG),
	// so it must live as long as they do.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // kills what is left after an error
	var mu sync.Mutex
	said := func(who, line string) {
		mu.Lock()
		defer mu.Unlock()
		if p.Said != nil {
			p.Said(who, line)
		}
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return r, fmt.Errorf("make a pipe: %w", err)
	}
	defer readyR.Close()
	defer readyW.Close()
	workR, workW, err := os.Pipe()
	if err != nil {
		return r, fmt.Errorf("make a pipe: %w", err)
	}
	defer workR.Close()
	defer workW.Close()
	var followers sync.WaitGroup
	start := func(name string, argv []string, in io.Reader, extra ...*os.File) (*watcher, error) {
		w := &watcher{name: name, more: make(chan struct{})}
		w.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		w.cmd.Stdin = in
		w.cmd.ExtraFiles = extra
		w.cmd.Stderr = &w.stderr
		w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		out, err := w.cmd.StdoutPipe()
		if err != nil {
			return nil, fmt.Errorf("start the %s: %w", name, err)
		}
		if err := w.cmd.Start(); err != nil {
			return nil, fmt.Errorf("start the %s: %w", name, err)
		}
		followers.Go(func() { w.follow(out, said) })
		return w, nil
	}
	server, err := start("server", append(append([]string{}, p.Server...),
		"--port=0", "--delay="+p.Delay.String(), "--sigpipe="+p.Sigpipe.String(), "--ready-fd=3", "--work-fd=4"), nil, readyW, workR)
	if err != nil {
		return r, err
	}
	readyW.Close()
	line, err := bufio.NewReader(readyR).ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("the server ended before it listened: %w: %s", errors.Join(err, server.cmd.Wait()), strings.TrimSpace(server.stderr.String()))
	}
	if r.Port, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		return r, fmt.Errorf("the server announced the port %q: %w", line, err)
	}
	stdinR, stdinW, err := os.Pipe()
	if err != nil {
		return r, fmt.Errorf("make a pipe: %w", err)
	}
	defer stdinW.Close()
	address := p.Host + ":" + strconv.Itoa(r.Port)
	if strings.Contains(p.Host, ":") {
		address = "[" + p.Host + "]:" + strconv.Itoa(r.Port)
	}
	// The client lives on until the server's answers have met the closed
	// socket, so that its exit explains nothing.
	linger := 3*p.Delay + 500*time.Millisecond
	client, err := start("client", append(append([]string{}, p.Client...), "--linger-before-exit="+linger.String(), address), stdinR)
	stdinR.Close()
	if err != nil {
		return r, err
	}
	r.ServerPID, r.ClientPID = server.cmd.Process.Pid, client.cmd.Process.Pid
	steps := []struct {
		at     *watcher
		line   string // to wait for
		typing string
	}{
		{client, "connected", "data1"},
		// Not before: two messages that are read at once are one message.
		{server, "received 5 bytes: data1", "data2"},
		{client, "now sending data2", string(p.Goodbye)},
	}
	for _, s := range steps {
		if err := s.at.wait(ctx, s.line); err != nil {
			return r, err
		}
		if _, err := io.WriteString(stdinW, s.typing+"\n"); err != nil {
			return r, fmt.Errorf("type %q to the client: %w", s.typing, err)
		}
	}
	// The server may answer once the client's FIN has reached it, however slow
	// this machine is.
	if err := waitState(ctx, r.Port, closeWait); err != nil {
		return r, err
	}
	if _, err := io.WriteString(workW, "12"); err != nil {
		return r, fmt.Errorf("let the server answer: %w", err)
	}
	followers.Wait()
	for _, w := range []*watcher{server, client} {
		err := w.cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return r, fmt.Errorf("wait for the %s: %w", w.name, err)
		}
		if s := strings.TrimSpace(w.stderr.String()); s != "" {
			said(w.name, s)
		}
	}
	r.Server = server.cmd.ProcessState.Sys().(syscall.WaitStatus)
	r.Client = client.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return r, nil
}

// closeWait is CLOSE_WAIT as /proc/net/tcp prints it.
const closeWait = "08"

// waitState waits until a connection with that local port is in a state.
func waitState(ctx context.Context, port int, state string) error {
	local := fmt.Sprintf(":%04X", port)
	for {
		for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
			b, err := os.ReadFile(table)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("look at the states of connections: %w", err)
			}
			for line := range strings.Lines(string(b)) {
				// sl local_address rem_address st ... (proc_pid_net(5))
				f := strings.Fields(line)
				if len(f) > 3 && strings.HasSuffix(f[1], local) && f[3] == state {
					return nil
				}
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait until the client's FIN reaches the server: %w", ctx.Err())
		}
	}
}
