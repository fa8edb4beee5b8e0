package tracer

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// fakeRing is a ring and the kernel that fills it, on a clock of their own: each
// look at the clock, and each record that is read, takes a moment in which
// programs take their places, read the clock, submit, and find no room.
type fakeRing struct {
	r    *rand.Rand
	now  time.Duration
	room int // bytes
	rate int // records begun for each that is read
	stop bool

	slots []*slot
	bytes int
	lost  []time.Duration // when there was no room
	next  uint64
	made  map[uint64]time.Duration // by number: when

	deadline time.Duration
	wake     func() // what may happen while nothing comes; nil: nothing
}

// slot is a place in the ring.
type slot struct {
	data   []byte
	wait   time.Duration // until then it is not submitted
	number uint64
}

func (f *fakeRing) clock() (time.Duration, error) {
	f.pass()
	return f.now, nil
}

func (f *fakeRing) count() (uint64, error) { return uint64(len(f.lost)), nil }

// pass lets some time pass.
func (f *fakeRing) pass() {
	for range f.rate {
		f.now += time.Duration(1 + f.r.IntN(20_000))
		if f.stop {
			continue
		}
		size := 16 + 8*f.r.IntN(60)
		if f.bytes+recordBytes(size) > f.room {
			f.lost = append(f.lost, f.now)
			continue
		}
		// Its clock is read after it has its place, sometimes long after.
		at := f.now + time.Duration(f.r.IntN(3000))
		if f.r.IntN(500) == 0 {
			at += time.Duration(f.r.Int64N(int64(30 * time.Millisecond)))
		}
		f.next++
		s := &slot{data: make([]byte, size), wait: at + time.Duration(f.r.IntN(2000)), number: f.next}
		binary.LittleEndian.PutUint64(s.data, uint64(at))
		binary.LittleEndian.PutUint64(s.data[8:], s.number)
		f.made[s.number] = at
		f.slots = append(f.slots, s)
		f.bytes += recordBytes(size)
	}
}

func (f *fakeRing) SetDeadline(t time.Time) { f.deadline = f.now + time.Until(t) }

func (f *fakeRing) AvailableBytes() int { return f.bytes }

func (f *fakeRing) ReadInto(rec *ringbuf.Record) error {
	for {
		f.pass()
		if len(f.slots) == 0 {
			if f.now >= f.deadline || f.stop {
				return os.ErrDeadlineExceeded
			}
			f.now += time.Millisecond
			if f.wake != nil {
				f.wake()
			}
			continue
		}
		s := f.slots[0]
		if f.now < s.wait {
			f.now = s.wait // the reader spins on it
			continue
		}
		f.slots = f.slots[1:]
		f.bytes -= recordBytes(len(s.data))
		rec.RawSample = append(rec.RawSample[:0], s.data...)
		return nil
	}
}

// audit holds what is delivered against what happened.
type audit struct {
	t      *testing.T
	ring   *fakeRing
	got    map[uint64]bool
	told   time.Duration // the last tick
	losses []Loss
	newest time.Duration

	checked int // of the ring's losses
}

func (a *audit) chunk(c *chunk) {
	for _, l := range c.losses {
		if l.From < a.told-2*settle {
			a.t.Errorf("a loss from %v is told when it was said that all is known before %v", l.From, a.told)
		}
		if a.newest > l.From+settle+2*lossEvery {
			a.t.Errorf("a loss from %v is told after an event of %v", l.From, a.newest)
		}
		a.losses = append(a.losses, l)
	}
	data := c.data
	for _, n := range c.sizes {
		at := timeOf(data)
		if at < a.told {
			a.t.Errorf("an event of %v comes after it was said that none before %v will", at, a.told)
		}
		a.newest = max(a.newest, at)
		a.got[binary.LittleEndian.Uint64(data[8:])] = true
		data = data[n:]
	}
	if c.now < a.told && !c.last {
		a.t.Errorf("the time goes back from %v to %v", a.told, c.now)
	}
	if c.last {
		return
	}
	a.told = c.now
	for ; a.checked < len(a.ring.lost) && a.ring.lost[a.checked] < a.told; a.checked++ {
		if at := a.ring.lost[a.checked]; !a.covered(at) {
			a.t.Fatalf("a loss at %v was not told when it was said that all is known before %v", at, a.told)
		}
	}
}

func (a *audit) covered(at time.Duration) bool {
	for i := len(a.losses) - 1; i >= 0; i-- {
		if l := a.losses[i]; l.From <= at && at <= l.To {
			return true
		}
	}
	return false
}

