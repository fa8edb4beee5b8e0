package lineage

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func fork(parentThread, parent, childThread, child uint32) []byte {
	b := make([]byte, offsetEventData+sizeofForkEvent+8)
	o := binary.NativeEndian
	o.PutUint32(b[offsetWhat:], procEventFork)
	for i, v := range []uint32{parentThread, parent, childThread, child} {
		o.PutUint32(b[offsetEventData+4*i:], v)
	}
	return b
}

func exec1(pid uint32) []byte {
	b := make([]byte, offsetEventData+sizeofExecEvent)
	binary.NativeEndian.PutUint32(b[offsetWhat:], procEventExec)
	binary.NativeEndian.PutUint32(b[offsetEventData:], pid)
	binary.NativeEndian.PutUint32(b[offsetEventData+4:], pid)
	return b
}

func procfs(t *testing.T, stats map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for pid, stat := range stats {
		if err := os.MkdirAll(filepath.Join(dir, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, pid, "stat"), []byte(stat), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAncestors(t *testing.T) {
	dir := procfs(t, map[string]string{
		"1":  "1 (init) S 0 1 1 0",
		"10": "10 (a) b) (c) S 1 10 10 0", // a name with parentheses
		"99": "garbage",
	})
	tree := newTree(dir)
	tree.read(fork(11, 10, 20, 20))
	tree.read(fork(20, 20, 30, 30))
	tree.read(fork(20, 20, 31, 30)) // a thread of 30
	tree.read(fork(1, 1, 30, 30)[:20])
	for pid, want := range map[uint32][]uint32{
		30: {20, 10, 1}, // 20 and 30 are gone: only the kernel told
		10: {1},
		1:  nil,
		99: nil,
		40: nil,
	} {
		if got := tree.Ancestors(pid); !slices.Equal(got, want) {
			t.Errorf("the ancestors of %d are %v, want %v", pid, got, want)
		}
	}
	// A PID that is used again has another parent.
	tree.read(fork(1, 1, 30, 30))
	if got := tree.Ancestors(30); !slices.Equal(got, []uint32{1}) {
		t.Errorf("the ancestors of 30 are %v", got)
	}
	// What is executed, and what a child that executes nothing has of it.
	if err := os.Symlink("/bin/first", filepath.Join(dir, "10", "exe")); err != nil {
		t.Fatal(err)
	}
	tree.read(exec1(10))
	tree.read(fork(10, 10, 50, 50))
	tree.read(exec1(51)) // gone
	for pid, want := range map[uint32]string{10: "/bin/first", 50: "/bin/first", 51: "", 1: ""} {
		if got := tree.Exe(pid); got != want {
			t.Errorf("%d executes %q, want %q", pid, got, want)
		}
	}
	if got := tree.Ancestors(50); !slices.Equal(got, []uint32{10, 1}) {
		t.Errorf("the ancestors of 50 are %v", got)
	}
	// A circle, which only a lie can make, ends.
	tree.read(fork(30, 30, 1, 1))
	if n := len(tree.Ancestors(30)); n != 64 {
		t.Errorf("%d ancestors in a circle", n)
	}
}

func TestBound(t *testing.T) {
	tree := newTree(t.TempDir())
	for i := range uint32(3 * most) {
		tree.learn(i+2, process{parent: 1})
	}
	if len(tree.known) != most || len(tree.order) != most {
		t.Errorf("%d processes are remembered", len(tree.known))
	}
	if tree.Ancestors(3*most+1) == nil || tree.Ancestors(2) != nil {
		t.Error("not the last forks are remembered")
	}
}

// TestKernel: a grandchild whose parent is gone before it is asked for, and what
// a process executed that is gone.
func TestKernel(t *testing.T) {
	tree, err := Open("/proc", true)
	if err != nil { // not root, or in a container
		if !slices.Contains(tree.Ancestors(uint32(os.Getpid())), uint32(os.Getppid())) {
			t.Errorf("without the kernel's news (%v), /proc is not asked", err)
		}
		return
	}
	out, err := exec.Command("sh", "-c", "sh -c 'sh -c \"echo \\$\\$; :\"; :'; :").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if unix.Kill(int(pid), 0) == nil {
		t.Fatal("the grandchild lives")
	}
	line := tree.Ancestors(uint32(pid))
	if len(line) < 3 || line[2] != uint32(os.Getpid()) {
		t.Errorf("the ancestors of %d are %v; this is %d", pid, line, os.Getpid())
	}

	cat := exec.Command("cat") // lives until its input ends
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/" + strconv.Itoa(cat.Process.Pid) + "/exe")
	if err != nil {
		t.Fatal(err)
	}
	told := tree.Exe(uint32(cat.Process.Pid))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cat.Wait(); err != nil {
		t.Fatal(err)
	}
	if after := tree.Exe(uint32(cat.Process.Pid)); told != exe || after != exe {
		t.Errorf("%q is executed; told was %q, and after its end %q", exe, told, after)
	}
	if tree.Lost() != 0 {
		t.Errorf("%d losses", tree.Lost())
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
	if err := tree.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(fork(1, 2, 3, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree := newTree("/nowhere")
		tree.read(b)
	})
}
