package report

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// CSVSink writes a line per end under a header, RFC 4180 with LF. A value that
// is not known is an empty field; control characters are escaped as Quote does.
// A process may have any name, and a spreadsheet takes a value that begins with
// =, +, - or @ for a formula: before such a value, unless it is a number, stands
// an apostrophe.
type CSVSink struct {
	out    output
	w      *csv.Writer
	o      Options
	begun  bool
	fields []string
	// columns are those that are shown.
	columns []column
}

// NewCSV is a sink for spreadsheets and databases.
func NewCSV(w io.Writer, o Options) *CSVSink {
	s := &CSVSink{out: output{w: w}, o: o, columns: columns}
	if o.Fields != nil {
		s.columns = nil
		for _, name := range o.Fields {
			if c, ok := findColumn(name); ok {
				s.columns = append(s.columns, c)
			}
		}
	}
	s.w = csv.NewWriter(&s.out)
	return s
}

// End implements Sink.
func (s *CSVSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if err := s.header(); err != nil {
		return err
	}
	e := newEntry(j, s.o)
	e.Record = newRecord(j, s.o.Clock, false)
	s.fields = s.fields[:0]
	for _, c := range s.columns {
		if c.exact != nil {
			s.fields = append(s.fields, harmless(event.Quote(c.exact(e))))
		}
	}
	return s.write()
}

// harmless makes what a spreadsheet would take for a formula a text. Some trim
// spaces first, and some take the wide forms of the signs for the signs.
func harmless(s string) string {
	t := strings.TrimLeftFunc(s, unicode.IsSpace)
	if t == "" || !strings.ContainsAny(string([]rune(t)[:1]), "=+-@＝＋－＠\t\r") {
		return s
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return s
	}
	return "'" + s
}

// Close implements Sink. Without any end there is still a header.
func (s *CSVSink) Close() error {
	if err := s.header(); err != nil {
		return err
	}
	return s.out.err
}

func (s *CSVSink) header() error {
	if s.begun {
		return s.out.err
	}
	s.begun = true
	for _, c := range s.columns {
		if c.exact != nil {
			s.fields = append(s.fields, c.key)
		}
	}
	return s.write()
}

func (s *CSVSink) write() error {
	if err := s.w.Write(s.fields); err != nil {
		return err
	}
	s.w.Flush()
	return s.w.Error()
}
