package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tcpbye/tcpbye/tracer/event"
)

func itoa(n int) string { return strconv.Itoa(n) }

// JSONSink writes one object a line and end (see Record), when it is judged.
type JSONSink struct {
	out   output
	clock Clock
	buf   bytes.Buffer
	safe  []byte
	enc   *json.Encoder

	noEvents bool
	brief    jsonWriter
}

// NewJSON is a sink for programs.
func NewJSON(w io.Writer, o Options) *JSONSink {
	s := &JSONSink{out: output{w: w}, clock: o.Clock, noEvents: o.NoEvents}
	s.brief.o = Options{Clock: o.Clock, Location: time.UTC}
	s.brief.second.layout = wallSeconds
	s.enc = json.NewEncoder(&s.buf)
	s.enc.SetEscapeHTML(false)
	return s
}

// End implements Sink.
func (s *JSONSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	s.buf.Reset()
	if err := s.enc.Encode(newRecord(j, s.clock, !s.noEvents)); err != nil {
		return fmt.Errorf("write connection %s as JSON: %w", event.Quote(j.Conn.ID), err)
	}
	s.safe = escapeUnprintable(s.safe[:0], s.buf.Bytes())
	_, err := s.out.Write(s.safe)
	return err
}

// Close implements Sink.
func (s *JSONSink) Close() error { return s.out.err }

// escapeUnprintable writes what JSON allows raw but a terminal obeys (DEL, C1
// controls, direction overrides) as \u escapes: another spelling of the same
// strings, since outside of strings JSON is ASCII.
func escapeUnprintable(to, line []byte) []byte {
	for len(line) > 0 {
		n := 0
		for n < len(line) && line[n] < 0x7f {
			n++
		}
		to = append(to, line[:n]...)
		line = line[n:]
		if len(line) == 0 {
			break
		}
		r, size := utf8.DecodeRune(line)
		switch {
		case strconv.IsPrint(r):
			to = append(to, line[:size]...)
		case r > 0xffff:
			r -= 0x10000
			to = fmt.Appendf(to, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			to = fmt.Appendf(to, `\u%04x`, r)
		}
		line = line[size:]
	}
	return to
}
