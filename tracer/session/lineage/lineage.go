package lineage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tree is the tree of processes. It may be used from several goroutines.
type Tree struct {
	procfs string
	fd     int           // the socket; -1: /proc alone
	stop   int           // an eventfd that ends the reader
	mapped *mapped       // nil: this kernel, or this user, has none
	done   chan struct{} // closed when the reader has ended

	mu     sync.Mutex
	told   func(pid uint32) // of an exec; nil: nobody
	known  map[uint32]process
	order  []uint32 // of known, the oldest first
	oldest int
	lost   uint64
	busy   bool       // the reader has news in its hands
	ended  bool       // there is no reader any more
	taken  *sync.Cond // the reader has none any more
	buf    []byte     // the reader's
}

// process is what the kernel told of one.
type process struct {
	parent uint32 // 0 not told
	exe    string // "" not known
}

// most is how many processes are remembered.
const most = 1 << 16

// include/uapi/linux/cn_proc.h and connector.h.
const (
	cnIdxProc       = 1
	cnValProc       = 1
	procListen      = 1
	procIgnore      = 2
	procEventFork   = 1
	procEventExec   = 2
	sizeofCnMsg     = 20
	offsetWhat      = unix.SizeofNlMsghdr + sizeofCnMsg
	offsetEventData = offsetWhat + 16 // what, cpu, timestamp
	sizeofForkEvent = 16
	sizeofExecEvent = 8
)

// Open starts to listen. Its error says why the kernel does not tell; the tree
// then knows what /proc does, and is not nil. initial: the procfs shows the
// initial PID namespace, of which the kernel tells.
func Open(procfs string, initial bool) (*Tree, error) {
	t := newTree(procfs)
	t.mapped, _ = openMapped() // without it what is executed for a moment only may be missed
	if !initial {
		return t, errors.New("the kernel tells of forks in the host's PID namespace only")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return t, fmt.Errorf("listen for forks: %w", err)
	}
	if err := listen(fd); err != nil {
		return t, errors.Join(fmt.Errorf("listen for forks: %w", err), unix.Close(fd))
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return t, errors.Join(fmt.Errorf("listen for forks: %w", err), unix.Close(fd))
	}
	t.fd, t.stop = fd, stop
	go t.follow()
	return t, nil
}

func newTree(procfs string) *Tree {
	t := &Tree{procfs: procfs, fd: -1, known: map[uint32]process{}, buf: make([]byte, 64<<10), done: make(chan struct{})}
	t.taken = sync.NewCond(&t.mu)
	return t
}

// follow takes the news as they come: what a process executes must be asked for
// while it lives. So the thread is its own, and goes first where it may.
func (t *Tree) follow() {
	defer close(t.done)
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ended = true
		t.taken.Broadcast()
	}()
	runtime.LockOSThread() // and never unlocked: the thread ends with this
	goFirst()
	fds := []unix.PollFd{{Fd: int32(t.stop), Events: unix.POLLIN}, {Fd: int32(t.fd), Events: unix.POLLIN}}
	if t.mapped != nil {
		for _, r := range t.mapped.rings {
			fds = append(fds, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
		}
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[0].Revents != 0 {
			return
		}
		t.setBusy(true)
		t.drain()
		t.setBusy(false)
		if slices.ContainsFunc(fds[2:], func(f unix.PollFd) bool { return f.Revents != 0 }) {
			t.mapped.read()
		}
	}
}

func (t *Tree) setBusy(busy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy = busy; !busy {
		t.taken.Broadcast()
	}
}

// goFirst lets the calling thread run as soon as it can: a process that executes
// a program, visits a server and exits is gone within a millisecond, which on a
// busy machine is less than an ordinary thread waits for its turn. Its work is
// short. What it may not have it does without.
func goFirst() {
	const resetOnFork = 1 // SCHED_FLAG_RESET_ON_FORK: threads that Go starts from it are ordinary
	first := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: resetOnFork}
	if unix.SchedSetAttr(0, first, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	}
}

func listen(fd int) error {
	if err := onlyBirths(fd); err != nil {
		return err
	}
	const room = 4 << 20
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
		// What the administrator allows is less, and does too.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}); err != nil {
		return err
	}
	return request(fd, procListen)
}

// onlyBirths keeps all but forks and execs away: before 6.6 the kernel cannot be
// asked to. A packet filter sees words in network order.
func onlyBirths(fd int) error {
	word := func(what uint32) uint32 {
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], what)
		return binary.BigEndian.Uint32(b[:])
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetWhat},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: word(procEventFork)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: word(procEventExec)},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))})
}

