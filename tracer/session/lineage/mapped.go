package lineage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapped knows what processes execute from the kernel's own telling (perf events
// of executable mappings). A question to /proc may come too late; this does not,
// however short a process lives.
//
// On an overlay some kernels tell the path of the file below it (backing files,
// 6.7), from the layer's root on: in a container, whose root is the overlay, that
// is the same.
//
// The events lie in a ring for each CPU until they are asked for, or a part of
// the ring is full.
type mapped struct {
	rings []*ring

	mu      sync.Mutex
	pending []mapping
	known   map[uint32]image
	order   []uint32 // of known, the oldest first
	oldest  int
}

// image is what a process executes.
type image struct {
	exe   string // "" not told (yet)
	fresh bool   // it has called exec, and mapped nothing since
}

// mapping is an event.
type mapping struct {
	at   uint64 // CLOCK_MONOTONIC, ns
	kind uint32 // PERF_RECORD_*
	pid  uint32
	from uint32 // the parent, of a fork
	name string // of a mapping
}

// ring is a CPU's.
type ring struct {
	fd   int
	page []byte // the control page, and the data behind it
}

const (
	// ringPages, a power of two, is the data of a ring: room for hundreds of
	// processes, each of which maps a handful of files.
	ringPages = 64
	// offsets in struct perf_event_mmap_page
	offsetDataHead = 1024
	offsetDataTail = 1032

	recordHeader   = 8
	commExec       = 1 << 13 // PERF_RECORD_MISC_COMM_EXEC
	offsetFilename = recordHeader + 32
	sampleID       = 8 // the time, at each record's end
)

// openMapped starts to listen on every CPU.
func openMapped() (*mapped, error) {
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("list the CPUs: %w", err)
	}
	cpus, err := parseCPUs(string(online))
	if err != nil {
		return nil, err
	}
	m := &mapped{known: map[uint32]image{}}
	for _, cpu := range cpus {
		r, err := openRing(cpu)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for what is executed on CPU %d: %w", cpu, err), m.close())
		}
		m.rings = append(m.rings, r)
	}
	return m, nil
}

// parseCPUs reads a list as the kernel writes it: 0-3,5.
func parseCPUs(text string) (cpus []int, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(last)
		}
		if err != nil {
			return nil, fmt.Errorf("the list of CPUs is %q", text)
		}
		for ; a <= b; a++ {
			cpus = append(cpus, a)
		}
	}
	return cpus, nil
}

func openRing(cpu int) (*ring, error) {
	attr := &unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_TIME,
		Bits: unix.PerfBitMmap | unix.PerfBitComm | unix.PerfBitCommExec | unix.PerfBitTask |
			unix.PerfBitSampleIDAll | unix.PerfBitUseClockID | unix.PerfBitWatermark,
		Wakeup:  uint32(ringPages * os.Getpagesize() / 4),
		Clockid: unix.CLOCK_MONOTONIC,
	}
	fd, err := unix.PerfEventOpen(attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	page, err := unix.Mmap(fd, 0, (1+ringPages)*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &ring{fd, page}, nil
}

func (m *mapped) close() error {
	var errs []error
	for _, r := range m.rings {
		errs = append(errs, unix.Munmap(r.page), unix.Close(r.fd))
	}
	m.rings = nil
	return errors.Join(errs...)
}

// exe is what a process executes, or executed at its end; "" not known.
func (m *mapped) exe(pid uint32) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drain()
	return m.known[pid].exe
}

// read takes what there is, so that no ring runs over.
func (m *mapped) read() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drain()
}

// drain reads the rings. A process can go from one CPU to another: what is
// younger than the reading of the first ring waits for the next time, since what
// came before it may be missing.
func (m *mapped) drain() {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return
	}
	horizon := uint64(time.Duration(now.Nano()))
	for _, r := range m.rings {
		r.each(func(record []byte) {
			if e, ok := parseMapping(record); ok {
				m.pending = append(m.pending, e)
			}
		})
	}
	slices.SortStableFunc(m.pending, func(a, b mapping) int { return cmp.Compare(a.at, b.at) })
	n := 0
	for n < len(m.pending) && m.pending[n].at <= horizon {
		m.take(m.pending[n])
		n++
	}
	m.pending = slices.Delete(m.pending, 0, n)
}

// take learns from an event, in their order.
func (m *mapped) take(e mapping) {
	switch e.kind {
	case unix.PERF_RECORD_LOST:
		// What has called exec meanwhile is not known: nothing is sure any more.
		clear(m.known)
		m.order, m.oldest = nil, 0
	case unix.PERF_RECORD_FORK:
		m.learn(e.pid, image{exe: m.known[e.from].exe})
	case unix.PERF_RECORD_COMM:
		m.learn(e.pid, image{fresh: true})
	case unix.PERF_RECORD_MMAP:
		// The first thing that is mapped to be executed is the program; then
		// come its interpreter and libraries.
		if m.known[e.pid].fresh {
			m.known[e.pid] = image{exe: e.name}
		}
	}
}

func (m *mapped) learn(pid uint32, i image) {
	if _, again := m.known[pid]; !again {
		if len(m.order) < most {
			m.order = append(m.order, pid)
		} else {
			delete(m.known, m.order[m.oldest])
			m.order[m.oldest] = pid
			m.oldest = (m.oldest + 1) % most
		}
	}
	m.known[pid] = i
}

// each visits the records of a ring, and gives their room back.
func (r *ring) each(visit func(record []byte)) {
	data := r.page[os.Getpagesize():]
	head := atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.page[offsetDataHead])))
	tail := binary.NativeEndian.Uint64(r.page[offsetDataTail:]) // which nobody else writes
	header := make([]byte, recordHeader)
	for tail < head {
		copyRing(header, data, tail)
		n := uint64(binary.NativeEndian.Uint16(header[6:]))
		if n < recordHeader || n > head-tail {
			tail = head // it makes no sense
			break
		}
		record := make([]byte, n)
		copyRing(record, data, tail)
		visit(record)
		tail += n
	}
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&r.page[offsetDataTail])), tail)
}

// copyRing copies from a position on, around the ring's end.
func copyRing(to, data []byte, from uint64) {
	at := from % uint64(len(data))
	n := copy(to, data[at:])
	copy(to[n:], data)
}

// parseMapping reads a record (include/uapi/linux/perf_event.h); ok is false for
// those that tell nothing here.
func parseMapping(b []byte) (e mapping, ok bool) {
	if len(b) < recordHeader+8+sampleID {
		return e, false
	}
	o := binary.NativeEndian
	misc := o.Uint16(b[4:])
	e = mapping{kind: o.Uint32(b), pid: o.Uint32(b[8:]), at: o.Uint64(b[len(b)-sampleID:])}
	switch e.kind {
	case unix.PERF_RECORD_LOST:
		return e, true
	case unix.PERF_RECORD_FORK:
		e.from = o.Uint32(b[12:])
		return e, e.pid != e.from // and not a thread
	case unix.PERF_RECORD_COMM:
		return e, misc&commExec != 0
	case unix.PERF_RECORD_MMAP:
		if len(b) < offsetFilename+sampleID {
			return e, false
		}
		name, _, _ := bytes.Cut(b[offsetFilename:len(b)-sampleID], []byte{0})
		e.name = string(name)
		// Others are no files: [vdso], //anon.
		return e, strings.HasPrefix(e.name, "/") && !strings.HasPrefix(e.name, "//")
	}
	return e, false
}
