package scenario

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// destroySocket is what `ss -K` does: a SOCK_DESTROY request for the socket
// whose own address is Local. Remote is the zero address for a listener.
func destroySocket(req *request) error {
	local, err := netip.ParseAddrPort(req.Local)
	if err != nil {
		return err
	}
	remote, err := netip.ParseAddrPort(req.Remote)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("cannot open a sock_diag socket: %v", err)
	}
	defer unix.Close(fd)
	msg := destroyRequest(req.Level, local, remote)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("sock_diag gave an answer of %d bytes that is no acknowledgement", n)
	}
	if e := int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

// destroyRequest is a netlink header and a struct inet_diag_req_v2: host byte
// order, but addresses and ports in network byte order.
func destroyRequest(domain int, local, remote netip.AddrPort) []byte {
	const sockDestroy, idOffset, reqLen = 21, 8, 56
	b := make([]byte, unix.SizeofNlMsghdr+reqLen)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDestroy)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[8:], 1)
	d := b[unix.SizeofNlMsghdr:]
	d[0], d[1] = byte(domain), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(d[4:], ^uint32(0)) // every state
	id := d[idOffset:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	put := func(to []byte, a netip.Addr) {
		if domain == unix.AF_INET6 {
			a16 := a.As16()
			copy(to, a16[:])
			return
		}
		a4 := a.Unmap().As4()
		copy(to, a4[:])
	}
	put(id[4:20], local.Addr())
	put(id[20:36], remote.Addr())
	for i := 40; i < 48; i++ {
		id[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}

// rawSend sends a hand-made TCP segment (header and payload in Data, checksum
// set) from the address Local to Remote; the kernel adds the IP header.
func rawSend(req *request) (int, error) {
	local, err := netip.ParseAddrPort(req.Local)
	if err != nil {
		return 0, err
	}
	remote, err := netip.ParseAddrPort(req.Remote)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(req.Level, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, fmt.Errorf("cannot open a raw socket: %v", err)
	}
	defer unix.Close(fd)
	noPort := func(ap netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(ap.Addr(), 0) }
	if err := unix.Bind(fd, sockaddr(req.Level, noPort(local))); err != nil {
		return 0, err
	}
	return len(req.Data), unix.Sendto(fd, req.Data, 0, sockaddr(req.Level, noPort(remote)))
}

// uringClose closes a descriptor by IORING_OP_CLOSE, on a ring of its own.
func uringClose(target int) error {
	const (
		opClose              = 19
		enterGetEvents       = 1
		offSQRing, offSQEs   = 0, 0x10000000
		offCQRing            = 0x8000000
		sqeSize, paramsBytes = 64, 120
	)
	params := make([]byte, paramsBytes)
	u32 := func(b []byte, at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[at])) }
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %v", errno)
	}
	fd := int(ring)
	defer unix.Close(fd)
	// struct io_uring_params: sq_entries, cq_entries, 8 more words, then the
	// offsets of the submission ring (40 bytes) and of the completion ring.
	sqEntries, cqEntries := *u32(params, 0), *u32(params, 4)
	sqTail, sqArray := *u32(params, 40+4), *u32(params, 40+24)
	cqHead, cqTail, cqes := *u32(params, 80), *u32(params, 80+4), *u32(params, 80+20)

	sq, err := unix.Mmap(fd, offSQRing, int(sqArray+sqEntries*4), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the submission ring: %v", err)
	}
	defer unix.Munmap(sq)
	cq, err := unix.Mmap(fd, offCQRing, int(cqes+cqEntries*16), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the completion ring: %v", err)
	}
	defer unix.Munmap(cq)
	sqe, err := unix.Mmap(fd, offSQEs, int(sqEntries*sqeSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the submission entries: %v", err)
	}
	defer unix.Munmap(sqe)

	sqe[0] = opClose
	*u32(sqe, 4) = uint32(target)
	*u32(sq, sqArray) = 0
	*u32(sq, sqTail) = 1
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, enterGetEvents, 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_enter: %v", errno)
	}
	if *u32(cq, cqHead) == *u32(cq, cqTail) {
		return fmt.Errorf("io_uring_enter returned without a completion")
	}
	// struct io_uring_cqe: user_data (8 bytes), res.
	if res := int32(*u32(cq, cqes+8)); res < 0 {
		return unix.Errno(-res)
	}
	return nil
}

