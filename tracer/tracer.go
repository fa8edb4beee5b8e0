package tracer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
	life "github.com/tcpbye/tcpbye/tracer/story"
)

// Options says how to trace. The zero value traces everything.
type Options struct {
	RingBytes uint32        // size of the ring buffer, a power of two of pages; 0: 8 MiB, with Story 4
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
	// Filter is what the kernel half leaves out.
	Filter Filter
	// Story has a socket told once, at its end, whose life is plain. See
	// Tracer.Stories for whether it is so here.
	Story bool

	storyRoom uint32 // of how many sockets at once stories are kept; 0: as many as bpf/core.h says
}

// Stats counts what did not get through.
type Stats struct {
	Events  uint64 // delivered, stories too
	Ring    uint64 // lost: no room in the ring buffer
	Map     uint64 // delivered without a connection id: no room in a map
	Read    uint64 // delivered without a part that could not be read
	Decode  uint64 // lost: not an event
	Skipped uint64 // lost: the kernel did not run a program inside itself (recursion)
	Queue   uint64 // lost: they were read, and whoever takes them was too far behind
}

// Lost counts events that happened and are not in the output.
func (s Stats) Lost() uint64 { return s.Ring + s.Decode + s.Skipped + s.Queue }

// queueBytes is how much may wait for whoever takes the events: as much as the
// ring holds.
const queueBytes = 8 << 20

// Tracer holds the attached programs.
type Tracer struct {
	opts        Options
	programs    *programs
	attachments []Attachment
	ring        *ringbuf.Reader
	queue       *queue
	stories     bool          // Options.Story, and the hooks that it needs are there
	asker       *ebpf.Program // nil: stories cannot be asked for
	events      atomic.Uint64
	decode      atomic.Uint64

	idle     atomic.Bool   // nothing waits for the time to pass
	stopping atomic.Bool   // the reader is to end
	read     chan struct{} // closed when it has; nil: it was not started
	readErr  error         // why, once it has
	detached chan error    // told once the hooks are off; nil: that was not begun

	mu sync.Mutex // of programs, once they are attached
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
	saving, until := frugal()
	defer until()
	if opts.Poll == 0 {
		opts.Poll = 50 * time.Millisecond
	}
	if err := mayTrace(); err != nil {
		return nil, err
	}
	p, err := newPrograms(opts, saving)
	if err != nil {
		return nil, explain(err)
	}
	t := &Tracer{opts: opts, programs: p, queue: newQueue(queueBytes)}
	var all []hook
	for _, h := range hooks(p.kernel) {
		all = append(all, h.only(opts.Attach))
	}
	opts.Story = opts.Story && p.mayTellStories(all)
	t.stories = opts.Story
	if err := p.tellStories(opts.Story, opts.storyRoom); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if err := p.makeRing(opts); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if t.ring, err = ringbuf.NewReader(p.maps[bpf.TypedMapEvents]); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ring buffer: %w", err), p.close())
	}
	for _, h := range all {
		if h.asked == nil || h.asked(opts) {
			p.want(h)
		}
	}
	if opts.Story {
		p.wanted[objectTyped] = append(p.wanted[objectTyped], asker)
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
	if opts.Story && !toldBy(t.attachments) {
		// This kernel refused what it seemed to have: a story would lack its steps.
		if err := t.Close(); err != nil {
			return nil, err
		}
		opts.Story = false
		return open(opts)
	}
	if opts.Story {
		t.connectsByState()
		t.asker = p.loadAsker()
	}
	p.release()
	return t, nil
}

// connectsByState: the change to SYN_SENT begins a story, which tells the port that
// was chosen since. So nothing is missing of what tcp_connect tells.
func (t *Tracer) connectsByState() {
	at := func(h event.Hook) *Attachment {
		i := slices.IndexFunc(t.attachments, func(a Attachment) bool { return a.Hook == h })
		return &t.attachments[i]
	}
	state, connect := at(event.HookSetState), at(event.HookConnect)
	connect.Rung, connect.Symbols, connect.Err = state.Rung, state.Symbols, nil
}

// Stories says whether sockets whose life is plain are told once, by
// Handler.Story, and not event by event.
func (t *Tracer) Stories() bool { return t.stories }

// ErrNotAsked is why a hook that costs too much to be always there is not
// attached.
var ErrNotAsked = errors.New("not asked for")

// Attachments says how each hook is attached, in a fixed order.
func (t *Tracer) Attachments() []Attachment { return t.attachments }

// Handler takes what a trace tells, in this order, all on one goroutine. An error
// of one of its functions ends the trace.
type Handler struct {
	// Event takes an event, in the order of the ring, which is nearly that of time.
	Event func(event.Event) error
	// Story takes a socket's story (package story), in the order of the ring, too.
	// What it tells is older. At the end of the trace it also takes those that are
	// not over, after everything else. It keeps nothing of raw.
	Story func(raw []byte) error
	// Lost takes a loss, before any Tick beyond its From, and before any event
	// that is a second younger; nil: losses are only counted.
	Lost func(Loss) error
	// Tick is told, some twenty times a second, a time (CLOCK_MONOTONIC) before
	// which no further event will come, and whose losses have all been told.
	Tick func(now time.Duration) error
	// Idle is asked after a Tick whether nothing waits for the time to pass. Then,
	// and when nothing comes, Tick is called once a second, and the time it tells
	// may stand still; nil: something waits.
	Idle func() bool
}

