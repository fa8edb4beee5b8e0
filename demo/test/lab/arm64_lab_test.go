//go:build lab

package lab_test

import (
	"context"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/test/lab"
)

var armKernels = flag.String("arm64.kernels", "6.12", "kernels that TestArm64 boots, by commas, or all")

// armStories are scenarios of every class that need no module that a guest
// without the host's root would have to load.
var armStories = []string{"close", "server-close", "shutdown-wr", "simultaneous-close", "close-unread", "linger-zero", "disconnect",
	"listener-close", "sock-destroy", "data-to-mini-socket", "sigpipe", "killed", "exit", "exec", "dup", "closed-port", "connect-cancelled",
	"still-open", "fin-wait2-held", "keepalive"}

// TestArm64 plays both experiments and a part of the catalogue on the other
// architecture, under emulation, with every hook, and forces each rung.
func TestArm64(t *testing.T) {
	if err := lab.EnsureHost(t.Context(), "arm64", os.Stderr); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files, err := lab.Build(t.Context(), dir, "arm64", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"./tracer", "./demo/scenario"} {
		bin := filepath.Join(dir, filepath.Base(p)+".test")
		build := exec.Command("go", "test", "-tags", "lab", "-c", "-o", bin, p)
		build.Dir = filepath.Join("..", "..", "..")
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s for arm64: %v\n%s", p, err, out)
		}
		files = append(files, bin)
	}
	kernels := strings.Split(*armKernels, ",")
	if *armKernels == "all" {
		kernels = lab.Kernels()
	}
	table := map[string]map[string]string{}
	var told []fact
	for _, k := range kernels {
		t.Run(k, func(t *testing.T) {
			for _, args := range [][]string{
				// In the demo's test the parts are experiment and family, in the
				// catalogue's "all" and scenario.
				{"scenario.test", "-test.run=^(TestDemo|TestCatalogueIsJudged)$/^(close|shutdown|all)$/^(ipv4|ipv6|" + strings.Join(armStories, "|") + ")$"},
				{"tracer.test", "-test.run=^(TestLoopback|TestHooks|TestWithoutProbeReads|TestPrivileges|TestDropPrivileges)$"},
			} {
				results, facts := runArm64(t, k, files, args)
				told = append(told, facts...)
				for _, x := range results {
					name := strings.TrimPrefix(x.name, "TestCatalogueIsJudged/all/")
					if table[name] == nil {
						table[name] = map[string]string{}
					}
					table[name][k] = x.cell()
				}
			}
		})
	}
	t.Log("\n" + print("arm64", table, kernels))
	t.Log("\n" + hooksTable(told, kernels))
}

func runArm64(t *testing.T, kernel string, files, args []string) ([]result, []fact) {
	t.Helper()
	cfg := lab.Config{
		Kernel: kernel, Arch: "arm64", Args: append(args, "-test.v", "-test.timeout=40m"), Timeout: 45 * time.Minute, Progress: os.Stderr,
	}
	if runtime.GOARCH != "arm64" {
		for _, f := range files {
			cfg.Files = append(cfg.Files, lab.File{Host: f})
		}
	} else {
		cfg.PathDirs = []string{filepath.Dir(files[0])}
	}
	r, w := io.Pipe()
	c := &collect{kernel: kernel, logs: map[string][]string{}}
	done := make(chan struct{})
	go func() { defer close(done); c.read(r) }()
	cfg.Stdout, cfg.Stderr = w, w
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	res, err := lab.Run(ctx, cfg)
	w.Close()
	<-done
	if err != nil {
		t.Fatalf("%s on %s: %v", args[0], kernel, err)
	}
	t.Logf("%s: %s on %s: %d tests, exit status %d", kernel, args[0], res.KernelRelease, len(c.results), res.ExitCode)
	return c.report(t, args[0], res.ExitCode), c.facts
}
