package enrich

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// invent puts a process on record that has a file mapped and is gone, and returns
// where the file's .text begins in it.
func invent(t *testing.T, s *Symbols, pid uint32, program []byte) (text uint64) {
	t.Helper()
	f := memoryFile("program", program)
	if f == nil {
		t.Fatal("no memory file")
	}
	key, err := keyOf(f)
	if err != nil {
		t.Fatal(err)
	}
	const start = 0x400000
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids++
	s.modules.put(key, &module{id: s.ids, key: key, file: f})
	s.processes.put(pid, &space{read: s.now(), mappings: []mapping{
		{start: start, end: start + uint64(len(program)), base: start, ino: key.ino, path: "/program", key: key, tried: true},
	}})
	return start + imageText
}

func (s *Symbols) names(pid uint32, owner Owner, addresses ...uint64) (out []string, missed bool) {
	n := s.begin(&Naming{pid: pid, owner: owner, stack: event.RawStack{Chain: addresses}, unwound: true})
	for _, f := range n.Wait(context.Background()) {
		out = append(out, f.Function)
	}
	return out, n.missed
}

// later says that none of this is swept away for being of the dead.
func later(s *Symbols, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = now
}

const nobodys = math.MaxInt32 // PIDs from here on are no process's

// A file that takes too much costs its own names, and its owner's new ones for a
// while. It is not read again.
func TestHostileFiles(t *testing.T) {
	if raced {
		t.Skip("the race detector needs more memory than the process that reads symbols may have")
	}
	for name, program := range map[string][]byte{"memory": hungry(), "time": slow()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			most := usual
			if name == "time" {
				most.cpu = 100 * time.Millisecond
			} else {
				most.memory = 128 << 20
			}
			s := limitedSymbols(t, 64, most)
			now := time.Now()
			s.now = func() time.Time { return now }
			good, evil := Owner{UID: 1}, Owner{UID: 2}
			own := invent(t, s, nobodys, honest())
			theirs := invent(t, s, nobodys+1, program)
			theirNext := invent(t, s, nobodys+2, honest())
			if got, missed := s.names(nobodys, good, own, own+33); missed || strings.Join(got, " ") != "first second" {
				t.Fatalf("before: %q", got)
			}
			if got, missed := s.names(nobodys+1, evil, theirs); !missed || strings.Join(got, " ") != "" || len(got) != 1 {
				t.Fatalf("the hostile one: %q", got)
			}
			ended := s.Unnamed().Restarts
			if got, missed := s.names(nobodys+1, good, theirs); !missed || len(got) != 1 {
				t.Fatalf("again: %q", got)
			}
			if got, missed := s.names(nobodys, good, own+1, own+34); missed || strings.Join(got, " ") != "first second" {
				t.Fatalf("after: %q", got)
			}
			if got, missed := s.names(nobodys+2, evil, theirNext); !missed || got[0] != "" {
				t.Fatalf("another file of the hostile one: %q", got)
			}
			now = now.Add(10 * time.Minute)
			later(s, now)
			if got, missed := s.names(nobodys+2, evil, theirNext); missed || got[0] != "first" {
				t.Fatalf("another file of the hostile one, later: %q", got)
			}
			if u := s.Unnamed(); u.Restarts > ended+1 || u.Stacks != 3 || u.String() == "" {
				t.Errorf("%d restarts (%d at first), %d stacks: %s", u.Restarts, ended, u.Stacks, u)
			}
		})
	}
}

// Whoever kills the process costs what it reads now at most.
func TestKilled(t *testing.T) {
	s := symbolsOf(t)
	own := invent(t, s, nobodys, honest())
	for i := range uint64(5) {
		if got, missed := s.names(nobodys, Owner{}, own+i); missed || got[0] != "first" {
			t.Fatalf("%d: %q", i, got)
		}
		s.mu.Lock()
		p := s.process
		s.mu.Unlock()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.ended
	}
	if u := s.Unnamed(); u.Restarts != 4 || u.Stacks != 0 {
		t.Errorf("%+v", u)
	}
}

// Nobody waits longer than he wants to.
func TestPatience(t *testing.T) {
	s := symbolsOf(t)
	own, theirs := invent(t, s, nobodys, honest()), invent(t, s, nobodys+1, slow())
	first := s.Name(nobodys+1, Owner{UID: 2}, event.RawStack{Chain: []uint64{theirs}})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	n := s.Name(nobodys, Owner{}, event.RawStack{Chain: []uint64{own}})
	if got := n.Wait(ctx); len(got) != 1 || got[0].Function != "" || got[0].Module != "/program" || got[0].Offset != imageText {
		t.Errorf("%+v", got)
	}
	if got := first.Wait(ctx); len(got) != 1 || got[0].Module != "/program" {
		t.Errorf("%+v", got)
	}
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > usual.cpu {
		t.Errorf("Close waited %v for a hostile file", took)
	}
}

