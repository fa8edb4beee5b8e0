package enrich

import (
	"os"
	"strconv"
	"strings"
)

// How many descriptors are looked at one by one: where the kernel does not tell
// their number (before 6.2), and where it does and there are as many as may be.
const (
	countable     = 1 << 16
	countedBefore = 1 << 20
)

// Full is how many descriptors a process may have, where it has that many; 0: it
// has fewer, or may not be looked at.
func Full(procfs string, pid uint32) int {
	dir := procfs + "/" + strconv.FormatUint(uint64(pid), 10)
	b, err := os.ReadFile(dir + "/limits")
	if err != nil {
		return 0
	}
	soft := 0
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if soft, err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
				return 0 // unlimited
			}
		}
	}
	most := countable
	if info, err := os.Stat(dir + "/fd"); err == nil && info.Size() > 0 {
		if int(info.Size()) < soft {
			return 0
		}
		most = countedBefore
	}
	if soft == 0 || soft > most {
		return 0
	}
	d, err := os.Open(dir + "/fd")
	if err != nil {
		return 0
	}
	defer d.Close()
	names, err := d.Readdirnames(soft)
	if err != nil || len(names) < soft {
		return 0
	}
	// They come in the order of their numbers. One may be beyond a limit that was
	// lowered, and its place is free then.
	for _, name := range names {
		if n, err := strconv.Atoi(name); err != nil || n >= soft {
			return 0
		}
	}
	return soft
}
