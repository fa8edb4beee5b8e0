package lineage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tree is the tree of processes. It is not safe for concurrent use.
type Tree struct {
	procfs  string
	fd      int // -1: /proc alone
	parents map[uint32]uint32
	order   []uint32 // of parents, the oldest first
	oldest  int
	lost    uint64
	buf     []byte
}

// most is how many forks are remembered.
const most = 1 << 16

// include/uapi/linux/cn_proc.h and connector.h.
const (
	cnIdxProc       = 1
	cnValProc       = 1
	procListen      = 1
	procIgnore      = 2
	procEventFork   = 1
	sizeofCnMsg     = 20
	offsetWhat      = unix.SizeofNlMsghdr + sizeofCnMsg
	offsetEventData = offsetWhat + 16 // what, cpu, timestamp
	sizeofForkEvent = 16
)

// Open starts to listen. Its error says why the kernel does not tell; the tree
// then knows what /proc does, and is not nil.
func Open(procfs string) (*Tree, error) {
	t := &Tree{procfs: procfs, fd: -1, parents: map[uint32]uint32{}, buf: make([]byte, 64<<10)}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return t, fmt.Errorf("listen for forks: %w", err)
	}
	if err := listen(fd); err != nil {
		return t, errors.Join(fmt.Errorf("listen for forks: %w", err), unix.Close(fd))
	}
	t.fd = fd
	return t, nil
}

func listen(fd int) error {
	if err := onlyForks(fd); err != nil {
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

// onlyForks keeps all other events away: before 6.6 the kernel cannot be asked
// to. A packet filter sees words in network order.
func onlyForks(fd int) error {
	var fork [4]byte
	binary.NativeEndian.PutUint32(fork[:], procEventFork)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetWhat},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: binary.BigEndian.Uint32(fork[:])},
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

// Listens says whether the kernel tells of forks.
func (t *Tree) Listens() bool { return t.fd >= 0 }

// Lost counts the times at which the kernel dropped news for want of room.
func (t *Tree) Lost() uint64 { return t.lost }

// Update takes what the kernel has told since. It does not block.
func (t *Tree) Update() {
	for t.fd >= 0 {
		n, from, err := unix.Recvfrom(t.fd, t.buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			t.lost++
			continue
		case err != nil:
			return
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not from the kernel
		}
		t.read(t.buf[:n])
	}
}

func (t *Tree) read(b []byte) {
	order := binary.NativeEndian
	if len(b) < offsetEventData+sizeofForkEvent || order.Uint32(b[offsetWhat:]) != procEventFork {
		return
	}
	data := b[offsetEventData:]
	parent, child, childThread := order.Uint32(data[4:]), order.Uint32(data[12:]), order.Uint32(data[8:])
	if child != childThread {
		return // a thread
	}
	t.born(child, parent)
}

func (t *Tree) born(child, parent uint32) {
	if _, again := t.parents[child]; !again {
		if len(t.order) < most {
			t.order = append(t.order, child)
		} else {
			delete(t.parents, t.order[t.oldest])
			t.order[t.oldest] = child
			t.oldest = (t.oldest + 1) % most
		}
	}
	t.parents[child] = parent
}

// Ancestors is a process's parent, its parent's parent and so on; nil where
// nothing is known.
func (t *Tree) Ancestors(pid uint32) []uint32 {
	t.Update()
	const deepest = 64
	var line []uint32
	for len(line) < deepest {
		parent, ok := t.parents[pid]
		if !ok {
			if parent, ok = t.ask(pid); !ok {
				break
			}
		}
		if parent == 0 {
			break
		}
		line = append(line, parent)
		pid = parent
	}
	return line
}

// ask reads the parent from /proc/PID/stat. The name, in parentheses, may hold
// any bytes, parentheses too.
func (t *Tree) ask(pid uint32) (uint32, bool) {
	b, err := os.ReadFile(t.procfs + "/" + strconv.FormatUint(uint64(pid), 10) + "/stat")
	if err != nil {
		return 0, false
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, false
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.ParseUint(fields[1], 10, 32)
	return uint32(parent), err == nil
}

// Close stops the kernel's telling.
func (t *Tree) Close() error {
	if t.fd < 0 {
		return nil
	}
	err := errors.Join(request(t.fd, procIgnore), unix.Close(t.fd))
	t.fd = -1
	return err
}
