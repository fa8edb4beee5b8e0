package enrich

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Info is what is known of a process. Every string is the process's own and may
// hold any bytes.
type Info struct {
	PID        uint32 // in the PID namespace of the procfs that was read
	NSPID      uint32 // in the process's own; 0 not known
	Comm       string // of the thread group's leader
	Exe        string // "" for kernel threads, and where it may not be read
	UID        uint32 // effective
	User       string // by the passwd that the process sees; "" not in it
	CgroupPath string // in the hierarchy that tells most; "" not known
	Container  string // as Container.String; "" none
	StartTime  uint64 // clock ticks after boot: field 22 of /proc/PID/stat
	Kernel     bool   // a kernel thread
}

const (
	// Grace is how far the events may run behind the death of a process and
	// still find its name.
	Grace = time.Minute
	// refresh is the longest time for which what no exec announces, a setuid or
	// a move to another cgroup, goes unseen.
	refresh = time.Second
	// ticks is USER_HZ: the unit of the start time, 1/100 s on amd64 and arm64.
	ticks = 10 * time.Millisecond
	// generations of one PID that are remembered.
	generations = 4
)

// Processes finds processes by PID, and remembers the dead.
// It may be used from several goroutines.
type Processes struct {
	procfs string
	clock  clock

	mu     sync.Mutex
	pids   *lru[uint32, []*record] // oldest generation first
	users  *users
	latest time.Duration // the youngest event time seen
}

// record is one process: one PID from a start to an end.
type record struct {
	info    Info
	image   image
	read    time.Duration // CLOCK_MONOTONIC of the last full read
	started time.Duration // CLOCK_MONOTONIC, cut to a tick
	died    time.Duration // CLOCK_MONOTONIC when it was first known to be gone; 0 lives
}

// clock tells CLOCK_MONOTONIC and how far CLOCK_BOOTTIME is ahead of it: the
// time that the machine was suspended.
type clock func() (now, suspended time.Duration)

func kernelClock() (now, suspended time.Duration) {
	var mono, boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0, 0
	}
	now = time.Duration(mono.Nano())
	suspended = time.Duration(boot.Nano()) - now
	if suspended < time.Millisecond { // the two calls are not one instant
		suspended = 0
	}
	return now, suspended
}

// NewProcesses reads processes from a procfs ("/proc") and remembers at most max
// PIDs, those longest not asked for going first.
func NewProcesses(procfs string, max int) *Processes {
	return &Processes{
		procfs: procfs,
		clock:  kernelClock,
		pids:   newLRU[uint32, []*record](max, nil),
		users:  newUsers(procfs),
	}
}

// Lookup finds the process that had the PID at the time of an event
// (CLOCK_MONOTONIC); a zero time means now. It says false when the process is
// not known or when another process may be meant.
//
// Each call reads /proc/PID/stat, so that neither a reused PID nor an exec goes
// unseen. Everything else comes from memory for up to a second.
func (p *Processes) Lookup(pid uint32, at time.Duration) (Info, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, suspended := p.clock()
	past := at != 0
	if !past {
		at = now
	}
	p.latest = max(p.latest, at)
	known, _ := p.pids.get(pid)
	var last *record
	if len(known) > 0 {
		last = known[len(known)-1]
	}
	s, err := p.readStat(pid)
	switch {
	case err != nil:
		if last != nil && last.died == 0 {
			last.died = now
		}
	case last != nil && last.image.start == s.start:
		if last.died == 0 {
			p.renew(last, s, now)
		}
	default:
		if last != nil && last.died == 0 {
			last.died = now
		}
		if fresh, ok := p.load(pid, s); ok {
			fresh.read = now
			fresh.started = time.Duration(s.start)*ticks - suspended
			known = append(known, fresh)
		}
	}
	known = p.prune(known)
	if len(known) == 0 {
		p.pids.remove(pid)
		return Info{}, false
	}
	p.pids.put(pid, known)
	return pick(known, at, past)
}

// pick finds the generation that lived at a time.
func pick(known []*record, at time.Duration, past bool) (Info, bool) {
	for i := len(known) - 1; i >= 0; i-- {
		r := known[i]
		if at < r.started {
			continue
		}
		// An event after the death belongs to a process that was not seen. A
		// question about now may be about the one that has just gone.
		if r.died != 0 && at > r.died && past {
			return Info{}, false
		}
		return r.info, true
	}
	return Info{}, false
}

// prune drops the dead that no event can mean any more.
func (p *Processes) prune(known []*record) []*record {
	kept := known[:0]
	for _, r := range known {
		if r.died == 0 || p.latest-r.died <= Grace {
			kept = append(kept, r)
		}
	}
	if over := len(kept) - generations; over > 0 {
		kept = slices.Delete(kept, 0, over)
	}
	clear(known[len(kept):])
	return kept
}

