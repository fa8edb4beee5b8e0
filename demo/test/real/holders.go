package real

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// holdsListener says whether a process holds any of its namespace's listening
// TCP sockets. A process that is gone holds nothing.
func holdsListener(pid int) bool {
	rows, err := harness.ReadTable(strconv.Itoa(pid))
	if err != nil {
		return false
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	for _, f := range files {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name()))
		if err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		for _, r := range rows {
			if r.State == event.Listen && target == fmt.Sprintf("socket:[%d]", r.Inode) {
				return true
			}
		}
	}
	return false
}
