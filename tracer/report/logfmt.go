package report

import (
	"io"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export"
)

// levels are how logs name severities.
var levels = map[export.Severity]string{export.Info: "info", export.Warn: "warn", export.Error: "error"}

// LogfmtSink writes a line of key=value for each end, which most collectors read.
type LogfmtSink struct {
	out  output
	o    Options
	line []byte
}

// NewLogfmt is a sink for collectors of logs: time, level and msg, then the columns of
// CSV as key=value.
func NewLogfmt(w io.Writer, o Options) *LogfmtSink { return &LogfmtSink{out: output{w: w}, o: o} }

// End implements Sink.
func (s *LogfmtSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	s.line = appendLogfmt(s.line[:0], "time", s.o.Clock.Wall(whenEnded(j.Conn)).Format(wallFormat))
	s.line = appendLogfmt(s.line, "level", levels[export.SeverityOf(&j.Verdict)])
	s.line = appendLogfmt(s.line, "msg", j.Verdict.Sentence)
	Fields(j, s.o.Clock, func(key, value string) {
		if key != "sentence" {
			s.line = appendLogfmt(s.line, key, value)
		}
	})
	_, err := s.out.Write(append(s.line, '\n'))
	return err
}

// Close implements Sink.
func (s *LogfmtSink) Close() error { return s.out.err }

// appendLogfmt appends key=value; a value that is not one plain word is quoted.
func appendLogfmt(b []byte, key, value string) []byte {
	if len(b) > 0 {
		b = append(b, ' ')
	}
	b = append(append(b, key...), '=')
	if value != "" && !strings.ContainsAny(value, " \"=\\") && event.Quote(value) == value {
		return append(b, value...)
	}
	return strconv.AppendQuote(b, value)
}
