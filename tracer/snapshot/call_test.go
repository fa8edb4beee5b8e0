package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
)

func TestDataCall(t *testing.T) {
	for text, want := range map[string]int{
		fmt.Sprintf("%d 0x7 0x7ffd 0x64 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_RECVFROM): 7,
		fmt.Sprintf("%d 0x0 0x7ffd 0x64 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_READ):     0,
		fmt.Sprintf("%d 0x7 0x7ffd 0x64 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_FUTEX):    -1,
		"running\n":            -1,
		"-1 0x7ffd 0x7f11\n":   -1,
		"":                     -1,
		"0\n":                  -1,
		"0 seven\n":            -1,
		"99999999999999 0x1\n": -1,
	} {
		fd, ok := dataCall(text)
		if !ok {
			fd = -1
		}
		if fd != want {
			t.Errorf("%q is about descriptor %d, want %d", text, fd, want)
		}
	}
}

// TestHoldInCalls: a thread in a call is named where nobody else can be meant.
func TestHoldInCalls(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("system call numbers of this architecture are not known")
	}
	receive := func(fd int) string {
		return fmt.Sprintf("%d %#x 0x7ffd 0x64 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_RECVFROM, fd)
	}
	type thread struct {
		pid, tid       int
		syscall, wchan string
		stack          string // "": it may not be read
		link           string // of descriptor 5; "" it is closed
	}
	tcp := thread{pid: 40, tid: 41, syscall: receive(5), wchan: "wait_woken"}
	with := func(t thread, change func(*thread)) thread { change(&t); return t }
	for name, c := range map[string]struct {
		threads []thread
		inodes  []uint64
		pid     uint32 // 0: nobody
		tid     uint32
	}{
		"one":          {[]thread{tcp}, []uint64{7}, 40, 41},
		"another file": {[]thread{with(tcp, func(t *thread) { t.link = "pipe:[9]" })}, []uint64{7}, 40, 41},
		"its own":      {[]thread{with(tcp, func(t *thread) { t.link = "socket:[9]" })}, []uint64{7}, 0, 0},
		"a pipe":       {[]thread{with(tcp, func(t *thread) { t.wchan = "pipe_read" })}, []uint64{7}, 0, 0},
		"running":      {[]thread{with(tcp, func(t *thread) { t.syscall = "running\n" })}, []uint64{7}, 0, 0},
		"one of two":   {[]thread{tcp}, []uint64{7, 8}, 0, 0},
		"two of one":   {[]thread{tcp, with(tcp, func(t *thread) { t.tid = 42 })}, []uint64{7}, 40, 40},
		"two of two":   {[]thread{tcp, with(tcp, func(t *thread) { t.tid = 42 })}, []uint64{7, 8}, 40, 40},
		"of others":    {[]thread{tcp, with(tcp, func(t *thread) { t.pid, t.tid = 50, 50 })}, []uint64{7, 8}, 0, 0},
		"none":         {nil, []uint64{7}, 0, 0},
		// x86 before 5.16 tells no wchan.
		"by its stack": {[]thread{with(tcp, func(t *thread) {
			t.wchan, t.stack = "0", "[<0>] sk_wait_data+0x110/0x130\n[<0>] tcp_recvmsg_locked+0x2c4/0x9a0\n[<0>] tcp_recvmsg+0x7c/0x1c0\n"
		})}, []uint64{7}, 40, 41},
		"a datagram, by its stack": {[]thread{with(tcp, func(t *thread) {
			t.stack = "[<0>] __skb_wait_for_more_packets+0x120/0x170\n[<0>] udp_recvmsg+0x7c/0x1c0\n"
		})}, []uint64{7}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			procfs := t.TempDir()
			var pids []int
			put := func(path, text string) {
				t.Helper()
				path = filepath.Join(procfs, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			link := func(path, to string) {
				t.Helper()
				path = filepath.Join(procfs, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(to, path); err != nil && !os.IsExist(err) {
					t.Fatal(err)
				}
			}
			for _, th := range c.threads {
				dir := strconv.Itoa(th.pid)
				if _, err := os.Stat(filepath.Join(procfs, dir)); err != nil {
					pids = append(pids, th.pid)
				}
				put(filepath.Join(dir, "comm"), "reader\n")
				link(filepath.Join(dir, "ns/net"), "net:[3]")
				put(filepath.Join(dir, "task", strconv.Itoa(th.tid), "syscall"), th.syscall)
				put(filepath.Join(dir, "task", strconv.Itoa(th.tid), "wchan"), th.wchan)
				if th.stack != "" {
					put(filepath.Join(dir, "task", strconv.Itoa(th.tid), "stack"), th.stack)
				}
				if th.link != "" {
					link(filepath.Join(dir, "fd/5"), th.link)
				}
			}
			var sockets []Socket
			for _, n := range c.inodes {
				sockets = append(sockets, Socket{NetNS: 3, Inode: n})
			}
			hold(Options{Procfs: procfs, Who: func(p *conn.Process) { p.Exe = "/bin/reader" }}, pids, true, sockets, nil)
			for _, s := range sockets {
				o := s.Owner()
				switch {
				case c.pid == 0 && o != nil:
					t.Errorf("%d is said to be held by %+v", s.Inode, o)
				case c.pid == 0:
				case o == nil || o.PID != c.pid || o.TID != c.tid || !o.InCall || o.FD != -1 || o.Comm != "reader" || o.Exe != "/bin/reader":
					t.Errorf("%d is said to be held by %+v, want %d, thread %d", s.Inode, o, c.pid, c.tid)
				}
			}
		})
	}
}
