package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Summary counts the endings that were not graceful by cause and process, for
// the table at the end of tcpbye rst. A local connection counts once, with what
// was lost at both of its ends.
type Summary struct {
	// Top is how many kinds Write shows; 0: all.
	Top int

	o       Options
	pen     pen
	rows    map[summaryKey]*summaryRow
	waiting map[*conn.Connection]summaryKey // ends whose peer was counted
	order   []*conn.Connection
	total   int
	hidden  uint64
	halves  map[*conn.Connection]bool // ends whose peer was counted among the hidden
}

type summaryKey struct {
	cause      verdict.Cause
	unanswered bool
	comm       string
}

type summaryRow struct {
	summaryKey
	class       verdict.Class
	n           int
	lost        uint64
	unknown     bool // of some ends it is not known what was lost
	first, last time.Duration
}

// others stands for the processes for which there is no row any more.
const others = "(others)"

// NewSummary starts at zero.
func NewSummary(o Options) *Summary {
	return &Summary{o: o, pen: pen{color: o.Color, ascii: o.ASCII},
		rows: map[summaryKey]*summaryRow{}, waiting: map[*conn.Connection]summaryKey{}, halves: map[*conn.Connection]bool{}}
}

// End counts one judged end.
func (s *Summary) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if key, second := s.waiting[j.Conn]; second {
		delete(s.waiting, j.Conn)
		if i := slices.Index(s.order, j.Conn); i >= 0 {
			s.order = slices.Delete(s.order, i, i+1)
		}
		s.rows[key].lose(j.Verdict.Lost)
		return nil
	}
	if !ill(&j) {
		return nil
	}
	key := summaryKey{cause: j.Verdict.Cause, unanswered: unanswered(&j.Verdict), comm: blamed(&j)}
	if key.unanswered {
		key.cause = "" // however it was closed on the wire
	}
	row := s.rows[key]
	if row == nil && len(s.rows) >= maxKinds {
		// Names are free to choose for whoever starts processes.
		key.comm = others
		row = s.rows[key]
	}
	at := j.Conn.Ended
	if at == 0 {
		at = j.Conn.Last
	}
	if row == nil {
		row = &summaryRow{summaryKey: key, class: j.Verdict.Class, first: at, last: at}
		s.rows[key] = row
	}
	row.n++
	s.total++
	row.first, row.last = min(row.first, at), max(row.last, at)
	row.lose(j.Verdict.Lost)
	if p := j.Conn.Peer; p != nil {
		s.waiting[p] = key
		if s.order = append(s.order, p); len(s.order) > maxHeld {
			delete(s.waiting, s.order[0])
			s.order = slices.Delete(s.order, 0, 1)
		}
	}
	return nil
}

// Hide counts an end with a harmless reset that is not shown. A local connection
// counts once.
func (s *Summary) Hide(c *conn.Connection) {
	if s.halves[c] {
		delete(s.halves, c)
		return
	}
	s.hidden++
	if c.Peer == nil {
		return
	}
	if len(s.halves) >= maxHeld {
		clear(s.halves)
	}
	s.halves[c.Peer] = true
}

// Hidden is how many connections were hidden.
func (s *Summary) Hidden() uint64 { return s.hidden }

// Harmless says how many were hidden; "" none.
func (s *Summary) Harmless() string {
	switch s.hidden {
	case 0:
		return ""
	case 1:
		return "1 harmless reset, after all was said or of a health check, is not shown: --all shows it"
	}
	return itoa64(s.hidden) + " harmless resets, after all was said or of health checks, are not shown: --all shows them"
}

func (r *summaryRow) lose(l verdict.Lost) {
	n, unknown := lostBytes(l)
	r.lost += n
	r.unknown = r.unknown || unknown
}

// lostBytes is the sum of what is known to be lost, and whether some is not
// known.
func lostBytes(l verdict.Lost) (sum uint64, unknown bool) {
	for _, n := range []*uint64{l.Unread, l.Unsent, l.Unacked} {
		if n == nil {
			unknown = true
		} else {
			sum += *n
		}
	}
	return sum, unknown
}

// Write writes the table, the most frequent first, and how many were hidden;
// nothing where nothing was counted.
func (s *Summary) Write(w io.Writer) error {
	out := &output{w: w}
	if err := s.table(out); err != nil {
		return err
	}
	if text := s.Harmless(); text != "" {
		for _, l := range wrap(text, s.o.Width) {
			if err := out.string(s.pen.ink(l, dim) + "\n"); err != nil {
				return err
			}
		}
	}
	return out.err
}

func (s *Summary) table(out *output) error {
	if len(s.rows) == 0 {
		return nil
	}
	rows := make([]*summaryRow, 0, len(s.rows))
	for _, r := range s.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *summaryRow) int {
		return cmp.Or(b.n-a.n, cmp.Compare(a.cause, b.cause), cmp.Compare(a.comm, b.comm))
	})
	more, left := 0, 0
	if s.Top > 0 && len(rows) > s.Top {
		for _, r := range rows[s.Top:] {
			more += r.n
		}
		left, rows = len(rows)-s.Top, rows[:s.Top]
	}
	layout, first, last := timeOfDay, rows[0].first, rows[0].last
	for _, r := range rows {
		first, last = min(first, r.first), max(last, r.last)
	}
	if a, b := s.o.wall(first), s.o.wall(last); a.YearDay() != b.YearDay() || a.Year() != b.Year() {
		layout = "01-02 " + timeOfDay
	}
	clock := func(t time.Duration) string { return s.o.wall(t).Format(layout) }
	columns := []GridColumn{{Title: "COUNT", Right: true}, {Title: "SHARE", Right: true, Drop: 3}, {Title: "CAUSE"},
		{Title: "PROCESS", Own: true, Least: 7}, {Title: "BYTES LOST", Right: true}, {Title: "FIRST", Drop: 2}, {Title: "LAST", Drop: 1}}
	var cells [][]GridCell
	for _, r := range rows {
		lost := number(r.lost)
		switch {
		case r.unknown && r.lost == 0:
			lost = "?"
		case r.unknown:
			lost = "≥ " + lost
		}
		look := LookWarn
		switch {
		case r.class == verdict.Graceful && !r.unanswered:
			look = LookGood
		case r.class == verdict.Aborted:
			look = LookBad
		}
		cells = append(cells, []GridCell{{Text: number(uint64(r.n))}, {Text: fmt.Sprintf("%.0f%%", 100*float64(r.n)/float64(s.total))},
			{Text: whatOf(r.cause, r.unanswered), Look: look}, {Text: r.comm}, {Text: lost}, {Text: clock(r.first)}, {Text: clock(r.last)}})
	}
	if err := WriteGrid(out, s.o, columns, cells); err != nil {
		return err
	}
	if left > 0 {
		return out.string(s.pen.ink(fmt.Sprintf("%s more of %s", number(uint64(more)), kinds(left)), dim) + "\n")
	}
	return out.err
}

func kinds(n int) string {
	if n == 1 {
		return "another kind"
	}
	return fmt.Sprintf("%d other kinds", n)
}
