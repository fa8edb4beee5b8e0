//go:build lab

package lab_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
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

	"github.com/tcpbye/tcpbye/demo/lab"
)

var (
	suiteKernels = flag.String("suite.kernels", "6.1", "kernels to run the suite on, by commas, or all")
	suiteOut     = flag.String("suite.record", "", "write the recordings of all scenarios to KERNEL.tcpbye in this directory")
	suiteLong    = flag.Bool("suite.long", false, "also what takes minutes more on each kernel")
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
	table := map[string]map[string]string{} // test, kernel, outcome
	for _, k := range kernels {
		t.Run(k, func(t *testing.T) {
			for _, p := range slices.Sorted(maps.Keys(suite)) {
				for _, x := range runGuest(t, root, k, p, filepath.Join(dir, filepath.Base(p)+".test")) {
					name := strings.TrimPrefix(x.name, "TestCatalogueIsJudged/all/")
					if table[name] == nil {
						table[name] = map[string]string{}
					}
					table[name][k] = x.cell()
				}
			}
		})
	}
	t.Log("\n" + print(table, kernels))
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

// print draws tests by kernel; reasons stand below, numbered.
func print(table map[string]map[string]string, kernels []string) string {
	var b strings.Builder
	var reasons []string
	fmt.Fprintf(&b, "%-44s", "scenario")
	for _, k := range kernels {
		fmt.Fprintf(&b, " %-7s", k)
	}
	b.WriteString("\n")
	for _, name := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintf(&b, "%-44s", name)
		for _, k := range kernels {
			cell, reason, _ := strings.Cut(table[name][k], " ")
			if reason != "" {
				i := slices.Index(reasons, reason)
				if i < 0 {
					i = len(reasons)
					reasons = append(reasons, reason)
				}
				cell = fmt.Sprintf("(%d)", i+1)
			}
			fmt.Fprintf(&b, " %-7s", cell)
		}
		b.WriteString("\n")
	}
	for i, r := range reasons {
		fmt.Fprintf(&b, "(%d) %s\n", i+1, r)
	}
	return b.String()
}

// runGuest runs one test binary in one guest, and makes each of its tests one
// of this run.
func runGuest(t *testing.T, root, kernel, path, bin string) []result {
	t.Helper()
	run := suite[path]
	if *suiteLong && path == "./demo/scenario" {
		run = "^(TestDemo|TestDemoAllJSON|TestCatalogueIsJudged)$"
	}
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
	var leaves []result
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
	if res.ExitCode != 0 && !failed || len(c.results) == 0 {
		t.Errorf("%s on %s ended with status %d after %d tests:\n%s", pkg, kernel, res.ExitCode, len(c.results), strings.Join(c.rest, "\n"))
	}
	return leaves
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
