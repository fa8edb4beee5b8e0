//go:build lab

package crowd

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/lab"
	"github.com/tcpbye/tcpbye/demo/real"
)

var (
	kernels = flag.String("crowd.kernel", "6.1", "the kernels that TestCrowdInLab boots, by commas, or all")
	only    = flag.String("crowd.run", "", "only the tests that match")
	out     = flag.String("crowd.out", "", "leave what tcpbye printed in tests that failed in this directory")
)

// inGuest are the tests that TestCrowdInLab runs.
const inGuest = "^(TestOlderServer|TestBurst|TestHolders|TestKilled|TestReplays|TestRealCrowd|TestMixedCrowd)$"

// TestCrowdInLab runs the tests of this package under real kernels. The programs
// that they need are the host's: a guest has its root.
func TestCrowdInLab(t *testing.T) {
	if inLab() {
		t.Fatal("a guest cannot boot guests")
	}
	if err := real.Install(t.Context(), os.Stderr); err != nil {
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
	bin := filepath.Join(dir, "crowd.test")
	build := exec.Command("go", "test", "-tags", "lab", "-c", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	if _, err := lab.Build(t.Context(), dir, "", os.Stderr); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	run := *only
	if run == "" {
		run = inGuest
	}
	list := strings.Split(*kernels, ",")
	if *kernels == "all" {
		list = lab.Kernels()
	}
	for _, k := range list {
		t.Run(k, func(t *testing.T) {
			cfg := lab.Config{
				Kernel: k, Dir: here, PathDirs: []string{dir}, MemoryMiB: 2048,
				Args:    []string{bin, "-test.v", "-test.timeout=58m", "-test.run=" + run},
				Timeout: 60 * time.Minute, Stdout: os.Stdout, Stderr: os.Stdout, Progress: os.Stderr,
			}
			if *out != "" {
				cfg.Out = filepath.Join(*out, k)
			}
			res, err := lab.Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if res.ExitCode != 0 {
				t.Errorf("on %s not everything is as it should be: status %d", res.KernelRelease, res.ExitCode)
			}
		})
	}
}
