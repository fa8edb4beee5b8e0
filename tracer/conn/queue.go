package conn

import (
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// arrival is an event, or the news that some were lost, and its place in the
// order of arrival.
type arrival struct {
	event.Event
	order uint64
	loss  bool
	late  bool
	until time.Duration // of a loss
	story []event.Event // nil: Event is all
}

// queue holds what has arrived by time; equal times keep their order of arrival.
// Nearly everything comes in order, so most of what comes is put at the end, and
// the rest not far from it.
type queue struct {
	items []*arrival // from head on
	head  int
	free  []*arrival
	pages *pages
}

func (q *queue) len() int { return len(q.items) - q.head }

// first is what is to be taken next.
func (q *queue) first() *arrival { return q.items[q.head] }

// room is an arrival to be filled and put.
func (q *queue) room() *arrival {
	if n := len(q.free); n > 0 {
		a := q.free[n-1]
		q.free = q.free[:n-1]
		return a
	}
	return new(arrival)
}

func (q *queue) put(a *arrival) {
	n := len(q.items)
	if n == q.head || q.items[n-1].Time <= a.Time {
		q.items = append(q.items, a)
		return
	}
	// Behind all that is not later: what has the same time came before.
	i, _ := slices.BinarySearchFunc(q.items[q.head:], a.Time, func(x *arrival, t time.Duration) int {
		if x.Time <= t {
			return -1
		}
		return 1
	})
	q.items = slices.Insert(q.items, q.head+i, a)
}

// take is the first, which is the caller's until it is given back.
func (q *queue) take() *arrival {
	a := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	switch {
	case q.head == len(q.items):
		q.items, q.head = q.items[:0], 0
	case q.head > 1024 && q.head > len(q.items)/2:
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return a
}

// maxFree bounds what is kept for later.
const maxFree = 4096

func (q *queue) give(a *arrival) {
	if a.story != nil {
		q.pages.give(a.story)
	}
	if len(q.free) < maxFree {
		*a = arrival{}
		q.free = append(q.free, a)
	}
}
