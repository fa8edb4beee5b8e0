package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/tcpbye/tcpbye/demo/harness"
	"golang.org/x/sys/unix"
)

// A puppet acts on its main thread, so that its thread id is its process id; the
// lock must be taken before the main goroutine can move.
func init() {
	if os.Getenv(envPuppet) != "" {
		runtime.LockOSThread()
	}
}

// MaybePuppet runs this process as a puppet if a World started it as one; then
// ok is true and the process must exit with the status. A main that uses this
// package, and every TestMain, calls it before anything else.
func MaybePuppet() (exit int, ok bool) {
	if os.Getenv(envPuppet) == "" {
		return 0, false
	}
	return PuppetMain(puppetCtl), true
}

// PuppetMain serves commands from the control channel, a SOCK_SEQPACKET unix
// socket, until the other side closes it, and returns the exit status.
func PuppetMain(ctl int) int {
	p := &puppet{ctl: ctl, leave: make(chan struct{})}
	unix.CloseOnExec(ctl)
	// A crash is part of the story; a core file is not.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	// A C program that ignores SIGPIPE is the usual server; the Go runtime's own
	// handler would be neither that nor the default.
	if err := setSignal(unix.SIGPIPE, sigIgn); err != nil {
		return 2
	}
	if err := p.reply(&reply{Op: opHello}); err != nil {
		return 2
	}
	buf := make([]byte, maxMessage)
	for {
		n, err := unix.Read(ctl, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 2
		case n == 0:
			return 0
		}
		var req request
		if err := json.Unmarshal(buf[:n], &req); err != nil {
			return 2
		}
		if !req.Thread {
			if p.serve(&req) != nil {
				return 2
			}
			continue
		}
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its call
			if req.Op == opTable {
				p.ownTable(&req)
				return
			}
			if p.reply(&reply{ID: req.ID, Op: req.Op, Started: true}) == nil {
				_ = p.serve(&req)
			}
		}()
	}
}

type puppet struct {
	ctl   int
	leave chan struct{} // closed: a thread with descriptors of its own may end
}

func (p *puppet) reply(r *reply) error {
	r.PID, r.TID = unix.Getpid(), unix.Gettid()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	for {
		_, err = unix.Write(p.ctl, b)
		if err != unix.EINTR {
			return err
		}
	}
}

// serve makes one call and answers. Its error is one of the control channel.
func (p *puppet) serve(req *request) error {
	r := &reply{ID: req.ID, Op: req.Op, Start: int64(harness.Monotonic())}
	err := p.call(req, r)
	r.End = int64(harness.Monotonic())
	var errno unix.Errno
	switch {
	case err == nil:
	case errors.As(err, &errno):
		r.Errno = errno
	default:
		r.Fault = err.Error()
	}
	return p.reply(r)
}

// ownTable gives the calling thread a table of descriptors of its own, and ends
// the thread when it is told to.
func (p *puppet) ownTable(req *request) {
	r := &reply{ID: req.ID, Op: req.Op, Start: int64(harness.Monotonic())}
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		r.Fault = fmt.Sprintf("unshare: %v", err)
	}
	r.End = int64(harness.Monotonic())
	if p.reply(&reply{ID: req.ID, Op: req.Op, Started: true}) == nil && p.reply(r) == nil {
		<-p.leave
	}
}

// payload is what puppets send: recognisable in a capture.
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = puppetPattern[i%len(puppetPattern)]
	}
	return b
}

