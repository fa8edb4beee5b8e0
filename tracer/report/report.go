package report

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Judged is one end of a connection with its verdict.
type Judged struct {
	Conn     *conn.Connection
	Verdict  verdict.Verdict
	Scenario string // the demo's name; "" outside a demo
	// Joint is what the recording of another host added; nil: none did.
	Joint *hosts.Joint
}

// Clock turns the events' CLOCK_MONOTONIC into wall time.
type Clock struct {
	// Offset is what added to a monotonic time gives Unix nanoseconds.
	Offset time.Duration
	// Set tells how the wall clock was set later; nil: it was not.
	Set *Settings
}

// Settings are the times at which the wall clock was set. Those that are added
// are known to all copies of a Clock.
type Settings struct {
	all   []setting
	times int // how often it was set
}

type setting struct{ from, offset time.Duration }

// Add says what to add to a monotonic time from one on, which is later than all
// before.
func (s *Settings) Add(from, offset time.Duration) {
	const most = 1 << 10 // more than a clock in order is ever set
	if len(s.all) == most {
		s.all = slices.Delete(s.all, 0, 1)
	}
	s.all = append(s.all, setting{from, offset})
	s.times++
}

// Clone is a clock that does not change any more.
func (c Clock) Clone() Clock {
	if c.Set != nil {
		c.Set = &Settings{all: slices.Clone(c.Set.all)}
	}
	return c
}

// Wall is the wall time, in UTC, of a CLOCK_MONOTONIC time.
func (c Clock) Wall(monotonic time.Duration) time.Time {
	offset, _, _ := c.span(monotonic)
	return time.Unix(0, int64(offset+monotonic)).UTC()
}

// span is the offset at a time, and from when until when it is the same.
func (c Clock) span(monotonic time.Duration) (offset, from, to time.Duration) {
	from, to = math.MinInt64, math.MaxInt64
	if c.Set != nil {
		for _, s := range slices.Backward(c.Set.all) {
			if s.from <= monotonic {
				return s.offset, s.from, to
			}
			to = s.from
		}
	}
	return c.Offset, from, to
}

// settings is how often the clock was set.
func (c Clock) settings() int {
	if c.Set == nil {
		return 0
	}
	return c.Set.times
}

// Sink writes judged ends in one format.
type Sink interface {
	// End takes one judged end. Its error is the first that the writer gave.
	End(Judged) error
	// Close writes what is still held and what ends the format. It does not
	// close the writer.
	Close() error
}

// Noter is a sink that has something to say, beside what it writes, once it is closed.
type Noter interface {
	// Note is a sentence for people without its stop; "" nothing.
	Note() string
}

// Options are what the caller knows of the place where the output goes. The
// zero value is right for a file: no width limit, no colour, Unicode.
type Options struct {
	Clock Clock
	// Location is the time zone of the times of day in formats for people;
	// nil is the local one.
	Location *time.Location
	// Width is the number of columns of the terminal; 0: no limit.
	Width int
	// Color allows SGR escape sequences.
	Color bool
	// ASCII keeps the output to ASCII, for terminals that show no more.
	ASCII bool
	// Verbose also shows every event as the kernel gave it.
	Verbose bool
	// Fields are the columns of the table and of CSV, by the table's titles in lower
	// case or by the names in CSV; nil: those that fit, or all.
	Fields []string
	// NoEvents leaves the events out of JSON: they are null.
	NoEvents bool
	// Kernel is the release of the kernel that was traced; "" not known.
	Kernel string
	// Host is the name of the machine whose connections these are, in documents that have
	// one; "": not known.
	Host string
	// Heading gives the title of what is shown, and an aside for its right
	// edge, such as the kernel's release; nil: the scenario's name, or the two
	// processes and the time of day. The second end is nil where only one is
	// known.
	Heading func(left, right *Judged) (title, aside string)
}

// wall is a time in the zone in which people are shown it.
func (o Options) wall(at time.Duration) time.Time {
	zone := o.Location
	if zone == nil {
		zone = time.Local
	}
	return o.Clock.Wall(at).In(zone)
}

// timeOfDay is how people are shown it.
const timeOfDay = "15:04:05"

// Format names a sink.
type Format string

const (
	Table    Format = "table"
	Timeline Format = "timeline"
	Sequence Format = "sequence"
	JSON     Format = "json"
	CSV      Format = "csv"
	HTML     Format = "html"
	SVG      Format = "svg"
	Mermaid  Format = "mermaid"
	Pcapng   Format = "pcapng"
	Pprof    Format = "pprof"
	Folded   Format = "folded"
	Logfmt   Format = "logfmt"
	ECS      Format = "ecs"
	OCSF     Format = "ocsf"
)

// Binary says whether a format is no text: a terminal cannot show it.
func (f Format) Binary() bool { return f == Pcapng || f == Pprof }

// Stacks says whether a format tells of nothing but stacks.
func (f Format) Stacks() bool { return f == Pprof || f == Folded }

var makers = []struct {
	format Format
	make   func(io.Writer, Options) Sink
}{
	{Table, func(w io.Writer, o Options) Sink { return NewTable(w, o) }},
	{Timeline, func(w io.Writer, o Options) Sink { return NewTimeline(w, o) }},
	{Sequence, func(w io.Writer, o Options) Sink { return NewSequence(w, o) }},
	{JSON, func(w io.Writer, o Options) Sink { return NewJSON(w, o) }},
	{CSV, func(w io.Writer, o Options) Sink { return NewCSV(w, o) }},
	{HTML, func(w io.Writer, o Options) Sink { return NewHTML(w, o) }},
	{SVG, func(w io.Writer, o Options) Sink { return NewSVG(w, o) }},
	{Mermaid, func(w io.Writer, o Options) Sink { return NewMermaid(w, o) }},
	{Pcapng, func(w io.Writer, o Options) Sink { return NewPcapng(w, o) }},
	{Pprof, func(w io.Writer, o Options) Sink { return NewProfile(w, o) }},
	{Folded, func(w io.Writer, o Options) Sink { return NewFolded(w, o) }},
	{Logfmt, func(w io.Writer, o Options) Sink { return NewLogfmt(w, o) }},
	{ECS, NewECS},
	{OCSF, NewOCSF},
}

// Formats lists the formats that New knows.
func Formats() []Format {
	all := make([]Format, len(makers))
	for i, m := range makers {
		all[i] = m.format
	}
	return all
}

// New is the sink of a format.
func New(f Format, w io.Writer, o Options) (Sink, error) {
	i := slices.IndexFunc(makers, func(m struct {
		format Format
		make   func(io.Writer, Options) Sink
	}) bool {
		return m.format == f
	})
	if i < 0 {
		var names []string
		for _, f := range Formats() {
			names = append(names, string(f))
		}
		return nil, fmt.Errorf("no output format %q: want one of %s", string(f), strings.Join(names, ", "))
	}
	return makers[i].make(w, o), nil
}

var errNoConn = errors.New("a judged end without a connection was given to a sink")

// output is a writer that remembers its first error and then writes no more.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	o.err = err
	return n, err
}

func (o *output) string(s string) error {
	_, err := io.WriteString(o, s)
	return err
}
