package labtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tcpbye/tcpbye/demo/test/lab"
)

// Programs are test programs, by package, beside those of the lab (lab.Build).
type Programs struct {
	Root string // the module's directory
	Dir  string // where the programs are
}

// Build makes the test programs of packages, named as the module's root sees
// them ("./tracer"), with the lab's build tag, so that any user of a guest can
// run them.
func Build(t testing.TB, packages ...string) Programs {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	p := Programs{Root: root, Dir: t.TempDir()}
	// A guest reads them through the host's root, and a user who is not root must
	// get at them: t.TempDir makes two directories for this user alone.
	for _, dir := range []string{p.Dir, filepath.Dir(p.Dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, pkg := range packages {
		build := exec.Command("go", "test", "-tags", "lab", "-c", "-o", p.Test(pkg), pkg)
		build.Dir = root
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
		}
	}
	if _, err := lab.Build(t.Context(), p.Dir, "", t.Output()); err != nil {
		t.Fatal(err)
	}
	return p
}

// Test is the path of a package's test program.
func (p Programs) Test(pkg string) string { return filepath.Join(p.Dir, filepath.Base(pkg)+".test") }

// Run runs a package's tests, with these arguments, in a guest that cfg
// describes: in the package's directory, and with the lab's programs in PATH.
func (p Programs) Run(t testing.TB, pkg string, cfg lab.Config, args ...string) {
	t.Helper()
	cfg.Args = append([]string{p.Test(pkg)}, args...)
	cfg.Dir, cfg.PathDirs = filepath.Join(p.Root, pkg), []string{p.Dir}
	cfg.Stdout, cfg.Stderr, cfg.Progress = t.Output(), t.Output(), t.Output()
	res, err := lab.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode != 0 {
		t.Errorf("on %s not everything is as it should be: status %d", res.KernelRelease, res.ExitCode)
	}
}

// moduleRoot is the directory with go.mod above the current one.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("no directory above this one has a go.mod: the tests of the lab run in the module's tree")
		}
	}
	return "", err
}
