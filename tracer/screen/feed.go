package screen

import (
	"errors"
	"sync"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Ending is a connection that has ended, or, at the end of a recording, one that has
// not. When its second end is told, too, it comes again with the same ID.
type Ending struct {
	ID uint64
	report.Pair
	Clock report.Clock // of its run
}

// when is the wall time of a time of its run (CLOCK_MONOTONIC).
func (e *Ending) when(at time.Duration) time.Time { return e.Clock.Wall(at) }

// open says whether it has not ended at any end that is known.
func (e *Ending) open() bool {
	for _, j := range []*report.Judged{e.First, e.Second} {
		if j != nil && j.Verdict.Class != verdict.Open {
			return false
		}
	}
	return true
}

// Batch is what is new.
type Batch struct {
	Endings []Ending
	Open    *snapshot.Snapshot // nil: there is no new one
	Now     time.Time          // wall time; zero: that of the last ending
	Lost    uint64             // events, by now
	// Notes are sentences for the status line.
	Notes []string
	// Over says that no more will come.
	Over bool
}

// Feed gathers what a session tells until the screen takes it. It may be used by
// several goroutines.
type Feed struct {
	mu    sync.Mutex
	taken sync.Cond // there is room again, or nobody takes any more
	shut  bool
	batch Batch
	ids   uint64
	clock report.Clock
	held  map[*conn.Connection]waiting // ends whose other end was not told of
	order []*conn.Connection
}

// NewFeed is empty.
func NewFeed() *Feed {
	f := &Feed{}
	f.taken.L = &f.mu
	return f
}

type waiting struct {
	id uint64
	j  report.Judged
}

const (
	// maxHeld is how many ends wait for their other end.
	maxHeld = 4096
	// maxPending is how many endings wait for the screen. A recording can be read
	// faster than they are taken, and its reader then waits.
	maxPending = maxEndings
)

var errNoConn = errors.New("a judged end without a connection was given to the screen")

// End implements report.Sink. It waits where too many endings wait to be taken.
func (f *Feed) End(j report.Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.batch.Endings) >= maxPending && !f.shut {
		f.taken.Wait()
	}
	if f.shut {
		return nil
	}
	e := Ending{Pair: report.Pair{First: &j}}
	if first, ok := f.held[j.Conn.Peer]; ok && j.Conn.Peer != nil {
		delete(f.held, j.Conn.Peer)
		e.ID, e.First, e.Second = first.id, &first.j, &j
	} else {
		f.ids++
		e.ID = f.ids
		if j.Conn.Peer != nil {
			f.hold(j, e.ID)
		}
	}
	e.Pair, e.Clock = e.Clone(), f.clock.Clone()
	f.batch.Endings = append(f.batch.Endings, e)
	return nil
}

// hold waits for the other end. Those that were paired stay in order until their turn
// comes; deleting them costs nothing then.
func (f *Feed) hold(j report.Judged, id uint64) {
	if f.held == nil {
		f.held = map[*conn.Connection]waiting{}
	}
	f.held[j.Conn] = waiting{id, j}
	if f.order = append(f.order, j.Conn); len(f.order) > maxHeld {
		delete(f.held, f.order[0])
		f.order = f.order[1:]
	}
}

// Close implements report.Sink.
func (f *Feed) Close() error { return nil }

// Open takes what a snapshot found.
func (f *Feed) Open(s *snapshot.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batch.Open = s
}

// Clock takes the clock of the run whose endings come now. Who sets it calls End, too.
func (f *Feed) Clock(c report.Clock) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock = c
}

// Lost takes how many events were lost by now.
func (f *Feed) Lost(n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batch.Lost = n
}

// Note takes a sentence for the status line.
func (f *Feed) Note(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batch.Notes = append(f.batch.Notes, text)
}

// Over says that no more will come.
func (f *Feed) Over() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batch.Over = true
}

// Take returns what is new since it was called last.
func (f *Feed) Take() Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.batch
	f.taken.Broadcast()
	f.batch = Batch{Lost: b.Lost, Over: b.Over}
	return b
}

// Shut says that nobody takes any more.
func (f *Feed) Shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shut = true
	f.taken.Broadcast()
}
