package pair

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/echo"
	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Goodbye is what the client does after its two messages.
type Goodbye string

const (
	Close    Goodbye = "close"    // close(2)
	Shutdown Goodbye = "shutdown" // shutdown(SHUT_WR), then read to the end
)

// Experiment is one run of the pair.
type Experiment struct {
	// Server and Client are the commands to run, without flags.
	Server, Client []string
	// Host is the address that the client connects to: 127.0.0.1 or [::1].
	Host    string
	Goodbye Goodbye
	Delay   time.Duration // the server's work on each answer
	Sigpipe echo.SigpipeAction
	// Said takes each line that one of the two prints, as it is printed. It is
	// never called twice at once.
	Said func(who, line string)
}

// Result is how an Experiment ended.
type Result struct {
	Port           int // the server's
	Server, Client syscall.WaitStatus
}

// program is one of the two, while it runs.
type program struct {
	name   string
	cmd    *exec.Cmd
	stderr strings.Builder
	lines  chan string // of its output; closed at its end
	said   []string
}

// wait waits for a line with that prefix, and returns it.
func (p *program) wait(ctx context.Context, prefix string) (string, error) {
	for {
		select {
		case line, more := <-p.lines:
			if !more {
				return "", fmt.Errorf("the %s ended before it said %q; it said: %s%s", p.name, prefix, strings.Join(p.said, " / "), p.stderr.String())
			}
			if p.said = append(p.said, line); strings.HasPrefix(line, prefix) {
				return line, nil
			}
		case <-ctx.Done():
			return "", fmt.Errorf("wait until the %s says %q: %w", p.name, prefix, ctx.Err())
		}
	}
}

// Run runs the experiment to the end of both processes.
func (x Experiment) Run(ctx context.Context) (r Result, err error) {
	if x.Goodbye != Close && x.Goodbye != Shutdown {
		return r, fmt.Errorf("no goodbye %q: want %s or %s", x.Goodbye, Close, Shutdown)
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
		if x.Said != nil {
			x.Said(who, line)
		}
	}
	start := func(name string, argv []string, extra ...*os.File) (*program, io.Writer, error) {
		p := &program{name: name, lines: make(chan string, 100)} // more than it says
		p.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		p.cmd.ExtraFiles = extra
		p.cmd.Stderr = &p.stderr
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		in, err := p.cmd.StdinPipe()
		if err != nil {
			return nil, nil, fmt.Errorf("start the %s: %w", name, err)
		}
		out, err := p.cmd.StdoutPipe()
		if err == nil {
			err = p.cmd.Start()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("start the %s: %w", name, err)
		}
		go func() {
			defer close(p.lines)
			for s := bufio.NewScanner(out); s.Scan(); {
				said(name, s.Text())
				p.lines <- s.Text()
			}
		}()
		return p, in, nil
	}
	workR, workW, err := os.Pipe()
	if err != nil {
		return r, fmt.Errorf("make a pipe: %w", err)
	}
	defer workR.Close()
	defer workW.Close()
	server, _, err := start("server", slices.Concat(x.Server,
		[]string{"--port=0", "--delay=" + x.Delay.String(), "--sigpipe=" + x.Sigpipe.String(), "--work-fd=3"}), workR)
	if err != nil {
		return r, err
	}
	const listening = "listening on 0.0.0.0:"
	line, err := server.wait(ctx, listening)
	if err != nil {
		return r, err
	}
	port, _, _ := strings.Cut(strings.TrimPrefix(line, listening), ",")
	if r.Port, err = strconv.Atoi(port); err != nil {
		return r, fmt.Errorf("the server listens on the port %q: %w", port, err)
	}
	// The client lives on until the server's answers have met the closed
	// socket, so that its exit explains nothing.
	linger := 3*x.Delay + 500*time.Millisecond
	client, keyboard, err := start("client", slices.Concat(x.Client, []string{"--linger-before-exit=" + linger.String(), x.Host + ":" + port}))
	if err != nil {
		return r, err
	}
	for _, step := range []struct {
		at     *program
		line   string // to wait for
		typing string
	}{
		{client, "connected", "data1"},
		// Not before: two messages that are read at once are one message.
		{server, "received 5 bytes: data1", "data2"},
		{client, "now sending data2", string(x.Goodbye)},
	} {
		if _, err := step.at.wait(ctx, step.line); err != nil {
			return r, err
		}
		if _, err := io.WriteString(keyboard, step.typing+"\n"); err != nil {
			return r, fmt.Errorf("type %q to the client: %w", step.typing, err)
		}
	}
	// The server may answer once the client's FIN has reached it, however slow
	// this machine is.
	if err := waitFIN(ctx, uint16(r.Port)); err != nil {
		return r, err
	}
	for _, answer := range []string{"Hi, data1", "Hi, data2"} {
		if _, err := io.WriteString(workW, "."); err != nil {
			return r, fmt.Errorf("let the server answer: %w", err)
		}
		if x.Goodbye == Shutdown { // or the client could read both at once
			if _, err := client.wait(ctx, answer); err != nil {
				return r, err
			}
		}
	}
	for _, p := range []*program{server, client} {
		for range p.lines {
		}
		err := p.cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return r, fmt.Errorf("wait for the %s: %w", p.name, err)
		}
		if s := strings.TrimSpace(p.stderr.String()); s != "" {
			said(p.name, s)
		}
	}
	r.Server = server.cmd.ProcessState.Sys().(syscall.WaitStatus)
	r.Client = client.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return r, nil
}

// waitFIN waits until a connection with that local port is in CLOSE_WAIT.
func waitFIN(ctx context.Context, port uint16) error {
	for {
		rows, err := harness.ReadTable("self")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rows, func(r harness.Row) bool { return r.Local.Port() == port && r.State == event.CloseWait }) {
			return nil
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait until the client's FIN reaches the server: %w", ctx.Err())
		}
	}
}
