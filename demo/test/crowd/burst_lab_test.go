//go:build lab

package crowd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// crowdOf is how many processes come at once.
const crowdOf = 500

// visitor is a process that opened a connection, as it told over it.
type visitor struct {
	pid  int
	name string
}

// visitors takes what each connection says, a line "PID NAME", to its end.
type visitors struct {
	l    *net.TCPListener
	mu   sync.Mutex
	by   map[int][]visitor // by the client's port, which may be used again, in their order
	n    int
	errs []error
}

func newVisitors(t testing.TB, r *netns) *visitors {
	b := &visitors{l: r.listen(t, 4*crowdOf), by: map[int][]visitor{}}
	go func() {
		for {
			c, err := b.l.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return // the test is over
			}
			if err != nil {
				b.fail(err)
				return
			}
			go b.take(c)
		}
	}()
	return b
}

func (b *visitors) take(c *net.TCPConn) {
	defer c.Close()
	said, err := io.ReadAll(c)
	var g visitor
	if err == nil {
		_, err = fmt.Sscanf(string(said), "%d %s\n", &g.pid, &g.name)
	}
	if err != nil {
		b.fail(fmt.Errorf("a visitor said %q: %w", said, err))
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	port := c.RemoteAddr().(*net.TCPAddr).Port
	b.by[port] = append(b.by[port], g)
	b.n++
}

func (b *visitors) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs = append(b.errs, err)
}

func (b *visitors) port() int { return b.l.Addr().(*net.TCPAddr).Port }

// wait waits until so many visitors have come and gone.
func (b *visitors) wait(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d connections", n), func() (bool, string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.errs) > 0 {
			t.Fatal(b.errs[0])
		}
		return b.n == n, strconv.Itoa(b.n)
	})
}

// gate is a pipe: what reads from it waits until it is opened.
type gate struct{ r, w *os.File }

func newGate(t testing.TB) *gate {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &gate{r, w}
}

func (g *gate) open(t testing.TB) {
	t.Helper()
	if err := g.w.Close(); err != nil {
		t.Fatal(err)
	}
}

// executables makes a directory of names under which a shell is run: hard links, so
// that each is an executable of its own.
func executables(t testing.TB) string {
	t.Helper()
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(shell)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := filepath.Join(dir, "shell")
	if err := os.WriteFile(first, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range crowdOf {
		if err := os.Link(first, filepath.Join(dir, fmt.Sprintf("visitor-%03d", i))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// visit is the shell's script: open a connection, say who this is, close it, and
// exit. What has no close is closed by the exit.
const (
	visits = `exec 4<>/dev/tcp/127.0.0.1/$1; echo "$$ ${0##*/}" >&4`
	closes = `; exec 4>&-`
)

func visit(i int) string {
	if i%2 == 0 {
		return visits + closes
	}
	return visits
}

// sentinel opens and closes a connection, and waits until tcpbye has shown its
// end: by then it has read all that was before it.
func sentinel(t testing.TB, b *bye, r *netns) {
	t.Helper()
	l := r.listen(t, 1)
	defer l.Close()
	err := r.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`"remote":"%v"`, l.Addr())
	eventually(t, "tcpbye to show a connection", func() (bool, string) {
		s := text(t, b.stdout)
		return strings.Contains(s, want), fmt.Sprintf("%d bytes of output\n%s", len(s), b.said())
	})
}

// TestBurst: five hundred processes, each of which opens a connection, closes it
// and exits, at once. Every one is named right, although it is gone when its
// events are read.
func TestBurst(t *testing.T) {
	t.Run("asleep", burstAsleep)
	t.Run("forked", burstForked)
	t.Run("storm", burstStorm)
}

// starts starts each visitor in the directory, as fast as a shell can. This
// process does not: its forks would hold what it accepts.
const starts = `
i=0
for path in "$2"/visitor-*; do
	if [ $((i % 2)) = 0 ]; then
		"$path" -c "$3" "$path" "$1" &
	else
		"$path" -c "$4" "$path" "$1" &
	fi
	i=$((i + 1))
done
wait
`

// starter is a shell that starts the visitors in the namespace; first is what each does
// before its visit.
func starter(book *visitors, dir, first string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", starts, "starter", strconv.Itoa(book.port()), dir, first+visit(0), first+visit(1))
	cmd.Stderr = os.Stderr
	return cmd
}

// burstAsleep: tcpbye is stopped while all of it happens.
func burstAsleep(t *testing.T) {
	r := newNetns(t)
	book := newVisitors(t, r)
	dir := executables(t)
	b := startBye(t, "trace", "-o", "json")
	g := newGate(t)
	cmd := starter(book, dir, "printf .; read -u 3 _; ")
	cmd.ExtraFiles = []*os.File{g.r}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.start(cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, crowdOf)); err != nil {
		t.Fatal(err)
	}
	sentinel(t, b, r)
	b.signal(unix.SIGSTOP)
	g.open(t)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	book.wait(t, crowdOf)
	b.signal(unix.SIGCONT)
	b.stop()
	checkBurst(t, b, r, book, func(g visitor) string { return filepath.Join(dir, g.name) })
}

// forks forks children that wait for the gate and then visit.
const forks = `
import os, socket, sys
port, n = int(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()
for i in range(n):
    if os.fork() == 0:
        name = "child-%03d" % i
        with open("/proc/self/comm", "w") as f:
            f.write(name)
        os.write(1, b".")
        os.read(3, 1)
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(b"%d %s\n" % (os.getpid(), name.encode()))
        if i % 2 == 0:
            s.close()
        os._exit(0)
failed = sum(os.wait()[1] != 0 for i in range(n))
os._exit(1 if failed else 0)
`

// burstForked: the processes are forks of one that is older than the trace, and
// execute nothing; each has a name of its own. tcpbye is stopped while all of it
// happens.
func burstForked(t *testing.T) {
	r := newNetns(t)
	book := newVisitors(t, r)
	g := newGate(t)
	cmd := exec.Command("/usr/bin/python3", "-c", forks, strconv.Itoa(book.port()), strconv.Itoa(crowdOf))
	cmd.ExtraFiles = []*os.File{g.r}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.start(cmd); err != nil {
		t.Fatal(err)
	}
	b := startBye(t, "trace", "-o", "json")
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, crowdOf)); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	sentinel(t, b, r)
	b.signal(unix.SIGSTOP)
	g.open(t)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the children: %v", err)
	}
	book.wait(t, crowdOf)
	b.signal(unix.SIGCONT)
	b.stop()
	checkBurst(t, b, r, book, func(visitor) string { return exe })
}