// sendPages sends n bytes, whole pages, without a copy (MSG_ZEROCOPY). Loopback
// then copies them into fresh kernel pages (skb_copy_ubufs), which are what
// TCP_ZEROCOPY_RECEIVE can map: since 6.8 it refuses a process's or a file's.
func sendPages(fd, n int) (int, error) {
	pages, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, fmt.Errorf("mapping pages: %v", err)
	}
	defer unix.Munmap(pages)
	copy(pages, payload(n))
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return 0, fmt.Errorf("SO_ZEROCOPY: %v", err)
	}
	return unix.SendmsgN(fd, pages, nil, nil, unix.MSG_ZEROCOPY|unix.MSG_NOSIGNAL)
}

// zeroCopyReceive reads up to n bytes by mapping them (TCP_ZEROCOPY_RECEIVE) and
// returns how many were mapped.
func zeroCopyReceive(fd, n int) (int, error) {
	const tcpZerocopyReceive = 35
	m, err := unix.Mmap(fd, 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("mapping the socket: %v", err)
	}
	defer unix.Munmap(m)
	zc := struct { // struct tcp_zerocopy_receive, its first version
		address      uint64
		length       uint32
		recvSkipHint uint32
	}{address: uint64(uintptr(unsafe.Pointer(&m[0]))), length: uint32(n)}
	size := uint32(unsafe.Sizeof(zc))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, tcpZerocopyReceive,
		uintptr(unsafe.Pointer(&zc)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(zc.length), nil
}

// spliceOut takes up to n bytes from a socket into a pipe, and throws them away.
func spliceOut(fd, n int) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("pipe: %v", err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	got, err := unix.Splice(fd, nil, pipe[1], nil, n, 0)
	return int(got), err
}

// uringReceive begins a receive that stays pending, on a ring that stays open as
// long as the process lives.
func uringReceive(target int) error {
	const (
		opRecv             = 27
		offSQRing, offSQEs = 0, 0x10000000
		sqeSize            = 64
		paramsBytes        = 120
		bufferBytes        = 100
	)
	params := make([]byte, paramsBytes)
	u32 := func(b []byte, at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[at])) }
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %v", errno)
	}
	fd := int(ring)
	// struct io_uring_params, as in uringClose. Nothing is unmapped: the kernel
	// writes what comes into the buffer.
	sqEntries := *u32(params, 0)
	sqTail, sqArray := *u32(params, 40+4), *u32(params, 40+24)
	sq, err := unix.Mmap(fd, offSQRing, int(sqArray+sqEntries*4), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the submission ring: %v", err)
	}
	sqe, err := unix.Mmap(fd, offSQEs, int(sqEntries*sqeSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the submission entries: %v", err)
	}
	buffer, err := unix.Mmap(-1, 0, bufferBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mapping a buffer: %v", err)
	}
	// struct io_uring_sqe: opcode, flags, ioprio, fd, off (8 bytes), addr, len.
	sqe[0] = opRecv
	*u32(sqe, 4) = uint32(target)
	*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(uintptr(unsafe.Pointer(&buffer[0])))
	*u32(sqe, 24) = bufferBytes
	*u32(sq, sqArray) = 0
	*u32(sq, sqTail) = 1
	if n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 0, 0, 0, 0); errno != 0 || n != 1 {
		return fmt.Errorf("io_uring_enter took %d requests: %v", n, errno)
	}
	return nil
}

// blockSignal keeps a signal from the calling thread.
func blockSignal(sig unix.Signal) error {
	var set unix.Sigset_t
	set.Val[0] = 1 << (uint(sig) - 1)
	return unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}
