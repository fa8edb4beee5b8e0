//go:build lab

package crowd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// patience is how long a step may take: a guest is emulated, and shares its
// machine.
const patience = 5 * time.Minute

// buildDir holds what is built; TestMain removes it.
var buildDir string

func TestMain(m *testing.M) {
	if status, ok := scenario.MaybePuppet(); ok {
		os.Exit(status)
	}
	if status, ok := maybeServer(); ok {
		os.Exit(status) // a service of TestRollouts
	}
	if status, ok := maybeProxy(); ok {
		os.Exit(status) // a proxy of TestProxies
	}
	// Hundreds of processes and connections are this process's at once.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 14, Max: 1 << 14}); err != nil {
		fmt.Fprintf(os.Stderr, "raise the limit of open files: %v; run as root\n", err)
		os.Exit(1)
	}
	status := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	os.Exit(status)
}

// inLab says whether this is a guest of the lab, where every hook can be
// attached and nobody else traces.
func inLab() bool { return os.Getenv("LAB_KERNEL") != "" }

// byeProgram is tcpbye: the one on PATH, as in the lab, or else the tree's.
func byeProgram(t testing.TB) string {
	t.Helper()
	if path, err := exec.LookPath("tcpbye"); err == nil {
		return path
	}
	if buildDir == "" {
		dir, err := os.MkdirTemp("", "tcpbye-crowd-")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "tcpbye"), "../../../cmd/tcpbye").CombinedOutput(); err != nil {
			t.Fatalf("build tcpbye: %v\n%s", err, out)
		}
		buildDir = dir
	}
	return filepath.Join(buildDir, "tcpbye")
}

// eventually waits until a condition holds; it says what it saw last.
func eventually(t testing.TB, what string, cond func() (ok bool, seen string)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		ok, seen := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s; seen last: %s", patience, what, seen)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}

// bye is a tcpbye that runs.
type bye struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr string // files: neither a terminal nor a pipe that could fill
	ready          string
	exited         chan struct{} // closed when it was reaped
}

// startBye starts tcpbye and waits until everything is attached.
func startBye(t testing.TB, args ...string) *bye {
	t.Helper()
	b := launchBye(t, args...)
	b.waitReady()
	return b
}

// launchBye starts tcpbye.
func launchBye(t testing.TB, args ...string) *bye {
	t.Helper()
	dir := t.TempDir()
	b := &bye{t: t, stdout: filepath.Join(dir, "stdout"), stderr: filepath.Join(dir, "stderr"),
		ready: filepath.Join(dir, "ready"), exited: make(chan struct{})}
	out, err := os.Create(b.stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.Create(b.stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	flags := len(args) // what follows two dashes is a command
	if i := slices.Index(args, "--"); i >= 0 {
		flags = i
	}
	b.cmd = exec.Command(byeProgram(t), slices.Insert(slices.Clone(args), flags, "--ready-file", b.ready)...)
	b.cmd.Stdout, b.cmd.Stderr = out, errs
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.exited)
		_ = b.cmd.Wait() // how it ended is in ProcessState
	}()
	t.Cleanup(func() {
		b.signal(unix.SIGKILL)
		<-b.exited
	})
	return b
}

func (b *bye) gone() bool {
	select {
	case <-b.exited:
		return true
	default:
		return false
	}
}

// signal sends a signal, unless it has ended.
func (b *bye) signal(s unix.Signal) {
	if !b.gone() {
		_ = b.cmd.Process.Signal(s) // it may just have ended
	}
}

func (b *bye) said() string { return text(b.t, b.stderr) }

func text(t testing.TB, path string) string {
	t.Helper()
	s, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(s)
}

func (b *bye) waitReady() {
	b.t.Helper()
	eventually(b.t, "tcpbye to be ready", func() (bool, string) {
		if b.gone() {
			b.t.Fatalf("tcpbye did not start: %v\n%s", b.cmd.ProcessState, b.said())
		}
		_, err := os.Stat(b.ready)
		return err == nil, b.said()
	})
}

