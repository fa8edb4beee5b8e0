package report

import (
	"slices"
	"time"
)

// spread is how a time varies over many connections.
type spread struct {
	n        int // of how many it is known
	min, max time.Duration
	last     []time.Duration // a ring of the newest
	next     int             // where in it the next goes
}

// maxSpread is of how many connections the times are kept.
const maxSpread = 64

// alikeFrom is from how many connections on a time can be always the same.
const alikeFrom = 3

func (s *spread) add(d *time.Duration) {
	if d == nil {
		return
	}
	if s.n == 0 {
		s.min, s.max = *d, *d
	}
	s.n++
	s.min, s.max = min(s.min, *d), max(s.max, *d)
	if len(s.last) < maxSpread {
		s.last = append(s.last, *d)
		return
	}
	s.last[s.next] = *d
	s.next = (s.next + 1) % maxSpread
}

// core is the time around which nearly all the newest lie, and how far they lie
// from it; ok: there is one. A timer is never early and seldom late, but the
// connection's end may be told of by other things, too.
func (s *spread) core() (middle, off time.Duration, ok bool) {
	if len(s.last) < alikeFrom {
		return 0, 0, false
	}
	sorted := slices.Sorted(slices.Values(s.last))
	middle = sorted[len(sorted)/2]
	// Shorter times are those of a network and of programs that just run.
	if middle < 200*time.Millisecond {
		return 0, 0, false
	}
	near := min(max(20*time.Millisecond, middle/100), time.Second)
	within := 0
	for _, d := range sorted {
		if from := max(d-middle, middle-d); from <= near {
			within++
			off = max(off, from)
		}
	}
	return middle, off, within*5 >= len(sorted)*4
}

// fixed is the time that nearly all have.
func (s *spread) fixed() (time.Duration, bool) {
	middle, _, ok := s.core()
	return middle, ok
}

func (s *spread) String() string {
	if middle, off, ok := s.core(); ok {
		return seconds(middle) + " s ± " + seconds(max(off, time.Millisecond)) + " s"
	}
	if s.n == 1 || s.max-s.min < time.Millisecond {
		return seconds(s.max) + " s"
	}
	return seconds(s.min) + " to " + seconds(s.max) + " s"
}
