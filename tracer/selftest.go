package tracer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// A story is something that ends loopback connections, and the hooks that it
// must run through.
type story struct {
	name  string
	tell  func(*stories, context.Context) error
	hooks []event.Hook
}

// selfTest lists the stories. Together they pass every hook.
var selfTest = []story{
	{"a polite end: shutdown(SHUT_WR), the rest is read, both close", (*stories).polite,
		[]event.Hook{event.HookSetState, event.HookConnect, event.HookAccept, event.HookHandshake, event.HookStack, event.HookShutdown, event.HookSendFin,
			event.HookReceive, event.HookFileClose, event.HookCloseEntry, event.HookClose, event.HookTimeWait, event.HookDestroy}},
	{"close at one end, and then at the other", (*stories).closeTwice,
		[]event.Hook{event.HookTimeWait, event.HookTwskSchedule}},
	{"data for a socket that is closed", (*stories).dataAfterClose,
		[]event.Hook{event.HookSendReset, event.HookReset, event.HookTwskKill, event.HookErrorReport, event.HookStreamError, event.HookSignal}},
	{"data for a socket that is shut down both ways, and held", (*stories).dataAfterShutdown,
		[]event.Hook{event.HookShutdown, event.HookSendReset, event.HookReset}},
	{"close with SO_LINGER 0", (*stories).lingerZero,
		[]event.Hook{event.HookDisconnect, event.HookSendActiveReset, event.HookReset, event.HookErrorReport}},
	{"connect to a port where nobody listens", (*stories).refused,
		[]event.Hook{event.HookSendReset, event.HookReset}},
	{"a listener that is closed before accept", (*stories).listenerClosed,
		[]event.Hook{event.HookChildForget, event.HookDisconnect, event.HookSendActiveReset}},
	{"a SYN for a full accept queue", (*stories).queueFull,
		[]event.Hook{event.HookSynDrop}},
	{"SOCK_DESTROY", (*stories).destroyed,
		[]event.Hook{event.HookAbort}},
	{"a process that connects, executes a program and ends", (*stories).process,
		[]event.Hook{event.HookExec, event.HookExit}},
}

// stories is a run of the self-test.
type stories struct {
	child []string // see Examine

	mu    sync.Mutex
	ports map[uint16]bool // of the story's own sockets
}

const loopback = "127.0.0.1"

// markPort remembers a port that the stories use.
func (s *stories) markPort(port int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[uint16(port)] = true
}

// mark remembers the ports of a connection.
func (s *stories) mark(c net.Conn) {
	s.markPort(c.LocalAddr().(*net.TCPAddr).Port)
	s.markPort(c.RemoteAddr().(*net.TCPAddr).Port)
}

// own counts the events that are of the stories' own doing, by hook, and says
// whether one of them told the system call of an act.
func (s *stories) own(events []event.Event) (fired map[event.Hook]int, calls bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := func(e *event.Event) bool {
		return e.Has&event.HasTuple != 0 && (e.Local.Addr().IsLoopback() && s.ports[e.Local.Port()] ||
			e.Remote.Addr().IsLoopback() && s.ports[e.Remote.Port()])
	}
	processes := map[uint32]bool{}
	for i := range events {
		if e := &events[i]; mine(e) && e.Hook == event.HookSetState && e.ToState == event.SynSent {
			processes[e.PID] = true
		}
	}
	fired = map[event.Hook]int{}
	for i := range events {
		e := &events[i]
		if mine(e) || e.Has&event.HasTuple == 0 && processes[e.PID] {
			fired[e.Hook]++
			if e.Hook == event.HookSetState && e.Has&event.HasSegment != 0 {
				fired[event.HookHandshake]++
			}
			calls = calls || e.Hook == event.HookSetState && e.ToState == event.FinWait1 && e.Call == event.CallClose
		}
	}
	return fired, calls
}

func listen(ctx context.Context) (*net.TCPListener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", loopback, err)
	}
	return l.(*net.TCPListener), nil
}

func (s *stories) dial(ctx context.Context, to net.Addr) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	s.mark(c)
	return c.(*net.TCPConn), nil
}

// connected calls do with the two ends of a connection, and closes what is left
// of them.
func (s *stories) connected(ctx context.Context, do func(client, server *net.TCPConn) error) (err error) {
	l, err := listen(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	client, err := s.dial(ctx, l.Addr())
	if err != nil {
		return err
	}
	defer client.Close()
	server, err := l.AcceptTCP()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer server.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := errors.Join(client.SetDeadline(d), server.SetDeadline(d)); err != nil {
			return err
		}
	}
	return do(client, server)
}

// drain reads to the end of input.
func drain(c *net.TCPConn) error {
	_, err := io.Copy(io.Discard, c)
	return err
}

