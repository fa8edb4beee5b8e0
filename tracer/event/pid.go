package event

import "strconv"

// outside marks the number of a task that the tracer's PID namespace does not
// have (PID_OUTSIDE, bpf/event.h): the rest is the initial namespace's number,
// which keeps such tasks apart and means nothing else where tcpbye runs. No task
// has a number as large (PID_MAX_LIMIT, include/linux/threads.h).
const outside = 1 << 31

// Outside says whether a PID or TID of an Event belongs to a task outside the
// tracer's PID namespace.
func Outside(pid uint32) bool { return pid&outside != 0 }

// PIDText is a PID or TID as people read it: "-" outside the namespace.
func PIDText(pid uint32) string {
	if Outside(pid) {
		return "-"
	}
	return strconv.FormatUint(uint64(pid), 10)
}

// PIDHere is a PID or TID where it means something; nil outside the namespace.
func PIDHere(pid uint32) *uint32 {
	if Outside(pid) {
		return nil
	}
	return &pid
}
