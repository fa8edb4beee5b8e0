package echo

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferSize is how much a program takes from a socket or the keyboard with one
// read(2), in bytes.
const bufferSize = 4096

// errInterrupted reports that the context given to Run ended while the program
// was waiting.
var errInterrupted = errors.New("interrupted")

// interrupt makes the end of a context visible to ppoll(2), so that a program
// that waits for a descriptor can be interrupted.
type interrupt struct {
	eventFD int
	stop    func()
}

func newInterrupt(ctx context.Context) (*interrupt, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, callFailed("eventfd", err)
	}
	signalled := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(signalled)
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		// An eventfd takes this write unless its counter is about to overflow,
		// and this is the only write it ever gets.
		_, _ = unix.Write(fd, one[:])
	})
	return &interrupt{eventFD: fd, stop: func() {
		if !cancel() {
			<-signalled // or the write would go to whoever gets the number next
		}
		_ = unix.Close(fd)
	}}, nil
}

// wait blocks until one of fds is ready or the deadline has passed (the zero
// time means never), and leaves the answer in the Revents. It returns
// errInterrupted when the context has ended, whatever else is ready.
func (i *interrupt) wait(deadline time.Time, fds ...*unix.PollFd) error {
	all := make([]unix.PollFd, 0, len(fds)+1)
	for _, fd := range fds {
		all = append(all, *fd)
	}
	all = append(all, unix.PollFd{Fd: int32(i.eventFD), Events: unix.POLLIN})
	for {
		var timeout *unix.Timespec
		if !deadline.IsZero() {
			left := unix.NsecToTimespec(max(0, int64(time.Until(deadline))))
			timeout = &left
		}
		_, err := unix.Ppoll(all, timeout, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return callFailed("ppoll", err)
		}
		if all[len(all)-1].Revents != 0 {
			return errInterrupted
		}
		for n, fd := range fds {
			fd.Revents = all[n].Revents
		}
		return nil
	}
}

// read is read(2), repeated when a signal interrupts it.
func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err == unix.EINTR {
			continue
		}
		return max(n, 0), err
	}
}

// sendAll sends p with as many calls of send(2) as it takes and returns how
// many bytes the kernel took, also when it fails. It waits for room in the
// send buffer with ppoll(2) and not in send(2), so that a peer that does not
// read cannot make the program deaf to an interrupt. An empty p is one call.
//
// The flags have no MSG_NOSIGNAL: EPIPE comes with SIGPIPE.
func (i *interrupt) sendAll(fd int, p []byte) (int, error) {
	sent := 0
	for {
		n, err := send(fd, p[sent:], unix.MSG_DONTWAIT)
		switch err {
		case nil:
			sent += n
			if sent >= len(p) {
				return sent, nil
			}
		case unix.EINTR:
		case unix.EAGAIN:
			if err := i.wait(time.Time{}, &unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}); err != nil {
				return sent, err
			}
		default:
			return sent, callFailed("send", err)
		}
	}
}

// send is the C library's send(2): sendto(2) without an address. The unix
// package has it only without the count that it returns.
func send(fd int, p []byte, flags int) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sockaddr returns the socket family of addr and the address as bind(2) and
// connect(2) take it. An IPv4-mapped IPv6 address stays an IPv6 address.
func sockaddr(addr netip.AddrPort, scope uint32) (family int, sa unix.Sockaddr) {
	if addr.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16(), ZoneId: scope}
}

// localAddr is getsockname(2). The scope of a link-local address is left out.
func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, callFailed("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, callFailed("getsockname", unix.EAFNOSUPPORT)
}
