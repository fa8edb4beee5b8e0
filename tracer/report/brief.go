package report

import (
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
	room, gap := s.o.Width, 0
	for i, kind := range s.kinds {
		before, n := len(line), s.widths[i]
		for left := gap; left > 0; left -= len(spaces) {
			line = append(line, spaces[:min(left, len(spaces))]...)
		}
		from := len(line)
		w, ok := s.cell(&line, kind, c, v)
		if !ok || s.o.Width > 0 && (w > n || w > room) {
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
	return append(line, '\n')
}

// cell appends a cell, and returns how many columns it takes; false: it is not known
// here what it shows.
func (s *TableSink) cell(to *[]byte, kind briefCell, c *conn.Connection, v *verdict.Verdict) (columns int, ok bool) {
	line := *to
	from := len(line)
	switch kind {
	case cellTime:
		if c.Ended == 0 {
			return 0, false
		}
		line = s.clock.append(line, s.o.wall(c.Ended))
	case cellProcess:
		if c.Host != "" || c.Owner == nil || c.Owner.Comm == "" || event.Outside(c.Owner.PID) || !plain(c.Owner.Comm, true) {
			return 0, false
		}
		line = append(append(line, c.Owner.Comm...), '/')
		line = strconv.AppendUint(line, uint64(c.Owner.PID), 10)
	case cellLocal, cellRemote:
		a := c.Local
		if kind == cellRemote {
			a = c.Remote
		}
		if !a.IsValid() {
			return 0, false
		}
		line = a.AppendTo(line)
	case cellAge:
		if c.Ended == 0 || c.Opened == 0 {
			return 0, false
		}
		from += s.pen.appendDuration(&line, c.Ended-c.Opened)
	case cellIn, cellOut:
		n := v.Bytes.Received
		if kind == cellOut {
			n = v.Bytes.Sent
		}
		if n == nil {
			return 0, false
		}
		line = appendNumber(line, *n)
	case cellEnder:
		switch {
		case v.Ender == verdict.LocalProcess && v.Act == verdict.ActClose:
			line = append(line, closeText...)
		case v.Ender == verdict.PeerProcess || v.Ender == verdict.Peer:
			line = append(line, "peer"...)
		default:
			return 0, false
		}
	case cellHow:
		if v.Class != verdict.Graceful || v.Cause != verdict.OrderlyClose {
			return 0, false
		}
		line = append(line, s.orderly...)
	case cellLost:
		l := &v.Lost
		if l.Unread == nil || l.Unsent == nil || l.Unacked == nil || *l.Unread+*l.Unsent+*l.Unacked > 0 {
			return 0, false
		}
		line = append(line, '-')
	default:
		return 0, false // SERVICE: few columns, and no machine of many connections
	}
	*to = line
	return len(line) - from, true
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
func (p pen) appendDuration(b *[]byte, d time.Duration) int {
	switch {
	case d >= 0 && d < time.Millisecond && p.ascii:
		*b = append(strconv.AppendInt(*b, d.Microseconds(), 10), "us"...)
	case d >= 0 && d < time.Millisecond:
		*b = append(strconv.AppendInt(*b, d.Microseconds(), 10), "µs"...)
		return len("µ") - 1
	case d >= 0 && d < 10*time.Millisecond:
		*b = append(strconv.AppendFloat(*b, float64(d)/1e6, 'f', 1, 64), "ms"...)
	case d >= 0 && d < time.Second:
		*b = append(strconv.AppendInt(*b, d.Milliseconds(), 10), "ms"...)
	default:
		*b = append(*b, shortDuration(d)...)
	}
	return 0
}

// secondStamp writes times in a layout down to the second; most are of the second of
// the one before.
type secondStamp struct {
	layout string
	second int64 // Unix
	text   []byte
}

func (k *secondStamp) append(b []byte, t time.Time) []byte {
	if now := t.Unix(); now != k.second || k.text == nil {
		k.second, k.text = now, t.AppendFormat(k.text[:0], k.layout)
	}
	return append(b, k.text...)
}
