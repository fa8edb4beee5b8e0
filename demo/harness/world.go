package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// World is what one run plays in. Its first failure ends the play: every later
// step does nothing. It is not for concurrent use.
type World struct {
	Dir      string // for the run's files; it goes with the World
	Home     *Space // where everything lives unless the story says otherwise
	Spaces   []*Space
	Since    time.Duration   // CLOCK_MONOTONIC, before anything else
	Patience time.Duration   // how long a step may take
	Err      error           // the first failure
	Ctx      context.Context // ends when the run is to stop
	// Explain, if it is not nil, has more to say of a wait in vain.
	Explain func() string

	cleanup []func() error
}

// Space is a network namespace of a World.
type Space struct {
	*Netns
	// Capture has its segments from the first on; nil: the oracle is not in there.
	Capture  *Capture
	counters map[string]int64 // at the start
	gone     bool
}

// New makes a World with one namespace.
func New(ctx context.Context, patience time.Duration) (w *World, err error) {
	w = &World{Ctx: ctx, Patience: patience, Since: Monotonic()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.Dir, err = os.MkdirTemp("", "tcpbye-"); err != nil {
		return w, fmt.Errorf("make a directory for the run's files: %w", err)
	}
	// Servers that give up root must still find their files.
	if err = os.Chmod(w.Dir, 0o755); err != nil {
		return w, err
	}
	w.Home, err = w.AddSpace()
	return w, err
}

// NewUnprivileged makes a World in the namespace of this process, without a capture.
func NewUnprivileged(ctx context.Context, patience time.Duration, dir string) *World {
	n := &Netns{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // a child's parent-death signal follows this thread
		for f := range n.work {
			f()
		}
	}()
	home := &Space{Netns: n}
	return &World{Dir: dir, Home: home, Spaces: []*Space{home}, Since: Monotonic(), Patience: patience, Ctx: ctx}
}

// AddSpace makes a namespace that the oracle watches from its first packet on.
func (w *World) AddSpace() (*Space, error) {
	s, err := w.AddUnwatched()
	if err != nil {
		return nil, err
	}
	if s.Capture, err = NewCapture(s.Netns, Everything); err != nil {
		return nil, err
	}
	s.counters, err = s.readCounters()
	return s, err
}

// AddUnwatched makes a namespace that the oracle is not in: it sees the segments
// on the way.
func (w *World) AddUnwatched() (*Space, error) {
	n, err := NewNetns()
	if err != nil {
		return nil, err
	}
	s := &Space{Netns: n}
	w.Spaces = append(w.Spaces, s)
	return s, nil
}

// Remove lets go of the namespace before the World does.
func (s *Space) Remove() {
	s.Close()
	s.gone = true
}

// OnClose has something put back when the World closes, what came last first.
func (w *World) OnClose(f func() error) { w.cleanup = append(w.cleanup, f) }

// Close lets go of the World, in which no process lives any more.
func (w *World) Close() error {
	var errs []error
	for _, f := range slices.Backward(w.cleanup) {
		errs = append(errs, f())
	}
	for _, s := range w.Spaces {
		if s.Capture != nil {
			errs = append(errs, s.Capture.Stop())
		}
		if !s.gone {
			s.Close()
		}
	}
	if w.Dir != "" {
		errs = append(errs, os.RemoveAll(w.Dir))
	}
	return errors.Join(errs...)
}

// Fail ends the play; the first failure is the one that counts.
func (w *World) Fail(format string, args ...any) {
	if w.Err == nil {
		w.Err = fmt.Errorf(format, args...)
	}
}

// Until polls a condition; what says what is waited for, and is completed by
// what was seen last.
func (w *World) Until(what string, cond func() (ok bool, seen string)) {
	deadline := time.Now().Add(w.Patience)
	pause := 200 * time.Microsecond
	for w.Err == nil {
		ok, seen := cond()
		if ok || w.Err != nil {
			return
		}
		if time.Now().After(deadline) {
			if w.Explain != nil {
				seen += w.Explain()
			}
			w.Fail("waited %v in vain for %s; seen last: %s", w.Patience, what, seen)
			return
		}
		select {
		case <-w.Ctx.Done():
			w.Fail("stopped while waiting for %s: %w", what, w.Ctx.Err())
		case <-time.After(pause):
			pause = min(pause*2, 10*time.Millisecond)
		}
	}
}

// Dwell lets time pass, where time passing is the story.
func (w *World) Dwell(d time.Duration) {
	if w.Err != nil {
		return
	}
	select {
	case <-w.Ctx.Done():
		w.Fail("stopped: %w", w.Ctx.Err())
	case <-time.After(d):
	}
}

// Stopped waits until a process has stopped, each thread of it.
func (w *World) Stopped(name string, pid int) {
	w.Until(name+" to stop", func() (bool, string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, after, _ := strings.Cut(string(b), ") ")
		return err == nil && strings.HasPrefix(after, "T"), after[:min(len(after), 1)]
	})
}

// In runs f in a namespace of the World; its error ends the play.
func (w *World) In(s *Space, what string, f func() error) {
	if w.Err != nil {
		return
	}
	if err := s.Do(f); err != nil {
		w.Fail("cannot %s: %w", what, err)
	}
}

// Sysctl writes a setting in the home namespace.
func (w *World) Sysctl(name, value string) {
	if w.Err != nil {
		return
	}
	if err := w.Home.Do(func() error { return Sysctl(name, value) }); err != nil {
		w.Fail("%w", err)
	}
}

// SysctlIfAny is Sysctl for a setting that older kernels do not have and that
// stands there as it should.
func (w *World) SysctlIfAny(name, value string) {
	if w.Err != nil {
		return
	}
	err := w.Home.Do(func() error { return Sysctl(name, value) })
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.Fail("%w", err)
	}
}

// SysctlMachine writes a setting of the whole machine and returns what puts the
// old value back; it is put back in any case when the World ends.
func (w *World) SysctlMachine(name, value string) (restore func()) {
	if w.Err != nil {
		return func() {}
	}
	old, err := os.ReadFile(SysctlPath(name))
	if err != nil {
		w.Fail("cannot read %s, which belongs to the machine's first network namespace: %w", name, err)
		return func() {}
	}
	back := sync.OnceValue(func() error { return Sysctl(name, strings.TrimSpace(string(old))) })
	w.OnClose(back)
	if err := Sysctl(name, value); err != nil {
		w.Fail("%w", err)
	}
	return func() {
		if err := back(); err != nil {
			w.Fail("%w", err)
		}
	}
}

// Segments are what the captures have so far, one namespace after the other.
func (w *World) Segments() []Segment {
	var all []Segment
	for _, s := range w.Spaces {
		if s.Capture != nil {
			all = append(all, s.Capture.Segments()...)
		}
	}
	return all
}

// Counters are the increments of a watched namespace's counters, by kernel name.
func (s *Space) Counters() (map[string]int64, error) {
	now, err := s.readCounters()
	for name := range now {
		now[name] -= s.counters[name]
	}
	return now, err
}

// Rows are the lines of the socket tables of a namespace.
func (w *World) Rows(netns uint32) []Row {
	for _, s := range w.Spaces {
		if s.Inode != netns || s.gone || w.Err != nil {
			continue
		}
		rows, err := s.Table()
		if err != nil {
			w.Fail("%w", err)
		}
		return rows
	}
	return nil
}
