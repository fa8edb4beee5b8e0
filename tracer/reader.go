package tracer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// ring is what a reader reads: a *ringbuf.Reader.
type ring interface {
	SetDeadline(time.Time)
	ReadInto(*ringbuf.Record) error
	AvailableBytes() int
}

const (
	// settle is how far the clock of the events and that of the reader may be
	// apart, and how much later than it happened a loss may be counted: by the
	// rest of the program that met it. The kernel's fast clock, which BPF reads,
	// may step back by less than a microsecond (ktime_get_mono_fast_ns).
	settle = 10 * time.Millisecond
	// lossEvery is how often the kernel is asked for losses: it costs a system
	// call for each program. No event is handed over that is newer than the last
	// asking by more than this.
	lossEvery = 200 * time.Millisecond
	// chunkBytes is how much is handed over at once.
	chunkBytes = 256 << 10
	// awake is for how long after the last record the reader polls on.
	awake = 200 * time.Millisecond
	// nap is how long it then sleeps, unless an event wakes it, and napLoss how
	// often losses are asked for meanwhile. When an event comes they are asked for
	// first, so none comes late.
	nap     = time.Second
	napLoss = 10 * time.Second
	// clockEvery is after how many records the reader looks at the clock.
	clockEvery = 64
)

// Loss says that so many events, which happened between two times
// (CLOCK_MONOTONIC), did not get through.
type Loss struct {
	From, To time.Duration
	Lost     uint64
}

// chunk is a part of what the ring had, and what is known once it was read.
type chunk struct {
	losses []Loss // told before the records
	data   []byte // records, one after the other
	sizes  []int  // of the records
	now    time.Duration
	last   bool // nothing follows

	read           time.Duration // when it was
	oldest, newest time.Duration // of the records
}

// usual is what most records take at most.
const usual = 1 << 10

// room is where the next record may be put by whoever reads it.
func (c *chunk) room() []byte {
	if cap(c.data)-len(c.data) < usual {
		c.data = slices.Grow(c.data, 16*usual)
	}
	return c.data[len(c.data):]
}

// add takes a record, which may stand where it belongs.
func (c *chunk) add(record []byte) {
	n := len(c.data)
	if len(record) > 0 && cap(c.data)-n >= len(record) && &c.data[:n+1][n] == &record[0] {
		c.data = c.data[:n+len(record)]
	} else {
		c.data = append(c.data, record...)
	}
	c.sizes = append(c.sizes, len(record))
}

// lose notes a loss. Those that follow each other closely become one: whoever
// takes the chunks may stand still for hours.
func (c *chunk) lose(more ...Loss) {
	for _, l := range more {
		if n := len(c.losses); n > 0 && l.From <= c.losses[n-1].To+lossEvery && c.losses[n-1].From <= l.To+lossEvery {
			one := &c.losses[n-1]
			one.From, one.To, one.Lost = min(one.From, l.From), max(one.To, l.To), one.Lost+l.Lost
			continue
		}
		c.losses = append(c.losses, l)
	}
}

func (c *chunk) clear() {
	c.losses, c.data, c.sizes = c.losses[:0], c.data[:0], c.sizes[:0]
}

// reader copies what the ring has into a queue, and does nothing else, so that
// the ring is emptied whatever becomes of the events. Each round is bounded by
// the clock and by what it reads.
//
// With each round it says a time before which no further event will come. A
// program takes its place in the ring first and reads the clock then (begin_long,
// bpf/core.h), and no record is read before one that stands in front of it, be it
// submitted or not. So when everything that had a place in the ring at a time has
// been read, no event older than that will come. How long a record waited does
// not matter, nor how long its program took.
//
// What was lost is asked for at times that it notes. A loss is counted as it
// happens, so one that was not counted when the counters were read happens later.
// The time that is told never goes beyond the last asking.
type reader struct {
	ring  ring
	clock func() (time.Duration, error) // CLOCK_MONOTONIC
	lost  func() (uint64, error)        // counts what the kernel could not deliver
	poll  time.Duration                 // how long an event may wait in the ring
	queue *queue
	// idle says whether nobody waits for the time to pass, and asleep that the
	// next event is to wake the reader, or need not any more. nil: it never sleeps.
	idle   func() bool
	asleep func(bool) error

	came    time.Duration // when a record was read last, or the first round was
	napping bool          // the last round slept to its end
	rec     ringbuf.Record
	waiting bool          // rec has been read, and not taken
	over    bool          // nothing more comes, so it waits for nothing
	mark    time.Duration // when left was all that the ring had
	left    int           // bytes of it that were not read yet
	bound   time.Duration // no older event will come
	asked   time.Duration // when losses were asked for last
	known   uint64        // the losses that were told
	cur     *chunk
}