// request turns the kernel's telling on or off.
func request(fd int, op uint32) error {
	order := binary.NativeEndian
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, order, v) // into memory
		}
	}
	put(uint32(unix.SizeofNlMsghdr+sizeofCnMsg+4), uint16(unix.NLMSG_DONE), uint16(0), uint32(0), uint32(os.Getpid()),
		uint32(cnIdxProc), uint32(cnValProc), uint32(0), uint32(0), uint16(4), uint16(0), op)
	return unix.Sendto(fd, b.Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// Tell has f told of each process that executes a program, at once, on the reader's own
// thread: it must return quickly.
func (t *Tree) Tell(f func(pid uint32)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = f
}

// Lost counts the times at which the kernel dropped news because the socket was full.
func (t *Tree) Lost() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

// lock gives the tree as the kernel has told of it until now. It leaves the news
// to the reader, which goes first: a lock held meanwhile would make it wait for a
// thread that waits for its own turn.
func (t *Tree) lock() {
	t.mu.Lock()
	const most = 64 // batches: news may come faster than they are read
	for n := 0; n < most && !t.ended && (t.busy || t.pending()); n++ {
		t.taken.Wait()
	}
}

// pending says whether there is something that the reader has not begun to take.
func (t *Tree) pending() bool {
	if t.fd < 0 {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// drain takes a batch of what the kernel has told since. It is the reader's.
func (t *Tree) drain() {
	const batch = 64
	for range batch {
		n, from, err := unix.Recvfrom(t.fd, t.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			t.mu.Lock()
			t.lost++
			t.mu.Unlock()
			continue
		case err != nil:
			return
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 { // from the kernel
			t.read(t.buf[:n])
		}
	}
}

func (t *Tree) read(b []byte) {
	order := binary.NativeEndian
	if len(b) < offsetEventData {
		return
	}
	data := b[offsetEventData:]
	switch what := order.Uint32(b[offsetWhat:]); {
	case what == procEventFork && len(data) >= sizeofForkEvent:
		parent, childThread, child := order.Uint32(data[4:]), order.Uint32(data[8:]), order.Uint32(data[12:])
		if child == childThread { // and not a thread
			t.forked(parent, child)
		}
	case what == procEventExec && len(data) >= sizeofExecEvent:
		pid := order.Uint32(data[4:])
		exe := t.readExe(pid)
		t.mu.Lock()
		told := t.told
		t.learn(pid, process{parent: t.known[pid].parent, exe: exe})
		t.mu.Unlock()
		if told != nil {
			told(pid)
		}
	}
}

// forked learns of a child, which executes what its parent does.
func (t *Tree) forked(parent, child uint32) {
	t.mu.Lock()
	p := t.known[parent]
	t.mu.Unlock()
	if p.exe == "" { // older than the trace
		p.exe = t.readExe(parent)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.exe != "" {
		t.learn(parent, p)
	}
	t.learn(child, process{parent: parent, exe: p.exe})
}

// readExe asks what a process executes; "" where it is gone already.
func (t *Tree) readExe(pid uint32) string {
	exe, _ := os.Readlink(t.procfs + "/" + strconv.FormatUint(uint64(pid), 10) + "/exe")
	return exe
}

func (t *Tree) learn(pid uint32, p process) {
	if _, again := t.known[pid]; !again {
		if len(t.order) < most {
			t.order = append(t.order, pid)
		} else {
			delete(t.known, t.order[t.oldest])
			t.order[t.oldest] = pid
			t.oldest = (t.oldest + 1) % most
		}
	}
	t.known[pid] = p
}

// Exe is the executable of a process that may be gone; "" not known. One that
// lives is asked itself: execve closes its descriptors, which whoever waits for
// it sees, before it tells of itself (begin_new_exec, then proc_exec_connector).
func (t *Tree) Exe(pid uint32) string {
	if exe := t.readExe(pid); exe != "" {
		return exe
	}
	t.lock()
	exe := t.known[pid].exe
	t.mu.Unlock()
	if exe == "" && t.mapped != nil {
		exe = t.mapped.exe(pid)
	}
	return exe
}

// Ancestors is a process's parent, its parent's parent and so on; nil where
// nothing is known.
func (t *Tree) Ancestors(pid uint32) []uint32 {
	t.lock()
	defer t.mu.Unlock()
	const deepest = 64
	var line []uint32
	for len(line) < deepest {
		parent := t.known[pid].parent
		if parent == 0 {
			parent = t.ask(pid)
		}
		if parent == 0 {
			break
		}
		line = append(line, parent)
		pid = parent
	}
	return line
}

// ask reads the parent from /proc/PID/stat; 0 it is gone, or has none. The name,
// in parentheses, may hold any bytes, parentheses too.
func (t *Tree) ask(pid uint32) uint32 {
	b, err := os.ReadFile(t.procfs + "/" + strconv.FormatUint(uint64(pid), 10) + "/stat")
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return 0
	}
	return uint32(parent)
}

// Close stops the kernel's telling.
func (t *Tree) Close() error {
	if t.fd < 0 {
		return t.closeMapped()
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, err := unix.Write(t.stop, one[:])
	<-t.done
	err = errors.Join(err, t.closeMapped(), request(t.fd, procIgnore), unix.Close(t.fd), unix.Close(t.stop))
	t.fd = -1
	return err
}

func (t *Tree) closeMapped() error {
	if t.mapped == nil {
		return nil
	}
	err := t.mapped.close()
	t.mapped = nil
	return err
}