// closeAside closes a connection so that its socket becomes a mini-socket in FIN_WAIT2.
// For that the other end's acknowledgement must come when the call is over: what comes
// while it has the socket starts a timer of the full one instead (tcp_rcv_state_process).
func closeAside(c, other *net.TCPConn) error {
	if err := quickAck(other, 0); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	if err := drain(other); err != nil {
		return err
	}
	return quickAck(other, 1)
}

// quickAck has the kernel put an acknowledgement off (0), or send it (1).
func quickAck(c *net.TCPConn, now int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) { optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, now) })
	return errors.Join(err, optErr)
}

func (s *stories) polite(ctx context.Context) error {
	return s.connected(ctx, func(client, server *net.TCPConn) error {
		if _, err := client.Write([]byte("question")); err != nil {
			return err
		}
		if err := client.CloseWrite(); err != nil {
			return err
		}
		if err := drain(server); err != nil {
			return err
		}
		if _, err := server.Write([]byte("answer")); err != nil {
			return err
		}
		if err := server.Close(); err != nil {
			return err
		}
		if err := drain(client); err != nil {
			return err
		}
		return client.Close()
	})
}

func (s *stories) closeTwice(ctx context.Context) error {
	return s.connected(ctx, func(client, server *net.TCPConn) error {
		if err := closeAside(client, server); err != nil {
			return err
		}
		return server.Close()
	})
}

func (s *stories) dataAfterClose(ctx context.Context) error {
	return s.connected(ctx, func(client, server *net.TCPConn) error {
		if err := closeAside(client, server); err != nil {
			return err
		}
		return writeTillReset(server)
	})
}

// writeTillReset sends what is answered by a reset. From CLOSE_WAIT that is told
// as EPIPE.
func writeTillReset(c *net.TCPConn) error {
	if _, err := c.Write([]byte("too late")); err != nil {
		return err
	}
	for {
		_, err := c.Write([]byte("told so"))
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
			return nil
		case err != nil:
			return err
		}
	}
}

// dataAfterShutdown has a full socket answer with a reset: before 6.10 the
// tracepoint tcp_send_reset tells of no other (tcp_v4_send_reset).
func (s *stories) dataAfterShutdown(ctx context.Context) error {
	return s.connected(ctx, func(client, server *net.TCPConn) error {
		raw, err := client.SyscallConn()
		if err != nil {
			return err
		}
		var shutErr error
		if err := raw.Control(func(fd uintptr) { shutErr = unix.Shutdown(int(fd), unix.SHUT_RDWR) }); err != nil {
			return err
		}
		if shutErr != nil {
			return fmt.Errorf("shutdown(SHUT_RDWR): %w", shutErr)
		}
		if err := drain(server); err != nil {
			return err
		}
		// Its FIN is acknowledged at once: what is sent then meets FIN_WAIT2.
		if err := quickAck(server, 1); err != nil {
			return err
		}
		return writeTillReset(server)
	})
}

func (s *stories) lingerZero(ctx context.Context) error {
	return s.connected(ctx, func(client, server *net.TCPConn) error {
		if err := client.SetLinger(0); err != nil {
			return err
		}
		if err := client.Close(); err != nil {
			return err
		}
		if err := drain(server); !errors.Is(err, unix.ECONNRESET) {
			return fmt.Errorf("the other end was told %v, and not ECONNRESET", err)
		}
		return nil
	})
}

