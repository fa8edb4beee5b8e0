package report

import (
	"cmp"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// columnGap is the space between the columns of a table.
const columnGap = 2

// word is a piece of a row: how it looks does not count for how wide it is.
type word struct {
	text string // no line break, no tab, no escape
	ink  ink
}

// liveTable writes rows as they come, without borders, in columns of fixed
// width. A row with a cell that is wider gets the room it needs and is out of
// line, but says everything: who wants cells cut cuts them before.
//
// It pads by itself: a library's table costs more for each row than all that is
// done to judge the connection.
type liveTable struct {
	out    *output
	pen    pen
	widths []int
	line   []byte
}

// newLiveTable does not write; the header is a row.
func newLiveTable(out *output, p pen, widths []int) *liveTable {
	return &liveTable{out: out, pen: p, widths: widths}
}

// row writes one row. Nothing fills the line behind its last word: a terminal that
// is as wide as the table would break the line there.
func (l *liveTable) row(cells []word) error {
	l.line = l.line[:0]
	gap := 0 // spaces before the next text
	for i, c := range cells {
		if c.text != "" {
			for ; gap > 0; gap-- {
				l.line = append(l.line, ' ')
			}
			l.line = append(l.line, l.pen.ink(c.text, c.ink)...)
		}
		gap += max(0, l.widths[i]-width(c.text)) + columnGap
	}
	l.line = append(l.line, '\n')
	_, err := l.out.Write(l.line)
	return err
}

// TableSink writes a row per end, in the columns that fit the width.
type TableSink struct {
	out    output
	o      Options
	pen    pen
	live   *liveTable
	shown  []column
	exact  bool        // columns are shown that only a whole record has
	kinds  []briefCell // of shown
	widths []int
	cells  []word
	begun  bool
	clock  secondStamp
	seen   spelt
	// orderly is what HOW says of a connection that was closed in order.
	orderly string
	days    days
}

// NewTable is a sink for a person who watches.
func NewTable(w io.Writer, o Options) *TableSink {
	s := &TableSink{out: output{w: w}, o: o, pen: pen{color: o.Color, ascii: o.ASCII}, clock: secondStamp{layout: timeOfDay}}
	s.choose()
	s.cells = make([]word, len(s.shown))
	s.live = newLiveTable(&s.out, s.pen, s.widths)
	return s
}

// step is more for one table: columns that come, grow or, at 0, make room.
type step map[string]int

// steps are what there is room for, what answers the question first. SERVICE is
// both addresses in few columns, LOCAL and REMOTE are them in full.
var steps = []step{
	{"HOW": 18}, {"HOW": 19}, {"TIME": 8}, {"PROCESS": 12}, {"SERVICE": 15}, {"ENDED BY": 12}, {"PROCESS": 14},
	{"LOST": 11}, {"SERVICE": 21}, {"AGE": 6}, {"LOST": 22}, {"SERVICE": 0, "LOCAL": 21, "REMOTE": 21},
	{"IN": 4, "OUT": 4}, {"HOW": howFull}, {"PROCESS": 17}, {"LOST": 36}, {"PROCESS": 23},
	{"LOCAL": 30, "REMOTE": 30}, {"LOCAL": 47, "REMOTE": 47},
}

// usual are the widths of columns that are asked for; the rest is as wide as its title,
// or otherWidth.
var usual = step{"TIME": 8, "PROCESS": 23, "SERVICE": 21, "LOCAL": 21, "REMOTE": 21, "AGE": 6, "IN": 4, "OUT": 4, "ENDED BY": 12, "HOW": howFull, "LOST": 22}

const otherWidth = 12

// chosen sets the columns that were asked for. The last gets what room there is.
func (s *TableSink) chosen() {
	used := 0
	for _, name := range s.o.Fields {
		c, ok := findColumn(name)
		if !ok {
			continue // see CheckFields
		}
		if c.short == nil || name == c.key && c.key != c.name() {
			// As in CSV, and quoted: it may be a process's.
			exact := c.exact
			c = column{key: c.key, title: strings.ToUpper(c.key), exact: exact, short: func(e *entry, _ int) (string, ink) {
				return orDash(quote(exact(e), e.pen.ascii)), plainInk
			}}
			s.exact = true
		}
		n, ok := usual[c.title]
		if !ok {
			n = max(otherWidth, width(c.title))
		}
		s.shown, s.kinds, s.widths = append(s.shown, c), append(s.kinds, briefCells[c.title]), append(s.widths, n)
		used += n + columnGap
	}
	if last := len(s.widths) - 1; last >= 0 && s.o.Width > 0 {
		s.widths[last] = max(1, s.widths[last]+s.o.Width-(used-columnGap))
	}
	if s.exact {
		clear(s.kinds)
	}
}

func orDash(text string) string { return cmp.Or(text, "-") }

// choose sets the columns and their widths.
func (s *TableSink) choose() {
	defer s.setOrderly()
	if s.o.Fields != nil {
		s.chosen()
		return
	}
	w := step{"PROCESS": 9, "SERVICE": 7, "ENDED BY": 11, "HOW": 11, "LOST": 4}
	total := func(w step) int {
		n := -columnGap
		for _, width := range w {
			n += width + columnGap
		}
		return n
	}
	for _, more := range steps {
		next := maps.Clone(w)
		for k, n := range more {
			if next[k] = max(next[k], n); n == 0 {
				delete(next, k)
			}
		}
		fits := s.o.Width > 0 && total(next) <= s.o.Width
		if s.o.Width == 0 { // a file: room for what is usual, and the rest is never cut
			fits = more["LOCAL"] <= 21
		}
		if fits {
			w = next
		}
	}
	if room := s.o.Width - total(w); s.o.Width > 0 && room > 0 {
		w["LOST"] = min(36, w["LOST"]+room)
	}
	for _, c := range columns {
		if n, ok := w[c.title]; ok && c.short != nil {
			s.shown = append(s.shown, c)
			s.kinds = append(s.kinds, briefCells[c.title])
			s.widths = append(s.widths, n)
		}
	}
}

// setOrderly makes what HOW says of nearly all rows.
func (s *TableSink) setOrderly() {
	for i, c := range s.shown {
		if n := s.widths[i]; c.title == "HOW" {
			if s.o.Width == 0 {
				n = howFull
			}
			j := Judged{Verdict: verdict.Verdict{Class: verdict.Graceful, Cause: verdict.OrderlyClose}}
			s.orderly, _ = shortHow(&entry{Judged: j, pen: s.pen}, n)
		}
	}
}

// Header writes the titles; End does it where nobody did before.
func (s *TableSink) Header() error {
	if s.begun {
		return s.out.err
	}
	s.begun = true
	for i, c := range s.shown {
		s.cells[i] = word{c.title, bold}
	}
	return s.row()
}

// NoHeader leaves the titles out: they are there already.
func (s *TableSink) NoHeader() { s.begun = true }

// End implements Sink.
func (s *TableSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if err := s.Brief(j.Conn, &j.Verdict); err != nil || !s.o.Verbose {
		return err
	}
	return s.under(&j.Verdict)
}

// whole writes a row cell by cell.
func (s *TableSink) whole(j Judged) error {
	if err := s.before(j.Conn); err != nil {
		return err
	}
	e := s.entry(j)
	for i := range s.shown {
		s.cells[i] = s.text(e, i)
	}
	return s.row()
}

// entry is an end as columns read it.
func (s *TableSink) entry(j Judged) *entry {
	e := newEntry(j, s.o)
	if s.exact {
		e.Record = newRecord(j, s.o.Clock, false)
	} else {
		e.Record = &Record{Bytes: BytesRecord(j.Verdict.Bytes)}
	}
	return e
}

// text is what a column shows in its width.
func (s *TableSink) text(e *entry, i int) word {
	n := s.widths[i]
	if s.o.Width == 0 {
		n = 1 << 10
	}
	text, in := s.shown[i].short(e, n)
	return word{cut(text, n, s.pen.ellipsis()), in}
}

// row writes the cells, as far as the terminal is wide.
func (s *TableSink) row() error {
	room := s.o.Width
	for i, c := range s.cells {
		if s.o.Width == 0 {
			break
		}
		s.cells[i].text = cut(c.text, max(0, room), s.pen.ellipsis())
		room -= s.widths[i] + columnGap
	}
	return s.live.row(s.cells)
}

// before writes what stands above a row: the titles, and the date where it is another
// than that of the row before.
func (s *TableSink) before(c *conn.Connection) error {
	if err := s.Header(); err != nil {
		return err
	}
	return s.out.string(s.days.line(s.pen, s.o.wall(cmp.Or(c.Ended, c.Last))))
}

// days notices that a run crosses midnight.
type days struct{ year, day int }

// line is the date for a line of its own, where it is another than before; "" where it
// is not, and at first.
func (d *days) line(p pen, t time.Time) string {
	before := *d
	if *d = (days{t.Year(), t.YearDay()}); before.day == 0 || before == *d {
		return ""
	}
	dash := p.glyphs("──")
	return p.ink(dash+" "+t.Format(time.DateOnly)+" "+dash, dim) + "\n"
}

// under writes the sentence of a row below it.
func (s *TableSink) under(v *verdict.Verdict) error {
	const indent = 10 // below the columns after TIME
	room := measure
	if s.o.Width > 0 {
		room = min(measure, max(s.o.Width-indent, 20))
	}
	for _, l := range wrap(s.pen.text(v.Sentence), room) {
		if err := s.out.string(strings.Repeat(" ", indent) + s.pen.ink(l, dim) + "\n"); err != nil {
			return err
		}
	}
	return s.out.err
}

// Close implements Sink.
func (s *TableSink) Close() error { return s.out.err }
