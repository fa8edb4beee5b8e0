//go:build lab

package crowd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
)

// TestKilled: tcpbye that is killed, while it traces and while it attaches, leaves
// no program, link or map in the kernel, no probe, and no pin.
func TestKilled(t *testing.T) {
	unpinned := pins(t)
	before := traces(t)
	t.Logf("before: %d programs and maps, %d probes", len(before.objects), len(before.probes))
	b := startBye(t, "trace", "--receive")
	during := traces(t)
	mine := objectsOf(t, b.cmd.Process.Pid)
	if len(mine) < 2 {
		t.Fatalf("a tcpbye that traces has the objects %v: this test does not see them", mine)
	}
	for _, o := range mine {
		if !slices.Contains(during.objects, o) {
			t.Fatalf("%v is not among the kernel's objects: this test does not see them", o)
		}
	}
	if inLab() && len(during.probes) <= len(before.probes) {
		t.Fatalf("%d probes before and %d while tcpbye traces: this test does not see them", len(before.probes), len(during.probes))
	}
	t.Logf("while it traces: %d of its own, %d probes", len(mine), len(during.probes))
	b.signal(unix.SIGKILL)
	<-b.exited
	left(t, before, mine, unpinned)

	// While it attaches: each kill comes a little later, from before the first
	// object to after the last.
	for wait := 20 * time.Millisecond; ; wait += wait / 2 {
		b := launchBye(t, "trace", "--receive")
		select {
		case <-b.exited:
			t.Fatalf("tcpbye did not start: %s", b.said())
		case <-time.After(wait): // how far it gets is what is tried
		}
		_, err := os.Stat(b.ready)
		mine := objectsOf(t, b.cmd.Process.Pid)
		b.signal(unix.SIGKILL)
		<-b.exited
		t.Logf("killed after %v, with %d objects", wait, len(mine))
		left(t, before, mine, unpinned)
		if err == nil { // it was ready
			break
		}
		if wait > patience {
			t.Fatalf("tcpbye was not ready after %v", wait)
		}
	}
}

// object is something of BPF that the kernel has. A link keeps its program: where
// that is gone, so is the link.
type object struct {
	kind string // prog, map
	id   uint32
}

func (o object) String() string { return fmt.Sprintf("%s %d", o.kind, o.id) }

// marks are what a tracer can leave in the kernel.
type marks struct {
	objects []object
	probes  []string // lines that name a probe
}

func traces(t testing.TB) marks {
	t.Helper()
	var m marks
	m.objects = objects(t)
	m.probes = probes(t)
	return m
}

// objects lists all programs, maps and links of the kernel.
func objects(t testing.TB) (all []object) {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			t.Fatalf("list the kernel's BPF programs: %v", err)
		}
		id = next
		all = append(all, object{"prog", uint32(id)})
	}
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			t.Fatalf("list the kernel's BPF maps: %v", err)
		}
		id = next
		all = append(all, object{"map", uint32(id)})
	}
	return all
}

// objectsOf lists what a process has of them, by its descriptors.
func objectsOf(t testing.TB, pid int) (all []object) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			kind, ok := strings.CutSuffix(key, "_id")
			if !ok || kind != "prog" && kind != "map" {
				continue
			}
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err != nil {
				t.Fatalf("%s: %q", path, line)
			}
			if o := (object{kind, uint32(id)}); !slices.Contains(all, o) {
				all = append(all, o)
			}
		}
	}
	return all
}

// probes lists the kernel's probes: of kprobes, of ftrace, of which trampolines
// (fentry) are a kind, and those that have a name in tracefs.
func probes(t testing.TB) (all []string) {
	t.Helper()
	dir := t.TempDir()
	for _, fs := range []struct {
		kind  string
		files []string
	}{
		{"debugfs", []string{"kprobes/list"}},
		{"tracefs", []string{"enabled_functions", "kprobe_events", "uprobe_events", "dynamic_events"}},
	} {
		at := filepath.Join(dir, fs.kind)
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(fs.kind, at, fs.kind, 0, ""); err != nil {
			if inLab() {
				t.Fatalf("mount %s: %v", fs.kind, err)
			}
			continue
		}
		for _, name := range fs.files {
			b, err := os.ReadFile(filepath.Join(at, name))
			must := name == "kprobes/list" || name == "enabled_functions"
			if err != nil && (!inLab() || !must && errors.Is(err, os.ErrNotExist)) {
				continue // this kernel has none, or does not show them
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for line := range strings.Lines(string(b)) {
				// The address of a trampoline and a count of hits may change.
				f := strings.Fields(line)
				all = append(all, name+": "+strings.Join(f[:min(len(f), 4)], " "))
			}
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(all)
	return all
}

// pins lists what is pinned in every BPF file system that this process sees.
func pins(t testing.TB) (all []string) {
	t.Helper()
	for line := range strings.Lines(text(t, "/proc/self/mounts")) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "bpf" {
			continue
		}
		err := filepath.WalkDir(f[1], func(path string, _ os.DirEntry, err error) error {
			all = append(all, path)
			return err
		})
		if err != nil {
			t.Errorf("look for pins: %v", err)
		}
	}
	return all
}

// left waits until the kernel, which frees them a moment after, has nothing of a
// killed tcpbye any more.
func left(t *testing.T, before marks, mine []object, unpinned []string) {
	t.Helper()
	eventually(t, "the kernel to have nothing of a killed tcpbye any more", func() (bool, string) {
		now := traces(t)
		var still []string
		for _, o := range now.objects {
			// Elsewhere others may load programs meanwhile.
			if slices.Contains(mine, o) || inLab() && !slices.Contains(before.objects, o) {
				still = append(still, o.String())
			}
		}
		if inLab() {
			for _, p := range now.probes {
				if !slices.Contains(before.probes, p) {
					still = append(still, p)
				}
			}
		}
		return len(still) == 0, strings.Join(still, ", ")
	})
	if p := pins(t); !slices.Equal(p, unpinned) {
		t.Errorf("pins: %v, before %v", p, unpinned)
	}
}
