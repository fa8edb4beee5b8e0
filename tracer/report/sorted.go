package report

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// SortedSink gives all ends to another sink when it is closed, in the order of a column.
type SortedSink struct {
	to     Sink
	o      Options
	column column
	back   bool
	rows   []sortedRow
}

type sortedRow struct {
	j      Judged
	number float64
	isNum  bool
	text   string
}

// NewSorted sorts for a table or for CSV, by a name as in Options.Fields: numbers the
// largest first, texts by the alphabet, the other way round with a dash before the name.
func NewSorted(to Sink, field string, o Options) (*SortedSink, error) {
	name, back := strings.CutPrefix(field, "-")
	if err := CheckFields([]string{name}); err != nil {
		return nil, err
	}
	c, _ := findColumn(name)
	return &SortedSink{to: to, o: o, column: c, back: back}, nil
}

// End implements Sink.
func (s *SortedSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	e := newEntry(j, s.o)
	e.Record = newRecord(j, s.o.Clock, false)
	r := sortedRow{}
	switch {
	case s.column.title == "LOST":
		n, unknown := lostBytes(j.Verdict.Lost)
		r.number, r.isNum = float64(n), n > 0 || !unknown
	case s.column.exact != nil:
		r.text = s.column.exact(e)
		n, err := strconv.ParseFloat(r.text, 64)
		r.number, r.isNum = n, err == nil
	default:
		r.text, _ = s.column.short(e, 1<<10)
	}
	// What is shown of it needs no events, and there may be many.
	c := *j.Conn
	c.Events, c.Elsewhere, c.Stacks, c.Peer = nil, nil, nil, nil
	if p := j.Conn.Peer; p != nil {
		peer := *p
		peer.Events, peer.Elsewhere, peer.Stacks, peer.Peer = nil, nil, nil, &c
		c.Peer = &peer
	}
	j.Conn, j.Verdict.Evidence = &c, nil
	r.j = j
	s.rows = append(s.rows, r)
	return nil
}

// Close implements Sink.
func (s *SortedSink) Close() error {
	slices.SortStableFunc(s.rows, func(a, b sortedRow) int {
		n := cmp.Or(cmp.Compare(btoi(b.isNum), btoi(a.isNum)), cmp.Compare(b.number, a.number), strings.Compare(a.text, b.text))
		if s.back {
			return -n
		}
		return n
	})
	for _, r := range s.rows {
		if err := s.to.End(r.j); err != nil {
			return err
		}
	}
	s.rows = nil
	return s.to.Close()
}
