package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultDelay is how long the server works on an answer.
const DefaultDelay = 5 * time.Second

// ServerConfig describes an echo server. The zero value listens on a port that
// the kernel picks, answers at once, serves one connection after the other
// without end, and dies of SIGPIPE.
type ServerConfig struct {
	// Port is the TCP port to listen on, on every IPv4 and IPv6 address. With 0
	// the kernel picks one that is free in both families.
	Port int
	// Delay is how long the server works between a message and its answer.
	Delay time.Duration
	// WorkFD, if not 0, is a descriptor that makes the work last until a byte
	// can be read from it, on top of Delay. Each answer takes one byte; at the
	// end of input no answer waits any more. It lets a program that drives the
	// pair decide what happens before an answer is sent.
	WorkFD int
	// Sigpipe is what SIGPIPE does.
	Sigpipe SigpipeAction
	// Connections is how many connections to serve, one after the other; 0 means
	// without end. Each but the last is closed with close(2) at its end of
	// input; the last one stays open and ends with the process.
	Connections int
	// ReadyFD, if not 0, is a descriptor that gets the port number as one line
	// once the server listens, and is then closed.
	ReadyFD int
	// ReadyFile, if not empty, is a path that gets the same line. A reader never
	// sees a part of it: a regular file appears by rename(2).
	ReadyFile string
	// Stdout gets what happens, Stderr what fails; nil discards.
	Stdout, Stderr io.Writer
}

// Validate reports the first setting that makes no sense.
func (c ServerConfig) Validate() error {
	switch {
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("port %d: want 0 to 65535", c.Port)
	case c.Delay < 0:
		return fmt.Errorf("delay %v: want 0 or more", c.Delay)
	case c.Connections < 0:
		return fmt.Errorf("%d connections: want 1 or more, or 0 for no end", c.Connections)
	case !c.Sigpipe.valid():
		return fmt.Errorf("SIGPIPE action %v: want default, ignore or handler", c.Sigpipe)
	case c.WorkFD < 0:
		return fmt.Errorf("work descriptor %d: want 0 for none, or a descriptor to read from", c.WorkFD)
	case c.ReadyFD < 0 || c.ReadyFD == 1 || c.ReadyFD == 2:
		return fmt.Errorf("ready descriptor %d: want 0 for none, or 3 and above, as it is closed after use", c.ReadyFD)
	case c.ReadyFD != 0 && c.ReadyFD == c.WorkFD:
		return fmt.Errorf("descriptor %d: cannot be both the ready and the work descriptor", c.ReadyFD)
	}
	return nil
}

// Run listens, serves and returns the exit status of the process:
//
//   - 0 after the last connection's end of input, or when ctx ends or the
//     SIGPIPE handler runs, both of which print how many messages came;
//   - 1 when listening, reading or sending fails;
//   - 2 when the configuration makes no sense.
//
// With SigpipeDefault it may not return at all. The last connection and the
// listeners are open when Run returns: the caller exits, and that exit closes
// them. Run sets the process's disposition of SIGPIPE and leaves it so unless
// the action is SigpipeHandler.
func (c ServerConfig) Run(ctx context.Context) int {
	out, errs := newPrinter(c.Stdout), newPrinter(c.Stderr)
	if err := c.Validate(); err != nil {
		errs.printf("%v", err)
		return 2
	}
	s := &server{ServerConfig: c, ctx: ctx, out: out, errs: errs}
	err := s.run()
	switch {
	case errors.Is(err, errInterrupted), errors.Is(err, errSigpipeCaught):
		out.printf("received %d datagrams", s.received)
	case err != nil:
		errs.printf("%v", err)
		return 1
	}
	return exitStatus(0, out, errs)
}

// errSigpipeCaught reports that the SIGPIPE handler ended the server.
var errSigpipeCaught = errors.New("SIGPIPE caught")

// server is a running ServerConfig.
type server struct {
	ServerConfig
	ctx       context.Context
	out, errs *printer
	interrupt *interrupt
	sigpipe   *sigpipe
	listeners []listener
	received  int // messages, over all connections
}

func (s *server) run() error {
	// SIGPIPE is sent to the thread that sends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	if s.sigpipe, err = s.Sigpipe.install(); err != nil {
		return err
	}
	defer s.sigpipe.uninstall()
	if s.interrupt, err = newInterrupt(s.ctx); err != nil {
		return err
	}
	defer s.interrupt.stop()

	if err := s.listen(); err != nil {
		return err
	}
	for served := 1; ; served++ {
		conn, err := s.accept()
		if err != nil {
			return err
		}
		if err := s.serve(conn); err != nil {
			return err
		}
		s.out.printf("client closed")
		if served == s.Connections {
			return nil // conn stays open: the exit of the process ends it
		}
		if err := unix.Close(conn); err != nil {
			return callFailed("close", err)
		}
	}
}

