package snapshot

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// caller is a thread that sleeps in a call on a descriptor that its process no
// longer has, or has for something else by now.
type caller struct{ pid, tid int }

// holdInCalls finds who holds the sockets that have a file and no descriptor: a
// thread inside a call. The kernel says of such a thread in which call it sleeps
// and with which number, not on which file; so a process is named only where all
// such threads of the network namespace are its own, and as many as the sockets
// at least: a socket can also be on its way over a unix socket, and then nobody
// has it.
func holdInCalls(o Options, pids []int, sockets []Socket, wanted map[uint64][]Holder, known people) {
	orphans := map[uint32][]uint64{} // by namespace: inodes
	for i := range sockets {
		if k := &sockets[i]; k.Inode != 0 && len(wanted[k.Inode]) == 0 {
			orphans[k.NetNS] = append(orphans[k.NetNS], k.Inode)
		}
	}
	if len(orphans) == 0 {
		return
	}
	callers := map[uint32][]caller{}
	for _, pid := range pids {
		if ns, ok := netnsOf(o.Procfs, strconv.Itoa(pid)); ok && orphans[ns] != nil {
			callers[ns] = append(callers[ns], callersOf(o.Procfs, pid)...)
		}
	}
	for ns, inodes := range orphans {
		all := callers[ns]
		if len(all) < len(inodes) || slices.ContainsFunc(all, func(c caller) bool { return c.pid != all[0].pid }) {
			continue
		}
		h := Holder{Process: known.get(uint32(all[0].pid)), FD: -1, InCall: true}
		if len(all) == 1 {
			h.TID = uint32(all[0].tid)
		}
		for _, inode := range inodes {
			wanted[inode] = []Holder{h}
		}
	}
}

// callersOf lists the threads of a process that are such callers.
func callersOf(procfs string, pid int) []caller {
	dir := procfs + "/" + strconv.Itoa(pid)
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return nil // it is gone, or may not be looked at
	}
	var all []caller
	for _, th := range threads {
		b, err := os.ReadFile(dir + "/task/" + th.Name() + "/syscall")
		if err != nil {
			continue
		}
		fd, ok := dataCall(string(b))
		if !ok || !waitsForTCP(dir+"/task/"+th.Name()) {
			continue
		}
		// A number that is used again means another file.
		if link, err := os.Readlink(dir + "/fd/" + strconv.Itoa(fd)); err == nil && strings.HasPrefix(link, "socket:[") {
			continue
		}
		if tid, err := strconv.Atoi(th.Name()); err == nil {
			all = append(all, caller{pid, tid})
		}
	}
	return all
}

// waitsForTCP says whether a thread sleeps in tcp_recvmsg or tcp_sendmsg, and
// not for a pipe or a datagram. Its kernel stack tells; who may not read that
// (CAP_SYS_ADMIN) is told the innermost function alone, and by x86 before 5.16
// not even that ("x86: Fix get_wchan() to support the ORC unwinder").
func waitsForTCP(dir string) bool {
	if b, err := os.ReadFile(dir + "/stack"); err == nil && len(b) > 0 {
		// [<0>] FUNCTION+0xOFFSET/0xSIZE
		return strings.Contains(string(b), " tcp_recvmsg") || strings.Contains(string(b), " tcp_sendmsg")
	}
	b, err := os.ReadFile(dir + "/wchan")
	if err != nil {
		return false
	}
	switch string(b) {
	case "wait_woken", "sk_wait_data", "sk_stream_wait_memory":
		return true
	}
	return false
}

// dataCall reads /proc/PID/syscall: the number of the call and its arguments, in
// hexadecimal, or "running". It says false for what cannot wait for a socket's
// data.
func dataCall(text string) (fd int, ok bool) {
	f := strings.Fields(text)
	if len(f) < 2 {
		return 0, false
	}
	number, err := strconv.ParseInt(f[0], 10, 32)
	if err != nil {
		return 0, false
	}
	switch event.CallOf(runtime.GOARCH, int32(number)) {
	case event.CallReceive, event.CallSend:
	default:
		return 0, false
	}
	arg, err := strconv.ParseUint(f[1], 0, 64)
	return int(int32(arg)), err == nil
}
