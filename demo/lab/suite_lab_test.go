//go:build lab

package lab_test

import (
	"bufio"
	"context"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/lab"
)

var (
	suiteKernels = flag.String("suite.kernels", "6.1", "kernels to run the suite on, by commas, or all")
	suiteOut     = flag.String("suite.record", "", "write the recordings of all scenarios to KERNEL.tcpbye in this directory")
	suiteRun     = flag.String("suite.run", "", "only guest tests that match")
)

// suite lists the lab tests that run in the guest, by package.
var suite = map[string]string{
	"./tracer":        "^TestLoopback$",
	"./demo/scenario": "^(TestDemo|TestCatalogueIsJudged)$",
}

// result is how one test of a guest ended.
type result struct {
	name, verdict string
	log           []string
}

var (
	outcomeLine = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+) \(`)
	statusLine  = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(\S+)$`)
)

// collect reads the output of go test -v.
type collect struct {
	mu      sync.Mutex
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
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.EnsureHost(t.Context(), "", os.Stderr); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The guest reads the binaries through the host's root.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for p := range suite {
		bin := filepath.Join(dir, filepath.Base(p)+".test")
		build := exec.Command("go", "test", "-tags", "lab", "-c", "-o", bin, p)
		build.Dir = root
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", p, err, out)
		}
	}
	if _, err := lab.Build(t.Context(), dir, "", os.Stderr); err != nil {
		t.Fatal(err)
	}
	kernels := strings.Split(*suiteKernels, ",")
	if *suiteKernels == "all" {
		kernels = lab.Kernels()
	}
	for _, k := range kernels {
		t.Run(k, func(t *testing.T) {
			for p := range suite {
				runGuest(t, root, k, p, filepath.Join(dir, filepath.Base(p)+".test"))
			}
		})
	}
}

// runGuest runs one test binary in one guest, and makes each of its tests one
// of this run.
func runGuest(t *testing.T, root, kernel, path, bin string) {
	t.Helper()
	run := suite[path]
	if *suiteRun != "" {
		run = *suiteRun
	}
	args := []string{bin, "-test.v", "-test.timeout=14m", "-test.run=" + run}
	pkg := filepath.Base(path)
	cfg := lab.Config{
		Kernel: kernel, Args: args, Dir: filepath.Join(root, path),
		PathDirs: []string{filepath.Dir(bin)}, Timeout: 15 * time.Minute, Progress: os.Stderr,
	}
	if *suiteOut != "" && pkg == "scenario" {
		cfg.Out = t.TempDir()
		cfg.Args = append(cfg.Args, "-scenario.record="+cfg.Out)
		defer func() { join(t, cfg.Out, filepath.Join(*suiteOut, kernel+".tcpbye")) }()
	}
	r, w := io.Pipe()
	c := &collect{logs: map[string][]string{}}
	done := make(chan struct{})
	go func() { defer close(done); c.read(r) }()
	cfg.Stdout, cfg.Stderr = w, w
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	res, err := lab.Run(ctx, cfg)
	w.Close()
	<-done
	if err != nil {
		t.Fatalf("%s on %s: %v", pkg, kernel, err)
	}
	t.Logf("%s: %s on %s: %d tests, exit status %d", kernel, pkg, res.KernelRelease, len(c.results), res.ExitCode)
	failed := false
	for _, x := range c.results {
		if strings.Count(x.name, "/") == 0 && c.parent(x.name) {
			failed = failed || x.verdict == "FAIL"
			continue // its subtests are what counts
		}
		t.Run(pkg+"/"+x.name, func(t *testing.T) {
			log := strings.Join(c.logs[x.name], "\n")
			switch x.verdict {
			case "FAIL":
				failed = true
				t.Errorf("%s", log)
			case "SKIP":
				t.Skip(log)
			}
		})
	}
	if res.ExitCode != 0 && !failed || len(c.results) == 0 {
		t.Errorf("%s on %s ended with status %d after %d tests:\n%s", pkg, kernel, res.ExitCode, len(c.results), strings.Join(c.rest, "\n"))
	}
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

// parent says whether other tests are parts of that one.
func (c *collect) parent(name string) bool {
	return slices.ContainsFunc(c.results, func(r result) bool { return strings.HasPrefix(r.name, name+"/") })
}