// burstStorm: the processes live only for their visit.
func burstStorm(t *testing.T) {
	r := newNetns(t)
	book := newVisitors(t, r)
	dir := executables(t)
	b := startBye(t, "trace", "-o", "json")
	begin := time.Now()
	cmd := starter(book, dir, "")
	if err := r.start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	book.wait(t, crowdOf)
	t.Logf("%d processes in %v", crowdOf, time.Since(begin).Round(time.Millisecond))
	b.stop()
	checkBurst(t, b, r, book, func(g visitor) string { return filepath.Join(dir, g.name) })
}

// checkBurst holds both ends of every visit against the book.
//
// On a machine where the kernel does not tell what is executed, a process can be
// gone before anybody could ask: then that may be unknown, but never wrong.
func checkBurst(t *testing.T, b *bye, r *netns, book *visitors, exe func(visitor) string) {
	t.Helper()
	noneLost(t, b)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	comm := filepath.Base(self)
	comm = comm[:min(len(comm), 15)]
	records := inOrder(b.records(), r.Inode)
	listener := book.l.Addr().String()
	wrong, unknown, seen := 0, 0, map[string]bool{}
	for port, visitors := range book.by {
		client := fmt.Sprintf("127.0.0.1:%d", port)
		mine, theirs := records[endKey{r.Inode, client, listener}], records[endKey{r.Inode, listener, client}]
		if len(mine) != len(visitors) || len(theirs) != len(visitors) {
			t.Errorf("%d visitors came from port %d, but there are %d and %d records", len(visitors), port, len(mine), len(theirs))
			wrong += len(visitors)
			continue
		}
		for i, g := range visitors {
			if seen[g.name] {
				t.Errorf("%s came twice", g.name)
			}
			seen[g.name] = true
			path := exe(g)
			if !inLab() && mine[i].Owner != nil && mine[i].Owner.Exe == nil {
				path = ""
				unknown++
			}
			errs := checkVisit(mine[i], g, g.pid, g.name, path)
			for _, err := range checkVisit(theirs[i], g, os.Getpid(), comm, self) {
				errs = append(errs, "at the server: "+err)
			}
			if len(errs) == 0 {
				continue
			}
			if wrong++; wrong <= 10 {
				t.Errorf("%s (%d): %s\n\tthe record: %s", g.name, g.pid, strings.Join(errs, "; "), about(mine[i]))
			}
		}
	}
	t.Logf("%d of %d processes named right; of %d of them nobody knows what they executed", book.n-wrong, crowdOf, unknown)
	if wrong > 0 {
		t.Errorf("%d are wrong", wrong)
		keep(t, b)
	}
}

// inOrder finds the records of the ends of one namespace, in the order in which
// they were opened.
func inOrder(all []report.Record, netns uint32) map[endKey][]*report.Record {
	m := map[endKey][]*report.Record{}
	for i := range all {
		if k := keyOf(&all[i]); k.netns == netns {
			m[k] = append(m[k], &all[i])
		}
	}
	for _, list := range m {
		slices.SortFunc(list, func(a, b *report.Record) int { return cmp.Compare(value(a.Opened), value(b.Opened)) })
	}
	return m
}

// checkVisit holds a record of an end of a visit against who came, and whose the
// end is.
func checkVisit(r *report.Record, g visitor, pid int, comm, exe string) (errs []string) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	switch w := r.Owner; {
	case w == nil:
		bad("nobody owns it")
	case int(value(w.PID)) != pid || w.Comm != comm:
		bad("it is owned by %q (%d), not %q (%d)", w.Comm, value(w.PID), comm, pid)
	case value(w.Exe) != exe:
		bad("its owner executes %q, not %q", value(w.Exe), exe)
	}
	if unsure(r) {
		return errs
	}
	if r.Verdict.Class != string(verdict.Graceful) || r.Verdict.Cause != string(verdict.OrderlyClose) {
		bad("judged %s %s", r.Verdict.Class, r.Verdict.Cause)
	}
	if a := r.Verdict.Actor; a == nil || int(value(a.PID)) != g.pid || a.Comm != g.name {
		bad("the actor is not %q (%d)", g.name, g.pid)
	}
	return errs
}
