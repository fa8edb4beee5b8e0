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

// Brief implements Brief. Most endings are plain, so their rows are made without
// memory of their own; a test holds them against those of End.
func (s *TableSink) Brief(c *conn.Connection, v *verdict.Verdict) error {
	if err := s.Header(); err != nil {
		return err
	}
	line, ok := s.brief(s.live.line[:0], c, v)
	if !ok {
		return s.End(Judged{Conn: c, Verdict: *v})
	}
	s.live.line = line
	_, err := s.out.Write(line)
	return err
}

// closeText is how the column ENDED BY calls close(2).
var closeText = actText(verdict.ActClose, 0)

// Detail implements Brief.
func (s *TableSink) Detail() verdict.Detail { return verdict.DetailRow }

// brief makes a row; false: a cell is too wide, or not in ASCII, or not known.
func (s *TableSink) brief(line []byte, c *conn.Connection, v *verdict.Verdict) ([]byte, bool) {
	if s.pen.color || c.Ended == 0 || c.Opened == 0 || c.Owner == nil || v.Bytes.Received == nil || v.Bytes.Sent == nil ||
		v.Class != verdict.Graceful || v.Cause != verdict.OrderlyClose {
		return nil, false
	}
	room, gap := s.o.Width, 0
	for i, kind := range s.kinds {
		for gap > 0 {
			n := min(gap, len(spaces))
			line = append(line, spaces[:n]...)
			gap -= n
		}
		from, n := len(line), s.widths[i]
		switch kind {
		case cellTime:
			line = s.clock.append(line, s.o.wall(c.Ended))
		case cellProcess:
			if c.Owner.Comm == "" || event.Outside(c.Owner.PID) || !plain(c.Owner.Comm, true) {
				return nil, false
			}
			line = append(append(line, c.Owner.Comm...), '/')
			line = strconv.AppendUint(line, uint64(c.Owner.PID), 10)
		case cellLocal:
			line = c.Local.AppendTo(line)
		case cellRemote:
			line = c.Remote.AppendTo(line)
		case cellAge:
			from += s.pen.appendDuration(&line, c.Ended-c.Opened)
		case cellIn:
			line = appendNumber(line, *v.Bytes.Received)
		case cellOut:
			line = appendNumber(line, *v.Bytes.Sent)
		case cellEnder:
			switch {
			case v.Ender == verdict.LocalProcess && v.Act == verdict.ActClose:
				line = append(line, closeText...)
			case v.Ender == verdict.PeerProcess || v.Ender == verdict.Peer:
				line = append(line, "peer"...)
			default:
				return nil, false
			}
		case cellHow:
			line = append(line, "graceful"...)
		case cellLost:
			l := &v.Lost
			if l.Unread == nil || l.Unsent == nil || l.Unacked == nil || *l.Unread+*l.Unsent+*l.Unacked > 0 {
				return nil, false
			}
			line = append(line, '-')
		default:
			return nil, false // SERVICE: few columns, and no machine of many connections
		}
		w := len(line) - from
		if s.o.Width > 0 && (w > n || w > room) {
			return nil, false
		}
		room -= n + columnGap
		gap += max(0, n-w) + columnGap
	}
	return append(line, '\n'), true
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
