package enrich

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// procfs is a made-up /proc.
type procfs struct {
	t   *testing.T
	dir string
	now time.Duration // CLOCK_MONOTONIC
}

type task struct {
	comm   string
	exe    string
	state  string
	start  uint64 // ticks
	code   uint64
	flags  uint64
	uid    int
	nspid  string
	cgroup string
}

func newProcfs(t *testing.T, max int) (*procfs, *Processes) {
	f := &procfs{t: t, dir: t.TempDir(), now: 100 * time.Second}
	p := NewProcesses(f.dir, max)
	p.clock = func() (time.Duration, time.Duration) { return f.now, 0 }
	return f, p
}

func (f *procfs) put(pid uint32, k task) {
	f.t.Helper()
	f.remove(pid)
	if k.state == "" {
		k.state = "S"
	}
	dir := filepath.Join(f.dir, strconv.Itoa(int(pid)))
	files := map[string]string{
		"stat": fmt.Sprintf("%d (%s) %s 1 1 1 0 -1 %d 0 0 0 0 0 0 0 0 20 0 1 0 %d 4096 100 18446744073709551615 %d 3 4 0 0\n",
			pid, k.comm, k.state, k.flags, k.start, k.code),
		"status": fmt.Sprintf("Name:\t%s\nUid:\t%d\t%d\t%d\t%d\nNSpid:\t%d%s\n", k.comm, k.uid+1, k.uid, k.uid+2, k.uid+3, pid, k.nspid),
		"cgroup": k.cgroup,
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	if k.exe != "" {
		if err := os.Symlink(k.exe, filepath.Join(dir, "exe")); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *procfs) remove(pid uint32) {
	if err := os.RemoveAll(filepath.Join(f.dir, strconv.Itoa(int(pid)))); err != nil {
		f.t.Fatal(err)
	}
}

func (f *procfs) expect(p *Processes, pid uint32, at time.Duration, exe string) {
	f.t.Helper()
	got, ok := p.Lookup(pid, at)
	if ok != (exe != "") || got.Exe != exe {
		f.t.Errorf("PID %d at %v is %q %v, want %q", pid, at, got.Exe, ok, exe)
	}
}

func TestLookup(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "nginx", exe: "/usr/sbin/nginx", start: 500, uid: 33, nspid: "\t9\t2",
		cgroup: "0::/system.slice/docker-" + id64 + ".scope\n"})
	got, ok := p.Lookup(7, 0)
	want := Info{PID: 7, NSPID: 2, Comm: "nginx", Exe: "/usr/sbin/nginx", UID: 33, User: got.User,
		CgroupPath: "/system.slice/docker-" + id64 + ".scope", Container: "docker/" + id12, StartTime: 500}
	if !ok || got != want {
		t.Errorf("got %+v %v\nwant %+v", got, ok, want)
	}
	f.put(2, task{comm: "kthreadd", flags: event.PFKthread | 0x40, cgroup: "0::/\n"})
	if got, ok := p.Lookup(2, 0); !ok || !got.Kernel || got.Exe != "" || got.Comm != "kthreadd" {
		t.Errorf("a kernel thread: %+v %v", got, ok)
	}
	f.expect(p, 8, 0, "")
}

func TestReusedPID(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "old", exe: "/old", start: 1000})
	f.expect(p, 7, 50*time.Second, "/old")

	// The PID goes round to a process that started at 60 s.
	f.put(7, task{comm: "old", exe: "/new", start: 6000})
	f.expect(p, 7, 70*time.Second, "/new")
	f.expect(p, 7, 0, "/new")
	f.expect(p, 7, 59*time.Second, "/old") // an event read late
	f.expect(p, 7, 9*time.Second, "")      // before either
}

// An event older than the process that has its PID now belongs to one that
// nobody saw.
func TestReusedPIDNeverSeenBefore(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "new", exe: "/new", start: 6000})
	f.expect(p, 7, 59*time.Second, "")
	f.expect(p, 7, 61*time.Second, "/new")
}