// begin notes from where losses count. It must be called before the first event
// can happen.
func (r *reader) begin() (err error) {
	if r.asked, err = r.clock(); err != nil {
		return err
	}
	r.known, err = r.lost()
	r.bound, r.cur = r.asked, &chunk{}
	return err
}

// round hands over what was read by the last one, and reads on. It says whether
// the ring was found empty.
func (r *reader) round() (empty bool, err error) {
	now, err := r.clock()
	if err != nil {
		return false, err
	}
	if r.left <= 0 {
		r.look(now)
	}
	if now-r.asked >= lossEvery && (!r.napping || now-r.asked >= napLoss) {
		if err := r.ask(now); err != nil {
			return false, err
		}
	}
	r.hand(now)
	if r.came == 0 {
		r.came = now
	}
	r.napping = false
	if r.idle != nil && r.left <= 0 && !r.waiting && now-r.came >= awake && r.idle() {
		if r.napping, err = r.sleep(); r.napping || err != nil {
			return r.napping, err
		}
	}
	wait := r.poll
	if r.over {
		wait = 0
	}
	r.ring.SetDeadline(time.Now().Add(wait))
	for n := 1; ; n++ {
		if !r.waiting {
			r.rec.RawSample = r.cur.room()
			err := r.ring.ReadInto(&r.rec)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed) {
				r.bound, r.left = r.mark, 0
				return true, nil
			}
			if err != nil {
				return false, fmt.Errorf("read the ring buffer: %w", err)
			}
		}
		at := timeOf(r.rec.RawSample)
		r.came = now
		if r.waiting = at > r.asked+lossEvery; r.waiting {
			r.rec.RawSample = bytes.Clone(r.rec.RawSample) // the chunk goes
			return false, nil                              // losses are asked for first
		}
		r.take(at)
		if r.left -= recordBytes(len(r.rec.RawSample)); r.left <= 0 {
			r.bound = r.mark
		}
		if n%clockEvery == 0 || r.left <= 0 {
			t, err := r.clock()
			if err != nil || t-now >= r.poll {
				return false, err
			}
			if r.left <= 0 {
				r.look(t)
			}
		}
		if len(r.cur.data) >= chunkBytes {
			return false, nil
		}
	}
}

// sleep waits for a record, for as long as a nap, and says whether none came.
//
// A program takes its place in the ring first, and looks then whether the reader
// sleeps: so either it wakes the reader, or the reader sees its place. Were the
// two not seen in this order by another CPU, the record would wait for a nap.
func (r *reader) sleep() (none bool, err error) {
	if err := r.asleep(true); err != nil {
		return false, err
	}
	if r.ring.AvailableBytes() == 0 {
		r.ring.SetDeadline(time.Now().Add(nap))
		r.rec.RawSample = nil
		switch err = r.ring.ReadInto(&r.rec); {
		case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ringbuf.ErrFlushed):
			none, err = true, nil
		case err != nil:
			err = fmt.Errorf("read the ring buffer: %w", err)
		default:
			r.waiting = true // it is taken in the next round, as its losses are not asked for
		}
	}
	if none {
		r.bound, r.left = r.mark, 0
	}
	return none, errors.Join(err, r.asleep(false))
}

// look notes what has a place in the ring, and what was read and not taken yet.
func (r *reader) look(now time.Duration) {
	r.mark, r.left = now, r.ring.AvailableBytes()
	if r.waiting {
		r.left += recordBytes(len(r.rec.RawSample))
	}
	if r.left == 0 {
		r.bound = now
	}
}

