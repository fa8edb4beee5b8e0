package report

import (
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// opened says whether the item is a whole handshake, which needs no arrow.
func (i *item) opened() bool {
	return i.kind == kOpening && len(i.states) > 1 && i.states[len(i.states)-1] == event.Established &&
		(i.send.kind == segSyn || i.states[0] == event.SynRecv)
}

// join puts the items of both ends on rows: what one end sent and the other
// received at once is one row.
func (st *story) join(items []*item) {
	partner := match(items)
	done := map[*item]bool{}
	for n, i := range items {
		if done[i] {
			continue
		}
		r := row{at: i.at - st.zero, fatal: i.fatal}
		r.items[i.side] = i
		j := partner[i]
		joined := j != nil && st.oneRow(items, n, j)
		if joined {
			done[j] = true
			r.items[j.side] = j
			r.fatal = r.fatal || j.fatal
		}
		switch {
		case i.opened():
		case i.send.kind != noSegment:
			r.wire = &wire{segment: i.send, from: i.side}
			if j != nil && !joined || j == nil && st.unseen(i) {
				r.wire.phase = departed
			}
		case i.recv.kind != noSegment && (j != nil || !i.perhaps):
			r.wire = &wire{segment: i.recv, from: i.side.other()}
			if j != nil && joined {
				r.wire.segment = j.send
			} else if j != nil {
				r.wire.phase = arrived
			}
		}
		st.keep(&r, i)
		st.rows = append(st.rows, r)
	}
}

// unseen says whether a segment that the other end was not seen to receive may
// be on its way for ever.
func (st *story) unseen(i *item) bool {
	switch i.send.kind {
	case segFin:
		fin := st.ends[i.side]
		return fin != nil && fin.Verdict.LocalFin != nil && !fin.Verdict.LocalFin.Acked
	case segRst:
		return st.ends[right] != nil && !i.inferred
	}
	return false
}

// match finds, for each sent segment, the item in which the other end received
// it, and the other way round: first what happened at once, then what took its
// time on the way.
func match(items []*item) map[*item]*item {
	partner := map[*item]*item{}
	for _, once := range []bool{true, false} {
		for n, i := range items {
			if partner[i] != nil || i.send.kind == noSegment {
				continue
			}
			// A tracepoint may tell of the sending after the other end received:
			// tcp:tcp_send_reset comes when the segment has gone.
			for _, j := range items[first(items, n, i.at-togetherTask):] {
				if j.side == i.side || partner[j] != nil {
					continue
				}
				if once && !atOnce(i, j) && (j.at >= i.at || !atOnce(j, i)) || !once && j.at < i.at {
					continue
				}
				if once && i.opened() && j.opened() || i.send.kind == j.recv.kind && !i.opened() && !j.opened() {
					partner[i], partner[j] = j, i
					break
				}
			}
		}
	}
	return partner
}

// first is the first of items that is not before at, going back from n.
func first(items []*item, n int, at time.Duration) int {
	for n > 0 && items[n-1].at >= at {
		n--
	}
	return n
}

// oneRow says whether the n-th item and its partner, which comes later, are one
// moment with nothing between them at the partner's end.
func (st *story) oneRow(items []*item, n int, j *item) bool {
	if !atOnce(items[n], j) {
		return false
	}
	for _, k := range items[n+1:] {
		if k == j {
			return true
		}
		if k.side == j.side {
			return false
		}
	}
	return false // it came earlier, and has its own row
}

// atOnce says whether j's first event follows from i's last one.
func atOnce(i, j *item) bool {
	if near(i.last, j.at) {
		return true
	}
	return j.at >= i.at && j.at-i.last <= togetherTask && i.task != 0 && len(i.events) > 0 && len(j.events) > 0 &&
		i.task == j.events[0].TID
}

// keep completes a row with what one end's events do not tell but the other's
// do: a mini-socket in FIN_WAIT2 goes to TIME_WAIT without an event, at the
// moment in which it acknowledges the FIN.
func (st *story) keep(r *row, i *item) {
	if i.kind != kClosed || i.states[0] != event.LastAck || i.recv.kind != segAck {
		return
	}
	there := i.side.other()
	if r.items[there] != nil {
		return
	}
	for _, earlier := range slices.Backward(st.rows) {
		k := earlier.items[there]
		if k.is(kTimeWait) && k.states == nil {
			r.items[there] = &item{kind: kTimeWait, side: there, at: i.at, last: i.at, cell: cell{
				states: []event.State{event.FinWait2, event.TimeWait}, note: "keeps the port"}}
			return
		}
		if k != nil && k.states != nil {
			return
		}
	}
}

// markFatal leaves the sign on the one row that ended the connection.
func (st *story) markFatal() {
	ill, at := false, -1
	for _, j := range st.ends {
		ill = ill || j != nil && !j.Verdict.Harmless && j.Verdict.Class != verdict.Graceful && j.Verdict.Class != verdict.Open
	}
	for n := range st.rows {
		r := &st.rows[n]
		if !ill || !r.fatal {
			continue
		}
		if at < 0 {
			at = n
		}
		if r.proves() { // the verdict knows best
			at = n
			break
		}
	}
	for n := range st.rows {
		st.rows[n].fatal = n == at
	}
}

func (r *row) proves() bool {
	return slices.ContainsFunc(r.items[:], func(i *item) bool { return i != nil && i.marks != nil })
}

// combine makes one item of two where one segment was both: a FIN that
// acknowledges the other end's FIN takes it from FIN_WAIT1 to FIN_WAIT2 and on
// to TIME_WAIT.
func combine(items []*item) []*item {
	for n, i := range items {
		if i == nil || i.recv.kind != segAck || len(i.states) != 2 || i.states[1] != event.FinWait2 {
			continue
		}
		sent := false // the FIN was, before this
		for _, k := range items[:n] {
			sent = sent || k != nil && k.side != i.side && k.send.kind == segFin
		}
		for m, k := range items[n+1:] {
			if k == nil || k.side != i.side {
				continue
			}
			if sent && k.is(kTimeWait) && k.states != nil && atOnce(i, k) {
				k.at, k.states = i.at, append(slices.Clone(i.states), k.states[1:]...)
				k.events = append(slices.Clone(i.events), k.events...)
				items[n], items[n+1+m] = k, nil
			}
			break
		}
	}
	return slices.DeleteFunc(items, func(i *item) bool { return i == nil })
}

// wanted are the events that are evidence.
func (st *story) wanted() map[*event.Event]side {
	wanted := map[*event.Event]side{}
	for _, j := range st.ends {
		if j == nil {
			continue
		}
		for _, ev := range j.Verdict.Evidence {
			if e, s := st.event(ev); e != nil {
				wanted[e] = s
			}
		}
	}
	return wanted
}

// prove numbers the evidence in the order in which it is told.
func (st *story) prove(wanted map[*event.Event]side) {
	for _, r := range st.rows {
		items := r.items[:]
		if items[left] != nil && items[right] != nil && items[right].at < items[left].at {
			items = []*item{items[right], items[left]}
		}
		for _, i := range items {
			if i == nil {
				continue
			}
			n := slices.IndexFunc(i.events, func(e *event.Event) bool { _, ok := wanted[e]; return ok })
			if n < 0 {
				continue
			}
			st.proofs = append(st.proofs, proof{n: len(st.proofs) + 1, side: i.side, hook: i.events[n].Hook})
			i.marks = append(i.marks, len(st.proofs))
		}
	}
}

// event is the event that a piece of evidence points to, and its end; nil where
// it is of an end that is not shown.
func (st *story) event(ev verdict.Evidence) (*event.Event, side) {
	for s, j := range st.ends {
		if j == nil || j.Conn != ev.Conn {
			continue
		}
		events := j.Conn.Events
		if ev.Elsewhere {
			events = j.Conn.Elsewhere
		}
		if ev.Index >= 0 && ev.Index < len(events) {
			return &events[ev.Index], side(s)
		}
	}
	return nil, 0
}