func TestDead(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "curl", exe: "/usr/bin/curl", start: 1000})
	f.expect(p, 7, 99*time.Second, "/usr/bin/curl")
	f.remove(7)
	f.now = 101 * time.Second
	f.expect(p, 7, 100*time.Second, "/usr/bin/curl")
	f.expect(p, 7, 0, "/usr/bin/curl")
	f.expect(p, 7, 102*time.Second, "") // it was gone by then: somebody else
	f.expect(p, 7, 100*time.Second, "/usr/bin/curl")
	// The grace period runs by the time of the events.
	p.Lookup(8, 101*time.Second+Grace+1)
	f.expect(p, 7, 100*time.Second, "")
	if p.pids.len() != 0 {
		t.Errorf("%d PIDs are remembered", p.pids.len())
	}
}

func TestExited(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "curl", exe: "/usr/bin/curl", start: 1000})
	f.expect(p, 7, 50*time.Second, "/usr/bin/curl")
	p.Exited(7, 60*time.Second)
	f.remove(7)
	f.expect(p, 7, 60*time.Second, "/usr/bin/curl")
	f.expect(p, 7, 61*time.Second, "") // a short-lived successor that nobody saw
	p.Forget(7)
	f.expect(p, 7, 55*time.Second, "")
}

// A zombie's files tell less than what was read before.
func TestZombie(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "curl", exe: "/usr/bin/curl", start: 1000, code: 0x400000, cgroup: "0::/system.slice/a.service\n"})
	f.expect(p, 7, 50*time.Second, "/usr/bin/curl")
	f.put(7, task{comm: "curl", state: "Z", start: 1000, cgroup: "0::/\n"})
	f.now += 2 * refresh
	got, ok := p.Lookup(7, 0)
	if !ok || got.Exe != "/usr/bin/curl" || got.Container != "a.service" {
		t.Errorf("%+v %v", got, ok)
	}
}

func TestExecIsSeenAtOnce(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "sh", exe: "/bin/sh", start: 1000, code: 0x1000})
	f.expect(p, 7, 0, "/bin/sh")
	f.put(7, task{comm: "sh", exe: "/usr/bin/sh", start: 1000, code: 0x2000})
	f.expect(p, 7, 0, "/usr/bin/sh")
	f.put(7, task{comm: "curl", exe: "/usr/bin/curl", start: 1000, code: 0x2000})
	f.expect(p, 7, 0, "/usr/bin/curl")
}

func TestRefresh(t *testing.T) {
	f, p := newProcfs(t, 10)
	f.put(7, task{comm: "d", exe: "/d", start: 1000, uid: 0})
	p.Lookup(7, 0)
	f.put(7, task{comm: "d", exe: "/d", start: 1000, uid: 33})
	if got, _ := p.Lookup(7, 0); got.UID != 0 {
		t.Errorf("read again at once: user %d", got.UID)
	}
	f.now += refresh
	if got, _ := p.Lookup(7, 0); got.UID != 33 {
		t.Errorf("never read again: user %d", got.UID)
	}
}

// Suspend stops CLOCK_MONOTONIC but not the clock that start times are told by.
func TestStartTimeAfterSuspend(t *testing.T) {
	f, p := newProcfs(t, 10)
	p.clock = func() (time.Duration, time.Duration) { return f.now, 500 * time.Second }
	f.put(7, task{comm: "d", exe: "/d", start: 56000}) // 60 s by CLOCK_MONOTONIC
	f.expect(p, 7, 61*time.Second, "/d")
	f.expect(p, 7, 59*time.Second, "")
}

func TestProcessesAreBounded(t *testing.T) {
	f, p := newProcfs(t, 3)
	for pid := range uint32(10) {
		f.put(pid+1, task{comm: "x", exe: "/x", start: 1})
		f.expect(p, pid+1, 0, "/x")
	}
	for start := range uint64(20) {
		f.now += time.Second
		f.put(9, task{comm: "x", exe: "/x", start: 10 + start})
		f.expect(p, 9, 0, "/x")
	}
	if known, _ := p.pids.get(9); p.pids.len() != 3 || len(known) > generations {
		t.Errorf("%d PIDs, %d generations", p.pids.len(), len(known))
	}
}