// ask asks for losses.
func (r *reader) ask(now time.Duration) error {
	n, err := r.lost()
	if err != nil {
		return err
	}
	until, err := r.clock()
	if err != nil {
		return err
	}
	if n > r.known {
		r.cur.lose(Loss{From: r.asked - settle, To: until, Lost: n - r.known})
		r.known = n
	}
	r.asked = now
	return nil
}

// take copies a record.
func (r *reader) take(at time.Duration) {
	c := r.cur
	if len(c.sizes) == 0 || at < c.oldest {
		c.oldest = at
	}
	if len(c.sizes) == 0 || at > c.newest {
		c.newest = at
	}
	c.add(r.rec.RawSample)
}

// hand gives the queue what was read.
func (r *reader) hand(now time.Duration) {
	r.cur.now, r.cur.read = min(r.bound, r.asked)-settle, now
	r.cur = r.queue.put(r.cur)
}

// finish reads what the ring has left, once nothing more is put into it. It waits
// for whoever takes the events.
func (r *reader) finish() error {
	r.idle, r.over = nil, true
	for {
		r.queue.room()
		empty, err := r.round()
		if err != nil {
			return err
		}
		if empty {
			break
		}
	}
	now, err := r.clock()
	if err == nil {
		err = r.ask(now)
	}
	r.cur.last = true
	r.queue.room()
	r.hand(now)
	return err
}

// timeOf is the time of a record; 0 where it is too short for one.
func timeOf(record []byte) time.Duration {
	if len(record) < 8 {
		return 0
	}
	return time.Duration(binary.LittleEndian.Uint64(record))
}

// recordBytes is what a record takes in the ring: its header, and whole words.
func recordBytes(n int) int { return 8 + (n+7)&^7 }

// queue is what stands between the reader and whoever takes the events: it never
// keeps the reader waiting, and holds a bounded number of bytes. What it has no
// room for is lost, and counted.
type queue struct {
	most int // bytes of records

	mu      sync.Mutex
	came    sync.Cond
	went    sync.Cond
	chunks  []*chunk
	bytes   int
	free    []*chunk
	closed  bool // nobody takes anything more
	dropped uint64
}

func newQueue(most int) *queue {
	q := &queue{most: most}
	q.came.L, q.went.L = &q.mu, &q.mu
	return q
}

// put takes a chunk and gives an empty one for it.
func (q *queue) put(c *chunk) *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		c.clear()
		return c
	}
	defer q.came.Signal()
	if n := len(c.sizes); n > 0 && !c.last && q.bytes+len(c.data) > q.most {
		q.dropped += uint64(n)
		c.lose(Loss{From: c.oldest, To: c.newest, Lost: uint64(n)})
		c.data, c.sizes = c.data[:0], c.sizes[:0]
	}
	if n := len(q.chunks); n > 0 && len(c.sizes) == 0 {
		// The one before tells it, too: a loss may be told before its time, and
		// the time after the records.
		back := q.chunks[n-1]
		back.lose(c.losses...)
		back.now, back.read, back.last = c.now, c.read, c.last
		c.clear()
		return c
	}
	q.chunks = append(q.chunks, c)
	q.bytes += len(c.data)
	if n := len(q.free); n > 0 {
		c, q.free = q.free[n-1], q.free[:n-1]
		return c
	}
	return &chunk{}
}

// take waits for a chunk.
func (q *queue) take() *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.chunks) == 0 {
		q.came.Wait()
	}
	c := q.chunks[0]
	q.chunks[0] = nil
	q.chunks = q.chunks[1:]
	q.bytes -= len(c.data)
	q.went.Signal()
	return c
}

// done gives a chunk back.
func (q *queue) done(c *chunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) < 4 {
		c.clear()
		q.free = append(q.free, c)
	}
}

// room waits until half of the queue is free, or nobody takes anything more.
func (q *queue) room() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes > q.most/2 && !q.closed {
		q.went.Wait()
	}
}

// close says that nobody takes anything more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.chunks, q.bytes = true, nil, 0
	q.went.Signal()
}

// refused is how many records there was no room for.
func (q *queue) refused() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}
