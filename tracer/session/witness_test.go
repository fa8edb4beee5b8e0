package session

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// proc makes a process of a made-up /proc.
func proc(t *testing.T, dir string, pid uint32, comm, exe string, start int) {
	t.Helper()
	at := filepath.Join(dir, fmt.Sprint(pid))
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"stat":   fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 1000 100 0 4096 8192 %d 0\n", pid, comm, start, len(exe)),
		"status": fmt.Sprintf("Name:\t%s\nUid:\t1\t1\t1\t1\nNSpid:\t%d\n", comm, pid),
		"cgroup": "0::/\n",
	} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(filepath.Join(at, "exe"))
	if err := os.Symlink(exe, filepath.Join(at, "exe")); err != nil {
		t.Fatal(err)
	}
}

// A process that opens connection after connection is looked at once a second;
// another program in it at once.
func TestWitnessLooksOnceASecond(t *testing.T) {
	dir := t.TempDir()
	w, _ := NewWitness(WitnessOptions{Procfs: dir, Cgroupfs: dir})
	defer w.Close()
	if w.tree != nil {
		t.Error("it listens for forks, and nobody asked")
	}
	now := time.Hour // what is read is as old as the machine
	look := func(hook event.Hook, comm string, after time.Duration) string {
		now += after
		e := event.Event{Time: now, Hook: hook, PID: 7, TID: 7, Comm: event.CommOf(comm), Context: event.ContextProcess}
		p, fresh := w.Look(&e)
		if !fresh {
			return ""
		}
		return string(p.Exe)
	}
	proc(t, dir, 7, "a", "/bin/a", 1)
	if got := look(event.HookConnect, "a", 0); got != "/bin/a" {
		t.Fatalf("at first: %q", got)
	}
	proc(t, dir, 7, "a", "/opt/new/a", 1)
	for range 9 {
		if got := look(event.HookConnect, "a", 100*time.Millisecond); got != "" {
			t.Fatalf("again: %q", got)
		}
	}
	if got := look(event.HookAccept, "a", 100*time.Millisecond); got != "/opt/new/a" {
		t.Errorf("after a second: %q", got)
	}
	proc(t, dir, 7, "b", "/bin/b", 1)
	if got := look(event.HookConnect, "b", time.Millisecond); got != "/bin/b" {
		t.Errorf("by another name: %q", got)
	}
	proc(t, dir, 7, "b", "/bin/longer", 1)
	if got := look(event.HookExec, "b", time.Millisecond); got != "/bin/longer" {
		t.Errorf("an exec: %q", got)
	}
	look(event.HookExit, "b", time.Millisecond)
	proc(t, dir, 7, "b", "/bin/another", 360002)
	if got := look(event.HookConnect, "b", time.Millisecond); got == "" {
		t.Error("the PID is another process's, and it was not looked at")
	}
}

// Whether a process has a descriptor left is looked up once a second, and tells no
// more than that.
func TestWitnessLooksAtDescriptors(t *testing.T) {
	dir := t.TempDir()
	w, _ := NewWitness(WitnessOptions{Procfs: dir, Cgroupfs: dir})
	defer w.Close()
	at := filepath.Join(dir, "7")
	if err := os.MkdirAll(filepath.Join(at, "fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "limits"), []byte("Limit  Soft Limit  Hard Limit  Units\nMax open files            3                    4096                 files\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	descriptor := func(n int) {
		if err := os.WriteFile(filepath.Join(at, "fd", fmt.Sprint(n)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{0, 1, 5} { // one is beyond a limit that was lowered
		descriptor(n)
	}
	if n := w.Full(7, time.Second); n != 0 {
		t.Errorf("descriptor 2 is free, but all %d are in use", n)
	}
	if err := os.Remove(filepath.Join(at, "fd", "5")); err != nil {
		t.Fatal(err)
	}
	descriptor(2)
	if n := w.Full(7, 1999*time.Millisecond); n != 0 {
		t.Errorf("looked at again within a second: %d", n)
	}
	if n := w.Full(7, 2*time.Second); n != 3 {
		t.Errorf("%d of 3 are in use", n)
	}
	if n := w.Full(8, 2*time.Second); n != 0 {
		t.Errorf("a process that is not there has all its %d descriptors in use", n)
	}
}