// run plays a trace: steps rounds, and the end. takes says whether the one who
// takes the events does so after a round.
func (f *fakeRing) run(t *testing.T, rounds, most int, takes func(round int) bool) (*audit, *reader) {
	t.Helper()
	f.made, f.now = map[uint64]time.Duration{}, time.Hour
	r := &reader{ring: f, clock: f.clock, lost: f.count, poll: 50 * time.Millisecond, queue: newQueue(most)}
	a := &audit{t: t, ring: f, got: map[uint64]bool{}}
	take := func() {
		for len(r.queue.chunks) > 0 {
			c := r.queue.take()
			a.chunk(c)
			r.queue.done(c)
		}
	}
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		before := f.now
		if _, err := r.round(); err != nil {
			t.Fatal(err)
		}
		// A record that is not submitted holds it up for up to 30 ms.
		if took := f.now - before; took > 200*time.Millisecond {
			t.Fatalf("a round took %v", took)
		}
		if takes(i) {
			take()
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	take()
	f.stop = true
	done := make(chan error)
	go func() { done <- r.finish() }()
	for {
		c := r.queue.take()
		a.chunk(c)
		if c.last {
			break
		}
		r.queue.done(c)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var lost uint64
	for _, l := range a.losses {
		lost += l.Lost
	}
	if want := uint64(len(f.lost)) + r.queue.refused(); lost != want {
		t.Errorf("%d lost events are told, there were %d", lost, want)
	}
	if uint64(len(a.got))+r.queue.refused() != f.next {
		t.Errorf("%d events came and %d were refused, of %d", len(a.got), r.queue.refused(), f.next)
	}
	for n, at := range f.made {
		if !a.got[n] && !a.covered(at) {
			t.Fatalf("event %d of %v was lost, and no loss covers it", n, at)
		}
	}
	return a, r
}

func always(int) bool { return true }

// TestReaderUnderLoad: more comes than is read, so the ring is never empty. Time
// and losses are told all the same.
func TestReaderUnderLoad(t *testing.T) {
	f := &fakeRing{r: rand.New(rand.NewPCG(1, 1)), room: 1 << 20, rate: 3}
	a, r := f.run(t, 100, 8<<20, always)
	if len(f.lost) == 0 || f.now < time.Hour+time.Second/2 {
		t.Fatalf("%d losses in %v: that is no load", len(f.lost), f.now)
	}
	if behind := r.asked - a.told; behind > time.Second {
		t.Errorf("the time that is told is %v behind", behind)
	}
	if f.bytes != 0 {
		t.Errorf("%d bytes stayed in the ring", f.bytes)
	}
}

// TestReaderKeepsItsWord: at any load, and whether or not somebody takes what is
// read, each event comes before it was said that none will, or is within a loss
// that was told in time.
func TestReaderKeepsItsWord(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 7))
		f := &fakeRing{r: r, room: 1 << (12 + r.IntN(9)), rate: 1 + r.IntN(4)}
		every := 1 + r.IntN(40)
		f.run(t, 40, 1<<(14+r.IntN(8)), func(i int) bool { return i%every == 0 })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestReaderAtRest: of a quiet machine the time is told within a poll or two.
func TestReaderAtRest(t *testing.T) {
	f := &fakeRing{r: rand.New(rand.NewPCG(1, 2)), room: 1 << 20, rate: 1, stop: true}
	a, _ := f.run(t, 40, 1<<20, always)
	if behind := f.now - a.told; behind > lossEvery+200*time.Millisecond+settle {
		t.Errorf("the time that is told is %v behind", behind)
	}
}

// TestQueueStandsStill: nobody takes anything for long. What there is no room for
// is one loss, the queue does not grow, and the reader never waits.
func TestQueueStandsStill(t *testing.T) {
	f := &fakeRing{r: rand.New(rand.NewPCG(3, 1)), room: 1 << 20, rate: 2, made: map[uint64]time.Duration{}}
	r := &reader{ring: f, clock: f.clock, lost: f.count, poll: 50 * time.Millisecond, queue: newQueue(1 << 16)}
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if _, err := r.round(); err != nil {
			t.Fatal(err)
		}
	}
	q := r.queue
	losses := 0
	for _, c := range q.chunks {
		losses += len(c.losses)
	}
	if q.bytes > 1<<16+chunkBytes || len(q.chunks) > 50 || losses > 50 || q.refused() == 0 {
		t.Errorf("the queue has %d chunks, %d bytes, %d losses, and refused %d", len(q.chunks), q.bytes, losses, q.refused())
	}
}