// call makes one system call. An Errno is the call's own; any other error says
// that the puppet could not make it.
func (p *puppet) call(req *request, r *reply) (err error) {
	n := 0
	switch req.Op {
	case opSocket:
		n, err = unix.Socket(req.Level, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|req.Flags, req.N)
	case opBind, opConnect:
		var ap netip.AddrPort
		if ap, err = netip.ParseAddrPort(req.Remote); err != nil {
			return err
		}
		if req.Op == opBind {
			err = unix.Bind(req.FD, sockaddr(req.Level, ap))
		} else {
			err = unix.Connect(req.FD, sockaddr(req.Level, ap))
		}
	case opFastOpen:
		var ap netip.AddrPort
		if ap, err = netip.ParseAddrPort(req.Remote); err != nil {
			return err
		}
		n, err = unix.SendmsgN(req.FD, payload(req.N), nil, sockaddr(req.Level, ap), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL)
	case opDisconnect:
		err = disconnect(req.FD)
	case opListen:
		err = unix.Listen(req.FD, req.N)
	case opAccept:
		var sa unix.Sockaddr
		n, sa, err = unix.Accept4(req.FD, unix.SOCK_CLOEXEC)
		r.Addr = addrPort(sa).String()
	case opLocal:
		var sa unix.Sockaddr
		sa, err = unix.Getsockname(req.FD)
		r.Addr = addrPort(sa).String()
	case opState:
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(req.FD, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.State)
		}
	case opSend:
		n, err = unix.SendmsgN(req.FD, payload(req.N), nil, nil, req.Flags)
	case opFill:
		r.N, err = fill(req.FD, req.N)
		return err
	case opRecv:
		n, _, err = unix.Recvfrom(req.FD, make([]byte, req.N), req.Flags)
	case opDrain:
		r.N, err = drain(req.FD)
		return err
	case opSendPages:
		n, err = sendPages(req.FD, req.N)
	case opZeroCopy:
		n, err = zeroCopyReceive(req.FD, req.N)
	case opClose:
		err = unix.Close(req.FD)
	case opCloseRange:
		err = unix.CloseRange(uint(req.FD), uint(req.FD2), 0)
	case opUringClose:
		err = uringClose(req.FD)
	case opShutdown:
		err = unix.Shutdown(req.FD, req.N)
	case opSetInt:
		err = unix.SetsockoptInt(req.FD, req.Level, req.Name, req.Value)
	case opLinger:
		err = unix.SetsockoptLinger(req.FD, unix.SOL_SOCKET, unix.SO_LINGER,
			&unix.Linger{Onoff: int32(req.Value), Linger: int32(req.Value2)})
	case opDrop:
		err = dropSegments(req.FD, req.N)
	case opUndrop:
		err = unix.SetsockoptInt(req.FD, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	case opDup:
		n, err = unix.FcntlInt(uintptr(req.FD), unix.F_DUPFD_CLOEXEC, 0)
	case opDup2:
		err = unix.Dup3(req.FD, req.FD2, unix.O_CLOEXEC)
	case opTLS:
		err = kernelTLS(req.FD)
	case opSockmap:
		err = intoSockmap(req.FD)
	case opCompatDup2:
		err = compatDup2(req.FD, req.FD2)
	case opEventFD:
		n, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	case opInbox:
		n, err = receiveFD(p.ctl)
	case opSendFD:
		err = unix.Sendmsg(req.FD, []byte{0}, unix.UnixRights(req.FD2), nil, 0)
	case opRecvFD:
		n, err = receiveFD(req.FD)
	case opRecvNoRoom:
		n, _, err = unix.Recvfrom(req.FD, make([]byte, 16), 0)
	case opSplice:
		n, err = spliceOut(req.FD, req.N)
	case opUringRecv:
		err = uringReceive(req.FD)
	case opLeave:
		close(p.leave)
	case opSignalBlock:
		err = blockSignal(unix.Signal(req.N))
	case opSpawn:
		n, err = spawn(req)
	case opWait:
		var ws unix.WaitStatus
		_, err = unix.Wait4(req.N, &ws, 0, nil)
		n = int(ws)
	case opExec:
		// The control channel is how the successor gets its commands.
		if _, err = unix.FcntlInt(uintptr(p.ctl), unix.F_SETFD, 0); err == nil {
			err = unix.Exec(req.Path, []string{req.Path}, os.Environ())
		}
	case opExit:
		_, _, errno := unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(req.N), 0, 0)
		err = errno
	case opSignalDfl:
		err = setSignal(unix.Signal(req.N), sigDfl)
	case opKillSelf:
		err = unix.Kill(unix.Getpid(), unix.Signal(req.N))
	case opDestroy:
		err = destroySocket(req)
	case opRawSend:
		n, err = rawSend(req)
	default:
		return fmt.Errorf("the puppet does not know the command %q", req.Op)
	}
	r.N = int64(n)
	return err
}

// fill sends until the kernel takes no more, or until limit bytes; it returns
// what the kernel accepted. EAGAIN is the end that is wanted, not an error.
func fill(fd, limit int) (total int64, err error) {
	b := payload(64 << 10)
	for total < int64(limit) {
		n, err := unix.SendmsgN(fd, b[:min(len(b), limit-int(total))], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		total += int64(n)
	}
	return total, nil
}

// drain reads until the end of the stream; an error ends it too and is returned
// with what was read before.
func drain(fd int) (total int64, err error) {
	b := make([]byte, 256<<10)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil || n <= 0 {
			return total, err
		}
		total += int64(n)
	}
}

// disconnect is connect(2) to AF_UNSPEC, for which x/sys has no address type.
func disconnect(fd int) error {
	var sa unix.RawSockaddr // family 0 is AF_UNSPEC
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return errno
	}
	return nil
}

// dropSegments attaches a classic BPF filter that drops incoming segments before
// TCP sees them: a dead host, a pulled cable.
func dropSegments(fd, kind int) error {
	const reject, accept = 0, 0xffffffff
	prog := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: reject}}
	if kind == filterNotSyn {
		// The filter sees the segment from its TCP header on: byte 13 has the flags.
		prog = []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: accept},
			{Code: unix.BPF_RET | unix.BPF_K, K: reject},
		}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// receiveFD receives one descriptor over a unix socket.
func receiveFD(fd int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("no descriptor came with the message: %v", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("no descriptor came with the message: %v", err)
	}
	return fds[0], nil
}

// spawn starts another puppet that inherits the descriptor FD, with FD2 as its
// control channel, under the name of Path, and returns its process id.
func spawn(req *request) (int, error) {
	pid, err := syscall.ForkExec(req.Path, []string{req.Path}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(req.FD2), uintptr(req.FD)},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	return pid, unix.Close(req.FD2)
}

const (
	sigDfl = 0
	sigIgn = 1
)

// setSignal sets a disposition behind the Go runtime's back.
func setSignal(sig unix.Signal, disposition uintptr) error {
	act := struct { // the kernel's struct sigaction
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}{handler: disposition}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
