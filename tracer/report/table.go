package report

import (
	"bytes"
	"io"
	"strings"

	"github.com/clipperhouse/displaywidth"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
)

// columnGap is the space between the columns of a table.
const columnGap = 2

// liveTable writes rows as they come, without borders, in columns of fixed
// width. A row with a cell that is wider gets the room it needs and is out of
// line, but says everything: who wants cells cut cuts them before.
type liveTable struct {
	trim   trimmer
	widths []int
	t      *tablewriter.Table
}

// newLiveTable does not write; the header is a row.
func newLiveTable(out *output, widths []int) *liveTable {
	return &liveTable{trim: trimmer{out: out}, widths: widths}
}

// row writes one row; the cells may contain SGR sequences, but no line break
// and no tab.
func (l *liveTable) row(cells []string) error {
	wide := false
	for i, c := range cells {
		wide = wide || inked(c) > l.widths[i]
	}
	t := l.t
	if wide {
		// tablewriter cuts a cell that is wider than its column, in every
		// wrapping mode that keeps a row on one line.
		widths := make([]int, len(cells))
		for i, c := range cells {
			widths[i] = max(l.widths[i], inked(c))
		}
		t = l.start(widths)
	} else if t == nil {
		l.t = l.start(l.widths)
		t = l.t
	}
	if err := t.Append(cells); err != nil {
		return err
	}
	return l.trim.out.err // tablewriter itself tells nothing of a failed write
}

func (l *liveTable) start(widths []int) *tablewriter.Table {
	columns := tw.NewMapper[int, int]()
	for i, w := range widths {
		columns.Set(i, w+columnGap) // the padding counts
	}
	t := tablewriter.NewTable(&l.trim,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders:   tw.BorderNone,
			Settings:  tw.Settings{Lines: tw.LinesNone, Separators: tw.SeparatorsNone},
			Streaming: true,
		})),
		tablewriter.WithStreaming(tw.StreamConfig{Enable: true, StrictColumns: true}),
		tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithPadding(tw.Padding{Right: strings.Repeat(" ", columnGap), Overwrite: true}),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithTrimSpace(tw.Off),
		tablewriter.WithColumnWidths(columns),
		// Else LANG and its like would decide how wide a column is.
		tablewriter.WithEastAsian(tw.Off),
	)
	// Start fails only for a renderer or a configuration that does not stream,
	// and Append then says so.
	_ = t.Start()
	return t
}

// inked is the width of a cell that may contain SGR sequences.
func inked(s string) int {
	return displaywidth.Options{ControlSequences: true}.String(s)
}

// trimmer writes whole lines, without the spaces that fill the last column.
type trimmer struct {
	out  *output
	line []byte
}

func (t *trimmer) Write(p []byte) (int, error) {
	t.line = append(t.line, p...)
	for {
		i := bytes.IndexByte(t.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := append(bytes.TrimRight(t.line[:i], " "), '\n')
		_, err := t.out.Write(line)
		t.line = append(t.line[:0], t.line[i+1:]...)
		if err != nil {
			return 0, err
		}
	}
}

// TableSink writes a row per end, in the columns that fit the width.
type TableSink struct {
	out    output
	o      Options
	pen    pen
	live   *liveTable
	shown  []column
	widths []int
	begun  bool
}

// NewTable is a sink for a person who watches.
func NewTable(w io.Writer, o Options) *TableSink {
	s := &TableSink{out: output{w: w}, o: o, pen: pen{color: o.Color, ascii: o.ASCII}}
	s.choose()
	s.live = newLiveTable(&s.out, s.widths)
	return s
}

// choose sets the columns and their widths: the ones that answer the question
// first, then more as there is room.
func (s *TableSink) choose() {
	w := map[string]int{"TIME": 8, "PROCESS": 12, "REMOTE": 15, "ENDED BY": 12, "HOW": 18, "LOST": 4}
	total := func() int {
		n := -columnGap
		for _, width := range w {
			n += width + columnGap
		}
		return n
	}
	for _, step := range []map[string]int{
		{"HOW": 19}, {"PROCESS": 14}, {"LOST": 11}, {"REMOTE": 21}, {"AGE": 6}, {"LOST": 22}, {"LOCAL": 21},
		{"IN": 4, "OUT": 4}, {"HOW": howFull}, {"PROCESS": 17}, {"LOST": 36}, {"PROCESS": 23},
		{"LOCAL": 30, "REMOTE": 30}, {"LOCAL": 47, "REMOTE": 47},
	} {
		before := map[string]int{}
		for k, n := range step {
			before[k] = w[k]
			w[k] = max(w[k], n)
		}
		fits := s.o.Width > 0 && total() <= s.o.Width
		if s.o.Width == 0 { // a file: room for what is usual, and the rest is never cut
			fits = step["PROCESS"] <= 17 && step["LOCAL"] <= 21
		}
		if fits {
			continue
		}
		for k, n := range before {
			if w[k] = n; n == 0 {
				delete(w, k)
			}
		}
	}
	if room := s.o.Width - total(); s.o.Width > 0 && room > 0 {
		w["LOST"] = min(36, w["LOST"]+room)
	}
	for _, c := range columns {
		if n, ok := w[c.title]; ok && c.short != nil {
			s.shown = append(s.shown, c)
			s.widths = append(s.widths, n)
		}
	}
}

// Header writes the titles; End does it where nobody did before.
func (s *TableSink) Header() error {
	if s.begun {
		return s.out.err
	}
	s.begun = true
	cells := make([]string, len(s.shown))
	for i, c := range s.shown {
		cells[i] = s.pen.ink(c.title, bold)
	}
	return s.live.row(cells)
}

// End implements Sink.
func (s *TableSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if err := s.Header(); err != nil {
		return err
	}
	e := newEntry(j, s.o)
	e.Record = &Record{Bytes: BytesRecord(j.Verdict.Bytes)}
	cells := make([]string, len(s.shown))
	for i, c := range s.shown {
		n := s.widths[i]
		if s.o.Width == 0 {
			n = 1 << 10
		}
		text, in := c.short(e, n)
		cells[i] = s.pen.ink(cut(text, n, s.pen.ellipsis()), in)
	}
	return s.live.row(cells)
}

// Close implements Sink.
func (s *TableSink) Close() error { return s.out.err }