// When nothing comes and nobody waits for the time, the reader sleeps; what comes
// then wakes it, and nothing that it said before was wrong.
func TestReaderSleeps(t *testing.T) {
	f := &fakeRing{r: rand.New(rand.NewPCG(1, 2)), room: 1 << 20, made: map[uint64]time.Duration{}, now: time.Hour}
	asked, asleep, naps, idle := 0, false, 0, true
	r := &reader{
		ring: f, clock: f.clock, poll: 50 * time.Millisecond, queue: newQueue(1 << 20),
		lost: func() (uint64, error) { asked++; return f.count() },
		idle: func() bool { return idle },
		asleep: func(yes bool) error {
			if asleep = yes; yes {
				naps++
			}
			return nil
		},
	}
	a := &audit{t: t, ring: f, got: map[uint64]bool{}}
	rounds := func(until time.Duration) (n int) {
		t.Helper()
		for until += f.now; f.now < until; n++ {
			if _, err := r.round(); err != nil {
				t.Fatal(err)
			}
			if asleep {
				t.Fatal("it reads, and is said to sleep")
			}
			for len(r.queue.chunks) > 0 {
				c := r.queue.take()
				a.chunk(c)
				r.queue.done(c)
			}
		}
		return n
	}
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	rounds(time.Second)
	asked = 0
	if n := rounds(30 * time.Second); n > 40 || asked > 4 || naps < 25 {
		t.Errorf("in 30 s when nothing happens: %d rounds, losses asked for %d times, %d naps", n, asked, naps)
	}
	// A loss in its sleep, and then a burst.
	from := f.now
	f.wake = func() {
		if !asleep {
			return
		}
		switch {
		case f.now > from+5300*time.Millisecond:
			f.wake, f.rate = nil, 2
			f.pass()
		case f.now > from+5100*time.Millisecond && len(f.lost) == 0:
			f.lost = append(f.lost, f.now)
		}
	}
	rounds(5400 * time.Millisecond)
	f.rate = 0
	rounds(300 * time.Millisecond)
	if len(a.got) == 0 || len(a.got) != int(f.next) || a.losses == nil {
		t.Errorf("%d of %d records, and the losses %v", len(a.got), f.next, a.losses)
	}
	idle, naps = false, 0
	if n := rounds(10 * time.Second); n < 150 || naps > 0 {
		t.Errorf("in 10 s when somebody waits: %d rounds, %d naps", n, naps)
	}
	// At the end there is nothing to wait for.
	idle = true
	rounds(10 * time.Second)
	begin := f.now
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	if took := f.now - begin; took > 10*time.Millisecond {
		t.Errorf("at rest it takes %v to finish", took)
	}
}

// handRing holds what a test puts into it. Each record that is read takes some time.
type handRing struct {
	now     time.Duration
	each    time.Duration
	records [][]byte
	coming  int // that come while the reader waits
}

func (h *handRing) put(at time.Duration) {
	h.records = append(h.records, binary.LittleEndian.AppendUint64(nil, uint64(at)))
}

func (h *handRing) SetDeadline(time.Time) {}

func (h *handRing) AvailableBytes() (n int) {
	for _, r := range h.records {
		n += recordBytes(len(r))
	}
	return n
}

func (h *handRing) ReadInto(rec *ringbuf.Record) error {
	if len(h.records) == 0 {
		h.now += 50 * time.Millisecond
		for ; h.coming > 0; h.coming-- {
			h.put(h.now)
		}
	}
	if len(h.records) == 0 {
		return os.ErrDeadlineExceeded
	}
	rec.RawSample = append(rec.RawSample[:0], h.records[0]...)
	h.records = h.records[1:]
	h.now += h.each
	return nil
}

// A record that waits until losses were asked for is none of those that the ring
// has: of the last of these nobody has heard when as many bytes were taken.
func TestReaderCountsWhatWaits(t *testing.T) {
	h := &handRing{now: time.Hour, each: 30 * time.Millisecond}
	r := &reader{
		ring: h, clock: func() (time.Duration, error) { return h.now, nil }, lost: func() (uint64, error) { return 0, nil },
		poll: 50 * time.Millisecond, queue: newQueue(1 << 20),
	}
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	waited := false
	chance := rand.New(rand.NewPCG(1, 4))
	for i := range 1000 {
		h.now += time.Duration(chance.Int64N(int64(20 * time.Millisecond)))
		if chance.IntN(8) == 0 {
			h.coming = 4
		}
		_, err := r.round()
		if err != nil {
			t.Fatal(err)
		}
		waited = waited || r.waiting
		c := r.queue.take()
		if c.now+settle > r.bound {
			t.Fatalf("%v is told, and %v is bound", c.now, r.bound)
		}
		for _, left := range h.records {
			if at := timeOf(left); at < r.bound {
				t.Fatalf("round %d: no event older than %v is to come, and one of %v waits in the ring", i, r.bound, at)
			}
		}
		r.queue.done(c)
	}
	if !waited {
		t.Error("no record ever waited")
	}
}
