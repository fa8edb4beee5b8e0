package enrich

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the process that reads executables may have.
const (
	symbolAddress = 4 << 30 // bytes of address space, most of which Go only reserves
	symbolCPU     = 3600    // seconds; it is replaced long before
	symbolFiles   = 32
	nobody        = 65534
)

// confine gives up all that a parser of hostile files should not have: other
// users' rights, capabilities, new privileges, memory, descriptors, and every
// system call that it does not need: it cannot open a file, get a socket, send a
// signal or run a program. sealed says whether the kernel has seccomp for the
// last.
func confine(socket int, memory uint64) (sealed bool, err error) {
	// A hostile file may be this process's end; it is never that of another.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	// The main thread's name is the process's; an exec by way of a link leaves
	// that of the link.
	_ = os.WriteFile("/proc/self/comm", []byte(symbolName), 0)
	for _, l := range []struct {
		which int
		most  uint64
	}{
		{unix.RLIMIT_DATA, memory}, {unix.RLIMIT_AS, symbolAddress}, {unix.RLIMIT_CPU, symbolCPU},
		{unix.RLIMIT_NOFILE, symbolFiles}, {unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(l.which, &unix.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return false, fmt.Errorf("limit the reader of executables: %w", err)
		}
	}
	if os.Geteuid() == 0 || os.Getuid() == 0 {
		// In a user namespace, or without CAP_SETUID, there may be no other user.
		if syscall.Setgroups(nil) == nil && syscall.Setresgid(nobody, nobody, nobody) == nil {
			_ = syscall.Setresuid(nobody, nobody, nobody)
		}
	}
	// A change of user takes capabilities with it, and Go can take them from all
	// threads where it is not linked with C; then, too, they do not come back.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno != 0 && errno != syscall.ENOTSUP {
		return false, fmt.Errorf("give up capabilities: %w", errno)
	}
	// After the user: a change of that makes the kernel forget it (commit_creds).
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return false, fmt.Errorf("end with the parent: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return false, fmt.Errorf("be nobody's to look at: %w", err)
	}
	// Whoever asks may have gone before.
	fds := []unix.PollFd{{Fd: int32(socket)}}
	if _, err := unix.Poll(fds, 0); err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLNVAL) != 0 {
		return false, errors.New("nobody asks")
	}
	return seal() == nil, nil
}

// calls are the system calls that the process still needs: its socket, files that
// it was given, and what Go's runtime does for memory, threads and time.
var calls = []uint32{
	unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_FCNTL,
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MINCORE,
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_GETPID, unix.SYS_GETTID,
	unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_WRITE,
	unix.SYS_GETRANDOM, unix.SYS_RESTART_SYSCALL, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}

// auditArch are the architectures' numbers as seccomp(2) gives them
// (include/uapi/linux/audit.h): numbers of system calls are an architecture's own.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Places in struct seccomp_data.
const (
	seccompNumber = 0
	seccompArch   = 4
	seccompArgs   = 16
)

// filter is the BPF program of seccomp(2). What is not allowed fails, and does
// not kill: Go's runtime may try something that is new.
func filter(arch, pid uint32) []unix.SockFilter {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	end := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	allow, refuse := end(unix.SECCOMP_RET_ALLOW), end(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	p := []unix.SockFilter{
		load(seccompArch), jump(unix.BPF_JEQ, arch, 1, 0), end(unix.SECCOMP_RET_KILL_PROCESS),
		load(seccompNumber),
	}
	for _, n := range calls {
		p = append(p, jump(unix.BPF_JEQ, n, 0, 1), allow)
	}
	return append(p,
		// A thread, and no process.
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 3), load(seccompArgs), jump(unix.BPF_JSET, unix.CLONE_THREAD, 0, 1), allow,
		load(seccompNumber),
		// A signal to itself, by which goroutines are preempted.
		jump(unix.BPF_JEQ, unix.SYS_TGKILL, 0, 3), load(seccompArgs), jump(unix.BPF_JEQ, pid, 0, 1), allow,
		load(seccompNumber),
		// Memory, and none that could be run.
		jump(unix.BPF_JEQ, unix.SYS_MMAP, 1, 0), jump(unix.BPF_JEQ, unix.SYS_MPROTECT, 0, 3),
		load(seccompArgs+2*8), jump(unix.BPF_JSET, unix.PROT_EXEC, 1, 0), allow,
		refuse)
}

// seal lets all threads make only those calls, for good.
func seal() error {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return errors.New("no filter for this architecture")
	}
	f := filter(arch, uint32(os.Getpid()))
	// The thread that sets it must have it, and gives it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("want no new privileges: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return fmt.Errorf("limit the system calls: %w", errno)
	case r != 0:
		return fmt.Errorf("limit the system calls: thread %d does not take it", r)
	}
	return nil
}
