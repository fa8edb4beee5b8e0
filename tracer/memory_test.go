package tracer

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
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
