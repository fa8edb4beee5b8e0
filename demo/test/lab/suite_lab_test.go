//go:build lab

package lab_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/test/lab"
	"github.com/tcpbye/tcpbye/demo/test/lab/labtest"
)

var (
	suiteKernels = flag.String("suite.kernels", "6.1", "kernels to run the suite on, by commas: the lab's, those with "+locked+
		" behind the name, "+here+" for this machine's own, as root, or all for the lab's and one that is locked down")
	suiteOut   = flag.String("suite.record", "", "write the recordings of all scenarios to KERNEL.tcpbye in this directory")
	suiteLong  = flag.Bool("suite.long", false, "also what takes minutes more on each kernel")
	suiteRungs = flag.String("suite.rungs", "auto,fentry,kprobe,tp_btf,tracepoint,stories", "rungs that TestRungs forces")
	suiteRun   = flag.String("suite.run", "", "only guest tests that match")
)

const (
	here   = "here"      // the machine that runs this test
	locked = "+lockdown" // a kernel that was booted with lockdown=confidentiality
)

// suite lists the lab tests that run in the guest, by package.
var suite = map[string]string{
	"./tracer":         "^(TestLoopback|TestHooks|TestWithoutProbeReads|TestPrivileges|TestDropPrivileges|TestOpenGivesBack)$",
	"./demo/scenario":  "^(TestDemo|TestCatalogueIsJudged)$",
	"./tracer/session": "^(TestStackOf.*|TestOtherEndIsAskedFor|TestOlderIsWhole)$",
	"./cmd/tcpbye":     "^(TestDoctor|TestStartsInLittleMemory|TestTraceInContainer$|TestJoinHosts$)",
}

// tests says which of a package's tests run on a kernel, and with which
// arguments. Where the kernel cannot have every hook, no verdict is as it is due
// with all of them: what it says must be so all the same, on each rung.
func tests(path, kernel string) (run string, args []string) {
	run = suite[path]
	if path == "./cmd/tcpbye" && *suiteLong {
		run = strings.TrimSuffix(run, ")") + "|TestResetIsToldAtOnce$)"
	}
	if path == "./tracer" && kernel != here && !strings.HasSuffix(kernel, locked) {
		run = strings.TrimSuffix(run, ")$") + "|TestStories(Full|Refused|Filter|Asked)?|TestPlainCost)$"
	}
	if path == "./demo/scenario" {
		switch {
		case kernel == here:
			run = "^TestCatalogueOnRungs$"
		case strings.HasSuffix(kernel, locked):
			run, args = "^TestCatalogueOnRungs$", []string{"-scenario.rungs=auto,kprobe,tracepoint"}
		default:
			args = []string{"-scenario.rungs=stories"} // the others take long: TestRungs
			if *suiteLong {
				run = "^(TestDemo|TestDemoAllJSON|TestCatalogueIsJudged|TestCatalogueOnRungs)$"
			}
		}
	}
	if *suiteRun != "" {
		run = *suiteRun
	}
	return run, args
}

// binaries are the test programs, by package, and the lab's own, built once.
type binaries struct{ labtest.Programs }

func build(t *testing.T, paths ...string) binaries {
	t.Helper()
	return binaries{labtest.Build(t, paths...)}
}

// has says whether a package has a test of that name.
func (b binaries) has(t *testing.T, path, run string) bool {
	t.Helper()
	list := exec.Command(b.Test(path), "-test.list="+run)
	list.Dir = filepath.Join(b.Root, path)
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("list the tests of %s: %v\n%s", path, err, out)
	}
	return len(out) > 0
}

// columns are the kernels that the flag names.
func columns(t *testing.T) []string {
	t.Helper()
	kernels := strings.Split(*suiteKernels, ",")
	if *suiteKernels == "all" {
		kernels = append(lab.Kernels(), "6.12"+locked)
	}
	if slices.ContainsFunc(kernels, func(k string) bool { return k != here }) {
		if err := lab.EnsureHost(t.Context(), "", os.Stderr); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Contains(kernels, here) && os.Geteuid() != 0 {
		t.Fatal("only root can trace this machine")
	}
	return kernels
}

// result is how one test of a guest ended.
type result struct {
	name, verdict string
	log           []string
}

var (
	outcomeLine = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+) \(`)
	factLine    = regexp.MustCompile(`^=== ATTR +(\S+) (\S+) (.*)$`)
	statusLine  = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(\S+)$`)
)

