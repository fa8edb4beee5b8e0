package real

import (
	"fmt"
	"os"
	"strings"
)

// holdsListener says whether a process holds any of its namespace's listening
// TCP sockets. A process that is gone holds nothing.
func holdsListener(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		return false
	}
	rows, err := parseTable(string(text))
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
			if r.State.String() == "LISTEN" && target == fmt.Sprintf("socket:[%d]", r.Inode) {
				return true
			}
		}
	}
	return false
}