// Start turns the kernel half on: from now on events happen, and are read.
// Whoever takes them, with Run, may begin later.
func (t *Tracer) Start() error {
	if t.read != nil {
		return nil
	}
	r := &reader{ring: t.ring, clock: Monotonic, lost: t.kernelLost, poll: t.opts.Poll, queue: t.queue, idle: t.idle.Load, asleep: t.asleep}
	if err := r.begin(); err != nil {
		return err
	}
	if err := t.programs.turn(switchOn); err != nil {
		return err
	}
	t.read = make(chan struct{})
	go func() {
		defer close(t.read)
		t.readErr = t.readRing(r)
	}()
	return nil
}

// readRing reads until it is told to stop, turns the kernel half off, and reads
// what is left.
func (t *Tracer) readRing(r *reader) (err error) {
	for err == nil && !t.stopping.Load() {
		_, err = r.round()
	}
	err = errors.Join(err, t.quiet())
	if err == nil {
		err = r.finish()
	}
	if err != nil {
		r.queue.put(&chunk{last: true})
	}
	return err
}

// asleep says whether the next event is to wake the reader.
func (t *Tracer) asleep(yes bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if yes {
		return t.programs.turn(switchAsleep)
	}
	return t.programs.turn(switchOn)
}

// quiet turns the kernel half off and waits for the programs that run still. Then
// nothing is submitted any more, and the hooks are taken off while what there is
// is read and judged; Close waits for that.
func (t *Tracer) quiet() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.programs.turn(switchOff)
	if err != nil || graceful() != nil {
		// Closing a link waits, too (perf_event_free, synchronize_rcu).
		if err = t.programs.detach(); err != nil {
			return fmt.Errorf("detach: %w", err)
		}
		return nil
	}
	detach := t.programs.letGo()
	t.detached = make(chan error, 1)
	go func() { t.detached <- detach() }()
	return nil
}

const membarrierGlobal = 1 // MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h

// graceful waits for an RCU grace period: a BPF program runs in a read-side
// critical section.
func graceful() error {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	if errno != 0 {
		return errno // not with nohz_full CPUs
	}
	return nil
}

// Run delivers what happens, until the context ends; then it turns the kernel
// half off, delivers what was submitted until then, and returns. It starts what
// was not started.
func (t *Tracer) Run(ctx context.Context, h Handler) error {
	if t.stories && h.Story == nil {
		return errors.New("sockets' stories are asked for, and nobody takes them")
	}
	if err := t.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() {
		t.stopping.Store(true)
		_ = t.ring.Flush() // it may sleep; else it looks soon
	})()
	err := t.deliver(h)
	t.stopping.Store(true)
	t.queue.close()
	<-t.read
	return errors.Join(err, t.readErr)
}

func (t *Tracer) deliver(h Handler) error {
	lost := func(l Loss) error {
		if h.Lost == nil {
			return nil
		}
		return h.Lost(l)
	}
	var last time.Duration
	for {
		c := t.queue.take()
		for _, l := range c.losses {
			if err := lost(l); err != nil {
				return err
			}
		}
		data, strange := c.data, uint64(0)
		for _, n := range c.sizes {
			raw := data[:n]
			data = data[n:]
			if h.Story != nil && life.Is(raw) {
				t.events.Add(1)
				if err := h.Story(raw); err != nil {
					return err
				}
				continue
			}
			e, err := Decode(raw)
			if err != nil {
				strange++
				continue
			}
			t.events.Add(1)
			if err := h.Event(e); err != nil {
				return err
			}
		}
		if strange > 0 {
			t.decode.Add(strange)
			if err := lost(Loss{From: last, To: c.read, Lost: strange}); err != nil {
				return err
			}
		}
		if c.last {
			return t.OpenStories(h.Story)
		}
		last = max(last, c.now)
		if err := h.Tick(last); err != nil {
			return err
		}
		t.idle.Store(h.Idle != nil && h.Idle())
		t.queue.done(c)
	}
}

// Stats reads the counters. Any goroutine may ask at any time until Close.
func (t *Tracer) Stats() (Stats, error) {
	s, err := t.kernelStats()
	s.Events, s.Decode, s.Queue = t.events.Load(), t.decode.Load(), t.queue.refused()
	return s, err
}

// kernelLost is what the kernel could not deliver.
func (t *Tracer) kernelLost() (uint64, error) {
	s, err := t.kernelStats()
	return s.Lost(), err
}

func (t *Tracer) kernelStats() (Stats, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s Stats
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
	if t.read != nil {
		t.stopping.Store(true)
		t.queue.close()
		<-t.read
	}
	if t.ring != nil {
		err = t.ring.Close()
	}
	if t.detached != nil {
		err = errors.Join(err, <-t.detached)
		t.detached = nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(err, t.programs.close())
}

// WallOffset is the wall clock minus the clock of the events, and when it was so.
// ok is false where the two could not be read at once.
func WallOffset() (offset, at time.Duration, ok bool, err error) {
	const apart = time.Millisecond
	for range 3 { // a task may be interrupted between the readings
		before, err := Monotonic()
		if err != nil {
			return 0, 0, false, err
		}
		wall := time.Now().UnixNano()
		if at, err = Monotonic(); err != nil {
			return 0, 0, false, err
		}
		if offset = time.Duration(wall) - before; at-before < apart {
			return offset, before, true, nil
		}
	}
	return offset, at, false, nil
}

// Monotonic reads the clock of the events.
func Monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
