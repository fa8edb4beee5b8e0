package tracer

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func TestGrantedMemory(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"a/memory.max": "max\n", "a/b/memory.max": "67108864\n", "a/b/c/memory.max": "1073741824\n", "memory/v1/memory.limit_in_bytes": "33554432\n",
		"memory/memory.limit_in_bytes": "9223372036854771712\n",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for cgroup, want := range map[string]int64{
		"0::/a/b/c\n":                         64 << 20,
		"0::/a\n":                             math.MaxInt64,
		"0::/\n":                              math.MaxInt64,
		"0::/../../a/b\n":                     64 << 20, // beyond the root of what a container sees
		"4:cpu:/x\n3:memory:/v1/deep\n0::/\n": 32 << 20,
		"":                                    math.MaxInt64,
		"nonsense\n":                          math.MaxInt64,
	} {
		own := filepath.Join(root, "cgroup")
		if err := os.WriteFile(own, []byte(cgroup), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := grantedMemory(own, root); got != want {
			t.Errorf("%q grants %d bytes, not %d", cgroup, got, want)
		}
	}
	if got := grantedMemory(filepath.Join(root, "none"), root); got != math.MaxInt64 {
		t.Errorf("an unknown cgroup grants %d bytes", got)
	}
}

// TestCollectSeldom: a small heap may grow by as much as a larger one, and one that is
// large only doubles.
func TestCollectSeldom(t *testing.T) {
	for live, want := range map[uint64]int{0: 200, 1 << 20: 200, 4 << 20: 200, 5 << 20: 160, 8 << 20: 100, 1 << 30: 100} {
		if got := percentOf(live); got != want {
			t.Errorf("%d bytes stay: GOGC=%d, want %d", live, got, want)
		}
	}
}

// TestPace: the pace is set anew by each collection.
func TestPace(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	pace(100)
	deadline := time.Now().Add(10 * time.Second)
	for before := -1; time.Now().Before(deadline); {
		runtime.GC()
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		if now > 100 && before == now {
			return
		}
		before = now
		runtime.Gosched()
	}
	t.Error("after collections the heap may still only double")
}

func TestAnonymous(t *testing.T) {
	for line, want := range map[string]uintptr{
		"29e1db400000-29e1df400000 rw-p 00000000 00:00 0 \n":                   64 << 20,
		"29e1db400000-29e1df400000 rw-p 00000000 00:00 0 [stack]\n":            0,
		"29e1db400000-29e1df400000 r--p 00000000 00:00 0 \n":                   0,
		"00400000-00401000 rw-p 00001000 fe:01 1234 /usr/bin/tcpbye\n":         0,
		"7f4238a21000-7f4238a22000 rw-s 00000000 00:0e 9 anon_inode:bpf-map\n": 0,
		"nonsense\n": 0, "": 0, "9-1 rw-p 0 00:00 0": 0,
	} {
		if _, bytes, ok := anonymous(line); bytes != want && ok || ok != (want > 0) {
			t.Errorf("%q: %d bytes, %v", line, bytes, ok)
		}
	}
}

// TestSmallPages: the heap's mappings are marked so, where the kernel has huge pages.
func TestSmallPages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this kernel has no transparent huge pages")
	}
	kept := make([]byte, 1<<20)
	smallPages()
	at := uintptr(unsafe.Pointer(&kept[0]))
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	in := false
	for line := range strings.Lines(string(smaps)) {
		if from, bytes, ok := anonymous(line); ok {
			in = from <= at && at < from+bytes
		} else if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && in {
			if !strings.Contains(flags, " nh") {
				t.Errorf("the heap's flags are%s, without nh", flags)
			}
			return
		}
	}
	t.Error("the heap was not found")
}
