package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Signals watches the signals that one process sends another, by a tracing instance of
// its own in tracefs: the hooks see only SIGPIPE, since more would cost each kill(2) of
// the machine a place in the ring.
type Signals struct {
	fs   *tracefs
	name string
	pipe int // its trace_pipe
	rest []byte
}

// initPIDNS is the inode number of the first PID namespace (PROC_PID_INIT_INO,
// include/linux/proc_ns.h), whose numbers tracefs shows.
const initPIDNS = "pid:[4026531836]"

// WatchSignals begins to watch these signals. They are not for concurrent use.
func WatchSignals(signals ...int) (_ *Signals, err error) {
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil || ns != initPIDNS {
		return nil, errors.New("watch signals: tracefs numbers processes as outside this PID namespace")
	}
	fs, err := openTracefs(0)
	if err != nil {
		return nil, fmt.Errorf("watch signals: %w", err)
	}
	s := &Signals{fs: fs, name: fmt.Sprintf("instances/tcpbye-%d", os.Getpid()), pipe: -1}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("watch signals: %w", err), s.Close())
		}
	}()
	if err := unix.Mkdirat(s.dir(), s.name, 0o700); err != nil {
		s.name = ""
		return nil, fmt.Errorf("make a tracing instance: %w", err)
	}
	var filter []string
	for _, n := range signals {
		filter = append(filter, "sig=="+strconv.Itoa(n))
	}
	for _, set := range [][2]string{
		{"trace_clock", "mono"}, {"buffer_size_kb", "64"},
		{"events/signal/signal_generate/filter", strings.Join(filter, "||")},
		{"events/signal/signal_generate/enable", "1"},
	} {
		if err := s.set(set[0], set[1]); err != nil {
			return nil, err
		}
	}
	s.pipe, err = unix.Openat(s.dir(), s.name+"/trace_pipe", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open trace_pipe: %w", err)
	}
	return s, nil
}

func (s *Signals) dir() int { return int(s.fs.dir.Fd()) }

func (s *Signals) set(name, value string) error {
	fd, err := unix.Openat(s.dir(), s.name+"/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	_, err = unix.Write(fd, []byte(value))
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, name, err)
	}
	return nil
}

// Read returns the signals since the last call, in their order. It does not wait. Their
// times have microseconds.
func (s *Signals) Read() ([]event.Event, error) {
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(s.pipe, buf)
		if n > 0 {
			s.rest = append(s.rest, buf[:n]...)
		}
		if n > 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("watch signals: %w", err)
		}
		break
	}
	var all []event.Event
	for {
		line, rest, ok := bytes.Cut(s.rest, []byte("\n"))
		if !ok {
			return all, nil
		}
		s.rest = rest
		if e, ok := parseSignal(string(line)); ok {
			all = append(all, e)
		}
	}
}

// parseSignal reads a line of trace_pipe: COMM-TID [CPU] FLAGS SECONDS: signal_generate:
// sig=N errno=N code=N comm=NAME pid=PID grp=N res=N. A name may hold anything.
func parseSignal(line string) (e event.Event, ok bool) {
	const name = ": signal_generate: sig="
	at := strings.LastIndex(line, name)
	if at < 0 {
		return e, false
	}
	head, tail := line[:at], line[at+len(name):]
	signal, tail, _ := strings.Cut(tail, " ")
	_, tail, found := cutLast(tail, " pid=")
	pid, _, _ := strings.Cut(tail, " ")
	before, stamp, timed := cutLast(head, " ")
	seconds, micros, dotted := strings.Cut(stamp, ".")
	who, _, _ := cutLast(strings.TrimSpace(before), "[")
	comm, tid, _ := cutLast(strings.TrimSpace(who), "-")
	n, err1 := strconv.ParseInt(signal, 10, 32)
	p, err2 := strconv.ParseUint(pid, 10, 31)
	sec, err3 := strconv.ParseInt(seconds, 10, 32)
	us, err4 := strconv.ParseInt(micros, 10, 32)
	t, err5 := strconv.ParseUint(tid, 10, 31)
	if !found || !timed || !dotted || errors.Join(err1, err2, err3, err4, err5) != nil {
		return e, false
	}
	return event.Event{
		Time: time.Duration(sec)*time.Second + time.Duration(us)*time.Microsecond,
		Hook: event.HookSignal, Context: event.ContextProcess, PID: uint32(t), TID: uint32(t),
		Comm: event.CommOf(strings.TrimSpace(comm)), Arg: int32(n), Arg2: int32(p),
	}, true
}

// cutLast cuts around the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Close takes the tracing instance away.
func (s *Signals) Close() (err error) {
	if s == nil {
		return nil
	}
	if s.pipe >= 0 {
		err = unix.Close(s.pipe)
	}
	if s.name != "" {
		err = errors.Join(err, unix.Unlinkat(s.dir(), s.name, unix.AT_REMOVEDIR))
	}
	return errors.Join(err, s.fs.Close())
}
