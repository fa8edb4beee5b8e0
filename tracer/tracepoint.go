package tracer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tracefs is the directory that numbers the classic tracepoints.
type tracefs struct {
	dir   *os.File
	where string // for a person
}

// tracefsDirs are where it is mounted: by itself, or below debugfs.
var tracefsDirs = []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}

// openTracefs finds tracefs. Where nobody has mounted it, it is mounted for
// this process alone, at no path, with these attributes.
func openTracefs(attr int) (*tracefs, error) {
	for _, dir := range tracefsDirs {
		_, err := os.Stat(filepath.Join(dir, "events"))
		switch {
		case err == nil:
			f, err := os.Open(dir)
			if err != nil {
				return nil, fmt.Errorf("open tracefs: %w", err)
			}
			return &tracefs{f, dir}, nil
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("read tracefs at %s: %w; it is root's: run as root, or with CAP_DAC_READ_SEARCH", dir, unix.EACCES)
		}
	}
	f, err := mountTracefs(attr)
	if err != nil {
		return nil, fmt.Errorf("tracefs is not mounted, and mounting it failed: %w; as root: mount -t tracefs tracefs %s", err, tracefsDirs[0])
	}
	return &tracefs{f, "not mounted; mounted for this process alone"}, nil
}

// mountTracefs makes a mount that no path leads to; it goes with the file.
func mountTracefs(attr int) (*os.File, error) {
	conf, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(conf)
	if err := unix.FsconfigCreate(conf); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, attr|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tracefs"), nil
}

func (t *tracefs) Close() error { return t.dir.Close() }

// id is the number of a tracepoint GROUP:NAME.
func (t *tracefs) id(symbol string) (uint64, error) {
	group, name, _ := strings.Cut(symbol, ":")
	path := filepath.Join("events", group, name, "id")
	fd, err := unix.Openat(int(t.dir.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, fmt.Errorf("%w: the tracepoint %s", errAbsent, symbol)
	case err != nil:
		return 0, fmt.Errorf("read the number of the tracepoint %s: %w", symbol, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var text [32]byte
	n, err := f.Read(text[:])
	if err != nil {
		return 0, fmt.Errorf("read the number of the tracepoint %s: %w", symbol, err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text[:n])), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the number of the tracepoint %s: %w", symbol, err)
	}
	return id, nil
}

// perfEvent is a program at a classic tracepoint.
type perfEvent struct{ fd int }

// attachTracepoint runs a program at a tracepoint, on all CPUs: the event is of
// one, but its programs are the tracepoint's.
func attachTracepoint(id uint64, prog *ebpf.Program) (*perfEvent, error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open the perf event: %w", err)
	}
	e := &perfEvent{fd}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, prog.FD()); err != nil {
		return nil, errors.Join(fmt.Errorf("give the perf event its program: %w", err), e.Close())
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("enable the perf event: %w", err), e.Close())
	}
	return e, nil
}

func (e *perfEvent) Close() error { return unix.Close(e.fd) }
