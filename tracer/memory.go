package tracer

import (
	"bufio"
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ample is the memory with which nothing need be saved.
const ample = 128 << 20

// frugal says whether memory is to be saved, as little is granted, and has the garbage
// collector do so until it is told that everything is loaded: loading needs for a
// moment three times what a trace does. It takes a processor three tenths of a second.
func frugal() (saving bool, until func()) {
	granted := grantedMemory("/proc/self/cgroup", "/sys/fs/cgroup")
	if granted >= ample {
		return false, func() {}
	}
	before := debug.SetMemoryLimit(-1)
	// The kernel's share is the maps and the programs.
	debug.SetMemoryLimit(min(before, granted/2))
	return true, func() { debug.SetMemoryLimit(before) }
}

// smallPages has the kernel back what there is of the heap with small pages. While
// everything is loaded the heap is ten times what a trace then needs, and what that
// needs lies scattered in it: with huge pages (transparent_hugepage/enabled: always)
// each scattered object would keep 2 MiB. That the kernel has no huge pages, or
// refuses, changes nothing else.
func smallPages() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		if from, bytes, ok := anonymous(line); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, bytes, unix.MADV_NOHUGEPAGE)
		}
	}
}

// anonymous is where a line of /proc/PID/maps says that writable memory of no file
// and no name lies.
func anonymous(line string) (from, bytes uintptr, ok bool) {
	f := strings.Fields(line) // ADDRESSES PERMISSIONS OFFSET DEVICE INODE [NAME]
	if len(f) != 5 || f[1] != "rw-p" || f[4] != "0" {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	a, err := strconv.ParseUint(low, 16, 64)
	b, err2 := strconv.ParseUint(high, 16, 64)
	return uintptr(a), uintptr(b - a), err == nil && err2 == nil && a < b
}

// roomy is how much is allocated, at least, between two collections of garbage. Go
// collects when the heap has doubled, and a trace's is a few MB: then most of the work
// is to look again and again at what stays.
const roomy = 8 << 20

// collectSeldom has garbage collected that seldom, from the next collection on, unless
// memory is to be saved or somebody has said otherwise (GOGC).
func collectSeldom() {
	if grantedMemory("/proc/self/cgroup", "/sys/fs/cgroup") < ample {
		return
	}
	seldom.Do(func() {
		usual := debug.SetGCPercent(100)
		if usual != 100 {
			debug.SetGCPercent(usual)
			return
		}
		pace(100)
	})
}

var seldom sync.Once

// pace sets after each collection how far the heap may grow until the next.
func pace(percent int) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	if metrics.Read(live); live[0].Value.Kind() == metrics.KindUint64 {
		if next := percentOf(live[0].Value.Uint64()); next != percent {
			debug.SetGCPercent(next)
			percent = next
		}
	}
	// What nobody holds is found by the next collection.
	runtime.SetFinalizer(&cycle{percent: percent}, func(c *cycle) { pace(c.percent) })
}

// cycle is large enough to be no part of another object, which may live longer.
type cycle struct {
	percent int
	_       [2]uint64
}

// percentOf is GOGC for a heap of which so much stays. In any case Go lets a heap grow
// to 4 MB times that (runtime.heapMinimum), so of the smallest it is no more than 200.
func percentOf(live uint64) int {
	return int(min(max(100, roomy*100/max(live, 1)), 200))
}

// grantedMemory is what the cgroups of this process, and those above, may take. A
// container may see its own as the root of all.
func grantedMemory(own, root string) int64 {
	least := int64(math.MaxInt64)
	f, err := os.Open(own)
	if err != nil {
		return least
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		// HIERARCHY:CONTROLLERS:PATH (cgroups(7)); version 2 has 0 and no controllers.
		parts := strings.SplitN(in.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		top, name := root, "memory.max"
		switch {
		case parts[1] == "memory":
			top, name = path.Join(root, "memory"), "memory.limit_in_bytes"
		case parts[0] != "0" || parts[1] != "":
			continue
		}
		for dir := path.Join("/", parts[2]); ; dir = path.Dir(dir) {
			if b, err := os.ReadFile(path.Join(top, dir, name)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
					least = min(least, n) // "max" is no number
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}
