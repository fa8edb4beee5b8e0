package report

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Brief is a sink that also takes an ending of which no more is known than its
// short form shows: that of session.Config's Plain.
type Brief interface {
	Sink
	// Brief writes what End would. What it gets is not kept.
	Brief(*conn.Connection, *verdict.Verdict) error
	// Detail is how much it shows.
	Detail() verdict.Detail
}

// Brief implements Brief. Rows without colours are made with little memory of their
// own; a test holds them against those with.
func (s *TableSink) Brief(c *conn.Connection, v *verdict.Verdict) error {
	if s.pen.color || s.exact {
		return s.whole(Judged{Conn: c, Verdict: *v})
	}
	if err := s.before(c); err != nil {
		return err
	}
	s.live.line = s.brief(s.live.line[:0], c, v)
	_, err := s.out.Write(s.live.line)
	return err
}

// closeText is how the column ENDED BY calls close(2).
var closeText = actText(verdict.ActClose, 0)

// Detail implements Brief.
func (s *TableSink) Detail() verdict.Detail { return verdict.DetailRow }

// brief appends a row. What a cell shows of nearly every ending is appended at once; for
// the rest the column is asked.
func (s *TableSink) brief(line []byte, c *conn.Connection, v *verdict.Verdict) []byte {
	var e *entry
	room, gap, end := s.o.Width, 0, 0
	for i, kind := range s.kinds {
		before, n := len(line), s.widths[i]
		left := gap
		for ; left > len(spaces); left -= len(spaces) {
			line = append(line, spaces...)
		}
		line = append(line, spaces[:left]...)
		from := len(line)
		if kind == cellEnder {
			if text := s.seen.ending(v); text != nil {
				return append(line, text...)
			}
			end = from
		}
		more, w := s.cell(line, kind, c, v)
		line = more
		if w < 0 || s.o.Width > 0 && (w > n || w > room) {
			if e == nil {
				e = s.entry(Judged{Conn: c, Verdict: *v})
			}
			text := s.text(e, i).text
			if s.o.Width > 0 {
				text = cut(text, max(0, room), s.pen.ellipsis())
			}
			w, line = width(text), append(line[:from], text...)
		}
		if len(line) == from {
			line = line[:before] // nothing fills the line behind its last word
		} else {
			gap = 0
		}
		room -= n + columnGap
		gap += max(0, n-w) + columnGap
	}
	line = append(line, '\n')
	if e == nil && end > 0 {
		s.seen.ended(v, line[end:])
	}
	return line
}

// cell appends a cell, and returns how many columns it takes; -1: it is not known
// here what it shows.
func (s *TableSink) cell(line []byte, kind briefCell, c *conn.Connection, v *verdict.Verdict) ([]byte, int) {
	from := len(line)
	switch kind {
	case cellTime:
		if c.Ended == 0 {
			return line, -1
		}
		line = s.clock.append(line, &s.o, c.Ended)
	case cellProcess:
		if c.Host != "" || c.Owner == nil || c.Owner.Comm == "" || event.Outside(c.Owner.PID) {
			return line, -1
		}
		more, ok := s.seen.process(line, c.Owner)
		if !ok {
			return line, -1
		}
		line = more
	case cellLocal, cellRemote:
		a := &c.Local
		if kind == cellRemote {
			a = &c.Remote
		}
		if !a.IsValid() {
			return line, -1
		}
		line = s.seen.address(line, a)
	case cellAge:
		if c.Ended == 0 || c.Opened == 0 {
			return line, -1
		}
		more, extra := s.pen.appendDuration(line, c.Ended-c.Opened)
		return more, len(more) - from - extra
	case cellIn, cellOut:
		n := v.Bytes.Received
		if kind == cellOut {
			n = v.Bytes.Sent
		}
		if n == nil {
			return line, -1
		}
		line = appendNumber(line, *n)
	case cellEnder:
		switch {
		case v.Ender == verdict.LocalProcess && v.Act == verdict.ActClose:
			line = append(line, closeText...)
		case v.Ender == verdict.PeerProcess || v.Ender == verdict.Peer:
			line = append(line, "peer"...)
		default:
			return line, -1
		}
	case cellHow:
		if v.Class != verdict.Graceful || v.Cause != verdict.OrderlyClose {
			return line, -1
		}
		line = append(line, s.orderly...)
	case cellLost:
		if !lostNothing(&v.Lost) {
			return line, -1
		}
		line = append(line, '-')
	default:
		return line, -1 // SERVICE: few columns, and no machine of many connections
	}
	return line, len(line) - from
}

// spelt keeps what was written last: both ends of a connection have the same
// addresses, and a service's connections its own address and process.
type spelt struct {
	addresses [4]struct {
		of   netip.AddrPort
		text []byte
	}
	processes [2]struct {
		pid  uint32
		comm string
		text []byte // empty: not plain
	}
	// From ENDED BY on, where nothing was lost.
	endings [2]struct {
		ender verdict.Ender
		act   verdict.Act
		class verdict.Class
		cause verdict.Cause
		text  []byte
	}
	oldest, older, old uint8 // of addresses, of processes, of endings
}

