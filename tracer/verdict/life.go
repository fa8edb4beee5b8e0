package verdict

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// findBegan finds the event with which this end's ending began: its own act, a FIN of
// either end, a reset, or whatever made it go to CLOSE.
func (f *facts) findBegan() int {
	first := none
	for _, i := range []int{f.finAct, f.fin, f.peerFin, f.release, f.disconn, f.abort, f.forget, f.reset, f.active, f.answer, f.closed} {
		if i != none && (first == none || i < first) {
			first = i
		}
	}
	return first
}

// quiet is when this end's ending began, how long ago payload had then been
// sent and received, and whether that is known.
func (f *facts) quiet() (at, sent, received time.Duration, ok bool) {
	if f == nil || f.began == none {
		return 0, 0, 0, false
	}
	received, sent, ok = f.since(f.began)
	return f.at(f.began).Time, sent, received, ok
}

// since is how long before an event payload was last received and sent.
func (f *facts) since(i int) (received, sent time.Duration, ok bool) {
	at := f.at(i).Time
	for ; i < len(f.c.Events) && f.at(i).Time-at <= moment; i++ {
		if e := f.at(i); e.Has&event.HasTCP != 0 && e.SinceSent > 0 && e.SinceReceived > 0 {
			return e.SinceReceived, e.SinceSent, true
		}
	}
	return 0, 0, false
}

// moment is how near events must be to have the same silence before them.
const moment = time.Millisecond

// age is how old the connection was when its ending began; nil: it is older
// than the trace, or has not ended.
func age(self, peer *facts) *time.Duration {
	var opened, began time.Duration
	for _, f := range []*facts{self, peer} {
		if f == nil {
			continue
		}
		if o := f.c.Opened; o != 0 && (opened == 0 || o < opened) {
			opened = o
		}
		if f.began != none && (began == 0 || f.at(f.began).Time < began) {
			began = f.at(f.began).Time
		}
	}
	if opened == 0 || began < opened {
		return nil
	}
	d := began - opened
	return &d
}

// idle is how long no payload had gone either way when the ending began; nil:
// not known.
func idle(self, peer *facts, age *time.Duration) *time.Duration {
	at, sent, received, ok := self.quiet()
	if pat, ps, pr, pok := peer.quiet(); pok && (!ok || pat < at) {
		sent, received, ok = ps, pr, true
	}
	if !ok {
		return nil
	}
	d := min(sent, received)
	if d == 1 {
		d = 0 // less than a jiffy
	}
	if age != nil && d > *age {
		d = *age // it is counted in jiffies
	}
	return &d
}

func firstSeen(f, other *facts) time.Duration {
	start := f.c.First
	if other != nil && other.c.First < start {
		start = other.c.First
	}
	return start
}
