package echo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPort is the TCP port of the echo server.
const DefaultPort = 43211

// Server is an echo server.
type Server struct {
	Port        int           // on every IPv4 and IPv6 address; 0: the kernel picks one
	Delay       time.Duration // how long it works on each answer
	Sigpipe     SigpipeAction // what SIGPIPE does
	Connections int           // to serve, one after the other; 0: no end
	// WorkFD, if not 0, is a descriptor that makes the work on each answer last until
	// a byte can be read from it. It lets a program that drives the pair decide what
	// happens before an answer is sent.
	WorkFD         int
	Stdout, Stderr io.Writer

	received atomic.Int64 // messages, over all connections
}

// Flags defines the server's settings as flags.
func (s *Server) Flags(f *flag.FlagSet) {
	f.IntVar(&s.Port, "port", DefaultPort, "listen on TCP port `N`, IPv4 and IPv6; 0: the kernel picks one")
	f.DurationVar(&s.Delay, "delay", 5*time.Second, "work for this long on each answer")
	f.Var(&s.Sigpipe, "sigpipe", "on SIGPIPE `default|ignore|handler`: be killed, get EPIPE, print the count and exit")
	f.IntVar(&s.Connections, "n", 1, "serve `N` connections one after the other; all but the last are closed; 0: no end")
	f.IntVar(&s.WorkFD, "work-fd", 0, "work also until a byte can be read from descriptor `N`; 0: none")
}

// Run listens, serves and returns the exit status. The last connection is open when
// it returns: the exit of the process ends it. When ctx ends, or the SIGPIPE handler
// runs, it says how many messages came.
func (s *Server) Run(ctx context.Context) int {
	if s.Port < 0 || s.Port > 65535 || s.Delay < 0 || s.Connections < 0 || s.WorkFD < 0 {
		printf(s.Stderr, "the port is 0 to 65535, and no other number below 0")
		return 2
	}
	served := make(chan error, 1)
	go func() {
		// SIGPIPE is sent to the thread that sends.
		runtime.LockOSThread()
		served <- s.run()
	}()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done(): // in the middle of whatever it waits for
		err = errStopped
	}
	switch {
	case errors.Is(err, errStopped):
		printf(s.Stdout, "received %d datagrams", s.received.Load())
	case err != nil:
		printf(s.Stderr, "%v", err)
		return 1
	}
	return 0
}

func (s *Server) run() error {
	sigpipe, err := s.Sigpipe.install()
	if err != nil {
		return err
	}
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		conn, err := accept(listeners)
		if err != nil {
			return failed("accept", err)
		}
		if err := s.serve(conn, sigpipe); err != nil {
			return err
		}
		printf(s.Stdout, "client closed")
		if n == s.Connections {
			return nil // conn stays open: the exit of the process ends it
		}
		if err := unix.Close(conn); err != nil {
			return failed("close", err)
		}
	}
}

// serve answers the messages of conn until its end of input.
func (s *Server) serve(conn int, sigpipe caught) error {
	buf := make([]byte, bufferSize)
	for {
		n, err := read(conn, buf)
		if err != nil {
			return failed("read", err)
		}
		if n == 0 {
			return nil
		}
		s.received.Add(1)
		printf(s.Stdout, "received %d bytes: %s", n, printable(buf[:n]))
		time.Sleep(s.Delay) // the work
		if s.WorkFD != 0 {
			if _, err := read(s.WorkFD, make([]byte, 1)); err != nil {
				return failed("read the work descriptor", err)
			}
		}
		sent, err := send(conn, append([]byte("Hi, "), buf[:n]...))
		if err == unix.EPIPE && sigpipe != nil {
			<-sigpipe // the handler has it before the send returns, and hands it over
			return errStopped
		}
		if err != nil {
			return failed("send", err)
		}
		printf(s.Stdout, "send bytes: %d", sent)
	}
}

// listen listens on the port at every IPv4 and every IPv6 address, with a socket for
// each family: a single AF_INET6 socket for both would make an IPv4 peer's connection
// an AF_INET6 socket with an IPv4-mapped address. On a host without IPv6 it says so
// and goes on with IPv4.
func (s *Server) listen() ([]unix.PollFd, error) {
	// A port that the kernel picks for one family may be taken in the other.
	for attempt := 1; ; attempt++ {
		v4, port, err := listenOn(unix.AF_INET, s.Port)
		if err != nil {
			return nil, fmt.Errorf("listen on 0.0.0.0:%d: %w%s", s.Port, err, listenHint(err))
		}
		v6, _, err := listenOn(unix.AF_INET6, port)
		switch {
		case err == nil:
			printf(s.Stdout, "listening on 0.0.0.0:%d, [::]:%d", port, port)
			return []unix.PollFd{{Fd: int32(v4), Events: unix.POLLIN}, {Fd: int32(v6), Events: unix.POLLIN}}, nil
		case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EADDRNOTAVAIL):
			printf(s.Stderr, "listen on [::]:%d: %v; IPv6 is not available here, going on with IPv4 alone", port, err)
			printf(s.Stdout, "listening on 0.0.0.0:%d", port)
			return []unix.PollFd{{Fd: int32(v4), Events: unix.POLLIN}}, nil
		case s.Port != 0 || attempt == 16 || !errors.Is(err, unix.EADDRINUSE):
			return nil, fmt.Errorf("listen on [::]:%d: %w%s", port, err, listenHint(err))
		}
		_ = unix.Close(v4)
	}
}

// listenOn opens a listener, and says which port it has.
func listenOn(family, port int) (fd, got int, err error) {
	var any unix.Sockaddr = &unix.SockaddrInet4{Port: port}
	if family == unix.AF_INET6 {
		any = &unix.SockaddrInet6{Port: port}
	}
	// Not blocking, because a connection that poll reported can be gone before
	// accept. On Linux an accepted socket does not inherit this.
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, 0, failed("socket", err)
	}
	// Or a connection of the last run, in TIME_WAIT, would keep the port.
	err = failed("setsockopt(SO_REUSEADDR)", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if err == nil && family == unix.AF_INET6 {
		err = failed("setsockopt(IPV6_V6ONLY)", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err == nil {
		err = failed("bind", unix.Bind(fd, any))
	}
	if err == nil {
		err = failed("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	at, err := localAddr(fd)
	return fd, int(at.Port()), err
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

// accept waits for the next connection on any of the listeners.
func accept(listeners []unix.PollFd) (int, error) {
	for {
		if _, err := unix.Poll(listeners, -1); err != nil && err != unix.EINTR {
			return -1, err
		}
		for _, l := range listeners {
			conn, _, err := unix.Accept4(int(l.Fd), unix.SOCK_CLOEXEC)
			switch err {
			case nil:
				return conn, nil
			case unix.EINTR, unix.EAGAIN, unix.ECONNABORTED:
				// Nobody there, or gone again, or a signal came: poll again.
			default:
				return -1, err
			}
		}
	}
}