func TestOwnProcess(t *testing.T) {
	p := NewProcesses("/proc", 10)
	pid := uint32(os.Getpid())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// comm takes any bytes; it is this process's own.
	const comm = "a) (b\n\\n c"
	old, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/comm", []byte(comm), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile("/proc/self/comm", []byte(strings.TrimSuffix(string(old), "\n")), 0)
	got, ok := p.Lookup(pid, 0)
	if !ok || got.PID != pid || got.Exe != exe || got.Comm != comm || got.UID != uint32(os.Geteuid()) || got.NSPID == 0 || got.StartTime == 0 || got.Kernel {
		t.Errorf("%+v %v", got, ok)
	}
	if u, err := user.Current(); err == nil && got.User != u.Username {
		t.Errorf("user %q, want %q", got.User, u.Username)
	}
	now, _ := kernelClock()
	if _, ok := p.Lookup(pid, now); !ok {
		t.Error("not alive now by CLOCK_MONOTONIC")
	}
	if _, ok := p.Lookup(pid, 1); ok {
		t.Error("alive at boot")
	}
}

func TestUsers(t *testing.T) {
	names := parsePasswd([]byte("root:x:0:0:root:/root:/bin/sh\n# c:x:1:\nbroken\nweb:x:33:33::/:/bin/false\ntwin:x:33:33::/:\nbig:x:99999999999:1::/:\n:x:5:5:::\n"))
	if len(names) != 2 || names[0] != "root" || names[33] != "web" {
		t.Errorf("%v", names)
	}
	uidMap := []byte("         0     100000      65536\n     70000       5000          1\n")
	for outside, want := range map[uint32]int64{100033: 33, 165535: 65535, 165536: -1, 5000: 70000, 0: -1} {
		inside, ok := insideUID(uidMap, outside)
		if ok != (want >= 0) || ok && int64(inside) != want {
			t.Errorf("user %d is %d %v inside, want %d", outside, inside, ok, want)
		}
	}
}

// A container's absolute link leads to the container's file.
func TestOpenInRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/usr/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"/usr/lib/passwd": "inside"} {
		if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"/etc": "/usr/lib", "/out": "../../../../etc/passwd"} {
		if err := os.Symlink(to, root+link); err != nil {
			t.Fatal(err)
		}
	}
	f, err := openInRoot(root, "/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 6)
	if n, _ := f.Read(b); string(b[:n]) != "inside" {
		t.Errorf("read %q", b[:n])
	}
	if f, err := openInRoot(root, "/usr/lib"); err == nil {
		f.Close()
		t.Error("a directory was opened as a file")
	}
	if f, err := openRegular("/dev/null"); err == nil {
		f.Close()
		t.Error("a device was opened")
	}
}

