package tracer

import (
	"bufio"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
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
