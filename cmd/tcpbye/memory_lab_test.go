//go:build lab

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// littleMemory is what a service may be given: tcpbye's unit has more.
const littleMemory = 64 << 20

// memoryCgroup makes a cgroup with that much memory and no swap, of whichever
// version has the controller here. peak is a file with the most that was taken;
// "" where this kernel does not say.
func memoryCgroup(t *testing.T, most int) (dir, peak string) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	limit, swap := "memory.max", "memory.swap.max"
	dir, peak = root, "memory.peak"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		dir, limit, swap, peak = root+"/memory", "memory.limit_in_bytes", "", "memory.max_usage_in_bytes"
	} else if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		t.Fatalf("hand the memory controller down: %v", err)
	}
	dir, err := os.MkdirTemp(dir, "tcpbye-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(most)), 0); err != nil {
		t.Fatal(err)
	}
	if swap != "" {
		if err := os.WriteFile(filepath.Join(dir, swap), []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, peak)); err != nil {
		return dir, ""
	}
	return dir, filepath.Join(dir, peak)
}

// TestStartsInLittleMemory: with 64 MiB it attaches everything that it attaches
// elsewhere, shows a connection, and ends.
func TestStartsInLittleMemory(t *testing.T) {
	path := built(t)
	dir, peak := memoryCgroup(t, littleMemory)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `
		echo $$ > "$1/cgroup.procs" && exec "$0" trace -o csv -w "$2/file" -- bash -c 'exec 3<>/dev/tcp/127.0.0.1/1; true'`,
		path, dir, t.TempDir()) // nothing listens there
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != exitDegraded) {
		t.Fatalf("with %d MiB: %v\n%s", littleMemory>>20, err, &stderr)
	}
	if !strings.Contains(stdout.String(), "port-closed") {
		t.Errorf("it does not show the connection:\n%s%s", &stdout, &stderr)
	}
	// As many hooks as with any amount of memory.
	all := exec.CommandContext(ctx, path, "trace", "--duration", "1ms")
	var said bytes.Buffer
	all.Stderr = &said
	if err := all.Run(); err != nil {
		t.Fatalf("%v: %s", err, &said)
	}
	if got, want := hooksLine(stderr.String()), hooksLine(said.String()); got != want {
		t.Errorf("it says %q, and with more memory %q", got, want)
	}
	if peak != "" {
		b, err := os.ReadFile(peak)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("at most %s bytes were taken, files that were read included", bytes.TrimSpace(b))
	}
}

// hooksLine is what is said of hooks that cannot be attached.
func hooksLine(s string) string {
	for line := range strings.Lines(s) {
		if strings.Contains(line, "hooks cannot be attached") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