// ending is how a row ends that tells of this; nil: none before did.
func (x *spelt) ending(v *verdict.Verdict) []byte {
	if !lostNothing(&v.Lost) {
		return nil
	}
	for i := range x.endings {
		if k := &x.endings[i]; k.ender == v.Ender && k.act == v.Act && k.cause == v.Cause && k.class == v.Class {
			return k.text
		}
	}
	return nil
}

// ended keeps how a row ends of which the cells were appended at once: they show no
// more of it than is compared.
func (x *spelt) ended(v *verdict.Verdict, text []byte) {
	k := &x.endings[x.old%uint8(len(x.endings))]
	x.old++
	k.ender, k.act, k.class, k.cause, k.text = v.Ender, v.Act, v.Class, v.Cause, append(k.text[:0], text...)
}

// lostNothing says whether that is known.
func lostNothing(l *verdict.Lost) bool {
	return l.Unread != nil && l.Unsent != nil && l.Unacked != nil && *l.Unread+*l.Unsent+*l.Unacked == 0
}

// address appends an address that is valid.
func (x *spelt) address(line []byte, a *netip.AddrPort) []byte {
	for i := range x.addresses {
		if k := &x.addresses[i]; k.of.Port() == a.Port() && k.of == *a {
			return append(line, k.text...)
		}
	}
	k := &x.addresses[x.oldest%uint8(len(x.addresses))]
	x.oldest++
	k.of, k.text = *a, a.AppendTo(k.text[:0])
	return append(line, k.text...)
}

// process appends NAME/PID, where the name is plain.
func (x *spelt) process(line []byte, p *conn.Process) ([]byte, bool) {
	for i := range x.processes {
		if k := &x.processes[i]; k.pid == p.PID && k.comm == p.Comm {
			return append(line, k.text...), len(k.text) > 0
		}
	}
	k := &x.processes[x.older%uint8(len(x.processes))]
	x.older++
	k.pid, k.comm, k.text = p.PID, p.Comm, k.text[:0]
	if event.QuoteASCII(p.Comm) == p.Comm {
		k.text = strconv.AppendUint(append(append(k.text, p.Comm...), '/'), uint64(p.PID), 10)
	}
	return append(line, k.text...), len(k.text) > 0
}

const spaces = "                                                                "

// briefCell is a column that brief knows.
type briefCell uint8

const (
	cellOther briefCell = iota
	cellTime
	cellProcess
	cellLocal
	cellRemote
	cellAge
	cellIn
	cellOut
	cellEnder
	cellHow
	cellLost
)

var briefCells = map[string]briefCell{"TIME": cellTime, "PROCESS": cellProcess, "LOCAL": cellLocal, "REMOTE": cellRemote, "AGE": cellAge,
	"IN": cellIn, "OUT": cellOut, "ENDED BY": cellEnder, "HOW": cellHow, "LOST": cellLost}

func appendNumber(b []byte, n uint64) []byte {
	if n >= 1000 {
		return append(b, shortNumber(n)...)
	}
	return strconv.AppendUint(b, n, 10)
}

// appendDuration appends what shortDuration says, and returns by how much it takes
// more bytes than columns.
func (p pen) appendDuration(b []byte, d time.Duration) ([]byte, int) {
	switch {
	case d >= 0 && d < time.Millisecond && p.ascii:
		return append(strconv.AppendInt(b, d.Microseconds(), 10), "us"...), 0
	case d >= 0 && d < time.Millisecond:
		return append(strconv.AppendInt(b, d.Microseconds(), 10), "µs"...), len("µ") - 1
	case d >= 0 && d < 10*time.Millisecond && d%tenth != tenth/2: // AppendFloat knows what a tie becomes
		n := (d + tenth/2) / tenth
		b = append(strconv.AppendInt(b, int64(n/10), 10), '.', byte('0'+n%10))
		return append(b, "ms"...), 0
	case d >= 0 && d < 10*time.Millisecond:
		return append(strconv.AppendFloat(b, float64(d)/1e6, 'f', 1, 64), "ms"...), 0
	case d >= 0 && d < time.Second:
		return append(strconv.AppendInt(b, d.Milliseconds(), 10), "ms"...), 0
	}
	return append(b, shortDuration(d)...), 0
}

const tenth = time.Millisecond / 10

// secondStamp writes times in a layout down to the second; most are of the second of
// the one before.
type secondStamp struct {
	layout string
	// The time that text is, for these times (CLOCK_MONOTONIC) as long as the clock has
	// been set so often.
	from, to time.Duration
	begun    time.Duration // when that second began
	settings int
	text     []byte
}

// append appends the wall time of a CLOCK_MONOTONIC time.
func (k *secondStamp) append(b []byte, o *Options, at time.Duration) []byte {
	if at < k.from || at >= k.to || k.settings != o.Clock.settings() {
		k.write(o, at)
	}
	return append(b, k.text...)
}

func (k *secondStamp) write(o *Options, at time.Duration) {
	t := o.wall(at)
	k.text = t.AppendFormat(k.text[:0], k.layout)
	k.begun = at - time.Duration(t.Nanosecond())
	_, from, to := o.Clock.span(at)
	k.from, k.to, k.settings = max(k.begun, from), min(k.begun+time.Second, to), o.Clock.settings()
}
