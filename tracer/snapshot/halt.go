package snapshot

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Halt is why a process does not run, whatever comes for it.
type Halt uint8

const (
	Running Halt = iota
	Stopped      // by SIGSTOP and the like
	Traced       // a debugger has stopped it
	Frozen       // its cgroup is (docker pause)
)

// halted says it of a process, and what lets it go on.
func (h *Holder) halted() string {
	pid := strconv.FormatUint(uint64(h.PID), 10)
	switch h.Halt {
	case Stopped:
		return h.name() + " is stopped (SIGSTOP): kill -CONT " + pid + " lets it go on"
	case Traced:
		return h.name() + " is stopped by a debugger"
	case Frozen:
		return h.name() + " is frozen: its cgroup is (docker pause, systemctl freeze)"
	}
	return ""
}

func (h *Holder) name() string {
	return event.Quote(h.Comm) + "/" + strconv.FormatUint(uint64(h.PID), 10)
}

// haltOf looks at a process.
func haltOf(procfs string, pid uint32) Halt {
	dir := procfs + "/" + strconv.FormatUint(uint64(pid), 10)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Running
	}
	// The name may contain anything: the state comes after its last bracket.
	if i := bytes.LastIndexByte(b, ')'); i >= 0 && i+2 < len(b) {
		switch b[i+2] {
		case 'T':
			return Stopped
		case 't':
			return Traced
		}
	}
	if b, err = os.ReadFile(dir + "/cgroup"); err != nil {
		return Running
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok || strings.Contains(path, "/..") {
			continue
		}
		events, err := os.ReadFile("/sys/fs/cgroup" + path + "/cgroup.events")
		if err == nil && bytes.Contains(events, []byte("frozen 1")) {
			return Frozen
		}
	}
	return Running
}
