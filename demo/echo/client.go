package echo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultLingerBeforeExit is how long the client lives on after close(2).
const DefaultLingerBeforeExit = 6 * time.Second

// ClientConfig describes an echo client.
type ClientConfig struct {
	// Address is where the server is: 127.0.0.1, 127.0.0.1:43211, ::1,
	// [::1]:43211, localhost. The port is DefaultPort where none is given. The
	// addresses of a name are tried one after the other.
	Address string
	// LingerBeforeExit is how long the process goes on after close(2), so that
	// what happens to the connection cannot be put down to its exit.
	LingerBeforeExit time.Duration
	// Stdin is where a person or a program types; nil means that nobody does.
	//
	// A line that starts with "shutdown" ends the client's direction and goes on
	// reading the server's; a line that starts with "close" closes the socket.
	// Any other line is sent without its newline, a longer one than 4096 bytes
	// in pieces of that size. The end of input (^D) is a "close".
	Stdin *os.File
	// Stdout gets what happens, Stderr what fails; nil discards.
	Stdout, Stderr io.Writer
}

// Validate reports the first setting that makes no sense.
func (c ClientConfig) Validate() error {
	if c.LingerBeforeExit < 0 {
		return fmt.Errorf("linger before exit %v: want 0 or more", c.LingerBeforeExit)
	}
	_, err := parseEndpoint(c.Address)
	return err
}

// Run connects, sends and prints until the connection ends, and returns the
// exit status of the process:
//
//   - 0 after the server's end of input, or after close(2) and
//     LingerBeforeExit;
//   - 1 when connecting, reading or sending fails, or ctx ends (a connect(2)
//     that is under way is not cut short by ctx);
//   - 2 when the configuration makes no sense.
//
// Except after "close" the socket is open when Run returns: the caller exits,
// and that exit closes it.
func (c ClientConfig) Run(ctx context.Context) int {
	out, errs := newPrinter(c.Stdout), newPrinter(c.Stderr)
	if err := c.Validate(); err != nil {
		errs.printf("%v", err)
		return 2
	}
	cl := &client{ClientConfig: c, ctx: ctx, out: out}
	if err := cl.run(); err != nil {
		errs.printf("%v", err)
		return 1
	}
	return exitStatus(0, out, errs)
}

// client is a running ClientConfig.
type client struct {
	ClientConfig
	ctx       context.Context
	out       *printer
	interrupt *interrupt
	conn      int
	typed     []byte // read from Stdin, not yet a whole line
	inLine    bool   // typed goes on with a line whose start is already sent
}

// command is what a line makes the client do.
type command int

const (
	commandSend command = iota
	commandShutdown
	commandClose
)

func parseCommand(line []byte) command {
	switch {
	case bytes.HasPrefix(line, []byte("shutdown")):
		return commandShutdown
	case bytes.HasPrefix(line, []byte("close")):
		return commandClose
	}
	return commandSend
}

func (c *client) run() error {
	server, err := parseEndpoint(c.Address)
	if err != nil {
		return err
	}
	if c.interrupt, err = newInterrupt(c.ctx); err != nil {
		return err
	}
	defer c.interrupt.stop()
	// Or the collector could close the descriptor that the loop polls.
	defer runtime.KeepAlive(c.Stdin)

	if err := c.connect(server); err != nil {
		return err
	}
	// ppoll(2) leaves out a negative descriptor.
	stdin := &unix.PollFd{Fd: -1, Events: unix.POLLIN}
	if c.Stdin != nil {
		stdin.Fd = int32(c.Stdin.Fd())
	}
	socket := &unix.PollFd{Fd: int32(c.conn), Events: unix.POLLIN}
	buf := make([]byte, bufferSize)
	for {
		if err := c.interrupt.wait(time.Time{}, socket, stdin); err != nil {
			return err
		}
		if socket.Revents != 0 {
			n, err := read(c.conn, buf)
			if err != nil {
				return callFailed("read", err)
			}
			if n == 0 {
				c.out.printf("server terminated")
				return nil
			}
			c.out.printf("%s", printable(buf[:n]))
		}
		if stdin.Revents != 0 {
			n, err := read(int(stdin.Fd), buf)
			if err != nil {
				return callFailed("read the standard input", err)
			}
			end, err := c.input(buf[:n])
			switch {
			case err != nil:
				return err
			case end == commandClose:
				return c.close()
			case end == commandShutdown:
				if err := unix.Shutdown(c.conn, unix.SHUT_WR); err != nil {
					return callFailed("shutdown", err)
				}
				stdin.Fd, stdin.Revents = -1, 0
			}
		}
	}
}

// input does what the newly typed bytes say, of which none mean the end of
// input. It returns the command that ends the input; what was typed behind it
// is dropped.
func (c *client) input(p []byte) (command, error) {
	c.typed = append(c.typed, p...)
	for {
		starts := !c.inLine
		line, rest, whole := bytes.Cut(c.typed, []byte("\n"))
		switch {
		case len(line) > bufferSize:
			line, rest, whole = c.typed[:bufferSize], c.typed[bufferSize:], false
		case whole:
		case len(p) == 0 && len(c.typed) > 0:
			// The last line of an input that does not end in a newline.
		case len(p) == 0:
			return commandClose, nil
		default:
			return commandSend, nil
		}
		c.typed, c.inLine = rest, !whole
		if cmd := parseCommand(line); starts && cmd != commandSend {
			return cmd, nil
		}
		c.out.printf("now sending %s", printable(line))
		sent, err := c.interrupt.sendAll(c.conn, line)
		if err != nil {
			return commandSend, err
		}
		c.out.printf("send bytes: %d", sent)
	}
}

// close closes the connection and stays a while.
func (c *client) close() error {
	if err := unix.Close(c.conn); err != nil {
		return callFailed("close", err)
	}
	for end := time.Now().Add(c.LingerBeforeExit); time.Now().Before(end); {
		if err := c.interrupt.wait(end); err != nil {
			return err
		}
	}
	return nil
}

// connect connects to the first address of server that answers.
func (c *client) connect(server endpoint) error {
	targets, err := server.resolve(c.ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, target := range targets {
		if c.conn, err = c.connectTo(target); err != nil {
			if errors.Is(err, errInterrupted) {
				return err
			}
			failures = append(failures, fmt.Errorf("connect to %v: %w%s", target, err, connectHint(err)))
			continue
		}
		local, err := localAddr(c.conn)
		if err != nil {
			return err
		}
		c.out.printf("connected to %v from %v", target, local)
		return nil
	}
	return errors.Join(failures...)
}

func (c *client) connectTo(target netip.AddrPort) (fd int, err error) {
	scope, err := scopeID(target.Addr())
	if err != nil {
		return -1, err
	}
	family, sa := sockaddr(target, scope)
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, callFailed("socket", err)
	}
	err = unix.Connect(fd, sa)
	if err == unix.EINTR {
		// The handshake goes on without us; its result is the socket's error.
		if err = c.interrupt.wait(time.Time{}, &unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}); err == nil {
			var errno int
			errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && errno != 0 {
				err = unix.Errno(errno)
			}
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, errInterrupted) {
			return -1, err
		}
		return -1, callFailed("connect", err)
	}
	return fd, nil
}

// connectHint says what to do about a server that could not be reached.
func connectHint(err error) string {
	if errors.Is(err, unix.ECONNREFUSED) {
		return "; start the server first, or name its port"
	}
	return ""
}
