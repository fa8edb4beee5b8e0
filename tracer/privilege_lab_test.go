//go:build lab

package tracer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// dropName is the argument that makes this program drop and then trace.
const dropName = "drop-and-trace"

// traceAfterDropping attaches, gives up what it does not need, traces a
// connection, asks for losses and detaches; all as a process of its own, since
// what is given up does not come back.
func traceAfterDropping() error {
	tr, err := Open(Options{Receive: true})
	if err != nil {
		return err
	}
	for _, a := range tr.Attachments() {
		if a.Rung == "" && !a.Minor && !errors.Is(a.Err, ErrNotAsked) && probed() {
			return fmt.Errorf("%v: %w", a.Hook, a.Err)
		}
	}
	if err := DropPrivileges(); err != nil {
		return err
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	var may uint64
	for _, c := range kept {
		may |= 1 << c
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if now, ok := strings.CutPrefix(line, "NoNewPrivs:"); ok && strings.TrimSpace(now) != "1" {
				return fmt.Errorf("%s may still get privileges: %s", task, line)
			}
			for _, set := range []string{"CapPrm:", "CapEff:", "CapInh:"} {
				if hex, ok := strings.CutPrefix(line, set); ok {
					var caps uint64
					if _, err := fmt.Sscanf(hex, "%x", &caps); err != nil {
						return err
					}
					if caps&^may != 0 {
						return fmt.Errorf("%s still has %s%s", task, set, hex)
					}
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var closed bool
	if err := tr.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		done <- tr.Run(ctx, Handler{Event: func(e event.Event) error {
			closed = closed || e.Hook == event.HookSetState && e.ToState == event.Close
			return nil
		}, Tick: func(time.Duration) error { return nil }})
	}()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	if err := errors.Join(c.Close(), l.Close()); err != nil {
		return err
	}
	cancel()
	if err := <-done; err != nil {
		return err
	}
	if _, err := tr.Stats(); err != nil {
		return err
	}
	if err := tr.Close(); err != nil {
		return err
	}
	if !closed {
		return errors.New("no event of the connection's end came")
	}
	return nil
}

// as runs this program as a user with nothing but those capabilities.
func as(t *testing.T, caps ...Capability) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, dropName, "now")
	var ambient []uintptr
	for _, c := range caps {
		ambient = append(ambient, uintptr(c))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: ambient}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPrivileges traces as a user who is not root.
func TestPrivileges(t *testing.T) {
	full := []Capability{unix.CAP_BPF, unix.CAP_PERFMON}
	if countsLockedMemory() {
		full = append(full, unix.CAP_SYS_RESOURCE)
		// A test before may have raised the limit that children inherit.
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
			t.Fatal(err)
		}
		defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit)
		out, err := as(t, full[:2]...)
		if err == nil || !strings.Contains(out, "CAP_SYS_RESOURCE is missing") || !strings.Contains(out, "cap_sys_resource+ep") {
			t.Errorf("without CAP_SYS_RESOURCE: %v, %s", err, out)
		}
		// Debian's kernels of that age want CAP_SYS_ADMIN for perf events at 3.
		const setting = "/proc/sys/kernel/perf_event_paranoid"
		before, err := os.ReadFile(setting)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(setting, []byte("2"), 0); err != nil {
			t.Fatal(err)
		}
		defer os.WriteFile(setting, before, 0)
	}
	if out, err := as(t, full...); err != nil {
		t.Errorf("with %v: %v: %s", full, err, out)
	}
	for i := range 2 {
		out, err := as(t, slices.Delete(slices.Clone(full), i, i+1)...)
		if err == nil || !strings.Contains(out, full[i].String()+" is missing") || !strings.Contains(out, "setcap") {
			t.Errorf("without %v: %v, %s", full[i], err, out)
		}
	}
}

// TestDropPrivileges does so as root, too.
func TestDropPrivileges(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(self, dropName, "now").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