// A file may not use up the time of others bit by bit.
func TestFileBudget(t *testing.T) {
	s := symbolsOf(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	own := invent(t, s, nobodys, honest())
	if got, missed := s.names(nobodys, Owner{}, own); missed || got[0] != "first" {
		t.Fatalf("%q", got)
	}
	s.mu.Lock()
	s.read.each(func(_ fileKey, m *module) { m.spent = fileBudget + time.Second })
	s.mu.Unlock()
	if got, missed := s.names(nobodys, Owner{}, own+1); !missed || got[0] != "" {
		t.Errorf("over its budget: %q", got)
	}
	if got, missed := s.names(nobodys, Owner{}, own); missed || got[0] != "first" {
		t.Errorf("what is known: %q", got)
	}
	now = now.Add(2 * fileShare * time.Second)
	later(s, now)
	if got, missed := s.names(nobodys, Owner{}, own+1); missed || got[0] != "first" {
		t.Errorf("later: %q", got)
	}
}

// The process has nothing that is worth taking.
func TestConfined(t *testing.T) {
	s := symbolsOf(t)
	own := invent(t, s, nobodys, honest())
	s.names(nobodys, Owner{}, own)
	pid := s.process.cmd.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for _, l := range strings.Split(string(b), "\n") {
		key, value, _ := strings.Cut(l, ":")
		status[key] = strings.Join(strings.Fields(value), " ")
	}
	want := map[string]string{"Name": symbolName, "CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1"}
	if os.Getuid() == 0 {
		if m, err := os.ReadFile("/proc/self/uid_map"); err == nil && strings.HasSuffix(strings.TrimSpace(string(m)), "4294967295") {
			want["Uid"], want["Gid"] = "65534 65534 65534 65534", "65534 65534 65534 65534"
		}
	}
	if s.process.sealed {
		want["Seccomp"] = "2"
	} else if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err == nil {
		t.Error("this kernel has seccomp, and the process makes any system call")
	}
	for key, value := range want {
		if status[key] != value {
			t.Errorf("%s: %s, want %s", key, status[key], value)
		}
	}
	for which, most := range map[int]uint64{unix.RLIMIT_DATA: usual.memory, unix.RLIMIT_AS: symbolAddress, unix.RLIMIT_CPU: symbolCPU, unix.RLIMIT_NOFILE: symbolFiles, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_CORE: 0} {
		var l unix.Rlimit
		if err := unix.Prlimit(pid, which, nil, &l); errors.Is(err, unix.EPERM) {
			break // not as this user
		} else if err != nil || l.Cur != most || l.Max != most {
			t.Errorf("limit %d: %+v, %v", which, l, err)
		}
	}
}

// run is the kernel's interpreter, as far as the filter needs it.
func runFilter(t *testing.T, f []unix.SockFilter, arch, number uint32, args ...uint64) uint32 {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, number)
	data = binary.LittleEndian.AppendUint32(data, arch)
	data = append(data, make([]byte, 8)...) // the instruction pointer
	for _, a := range append(args, make([]uint64, 6-len(args))...) {
		data = binary.LittleEndian.AppendUint64(data, a)
	}
	var acc uint32
	for pc := 0; pc < len(f); pc++ {
		i := f[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == i.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(acc&i.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, i.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestFilter(t *testing.T) {
	for _, arch := range auditArch {
		f := filter(arch, 77)
		for _, c := range []struct {
			name   string
			number uint32
			args   []uint64
			want   bool
		}{
			{"recvmsg", unix.SYS_RECVMSG, nil, true},
			{"pread64", unix.SYS_PREAD64, nil, true},
			{"futex", unix.SYS_FUTEX, nil, true},
			{"exit_group", unix.SYS_EXIT_GROUP, nil, true},
			{"mmap", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, true},
			{"mmap to run", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC}, false},
			{"mprotect to run", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}, false},
			{"mprotect", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_READ}, true},
			{"a thread", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, true},
			{"a process", unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, false},
			{"a signal to itself", unix.SYS_TGKILL, []uint64{77, 78}, true},
			{"a signal", unix.SYS_TGKILL, []uint64{76, 76}, false},
			{"clone3", unix.SYS_CLONE3, nil, false},
			{"execve", unix.SYS_EXECVE, nil, false},
			{"openat", unix.SYS_OPENAT, nil, false},
			{"openat2", unix.SYS_OPENAT2, nil, false},
			{"socket", unix.SYS_SOCKET, nil, false},
			{"connect", unix.SYS_CONNECT, nil, false},
			{"kill", unix.SYS_KILL, nil, false},
			{"ptrace", unix.SYS_PTRACE, nil, false},
			{"bpf", unix.SYS_BPF, nil, false},
			{"io_uring_setup", unix.SYS_IO_URING_SETUP, nil, false},
			{"x32", 0x40000000 | unix.SYS_RECVMSG, nil, false},
		} {
			want := uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
			if c.want {
				want = unix.SECCOMP_RET_ALLOW
			}
			if got := runFilter(t, f, arch, c.number, c.args...); got != want {
				t.Errorf("%s: %#x, want %#x", c.name, got, want)
			}
		}
		if got := runFilter(t, f, arch+1, unix.SYS_RECVMSG); got != unix.SECCOMP_RET_KILL_PROCESS {
			t.Errorf("numbers of another architecture: %#x", got)
		}
	}
}

const envParent = "ENRICH_PARENT"

// parent starts the process, says which it is and waits.
func parent() {
	s, err := NewSymbols("/proc", 1)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.process.cmd.Process.Pid)
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0) // without Close
}

// The process ends with whoever started it, however that ends.
func TestEndsWithParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"exit", "kill"} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), envParent+"=1")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(bufio.NewReader(out), &pid); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if how == "kill" {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		in.Close()
		_ = cmd.Wait() // it was killed
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 20_000); err != nil || n != 1 {
			t.Errorf("%s: the process lives on (%d, %v)", how, n, err)
		}
	}
}

// event0 is a stack with registers, so that it is unwound.
func event0(addresses []uint64) event.RawStack {
	const sp = 0x7000_0000
	return event.RawStack{PC: addresses[0], SP: sp, FP: sp + 64, Chain: addresses, Memory: make([]byte, 4096)}
}