// A fact is an attribute that a test of a guest gave itself.
type fact struct{ kernel, test, key, value string }

// collect reads the output of go test -v.
type collect struct {
	kernel  string
	mu      sync.Mutex
	facts   []fact
	results []result
	logs    map[string][]string
	current string
	rest    []string
}

func (c *collect) read(r io.Reader) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := s.Text()
		c.mu.Lock()
		switch {
		case statusLine.MatchString(line):
			c.current = statusLine.FindStringSubmatch(line)[2]
		case factLine.MatchString(line):
			m := factLine.FindStringSubmatch(line)
			c.facts = append(c.facts, fact{c.kernel, m[1], m[2], m[3]})
		case outcomeLine.MatchString(line):
			m := outcomeLine.FindStringSubmatch(line)
			c.results = append(c.results, result{name: m[2], verdict: m[1]})
			c.current = m[2]
		case c.current != "" && strings.HasPrefix(line, "    "):
			c.logs[c.current] = append(c.logs[c.current], strings.TrimSpace(line))
		default:
			c.rest = append(c.rest, line)
		}
		c.mu.Unlock()
	}
}

// TestSuite runs the lab tests of the suite's packages under real kernels. A
// guest that cannot boot is a failure.
func TestSuite(t *testing.T) {
	kernels := columns(t)
	bins := build(t, slices.Collect(maps.Keys(suite))...)
	table := map[string]map[string]string{} // test, kernel, outcome
	var told []fact
	for _, k := range kernels {
		t.Run(k, func(t *testing.T) {
			for _, p := range slices.Sorted(maps.Keys(suite)) {
				run, args := tests(p, k)
				if !bins.has(t, p, run) {
					continue // -suite.run is about other packages
				}
				leaves, facts := bins.run(t, k, p, run, args...)
				told = append(told, facts...)
				for _, x := range leaves {
					if strings.HasPrefix(x.name, "TestCatalogueOnRungs/") {
						continue // they have a table of their own
					}
					name := strings.TrimPrefix(x.name, "TestCatalogueIsJudged/all/")
					if table[name] == nil {
						table[name] = map[string]string{}
					}
					table[name][k] = x.cell()
				}
			}
		})
	}
	t.Log("\n" + print("scenario", table, kernels))
	if text := hooksTable(told, kernels); text != "" {
		t.Log("\n" + text)
	}
	if text := rungsTable(told, kernels); text != "" {
		t.Log("\n" + text)
	}
	for _, f := range told {
		if f.key == "latency" {
			t.Logf("%s: from a reset to its explanation: %s", f.kernel, f.value)
		}
	}
}

// TestRungs plays the whole catalogue in each forced rung: minutes for each, so
// it is not part of the suite.
func TestRungs(t *testing.T) {
	kernels := columns(t)
	bins := build(t, "./demo/scenario")
	var told []fact
	for _, k := range kernels {
		t.Run(k, func(t *testing.T) {
			_, facts := bins.run(t, k, "./demo/scenario", "^TestCatalogueOnRungs$", "-scenario.rungs="+*suiteRungs)
			told = append(told, facts...)
		})
	}
	t.Log("\n" + rungsTable(told, kernels))
}

// cell is a test's outcome in the table: a reason where it could not run.
func (r result) cell() string {
	switch r.verdict {
	case "PASS":
		return "ok"
	case "SKIP":
		_, reason, _ := strings.Cut(strings.Join(r.log, " "), "not on this kernel: ")
		return "- " + reason
	}
	return "WRONG"
}

