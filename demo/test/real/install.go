package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tools are the programs of the runs, and the Debian packages that have them.
var tools = map[string]string{
	"bash": "bash", "cat": "coreutils", "curl": "curl", "gunicorn": "gunicorn", "haproxy": "haproxy",
	"nc.openbsd": "netcat-openbsd", "nft": "nftables", "nginx": "nginx-light", "node": "nodejs", "openssl": "openssl",
	"python3": "python3", "redis-cli": "redis-tools", "redis-server": "redis-server", "socat": "socat",
	"ss": "iproute2", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "sshd": "openssh-server",
}

// services are the units that the packages would leave enabled.
var services = map[string][]string{
	"haproxy": {"haproxy.service"}, "nginx-light": {"nginx.service"},
	"nftables":       {"nftables.service"},
	"openssh-server": {"ssh.service"}, "redis-server": {"redis-server.service"},
}

const policy = "/usr/sbin/policy-rc.d"

// Install makes sure that the machine has the programs of all runs. As root on
// a Debian system it installs the packages that are missing, without starting
// their services, and says so on progress.
func Install(ctx context.Context, progress io.Writer) error {
	missing := map[string]bool{}
	for _, r := range All() {
		for _, name := range r.Programs {
			pkg, ok := tools[name]
			if !ok {
				return fmt.Errorf("the run %s needs %s, and no package is known that has it", r.Name, name)
			}
			if _, err := find(name); err != nil {
				missing[pkg] = true
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var packages []string
	for p := range missing {
		packages = append(packages, p)
	}
	slices.Sort(packages)
	args := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("the runs need Debian's packages %s, and there is no apt-get here", strings.Join(packages, ", "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("the runs need packages that are not installed; run: sudo apt-get %s", strings.Join(args, " "))
	}
	fmt.Fprintf(progress, "installing %s, without starting any service: apt-get %s\n", strings.Join(packages, ", "), strings.Join(args, " "))
	restore, err := forbidServices()
	if err != nil {
		return err
	}
	err = aptGet(ctx, progress, args...)
	if err != nil && ctx.Err() == nil {
		// Lists that are missing or old name files that no mirror has.
		if err = aptGet(ctx, progress, "update"); err == nil {
			err = aptGet(ctx, progress, args...)
		}
	}
	return errors.Join(err, restore(), disable(ctx, packages))
}

func aptGet(ctx context.Context, progress io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w; what it said stands above", strings.Join(args, " "), err)
	}
	return nil
}

// forbidServices makes packages not start what they bring, by the means that
// Debian has for that (invoke-rc.d(8)). What a machine already says stands.
func forbidServices() (restore func() error, err error) {
	f, err := os.OpenFile(policy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot forbid the packages to start services: %w", err)
	}
	_, err = f.WriteString("#!/bin/sh\n# Services are not started while tcpbye installs the programs of its tests.\nexit 101\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot forbid the packages to start services: %w", err), os.Remove(policy))
	}
	return func() error { return os.Remove(policy) }, nil
}

// disable keeps the services of newly installed packages from starting at the
// next boot.
func disable(ctx context.Context, packages []string) error {
	if _, err := exec.LookPath("systemctl"); err != nil {
		return nil // no systemd, nothing that starts them
	}
	var errs []error
	for _, p := range packages {
		for _, unit := range services[p] {
			if out, err := exec.CommandContext(ctx, "systemctl", "disable", unit).CombinedOutput(); err != nil {
				errs = append(errs, fmt.Errorf("systemctl disable %s: %w\n%s", unit, err, out))
			}
		}
	}
	return errors.Join(errs...)
}
