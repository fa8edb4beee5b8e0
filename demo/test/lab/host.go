package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// tool is a program of the host and the Debian package that has it.
type tool struct{ program, pkg string }

// tools lists what a run for an architecture (Go's name) needs on the host.
func tools(arch string) []tool {
	list := []tool{
		{"qemu-system-x86_64", "qemu-system-x86"},
		{"depmod", "kmod"},
		{"xz", "xz-utils"}, // kernels and modules are compressed with it
		{"zstd", "zstd"},
	}
	if arch == "arm64" {
		list[0] = tool{"qemu-system-aarch64", "qemu-system-arm"}
	}
	return list
}

// sbin is where programs of the administrator are; a user's PATH may lack it.
var sbin = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// findProgram looks a program up in PATH and in the administrator's directories.
func findProgram(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range sbin {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("the program %s is not installed", name)
}

// EnsureHost makes sure that the host has QEMU and the few other programs that
// the lab needs to run guests of an architecture (Go's name; empty: the host's). As
// root on a Debian system it installs what is missing, and says so on
// progress; otherwise the error says which command to run.
func EnsureHost(ctx context.Context, arch string, progress io.Writer) error {
	return ensureHost(ctx, orString(arch, runtime.GOARCH), os.Geteuid() == 0, orDiscard(progress))
}

func ensureHost(ctx context.Context, arch string, root bool, progress io.Writer) error {
	var missing, packages []string
	for _, t := range tools(arch) {
		if _, err := findProgram(t.program); err != nil {
			missing = append(missing, t.program)
			packages = append(packages, t.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	advice := fmt.Sprintf("the lab needs %s, not found on this machine", strings.Join(missing, ", "))
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("%s; there is no apt-get either, so install the equivalents of Debian's packages %s", advice, strings.Join(packages, ", "))
	}
	if !root {
		return fmt.Errorf("%s; run: sudo apt-get %s", advice, strings.Join(install, " "))
	}
	fmt.Fprintf(progress, "installing %s: apt-get %s\n", strings.Join(packages, ", "), strings.Join(install, " "))
	run := func(args ...string) (string, error) {
		// Another apt-get, as a machine may run by itself, is waited for.
		cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = progressLines(progress), &said
		err := cmd.Run()
		return strings.TrimSpace(said.String()), err
	}
	said, err := run(install...)
	if err != nil && ctx.Err() == nil {
		// Lists that are missing or old name files that no mirror has.
		if said, err := run("update"); err != nil {
			return fmt.Errorf("%s; apt-get update: %w\n%s", advice, err, said)
		}
		said, err = run(install...)
	}
	if err != nil {
		return fmt.Errorf("%s; apt-get %s: %w\n%s", advice, strings.Join(install, " "), err, said)
	}
	if i := slices.IndexFunc(missing, func(p string) bool { _, err := findProgram(p); return err != nil }); i >= 0 {
		return errors.New(missing[i] + " is still not found after its package was installed")
	}
	return nil
}
