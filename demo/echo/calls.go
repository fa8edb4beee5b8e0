package echo

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferSize is how much a program takes from a socket or the keyboard with one
// read(2), in bytes.
const bufferSize = 4096

// read is read(2), repeated when a signal interrupts it.
func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// send is the C library's send(2), sendto(2) without an address, which the unix
// package has only without the count that it returns; repeated until the kernel took
// all. The flags have no MSG_NOSIGNAL: EPIPE comes with SIGPIPE.
func send(fd int, p []byte) (sent int, err error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(p[sent:]))), uintptr(len(p)-sent), 0, 0, 0)
		switch {
		case errno == 0:
			if sent += int(n); sent == len(p) {
				return sent, nil
			}
		case errno != unix.EINTR:
			return sent, errno
		}
	}
}

// sockaddr returns the socket family of an address, and the address as connect(2)
// takes it.
func sockaddr(at netip.AddrPort) (family int, sa unix.Sockaddr) {
	if at.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

// localAddr is getsockname(2).
func localAddr(fd int) (at netip.AddrPort, err error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return at, failed("getsockname", err)
}

// failed is a system call's error with the errno's name, which is the part that one
// can look up: "send: broken pipe (EPIPE)". Without an error it is nil.
func failed(call string, err error) error {
	errno, ok := err.(unix.Errno)
	switch {
	case err == nil:
		return nil
	case ok:
		return fmt.Errorf("%s: %w (%s)", call, err, unix.ErrnoName(errno))
	}
	return fmt.Errorf("%s: %w", call, err)
}

// printf writes a line with a single Write. A line that cannot be written is lost:
// the experiment goes on.
func printf(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, format+"\n", args...)
}

var unquote = strings.NewReplacer(`\"`, `"`, `\\`, `\`)

// printable returns b for a terminal: control and format characters, and bytes that
// are not UTF-8, are escaped as strconv.Quote does it.
func printable(b []byte) string {
	q := strconv.Quote(string(b))
	return unquote.Replace(q[1 : len(q)-1])
}
