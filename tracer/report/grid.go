package report

import (
	"bytes"
	"io"
	"slices"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
)

// GridColumn is a column of a table that is printed once, when all its rows are
// known. Where the terminal is not wide enough, the columns shrink to their
// Least in their order from the right, and then those go that may.
type GridColumn struct {
	Title string
	Right bool // numbers stand to the right
	Least int  // it may be cut to so many columns; 0: it is never cut
	Drop  int  // those with the highest number go first; 0: it stays
	Own   bool // what it says is a process's, and quoted
	// Note is for a last column of sentences: what has no room beside the others
	// stands under its row.
	Note bool
}

// GridCell is what a row says in a column.
type GridCell struct {
	Text string
	Look Look
}

// Look is how a cell of a grid looks.
type Look uint8

const (
	LookPlain Look = iota
	LookWarn
	LookBad
	LookGood
	LookDim
)

var looks = [...]ink{LookWarn: yellow, LookBad: redBold, LookGood: green, LookDim: dim}

const (
	// leastNote is how wide a column of sentences must be to be read as one.
	leastNote = 40
	// underIndent is how far sentences that stand under their row are indented.
	underIndent = 2
)

// WriteGrid writes a table that is no wider than the terminal, but for what cannot
// be cut.
func WriteGrid(w io.Writer, o Options, columns []GridColumn, rows [][]GridCell) error {
	p := pen{color: o.Color, ascii: o.ASCII}
	out := &output{w: w}
	cells := make([][]word, 0, len(rows)+1)
	head := make([]word, len(columns))
	for i, c := range columns {
		head[i] = word{c.Title, bold}
	}
	cells = append(cells, head)
	for _, r := range rows {
		line := make([]word, len(columns))
		for i, c := range columns {
			text := p.text(r[i].Text)
			if c.Own {
				text = p.own(r[i].Text)
			}
			line[i] = word{text, looks[r[i].Look]}
		}
		cells = append(cells, line)
	}
	widths := make([]int, len(columns))
	for _, l := range cells {
		for i, c := range l {
			widths[i] = max(widths[i], width(c.text))
		}
	}
	n := len(columns)
	if columns[n-1].Note {
		n--
	}
	shown, note := fitGrid(columns[:n], widths[:n], o.Width), 0
	if n < len(columns) {
		shown = append(shown, true)
		if room := o.Width - total(widths, shown) + widths[n]; o.Width > 0 {
			shown[n] = room >= min(widths[n], leastNote)
			widths[n] = min(widths[n], max(room, 0))
		}
		if note = total(widths[:n], shown[:n]) + columnGap; !shown[n] {
			note = underIndent
		}
	}
	return p.grid(out, o.Width, columns, cells, widths, shown, note)
}

// total is how wide a row is.
func total(widths []int, shown []bool) int {
	n := -columnGap
	for i, w := range widths {
		if shown[i] {
			n += w + columnGap
		}
	}
	return max(n, 0)
}

// fitGrid shrinks the widths to what there is room for, and says which columns
// stay.
func fitGrid(columns []GridColumn, widths []int, limit int) []bool {
	shown := make([]bool, len(columns))
	for i := range shown {
		shown[i] = true
	}
	natural := slices.Clone(widths)
	for limit > 0 {
		copy(widths, natural)
		for i := len(columns) - 1; i >= 0; i-- {
			if over := total(widths, shown) - limit; over > 0 && shown[i] && columns[i].Least > 0 {
				widths[i] = max(min(columns[i].Least, widths[i]), widths[i]-over)
			}
		}
		last := -1
		for i, c := range columns {
			if shown[i] && c.Drop > 0 && (last < 0 || c.Drop > columns[last].Drop) {
				last = i
			}
		}
		if last < 0 || total(widths, shown) <= limit {
			break
		}
		shown[last] = false
	}
	return shown
}

// grid writes rows in columns of known widths. The library cuts nothing, wraps
// nothing and colours nothing.
func (p pen) grid(out *output, limit int, columns []GridColumn, cells [][]word, widths []int, shown []bool, note int) error {
	mapped := tw.NewMapper[int, int]()
	n := 0
	for i, w := range widths {
		if shown[i] {
			mapped.Set(n, w+columnGap) // the padding counts
			n++
		}
	}
	lines := &trimmer{out: out}
	t := tablewriter.NewTable(lines,
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
		tablewriter.WithColumnWidths(mapped),
		// Else LANG and its like would decide how wide a column is.
		tablewriter.WithEastAsian(tw.Off),
	)
	// Start fails only for a renderer or a configuration that does not stream,
	// and Append then says so.
	_ = t.Start()
	for row, l := range cells {
		var texts []string
		var under []string // lines of the note that stand under the row
		for i, c := range l {
			text := c.text
			if columns[i].Note && limit > 0 {
				lines := wrap(text, limit-note)
				if text = ""; shown[i] && len(lines) > 0 {
					text, lines = lines[0], lines[1:]
				}
				if row > 0 {
					under = lines
				}
			}
			if !shown[i] {
				continue
			}
			text = cutMiddle(text, widths[i], p.ellipsis())
			if columns[i].Right {
				text = padLeft(text, widths[i])
			}
			texts = append(texts, p.ink(text, c.ink))
		}
		if err := t.Append(texts); err != nil {
			return err
		}
		for _, u := range under {
			text := p.ink(cut(u, max(limit-note, 1), p.ellipsis()), l[len(l)-1].ink)
			if err := out.string(strings.Repeat(" ", note) + text + "\n"); err != nil {
				return err
			}
		}
		if out.err != nil {
			return out.err // tablewriter itself tells nothing of a failed write
		}
	}
	return out.err
}

// trimmer writes whole lines, without the spaces that fill the last column,
// whether or not an escape that ends a colour stands behind them.
type trimmer struct {
	out  *output
	line []byte
}

var reset = []byte("\x1b[0m")

func (t *trimmer) Write(p []byte) (int, error) {
	t.line = append(t.line, p...)
	for {
		i := bytes.IndexByte(t.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := bytes.TrimRight(t.line[:i], " ")
		for rest, ok := bytes.CutSuffix(line, reset); ok; rest, ok = bytes.CutSuffix(line, reset) {
			bare := bytes.TrimRight(rest, " ")
			if len(bare) == len(rest) {
				break
			}
			line = bare // tablewriter ends each line with one of its own
		}
		_, err := t.out.Write(append(bytes.Clone(line), '\n'))
		t.line = append(t.line[:0], t.line[i+1:]...)
		if err != nil {
			return 0, err
		}
	}
}
