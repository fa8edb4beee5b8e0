package hosts

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// What was lost on the path.
const (
	LostData = "data" // payload
	LostFin  = "fin"
	LostRst  = "rst"
	LostAcks = "acks" // the acknowledgements of what arrived
)

// Loss is something that one host's TCP sent and the other's never received.
type Loss struct {
	From, To string // hosts
	What     string
	Bytes    uint64 // of payload; 0 where What is not data
}

func (l Loss) String() string {
	from, to := quoted(l.From), quoted(l.To)
	switch l.What {
	case LostData:
		n := fmt.Sprintf("%d bytes", l.Bytes)
		if l.Bytes == 1 {
			n = "1 byte"
		}
		return fmt.Sprintf("%s that %s sent never reached the TCP of %s: they were lost on the way.", n, from, to)
	case LostFin:
		return fmt.Sprintf("The FIN that %s sent never reached the TCP of %s: it was lost on the way.", from, to)
	case LostRst:
		return fmt.Sprintf("The RST that %s sent never reached the TCP of %s: it was lost on the way.", from, to)
	}
	return fmt.Sprintf("%s had received what was sent to it, but its acknowledgements never reached the TCP of %s: they were lost on the way.", from, to)
}

// quoted keeps a name from doing anything to a terminal.
func quoted(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// path says what each end sent and the other, which was there to take it, did not get.
func (p *pair) path(j *joiner) {
	if p.b == nil || p.a.joint.Outcome == Uncovered || p.b.joint.Outcome == Uncovered || p.clock.By == WallClocks {
		return
	}
	var all []Loss
	for _, x := range [][2]*end{{p.a, p.b}, {p.b, p.a}} {
		all = append(all, p.lostOn(j, x[0], x[1])...)
	}
	for _, e := range []*end{p.a, p.b} {
		e.joint.Path = all
		for _, l := range all {
			e.Verdict.Sentence += " " + l.String()
		}
	}
}

// lostOn is what was lost on the way from one end to another.
func (p *pair) lostOn(j *joiner, from, to *end) (all []Loss) {
	f, t := from.Conn, to.Conn
	if f.Lossy || t.Lossy || from.Verdict.Cause == verdict.SendFailed { // the latter never left its host
		return nil
	}
	fromISN, ok1 := to.numbers.Received()
	toISN, ok2 := from.numbers.Received()
	if !ok1 || !ok2 {
		return nil
	}
	loss := func(what string, n uint64) { all = append(all, Loss{f.Host, t.Host, what, n}) }
	sent, received := stands(f, fromISN), stands(t, toISN)
	if len(sent) > 0 && len(received) > 0 {
		s, r := sent[len(sent)-1], received[len(received)-1]
		// The first that shows it was looked at when it had been sent.
		at := sent[slices.IndexFunc(sent, func(x stand) bool { return x.nxt == s.nxt })].at
		// What was sent again and again had its time.
		margin := lived
		if from.Verdict.Class == verdict.TimedOut && f.Ended == at {
			margin = 0
		}
		// An end that is open tells nothing of what it receives, until something happens
		// there: what came meanwhile is not known.
		there := r.at > at+margin
		fin := finSent(f) != 0 && s.all
		switch missing := s.nxt - min(s.nxt, max(r.rcv, s.una)); {
		case missing == 0 || !there || unsent(f):
		case fin && missing == 1:
			loss(LostFin, 0)
		default:
			if fin {
				missing--
			}
			loss(LostData, missing)
		}
		// It gave up although all had come.
		if v := &from.Verdict; v.Class == verdict.TimedOut && s.nxt > s.una && r.rcv >= s.nxt && !unsent(t) {
			all = append(all, Loss{t.Host, f.Host, LostAcks, 0})
		}
	}
	if at := sendsReset(f); at != 0 && heardNothing(to) && last(t) < j.until(to) && j.until(to) > at+lived && slices.Index(j.traces[to.trace].Scope.Missing, event.HookReset) < 0 {
		loss(LostRst, 0)
	}
	return all
}

// unsent says whether an end's own host refused to send.
func unsent(c *conn.Connection) bool {
	return event.Any(c.Events, func(e *event.Event) bool { return e.UnsentTries > 0 })
}

// lived is how long an end must have been there to say that what did not come by then was
// lost: no path is as long.
const lived = time.Second

// until is up to when an end was watched.
func (j *joiner) until(e *end) time.Duration { return j.traces[e.trace].To + e.shift }

// sendsReset is when an end aborted with a RST of its own; 0: it did not.
func sendsReset(c *conn.Connection) time.Duration {
	i := slices.IndexFunc(c.Events, func(e event.Event) bool { return e.Hook == event.HookSendActiveReset })
	if i < 0 {
		return 0
	}
	return c.Events[i].Time
}

// heardNothing says whether an end never learnt of a reset although it lived on: it is
// open, or gave up by itself.
func heardNothing(e *end) bool {
	return (e.Conn.Ended == 0 || e.Verdict.Class == verdict.TimedOut) &&
		!event.Any(e.Conn.Events, func(e *event.Event) bool { return e.Hook == event.HookReset })
}