// run runs some of a package's tests in one guest, or here, and makes each of
// them a part of this test.
func (b binaries) run(t *testing.T, kernel, path, run string, more ...string) (leaves []result, told []fact) {
	t.Helper()
	pkg := filepath.Base(path)
	args := append([]string{b.Test(path), "-test.v", "-test.timeout=55m", "-test.run=" + run}, more...)
	if *suiteOut != "" && pkg == "scenario" && slices.Contains(lab.Kernels(), kernel) {
		out := t.TempDir()
		args = append(args, "-scenario.record="+out)
		defer func() { join(t, out, filepath.Join(*suiteOut, kernel+".tcpbye")) }()
	}
	var c *collect
	var exit int
	var release string
	var err error
	for n := 0; n < 3; n++ {
		r, w := io.Pipe()
		c = &collect{kernel: kernel, logs: map[string][]string{}}
		done := make(chan struct{})
		go func() { defer close(done); c.read(r) }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		exit, release, err = b.command(ctx, kernel, path, args, w)
		cancel()
		w.Close()
		<-done
		if !errors.Is(err, lab.ErrLockup) {
			break
		}
		t.Logf("once more: %s on %s, after %d tests, in %s: %v", pkg, kernel, len(c.results), c.current, err)
	}
	if err != nil {
		t.Fatalf("%s on %s, after %d tests, in %s: %v", pkg, kernel, len(c.results), c.current, err)
	}
	t.Logf("%s: %s on %s: %d tests, exit status %d", kernel, pkg, release, len(c.results), exit)
	return c.report(t, pkg, exit), c.facts
}

// report makes each of the tests that ran a part of this one.
func (c *collect) report(t *testing.T, pkg string, exit int) (leaves []result) {
	t.Helper()
	failed := false
	for _, x := range c.results {
		if c.parent(x.name) && (x.verdict != "FAIL" || c.failedBelow(x.name)) {
			continue // its subtests are what counts
		}
		x.log = c.logs[x.name]
		leaves = append(leaves, x)
		t.Run(pkg+"/"+x.name, func(t *testing.T) {
			log := strings.Join(x.log, "\n")
			switch x.verdict {
			case "FAIL":
				failed = true
				t.Errorf("%s", log)
			case "SKIP":
				t.Skip(log)
			}
		})
	}
	if exit != 0 && !failed || len(c.results) == 0 {
		t.Errorf("%s on %s ended with status %d after %d tests:\n%s", pkg, c.kernel, exit, len(c.results), strings.Join(c.rest, "\n"))
	}
	return leaves
}

// command runs a command on a kernel, in the package's directory.
func (b binaries) command(ctx context.Context, kernel, path string, args []string, out io.Writer) (exit int, release string, err error) {
	if kernel == here {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Join(b.Root, path), out, out
		cmd.Env = append(os.Environ(), "PATH="+b.Dir+":"+os.Getenv("PATH"))
		err := cmd.Run()
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = nil
		}
		if err != nil {
			return 0, "", err
		}
		return cmd.ProcessState.ExitCode(), "this machine's kernel", nil
	}
	cfg := lab.Config{
		Args: args, Dir: filepath.Join(b.Root, path), PathDirs: []string{b.Dir}, Timeout: time.Hour, Progress: os.Stderr,
		Stdout: out, Stderr: out,
	}
	var lockdown bool
	if cfg.Kernel, lockdown = strings.CutSuffix(kernel, locked); lockdown {
		cfg.Append = "lockdown=confidentiality"
	}
	for _, a := range args {
		if dir, ok := strings.CutPrefix(a, "-scenario.record="); ok {
			cfg.Out = dir
		}
	}
	res, err := lab.Run(ctx, cfg)
	return res.ExitCode, res.KernelRelease, err
}

// join makes one recording of those in a directory: they can be appended.
func join(t *testing.T, dir, to string) {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, "*.tcpbye"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return
	}
	var all []byte
	for _, p := range parts {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, all, 0o644); err != nil {
		t.Fatal(err)
	}
}

// failedBelow says whether a part of that test failed: else it failed itself.
func (c *collect) failedBelow(name string) bool {
	return slices.ContainsFunc(c.results, func(r result) bool {
		return r.verdict == "FAIL" && strings.HasPrefix(r.name, name+"/")
	})
}

// parent says whether other tests are parts of that one.
func (c *collect) parent(name string) bool {
	return slices.ContainsFunc(c.results, func(r result) bool { return strings.HasPrefix(r.name, name+"/") })
}