// listen opens the listeners and announces them.
func (s *server) listen() error {
	var err error
	if s.listeners, err = openListeners(s.Port, s.errs); err != nil {
		return err
	}
	var names []string
	for _, l := range s.listeners {
		names = append(names, l.addr.String())
	}
	s.out.printf("listening on %s", strings.Join(names, ", "))

	line := []byte(fmt.Sprintf("%d\n", s.listeners[0].addr.Port()))
	if s.ReadyFD != 0 {
		ready := os.NewFile(uintptr(s.ReadyFD), "ready descriptor")
		_, err := ready.Write(line)
		if err = errors.Join(err, ready.Close()); err != nil {
			return fmt.Errorf("announce the port on descriptor %d: %w", s.ReadyFD, err)
		}
	}
	if s.ReadyFile != "" {
		if err := writeReadyFile(s.ReadyFile, line); err != nil {
			return fmt.Errorf("announce the port in a file: %w", err)
		}
	}
	return nil
}

// accept waits for the next connection on any of the listeners.
func (s *server) accept() (int, error) {
	for {
		fds := make([]*unix.PollFd, len(s.listeners))
		for i, l := range s.listeners {
			fds[i] = &unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN}
		}
		if err := s.interrupt.wait(time.Time{}, fds...); err != nil {
			return -1, err
		}
		for i, l := range s.listeners {
			if fds[i].Revents == 0 {
				continue
			}
			conn, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC)
			switch err {
			case nil:
				return conn, nil
			case unix.EINTR, unix.EAGAIN, unix.ECONNABORTED:
				// The connection is gone again, or a signal came: poll again.
			default:
				return -1, callFailed("accept", err)
			}
		}
	}
}

// serve answers the messages of conn until its end of input.
func (s *server) serve(conn int) error {
	buf := make([]byte, bufferSize)
	for {
		// ppoll only makes the wait interruptible: it also returns for an end of
		// input and for an error, which read(2) then reports.
		if err := s.interrupt.wait(time.Time{}, &unix.PollFd{Fd: int32(conn), Events: unix.POLLIN}); err != nil {
			return err
		}
		n, err := read(conn, buf)
		if err != nil {
			return callFailed("read", err)
		}
		if n == 0 {
			return nil
		}
		s.received++
		s.out.printf("received %d bytes: %s", n, printable(buf[:n]))
		if err := s.work(); err != nil {
			return err
		}
		sent, err := s.interrupt.sendAll(conn, append([]byte("Hi, "), buf[:n]...))
		if errors.Is(err, unix.EPIPE) && s.sigpipe.handled(s.ctx) {
			return errSigpipeCaught
		}
		if err != nil {
			return err
		}
		s.out.printf("send bytes: %d", sent)
	}
}

// work takes Delay, and as long as WorkFD says.
func (s *server) work() error {
	for end := time.Now().Add(s.Delay); time.Now().Before(end); {
		if err := s.interrupt.wait(end); err != nil {
			return err
		}
	}
	if s.WorkFD == 0 {
		return nil
	}
	if err := s.interrupt.wait(time.Time{}, &unix.PollFd{Fd: int32(s.WorkFD), Events: unix.POLLIN}); err != nil {
		return err
	}
	if _, err := read(s.WorkFD, make([]byte, 1)); err != nil {
		return callFailed(fmt.Sprintf("read the work descriptor %d", s.WorkFD), err)
	}
	return nil
}

// listener is a listening socket and the address that the kernel gave it.
type listener struct {
	fd   int
	addr netip.AddrPort
}

// openListeners listens on port at every IPv4 and every IPv6 address, with a
// socket for each family: a single AF_INET6 socket for both would make an IPv4
// peer's connection an AF_INET6 socket with an IPv4-mapped address. On a host
// without IPv6 it says so and goes on with IPv4.
func openListeners(port int, errs *printer) ([]listener, error) {
	// A port that the kernel picks for one family may be taken in the other.
	const attempts = 16
	for attempt := 1; ; attempt++ {
		v4, err := openListener(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)))
		if err != nil {
			return nil, err
		}
		v6, err := openListener(netip.AddrPortFrom(netip.IPv6Unspecified(), v4.addr.Port()))
		switch {
		case err == nil:
			return []listener{v4, v6}, nil
		case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EADDRNOTAVAIL):
			errs.printf("%v; IPv6 is not available here, going on with IPv4 alone", err)
			return []listener{v4}, nil
		}
		_ = unix.Close(v4.fd)
		if port != 0 || attempt == attempts || !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
}

func openListener(addr netip.AddrPort) (l listener, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("listen on %v: %w%s", addr, err, listenHint(err))
		}
	}()
	family, sa := sockaddr(addr, 0)
	// Not blocking, because a connection that poll reported can be gone before
	// accept. On Linux an accepted socket does not inherit this.
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return l, callFailed("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	// Or a connection of the last run, in TIME_WAIT, would keep the port.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return l, callFailed("setsockopt(SO_REUSEADDR)", err)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return l, callFailed("setsockopt(IPV6_V6ONLY)", err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return l, callFailed("bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return l, callFailed("listen", err)
	}
	got, err := localAddr(fd)
	if err != nil {
		return l, err
	}
	return listener{fd: fd, addr: got}, nil
}

// listenHint says what to do about a listener that could not be opened.
func listenHint(err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return "; stop the program that has this port or choose another port"
	case errors.Is(err, unix.EACCES):
		return "; choose a port that needs no privilege, 1024 or above"
	}
	return ""
}

// writeReadyFile makes line the contents of path. A path that is not a regular
// file, such as a FIFO, is written to; it must not be replaced.
func writeReadyFile(path string, line []byte) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(line)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
