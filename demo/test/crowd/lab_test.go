//go:build lab

package crowd

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/test/lab"
	"github.com/tcpbye/tcpbye/demo/test/lab/labtest"
	"github.com/tcpbye/tcpbye/demo/test/real"
)

var (
	kernels = flag.String("crowd.kernel", "6.1", "the kernels that TestCrowdInLab boots, by commas, or all")
	only    = flag.String("crowd.run", "", "only the tests that match")
	cpus    = flag.Int("crowd.cpus", 0, "CPUs of the guests; 0: as many as the lab gives. Under load, a guest with one does not meet what QEMU makes of an instruction that another CPU has just patched")
	out     = flag.String("crowd.out", "", "leave what tcpbye printed in tests that failed in this directory")
)

// inGuest are the tests that TestCrowdInLab runs.
const inGuest = "^(TestOlderServer|TestBurst|TestHolders|TestKilled|TestReplays|TestRealCrowd|TestMixedCrowd|TestGoServer|TestRotationIsBounded|TestAttachWindow|TestClockSet|TestFlood|TestRollouts|TestProxies)$"

// TestCrowdInLab runs the tests of this package under real kernels. The programs
// that they need are the host's: a guest has its root.
func TestCrowdInLab(t *testing.T) {
	if inLab() {
		t.Fatal("a guest cannot boot guests")
	}
	if err := real.Install(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	programs := labtest.Build(t, "./demo/test/crowd")
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
			cfg := lab.Config{Kernel: k, MemoryMiB: 2048, SMP: *cpus, Timeout: time.Hour + *soak}
			if *out != "" {
				cfg.Out = filepath.Join(*out, k)
			}
			programs.Run(t, "./demo/test/crowd", cfg, "-test.v", "-test.timeout="+(cfg.Timeout-2*time.Minute).String(), "-test.run="+run, "-crowd.soak="+soak.String())
		})
	}
}
