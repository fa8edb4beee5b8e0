package enrich

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// programs is the directory of the helper programs that TestMain makes room for.
// They are built when a test first asks for them.
var programs string

func TestMain(m *testing.M) {
	if status, ok := ServeSymbols(); ok {
		os.Exit(status)
	}
	if os.Getenv(envParent) != "" {
		parent()
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "enrich"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	return m.Run()
}

var builds sync.Map // name to func() error

// build makes a program once. Where its compiler is not installed the test that
// wants it has no subject.
func build(t testing.TB, name string, compiler string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skipf("no %s on this machine to build %s with", compiler, name)
	}
	out := filepath.Join(programs, name)
	once, _ := builds.LoadOrStore(name, sync.OnceValue(func() error {
		cmd := exec.Command(compiler, append(args, "-o", out)...)
		if compiler == "go" {
			// The files come after -o.
			cmd = exec.Command(compiler, append(append([]string{"build", "-buildvcs=false", "-o", out}, args...), ".")...)
			cmd.Dir = "testdata/gohelper"
			cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
			if !strings.Contains(strings.Join(args, " "), "withcgo") {
				cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
			}
		}
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, b)
		}
		return nil
	}))
	if err := once.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return out
}

// helper is a running helper program.
type helper struct {
	pid   uint32
	lines []string // what it printed before it was ready
	stop  func()   // end it, and wait until it is gone
}

func start(t testing.TB, program string) *helper {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
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
	h := &helper{pid: uint32(cmd.Process.Pid)}
	h.stop = sync.OnceFunc(func() {
		in.Close()
		io.Copy(io.Discard, out)
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	})
	t.Cleanup(h.stop)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return h
		}
		h.lines = append(h.lines, lines.Text())
	}
	t.Fatalf("%s ended before it was ready; it said %q", program, h.lines)
	return nil
}

// with are the lines that begin with a word, without it.
func (h *helper) with(word string) []string {
	var out []string
	for _, l := range h.lines {
		if rest, ok := strings.CutPrefix(l, word+" "); ok {
			out = append(out, rest)
		}
	}
	return out
}