func TestPIDNamespaceOf(t *testing.T) {
	dir := t.TempDir()
	if _, err := PIDNamespaceOf(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("no procfs: %v", err)
	}
	// The process itself where process 1 may not be asked, which up to 5.10 a
	// link that leads nowhere else says.
	dir = t.TempDir()
	for _, name := range []string{"1", "self"} {
		if err := os.MkdirAll(dir+"/"+name+"/ns", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(".", dir+"/1/ns/pid"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/namespace", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/namespace", &st); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/namespace", fmt.Sprintf("%s/self/ns/pid:[%d]", dir, st.Ino)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("pid:[%d]", st.Ino), dir+"/self/ns/pid"); err != nil {
		t.Fatal(err)
	}
	got, err := PIDNamespaceOf(dir)
	if err != nil || got.Initial || got.Ino != st.Ino || got.Dev>>20 != uint64(unix.Major(st.Dev)) || got.Dev&(1<<20-1) != uint64(unix.Minor(st.Dev)) {
		t.Errorf("%+v %v, want inode %d of device %d:%d", got, err, st.Ino, unix.Major(st.Dev), unix.Minor(st.Dev))
	}
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	got, err = PIDNamespaceOf("/proc")
	if err != nil || link != fmt.Sprintf("pid:[%d]", got.Ino) {
		t.Errorf("here: %+v %v, want %s", got, err, link)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 8192 9 18446744073709551615 94000 95000 140000 0 0\n"
	for _, c := range []struct{ in, comm string }{
		{"1 (systemd)", "systemd"},
		{"1 (a b)", "a b"},
		{"1 (a) S 1 (b)", "a) S 1 (b"},
		{"1 ())", ")"},
		{"1 (()", "("},
		{"1 ()", ""},
		{"1 (a\nb\\nc)", "a\nb\\nc"},
		{"1 (\xff\x00)", "\xff\x00"},
	} {
		s, err := parseStat([]byte(c.in + rest))
		if err != nil || s.comm != c.comm || s.start != 4711 || s.state != 'S' || s.startCode != 94000 || s.startStack != 140000 || s.vsize != 8192 {
			t.Errorf("%q: %+v %v", c.in, s, err)
		}
	}
	for _, bad := range []string{"", "1", "1 (x", "1 x) S", "1 (x)", "1 (x) S 1 2", ") (", "1 (x)" + strings.Replace(rest, "4711", "-1", 1)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	for _, comm := range []string{"a", "a b", "a) S 1 (b", "x\n", `\`, `\n`, `a\\n`, "\xff)"} {
		f.Add(comm, uint64(4711))
	}
	f.Fuzz(func(t *testing.T, comm string, start uint64) {
		if _, err := parseStat([]byte(comm)); err != nil && err != errStat {
			t.Fatal(err)
		}
		// As the kernel writes it.
		line := fmt.Sprintf("1 (%s) S 1 2 3 0 -1 64 1 2 3 4 5 6 7 8 20 0 1 0 %d 8192 9 1 94000 95000 140000 0 0\n", comm, start)
		s, err := parseStat([]byte(line))
		if err != nil || s.comm != comm || s.start != start {
			t.Errorf("%q: %+v %v", line, s, err)
		}
	})
}

func TestParseMaps(t *testing.T) {
	const maps = `555555554000-555555556000 r--p 00000000 fd:01 1234                       /usr/bin/a b
555555556000-555555558000 r-xp 00002000 fd:01 1234                       /usr/bin/a b
7ffff7a00000-7ffff7a28000 r--p 00000000 08:02 99                         /lib/libc.so.6 (deleted)
7ffff7a28000-7ffff7bbd000 r-xp 00028000 08:02 99                         /lib/libc.so.6 (deleted)
7ffff7c00000-7ffff7c01000 rwxp 00000000 00:00 0 
7ffff7d00000-7ffff7d01000 r-xp 00001000 00:2d 7                          /x\012y
7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
nonsense
1000-0fff r-xp 00000000 00:00 0
`
	got := parseMaps([]byte(maps))
	want := []mapping{
		{start: 0x555555556000, end: 0x555555558000, off: 0x2000, base: 0x555555554000, major: 0xfd, minor: 1, ino: 1234, path: "/usr/bin/a b"},
		{start: 0x7ffff7a28000, end: 0x7ffff7bbd000, off: 0x28000, base: 0x7ffff7a00000, major: 8, minor: 2, ino: 99, path: "/lib/libc.so.6", deleted: true},
		{start: 0x7ffff7c00000, end: 0x7ffff7c01000, base: 0x7ffff7c00000},
		{start: 0x7ffff7d00000, end: 0x7ffff7d01000, off: 0x1000, base: 0x7ffff7d00000, minor: 0x2d, ino: 7, path: "/x\ny"},
		{start: 0x7ffff7fc1000, end: 0x7ffff7fc3000, base: 0x7ffff7fc1000, path: "[vdso]"},
		{start: 0xffffffffff600000, end: 0xffffffffff601000, base: 0xffffffffff600000, path: "[vsyscall]"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d mappings: %+v", len(got), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("555555556000-555555558000 r-xp 00002000 fd:01 1234    /usr/bin/a b (deleted)\n"))
	f.Add([]byte("7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0 [vdso]\n\n- x : 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range parseMaps(b) {
			if m.end <= m.start || m.base > m.start && m.ino == 0 {
				t.Errorf("%+v", m)
			}
			m.name()
		}
		parseStatus(b)
		parsePasswd(b)
		insideUID(b, 1000)
		cgroupPath(b)
	})
}

func BenchmarkLookupCached(b *testing.B) {
	p := NewProcesses("/proc", 10)
	pid := uint32(os.Getpid())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Lookup(pid, 0); !ok {
			b.Fatal("not found")
		}
	}
}