// refused connects to a port that is bound, so that nobody else has it, but
// does not listen.
func (s *stories) refused(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("read the port: %w", err)
	}
	port := name.(*unix.SockaddrInet4).Port
	s.markPort(port)
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", loopback, port))
	if err == nil {
		return errors.Join(fmt.Errorf("port %d answered although nobody listens", port), c.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return nil
}

func (s *stories) listenerClosed(ctx context.Context) error {
	l, err := listen(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	client, err := s.dial(ctx, l.Addr())
	if err != nil {
		return err
	}
	defer client.Close()
	if err := l.Close(); err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok {
		if err := client.SetDeadline(d); err != nil {
			return err
		}
	}
	if err := drain(client); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("the client was told %v, and not ECONNRESET", err)
	}
	return nil
}

// queueFull connects to a listener whose queue takes one connection, and when that
// one is in it, again: those SYNs are dropped.
func (s *stories) queueFull(ctx context.Context) error {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(l, 0); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	to, err := unix.Getsockname(l)
	if err != nil {
		return fmt.Errorf("read the port: %w", err)
	}
	s.markPort(to.(*unix.SockaddrInet4).Port)
	for n := range 3 {
		if n == 1 {
			if err := waiting(ctx, l); err != nil {
				return err
			}
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("make a socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("connect: %w", err)
		}
	}
	return nil
}

func (s *stories) destroyed(ctx context.Context) error {
	return s.connected(ctx, func(client, server *net.TCPConn) error {
		if err := netlink.SocketDestroy(client.LocalAddr(), client.RemoteAddr()); err != nil {
			return fmt.Errorf("ask the kernel to destroy a socket (CONFIG_INET_DIAG_DESTROY, CAP_NET_ADMIN): %w", err)
		}
		return nil
	})
}

// errNoStory is why a hook was not passed that only a network passes which fails.
var errNoStory = errors.New("no loopback connection can be made to run through it")

// errNoChild is why the story of a process was not told.
var errNoChild = errors.New("no program to run")

func (s *stories) process(ctx context.Context) error {
	if len(s.child) == 0 {
		return errNoChild
	}
	l, err := listen(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	s.markPort(l.Addr().(*net.TCPAddr).Port)
	cmd := exec.CommandContext(ctx, s.child[0], append(s.child[1:len(s.child):len(s.child)], l.Addr().String())...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run a program: %w", err)
	}
	said, readErr := bufio.NewReader(out).ReadString('\n')
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run a program: %w", err)
	}
	if said != childSaid {
		return fmt.Errorf("the program said %q: %w", said, readErr)
	}
	return nil
}

// childSaid is what the program says after it has executed itself.
const childSaid = "connected and executed\n"

// Child is the program of the self-test's story of a process: with an address
// it connects there and executes itself, by way of again, to be called with
// "done".
func Child(arg string, again []string, stdout io.Writer) error {
	if arg == "done" {
		_, err := io.WriteString(stdout, childSaid)
		return err
	}
	c, err := net.Dial("tcp4", arg)
	if err != nil {
		return err
	}
	defer c.Close()
	return fmt.Errorf("execute %s: %w", again[0], unix.Exec(again[0], append(again[:len(again):len(again)], "done"), unix.Environ()))
}

// waiting waits until a connection is in a listener's queue: on a busy machine the
// segments of its handshake may be handled when connect(2) has returned.
func waiting(ctx context.Context, listener int) error {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a connection: %w", err)
		}
	}
	return ctx.Err()
}

// exercised is what the self-test found.
type exercised struct {
	fired  map[event.Hook]int   // events of the self-test's own
	failed map[event.Hook]error // hooks that no story ran through, and why
	calls  bool                 // an act's system call was told
}

// exercise tells the stories while the tracer runs, waits until everything that
// is attached has been seen or the time is up, and ends the tracer's run.
func (t *Tracer) exercise(ctx context.Context, child []string) (exercised, error) {
	s := &stories{child: child, ports: map[uint16]bool{}}
	var mu sync.Mutex
	var events []event.Event
	moved := make(chan struct{}, 1)
	if err := t.Start(); err != nil {
		return exercised{}, err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- t.Run(run, Handler{Event: func(e event.Event) error {
			mu.Lock()
			defer mu.Unlock()
			// What has a tuple elsewhere is not the self-test's.
			if e.Has&event.HasTuple == 0 || e.Local.Addr().IsLoopback() || e.Remote.Addr().IsLoopback() {
				events = append(events, e)
			}
			return nil
		}, Tick: func(time.Duration) error {
			select {
			case moved <- struct{}{}:
			default:
			}
			return nil
		}})
	}()

	x := exercised{fired: map[event.Hook]int{}, failed: map[event.Hook]error{}}
	told := map[event.Hook]bool{}
	for _, h := range event.Hooks() {
		x.failed[h] = errNoStory
	}
	for _, st := range selfTest {
		err := st.within(ctx, s)
		for _, h := range st.hooks {
			if err == nil {
				told[h] = true
				delete(x.failed, h)
			} else if !told[h] { // instead of errNoStory, or of an earlier failure
				x.failed[h] = fmt.Errorf("%s: %w", st.name, err)
			}
		}
	}
	count := func() {
		mu.Lock()
		defer mu.Unlock()
		x.fired, x.calls = s.own(events)
	}
	missing := func() bool {
		count()
		for _, a := range t.Attachments() {
			if a.Rung != "" && told[a.Hook] && x.fired[a.Hook] == 0 {
				return true
			}
		}
		return false
	}
	patience := time.NewTimer(storyTime)
	defer patience.Stop()
	for waiting := true; waiting && missing(); {
		select {
		case <-moved:
		case <-patience.C:
			waiting = false
		case err := <-done:
			return x, err
		}
	}
	stop()
	err := <-done
	count()
	return x, errors.Join(err, ctx.Err())
}

// storyTime is how long a story, and the wait for the last event, may take:
// far longer than it takes the slowest emulated machine.
const storyTime = 10 * time.Second

func (st story) within(ctx context.Context, s *stories) error {
	ctx, cancel := context.WithTimeout(ctx, storyTime)
	defer cancel()
	return st.tell(s, ctx)
}
