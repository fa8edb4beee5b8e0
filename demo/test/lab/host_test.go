package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeHost makes a machine on which the given shell script is apt-get and no
// other program exists. It returns the directory that is the PATH.
func fakeHost(t *testing.T, apt string) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	old := sbin
	sbin = nil
	t.Cleanup(func() { sbin = old })
	if apt != "" {
		if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte("#!/bin/sh\n"+apt), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEnsureHostInstalls(t *testing.T) {
	// The first install fails, as it does where the package lists are missing.
	dir := fakeHost(t, `
cd "${0%/*}"
echo "$*" >> log
case "$*" in
*update*) : > lists;;
*install*)
	[ -e lists ] || { echo "unable to locate package" >&2; exit 100; }
	for p in qemu-system-aarch64 depmod xz zstd; do : > $p; /bin/chmod 755 $p; done;;
esac
`)
	var said bytes.Buffer
	if err := ensureHost(t.Context(), "arm64", true, &said); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	const install = "install -y --no-install-recommends qemu-system-arm kmod xz-utils zstd"
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], install) || !strings.HasSuffix(lines[1], "update") || lines[2] != lines[0] {
		t.Errorf("apt-get was called with %q", lines)
	}
	if !strings.Contains(said.String(), install) {
		t.Errorf("it did not say what it installs: %q", &said)
	}
	said.Reset()
	if err := ensureHost(t.Context(), "arm64", false, &said); err != nil || said.Len() > 0 {
		t.Errorf("with everything there: error %v, said %q", err, &said)
	}
}

func TestEnsureHostErrors(t *testing.T) {
	for _, c := range []struct {
		name, apt string
		root      bool
		want      string
	}{
		{"not root", "exit 0", false, "sudo apt-get install -y --no-install-recommends qemu-system-x86 kmod xz-utils zstd"},
		{"no apt", "", true, "there is no apt-get"},
		{"apt fails", "echo 'no such package' >&2; [ \"$4\" = update ] && exit 0; exit 100", true, "no such package"},
		{"apt installs nothing", "exit 0", true, "qemu-system-x86_64 is still not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeHost(t, c.apt)
			err := ensureHost(t.Context(), "amd64", c.root, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
