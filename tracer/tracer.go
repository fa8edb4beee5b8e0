package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Options says how to trace. The zero value traces everything.
type Options struct {
	RingBytes uint32        // size of the ring buffer, a power of two of pages; 0: 8 MiB
	Poll      time.Duration // how long an event may wait in the ring; 0: 50 ms
	// Receive also watches every recv(2) for the end of input and for errors.
	// It is the one hook on the way of the data.
	Receive bool
	// Stack takes the user stack at close, shutdown and exit, and wakes the
	// reader for every event.
	Stack bool
	// Attach forces one rung for every hook; "": the best that works for each.
	// A hook that has no way on that rung is missing.
	Attach Rung
}

// Stats counts what did not get through.
type Stats struct {
	Events  uint64 // delivered
	Ring    uint64 // lost: no room in the ring buffer
	Map     uint64 // delivered without a connection id: no room in a map
	Read    uint64 // delivered without a part that could not be read
	Decode  uint64 // lost: not an event
	Skipped uint64 // lost: the kernel did not run a program inside itself (recursion)
}

// Lost counts events that happened and are not in the output.
func (s Stats) Lost() uint64 { return s.Ring + s.Decode + s.Skipped }

// Tracer holds the attached programs.
type Tracer struct {
	opts        Options
	programs    *programs
	attachments []Attachment
	reader      *ringbuf.Reader
	events      uint64
	decode      uint64
}

// A CannotError says why this kernel or this user cannot trace.
type CannotError struct{ Err error }

func (e *CannotError) Error() string { return e.Err.Error() }

func (e *CannotError) Unwrap() error { return e.Err }

// Open loads and attaches. It fails, with a CannotError, only when the spine
// cannot be attached; every other hook that is missing is named by Attachments.
func Open(opts Options) (*Tracer, error) {
	t, err := open(opts)
	if err != nil {
		return nil, &CannotError{err}
	}
	return t, nil
}

func open(opts Options) (*Tracer, error) {
	if opts.Poll == 0 {
		opts.Poll = 50 * time.Millisecond
	}
	if err := mayTrace(); err != nil {
		return nil, err
	}
	p, err := newPrograms(opts)
	if err != nil {
		return nil, explain(err)
	}
	t := &Tracer{opts: opts, programs: p}
	if t.reader, err = ringbuf.NewReader(p.maps[bpf.TypedMapEvents]); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ring buffer: %w", err), p.close())
	}
	var all []hook
	for _, h := range hooks(p.kernel) {
		all = append(all, h.only(opts.Attach))
	}
	for _, h := range all {
		if h.asked == nil || h.asked(opts) {
			p.want(h)
		}
	}
	for _, h := range all {
		if h.asked != nil && !h.asked(opts) {
			t.attachments = append(t.attachments, Attachment{Hook: h.hook, Lost: h.lost, Err: ErrNotAsked})
			continue
		}
		a := p.attach(h)
		t.attachments = append(t.attachments, a)
		if a.Hook == event.HookSetState && a.Err != nil {
			return nil, errors.Join(explain(fmt.Errorf("attach to the changes of a socket's state, without which nothing can be told: %w", a.Err)), t.Close())
		}
	}
	return t, nil
}

// ErrNotAsked is why a hook that costs too much to be always there is not
// attached.
var ErrNotAsked = errors.New("not asked for")

// Attachments says how each hook is attached, in a fixed order.
func (t *Tracer) Attachments() []Attachment { return t.attachments }

// Run delivers events to got, in the order of the ring (nearly that of time),
// until the context ends; then it detaches, drains the ring to its end and
// returns. After each drain it calls tick with a time (CLOCK_MONOTONIC) before
// which no further event will come. Both are called from this goroutine.
func (t *Tracer) Run(ctx context.Context, got func(event.Event) error, tick func(now time.Duration) error) error {
	var rec ringbuf.Record
	for ctx.Err() == nil {
		if err := t.drain(&rec, time.Now().Add(t.opts.Poll), got); err != nil {
			return err
		}
		now, err := Monotonic()
		if err != nil {
			return err
		}
		if err := tick(now - settle); err != nil {
			return err
		}
	}
	if err := t.programs.detach(); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	// A program that still ran when its link was closed has submitted by now:
	// closing a link waits for it (perf_event_free, synchronize_rcu).
	return t.drain(&rec, time.Now(), got)
}

// settle is how long a record may take from its clock reading to its place in
// the ring. It bounds the disorder between CPUs.
const settle = 10 * time.Millisecond

func (t *Tracer) drain(rec *ringbuf.Record, deadline time.Time, got func(event.Event) error) error {
	t.reader.SetDeadline(deadline)
	for {
		err := t.reader.ReadInto(rec)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		e, err := Decode(rec.RawSample)
		if err != nil {
			t.decode++
			continue
		}
		t.events++
		if err := got(e); err != nil {
			return err
		}
	}
}

// Stats reads the counters.
func (t *Tracer) Stats() (Stats, error) {
	s := Stats{Events: t.events, Decode: t.decode}
	for kind, to := range map[bpf.ProbeLoss]*uint64{
		bpf.ProbeLossLOST_RING: &s.Ring, bpf.ProbeLossLOST_MAP: &s.Map, bpf.ProbeLossLOST_READ: &s.Read,
	} {
		var perCPU []uint64
		if err := t.programs.maps[bpf.TypedMapLost].Lookup(uint32(kind), &perCPU); err != nil {
			return s, fmt.Errorf("read the counters of lost events: %w", err)
		}
		for _, n := range perCPU {
			*to += n
		}
	}
	for _, prog := range t.programs.loaded {
		st, err := prog.Stats()
		if errors.Is(err, ebpf.ErrNotSupported) {
			continue // before 5.12 the kernel does not count them
		}
		if err != nil {
			return s, fmt.Errorf("read how often a program was skipped: %w", err)
		}
		s.Skipped += st.RecursionMisses
	}
	n, err := t.programs.missed()
	if err != nil {
		return s, fmt.Errorf("read how often a kprobe was skipped: %w", err)
	}
	s.Skipped += n
	return s, nil
}

// Close detaches and frees everything.
func (t *Tracer) Close() error {
	var err error
	if t.reader != nil {
		err = t.reader.Close()
	}
	return errors.Join(err, t.programs.close())
}

// Monotonic reads the clock of the events.
func Monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