// stop interrupts tcpbye, which judges and shows what is left.
func (b *bye) stop() {
	b.t.Helper()
	b.signal(unix.SIGINT)
	select {
	case <-b.exited:
	case <-time.After(patience):
		b.t.Fatalf("tcpbye did not end within %v\n%s", patience, b.said())
	}
	if !b.cmd.ProcessState.Success() {
		b.t.Fatalf("tcpbye: %v\n%s", b.cmd.ProcessState, b.said())
	}
}

var closingLine = regexp.MustCompile(`(?m)^(\d+) seen, (\d+) shown, (\d+) filtered, (\d+) lost(?:, (\d+) came too late)?$`)

// counts are those of the line that tcpbye ends with.
type counts struct{ seen, shown, filtered, lost, late int }

func (b *bye) counts() counts {
	b.t.Helper()
	m := closingLine.FindStringSubmatch(b.said())
	if m == nil {
		b.t.Fatalf("tcpbye did not count:\n%s", b.said())
	}
	var n [5]int
	for i := range n {
		if m[i+1] == "" {
			continue // none came too late
		}
		var err error
		if n[i], err = strconv.Atoi(m[i+1]); err != nil {
			b.t.Fatal(err)
		}
	}
	return counts{n[0], n[1], n[2], n[3], n[4]}
}

// noneLost fails where events were lost, or came when it had been said that none of
// their time will. On a machine that others use, too, the kernel may skip some, and
// say so: then a verdict says that it is not certain.
func noneLost(t testing.TB, b *bye) {
	t.Helper()
	n := b.counts()
	if n.late > 0 {
		t.Errorf("%d events came too late", n.late)
	}
	switch {
	case n.lost == 0:
	case inLab():
		t.Errorf("%d events were lost", n.lost)
	default:
		t.Logf("%d events were lost", n.lost)
	}
}

// records reads what -o json printed.
func (b *bye) records() []report.Record {
	b.t.Helper()
	var all []report.Record
	for line := range bytes.Lines([]byte(text(b.t, b.stdout))) {
		var r report.Record
		if err := json.Unmarshal(line, &r); err != nil {
			b.t.Fatalf("not a record: %v\n%s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// endKey is what tells one end of a connection from all others here.
type endKey struct {
	netns         uint32
	local, remote string
}

func (k endKey) String() string { return fmt.Sprintf("%s > %s", k.local, k.remote) }

func keyOf(r *report.Record) endKey {
	k := endKey{local: value(r.Local), remote: value(r.Remote)}
	if r.NetNS != nil {
		k.netns = *r.NetNS
	}
	return k
}

// value is what a pointer points at; the zero value for nil.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// unsure says whether a record says so itself: hooks are missing, and it is not
// certain because of that.
func unsure(r *report.Record) bool {
	return !inLab() && len(r.Verdict.Missing) > 0 && r.Verdict.Confidence != string(verdict.Certain)
}

// byEnd finds the records of the ends of one namespace, each of which must have
// one.
func byEnd(t testing.TB, all []report.Record, netns uint32) map[endKey]*report.Record {
	t.Helper()
	m := map[endKey]*report.Record{}
	for i := range all {
		k := keyOf(&all[i])
		if k.netns != netns {
			continue
		}
		if m[k] != nil {
			t.Errorf("two records of %v", k)
		}
		m[k] = &all[i]
	}
	return m
}

// about is the record in a few words, for a failure.
func about(r *report.Record) string {
	if r == nil {
		return "nothing"
	}
	v := r.Verdict
	who := "nobody"
	if v.Actor != nil {
		who = fmt.Sprintf("%q (%d)", v.Actor.Comm, v.Actor.PID)
	}
	owner := "nobody"
	if r.Owner != nil {
		owner = fmt.Sprintf("%q (%d, %s)", r.Owner.Comm, value(r.Owner.PID), value(r.Owner.Exe))
	}
	return fmt.Sprintf("%s %s, ender %s, act %s %s by %s, owner %s, saw %s, %s, without %v: %s", v.Class, v.Cause, value(v.Ender), value(v.Act),
		value(v.Signal), who, owner, strings.Join(v.AppSaw, " "), v.Confidence, v.Missing, v.Sentence)
}
