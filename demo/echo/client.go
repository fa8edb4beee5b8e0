package echo

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Client is an echo client.
type Client struct {
	// Address is where the server is: 127.0.0.1, [::1]:43211, localhost. The port is
	// DefaultPort where none is given.
	Address string
	// LingerBeforeExit is how long the process goes on after close(2), so that what
	// happens to the connection cannot be put down to its exit.
	LingerBeforeExit time.Duration
	// Stdin is where a person or a program types.
	//
	// A line that starts with "shutdown" ends the client's direction and goes on
	// reading the server's; a line that starts with "close" closes the socket. Any
	// other line is sent without its newline, a longer one than 4096 bytes in pieces
	// of that size. The end of input (^D) is a "close".
	Stdin          *os.File
	Stdout, Stderr io.Writer

	conn  int
	typed []byte // read from Stdin, not yet a whole line
	piece bool   // typed goes on with a line whose start is already sent
}

// Flags defines the client's settings as flags.
func (c *Client) Flags(f *flag.FlagSet) {
	f.DurationVar(&c.LingerBeforeExit, "linger-before-exit", 6*time.Second, "after close(2), wait this long before the exit")
}

// Run connects, sends and prints until the server's end of input, or after close(2),
// and returns the exit status. Except after "close" the socket is open when it
// returns: the caller exits, and that exit closes it.
func (c *Client) Run() int {
	server, err := resolve(c.Address)
	if err != nil {
		printf(c.Stderr, "%v", err)
		return 2
	}
	if err = c.connect(server); err == nil {
		err = c.talk()
	}
	if err != nil {
		printf(c.Stderr, "%v", err)
		return 1
	}
	return 0
}

func (c *Client) connect(server netip.AddrPort) error {
	family, sa := sockaddr(server)
	var err error
	if c.conn, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return failed("socket", err)
	}
	if err := unix.Connect(c.conn, sa); err != nil {
		hint := ""
		if err == unix.ECONNREFUSED {
			hint = "; start the server first, or name its port"
		}
		return fmt.Errorf("connect to %v: %w%s", server, failed("connect", err), hint)
	}
	local, err := localAddr(c.conn)
	if err == nil {
		printf(c.Stdout, "connected to %v from %v", server, local)
	}
	return err
}

// talk prints what the server says and does what is typed.
func (c *Client) talk() error {
	// Or the collector could close the descriptor that the loop polls.
	defer runtime.KeepAlive(c.Stdin)
	fds := []unix.PollFd{{Fd: int32(c.conn), Events: unix.POLLIN}, {Fd: int32(c.Stdin.Fd()), Events: unix.POLLIN}}
	socket, stdin := &fds[0], &fds[1]
	buf := make([]byte, bufferSize)
	for {
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return failed("poll", err)
		}
		if socket.Revents != 0 {
			n, err := read(c.conn, buf)
			if err != nil {
				return failed("read", err)
			}
			if n == 0 {
				printf(c.Stdout, "server terminated")
				return nil
			}
			printf(c.Stdout, "%s", printable(buf[:n]))
		}
		if stdin.Revents == 0 {
			continue
		}
		n, err := read(int(stdin.Fd), buf)
		if err != nil {
			return failed("read the standard input", err)
		}
		switch goodbye, err := c.input(buf[:n]); {
		case err != nil:
			return err
		case goodbye == "close":
			err := unix.Close(c.conn)
			time.Sleep(c.LingerBeforeExit)
			return failed("close", err)
		case goodbye == "shutdown":
			if err := unix.Shutdown(c.conn, unix.SHUT_WR); err != nil {
				return failed("shutdown", err)
			}
			stdin.Fd = -1 // poll leaves it out
			stdin.Revents = 0
		}
	}
}

// input does what the newly typed bytes say; that there are none is the end of
// input. It returns the goodbye that was typed, or "".
func (c *Client) input(p []byte) (goodbye string, err error) {
	c.typed = append(c.typed, p...)
	for {
		line, rest, whole := bytes.Cut(c.typed, []byte("\n"))
		switch {
		case len(line) > bufferSize:
			line, rest, whole = c.typed[:bufferSize], c.typed[bufferSize:], false
		case !whole && len(p) > 0:
			return "", nil // there is more to come
		case !whole && len(line) == 0:
			return "close", nil
		}
		for _, word := range []string{"shutdown", "close"} {
			if !c.piece && bytes.HasPrefix(line, []byte(word)) {
				return word, nil
			}
		}
		c.typed, c.piece = rest, !whole
		printf(c.Stdout, "now sending %s", printable(line))
		sent, err := send(c.conn, line)
		if err != nil {
			return "", failed("send", err)
		}
		printf(c.Stdout, "send bytes: %d", sent)
	}
}

// resolve reads an address as people write them.
func resolve(address string) (netip.AddrPort, error) {
	if _, _, err := net.SplitHostPort(address); err != nil { // there is no port
		address = net.JoinHostPort(strings.Trim(address, "[]"), strconv.Itoa(DefaultPort))
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err == nil && (at.Port == 0 || len(at.IP) == 0) {
		err = errors.New("a host and a port from 1 to 65535 are needed")
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: %w; want for example 127.0.0.1 or [::1]:%d", address, err, DefaultPort)
	}
	return netip.AddrPortFrom(at.AddrPort().Addr().Unmap(), uint16(at.Port)), nil
}