// Exited tells that the process ended at a time (CLOCK_MONOTONIC), so that a
// later event of its PID is not taken for its own. Its name stays known for the
// grace period.
func (p *Processes) Exited(pid uint32, at time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, _ := p.pids.get(pid)
	for i := len(known) - 1; i >= 0; i-- {
		if r := known[i]; r.started <= at {
			if r.died == 0 || r.died > at {
				r.died = at
			}
			return
		}
	}
}

// Forget drops all that is known of a PID.
func (p *Processes) Forget(pid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pids.remove(pid)
}

// renew brings a living process up to date.
func (p *Processes) renew(r *record, s stat, now time.Duration) {
	if s.ended() {
		// The address space and, in cgroup v1, the cgroup are gone already:
		// what was read before is the truth about it.
		return
	}
	if r.image == s.image() && r.info.Comm == s.comm && now-r.read < refresh {
		return
	}
	fresh, ok := p.load(r.info.PID, s)
	if !ok {
		return
	}
	r.info, r.image, r.read = fresh.info, fresh.image, now
}

// load reads all of a process. It says false if the PID went to another process
// in the meantime.
func (p *Processes) load(pid uint32, s stat) (*record, bool) {
	dir := p.dir(pid)
	r := &record{
		image: s.image(),
		info:  Info{PID: pid, Comm: s.comm, StartTime: s.start, Kernel: s.flags&event.PFKthread != 0},
	}
	if b, err := readSmall(dir + "/status"); err == nil {
		r.info.UID, r.info.NSPID, _ = parseStatus(b)
	}
	if exe, err := os.Readlink(dir + "/exe"); err == nil {
		r.info.Exe = exe
	}
	if b, err := readSmall(dir + "/cgroup"); err == nil {
		r.info.CgroupPath = cgroupPath(b)
		r.info.Container = ContainerOf(r.info.CgroupPath).String()
	}
	r.info.User = p.users.name(pid, r.info.UID)
	again, err := p.readStat(pid)
	if err != nil {
		// It ended while it was read. What was read is its own, as PIDs are
		// given out in a circle; what was not stays empty.
		return r, true
	}
	return r, again.start == s.start
}

func (p *Processes) dir(pid uint32) string {
	return p.procfs + "/" + strconv.FormatUint(uint64(pid), 10)
}

func (p *Processes) readStat(pid uint32) (stat, error) { return readStat(p.dir(pid)) }

func readStat(dir string) (stat, error) {
	fd, err := unix.Open(dir+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stat{}, err
	}
	defer unix.Close(fd)
	var b [1024]byte // the longest stat is about 400 bytes
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return stat{}, err
	}
	return parseStat(b[:n])
}

// readSmall reads a file of procfs, or the first 64 KiB of it.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// PIDNamespace is the namespace whose numbers a procfs shows.
type PIDNamespace struct {
	Dev, Ino uint64 // of its file in nsfs; Dev as the kernel writes it (MKDEV)
	Initial  bool   // it is the host's own
}

// PIDNamespaceOf finds it. A container without the host's PID namespace has its
// own numbers, which events must have, too, for anything to be looked up by them.
// A procfs of another namespace than this process's is an error; a kernel without
// PID namespaces (CONFIG_PID_NS) has the initial one.
func PIDNamespaceOf(procfs string) (PIDNamespace, error) {
	const initial = 4026531836 // PROC_PID_INIT_INO, include/linux/proc_ns.h
	// Process 1 of this procfs lives in its namespace. Where it may not be
	// asked, this process must do.
	self, selfErr := statNamespace(filepath.Join(procfs, "self/ns/pid"))
	st, err := statNamespace(filepath.Join(procfs, "1/ns/pid"))
	switch {
	case err != nil && errors.Is(selfErr, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(procfs, "self/ns")); err == nil {
			return PIDNamespace{Initial: true}, nil
		}
		return PIDNamespace{}, fmt.Errorf("tell the PID namespace of %s: %w (is a procfs mounted there?)", procfs, selfErr)
	case err != nil && selfErr != nil:
		return PIDNamespace{}, fmt.Errorf("tell the PID namespace of %s: %w", procfs, selfErr)
	case err != nil:
		st = self
	case selfErr == nil && st.Ino != self.Ino:
		return PIDNamespace{}, fmt.Errorf("%s shows another PID namespace than this process's: mount one of its own (unshare --mount-proc does)", procfs)
	}
	// MKDEV has 20 bits for the minor (include/linux/kdev_t.h).
	dev := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev))
	return PIDNamespace{Dev: dev, Ino: st.Ino, Initial: st.Ino == initial}, nil
}

// statNamespace asks for a namespace's file behind its link. Who may not follow
// the link is led to its directory, without an error, up to 5.10 at least
// (proc_ns_get_link, fs/proc/namespaces.c).
func statNamespace(path string) (st unix.Stat_t, err error) {
	link, err := os.Readlink(path)
	if err != nil {
		return st, err
	}
	if err := unix.Stat(path, &st); err != nil {
		return st, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if link != fmt.Sprintf("pid:[%d]", st.Ino) {
		return st, &os.PathError{Op: "stat", Path: path, Err: unix.EACCES}
	}
	return st, nil
}
